//! Compares `docs/openapi.yaml` with the table: each has every route of the other, with the same methods.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{ROUTES, Route, TRANSIT};

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// The methods of one path of the file, of which `x-also` has those that OpenAPI cannot say.
fn methods(item: &Value) -> BTreeSet<String> {
    let operations = METHODS.iter().filter(|method| item.get(method).is_some());
    let also = item.get("x-also").and_then(Value::as_array).into_iter().flatten();
    let also = also.map(|method| method.as_str().unwrap().to_owned());
    operations.map(|method| method.to_uppercase()).chain(also).collect()
}

fn route_of(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.matches(path, path.strip_prefix(TRANSIT)).is_some())
}

#[test]
fn the_openapi_file_has_every_route_and_no_other() {
    let file: Value = serde_saphyr::from_str(include_str!("../../../docs/openapi.yaml")).unwrap();
    let paths = file["paths"].as_object().unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in paths {
        let route = route_of(path).unwrap_or_else(|| panic!("no route serves {path}"));
        let served: BTreeSet<_> = route.methods.iter().map(|method| (*method).to_owned()).collect();
        assert_eq!(methods(item), served, "{path}");
        described.insert(route.path);
    }
    let all: BTreeSet<_> = ROUTES.iter().map(|route| route.path).collect();
    assert_eq!(described, all);
    assert_eq!(file["info"]["version"], env!("CARGO_PKG_VERSION"));
}
