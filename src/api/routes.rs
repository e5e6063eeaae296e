//! The table of routes: methods, path, operation, error format, body limit and handler. A new endpoint is one row here and one
//! handler. [`find`] compares the rows in order, so the frequent ones are first.

use std::{pin::Pin, sync::Arc};

use hyper::{
    header,
    http::{Version, request::Parts},
};

use super::{
    body::Limits,
    context::Call,
    error::{ApiError, ErrorKind},
    keyring, kms, resolve,
    response::{ErrorFormat, Response},
    status,
    transit::{self, Action, Form},
};
use crate::{
    keyring::{KeyringEntry, Keyrings},
    operation::Operation,
};

type Handler = for<'c> fn(&'c mut Call<'_>) -> HandlerFuture<'c>;
type HandlerFuture<'c> = Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send + 'c>>;

/// One row of the table.
pub(super) struct Route {
    methods: &'static [&'static str],
    /// The last segment may be [`KEY_NAME`].
    path: &'static str,
    pub(super) operation: Operation,
    pub(super) format: ErrorFormat,
    pub(super) body: BodyLimit,
    pub(super) handler: Handler,
}

/// Which body a route reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLimit {
    None,
    /// `keyring_max_request_size`.
    RequestSize,
    /// That many bytes, or less by `keyring_max_request_size`.
    Bytes(usize),
}

/// A segment that names a keyring.
const KEY_NAME: &str = "{name}";

const GET: &[&str] = &["GET"];
/// Vault's own method for lists, which its clients also write as GET with a query.
const LIST: &[&str] = &["GET", "LIST"];
const POST: &[&str] = &["POST", "PUT"];

#[rustfmt::skip]
static ROUTES: &[Route] = {
    use ErrorFormat::{Kong, Text, Vault};
    use Operation as Op;
    &[
        post("/v1/transit/encrypt/{name}", Op::Encrypt, Vault, |call| Box::pin(transit::run(call, Action::Encrypt))),
        post("/v1/transit/decrypt/{name}", Op::Decrypt, Vault, |call| Box::pin(transit::run(call, Action::Decrypt))),
        grpc("/v2.KeyManagementService/Status", Op::KmsStatus, |call| Box::pin(kms::status(call))),
        grpc("/v2.KeyManagementService/Encrypt", Op::KmsEncrypt, |call| Box::pin(kms::encrypt(call))),
        grpc("/v2.KeyManagementService/Decrypt", Op::KmsDecrypt, |call| Box::pin(kms::decrypt(call))),
        post("/v1/transit/rewrap/{name}", Op::Rewrap, Vault, |call| Box::pin(transit::run(call, Action::Rewrap))),
        post("/v1/transit/datakey/plaintext/{name}", Op::DataKey, Vault, |call| Box::pin(transit::data_key(call, Form::Plaintext))),
        post("/v1/transit/datakey/wrapped/{name}", Op::DataKey, Vault, |call| Box::pin(transit::data_key(call, Form::Wrapped))),
        get("/v1/transit/keys/{name}", Op::Status, Vault, |call| Box::pin(keyring::read_transit_key(call))),
        route(LIST, "/v1/transit/keys", Op::Status, Vault, BodyLimit::None, |call| Box::pin(keyring::list_transit_keys(call))),
        post("/v1/resolve", Op::Resolve, Vault, |call| Box::pin(resolve::resolve(call))),
        get("/livez", Op::Health, Text, |call| Box::pin(status::alive(call))),
        get("/readyz", Op::Health, Text, |call| Box::pin(status::ready(call))),
        get("/metrics", Op::Metrics, Text, |call| Box::pin(status::metrics(call))),
        get("/status", Op::Status, Vault, |call| Box::pin(status::status(call))),
        get("/keyring", Op::Status, Kong, |call| Box::pin(keyring::list(call))),
        get("/keyring/active", Op::Status, Kong, |call| Box::pin(keyring::active(call))),
        post("/keyring/vault/sync", Op::Sync, Kong, |call| Box::pin(keyring::sync(call))),
    ]
};

const fn get(path: &'static str, operation: Operation, format: ErrorFormat, handler: Handler) -> Route {
    route(GET, path, operation, format, BodyLimit::None, handler)
}

const fn post(path: &'static str, operation: Operation, format: ErrorFormat, handler: Handler) -> Route {
    route(POST, path, operation, format, BodyLimit::RequestSize, handler)
}

const fn grpc(path: &'static str, operation: Operation, handler: Handler) -> Route {
    route(&["POST"], path, operation, ErrorFormat::Grpc, BodyLimit::Bytes(kms::MAX_MESSAGE), handler)
}

const fn route(
    methods: &'static [&'static str],
    path: &'static str,
    operation: Operation,
    format: ErrorFormat,
    body: BodyLimit,
    handler: Handler,
) -> Route {
    Route { methods, path, operation, format, body, handler }
}

/// The keyring that a path names.
#[derive(Clone, Copy)]
enum KeyringName<'p> {
    Default,
    Named(&'p str),
}

/// Why no route serves a request, and the shape in which to report it.
pub(super) struct Unrouted {
    pub(super) error: ApiError,
    pub(super) format: ErrorFormat,
}

/// The route of a request, and the keyring that its path names, or the default one.
pub(super) fn find<'k>(
    head: &Parts,
    keyrings: &'k Keyrings,
) -> Result<(&'static Route, &'k Arc<KeyringEntry>), Unrouted> {
    let grpc = is_grpc(head);
    // A client of h2 can leave a response unread for as long as it likes, so long ones are for HTTP/1.1.
    if head.version == Version::HTTP_2 && !grpc {
        let error = ApiError::new(ErrorKind::NoRoute, "HTTP/2 serves gRPC only: use HTTP/1.1");
        return Err(Unrouted { error, format: ErrorFormat::Vault });
    }
    let path = head.uri.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let rows = ROUTES.iter().filter(|route| (route.format == ErrorFormat::Grpc) == grpc);
    let mut matches = rows.filter_map(|route| Some((route, route.matches(path)?)));
    let (route, name) = matches.next().ok_or_else(|| no_route(path, grpc))?;
    let failed = |error| Unrouted { error, format: route.format };
    let entry = match name {
        KeyringName::Default => keyrings.default(),
        KeyringName::Named(name) => keyrings.get(name).ok_or_else(|| {
            let names: Vec<_> = keyrings.all().map(|entry| entry.name.as_str()).collect();
            let names = names.join(", ");
            let message = format!("no such key name here: this keyring is called {names} (keyring_name)");
            failed(ApiError::new(ErrorKind::NoRoute, message))
        })?,
    };
    if !route.methods.contains(&head.method.as_str()) {
        let message = format!("this path supports {} only", route.methods.join(", "));
        return Err(failed(ApiError::new(ErrorKind::Method(route.methods), message)));
    }
    Ok((route, entry))
}

fn is_grpc(head: &Parts) -> bool {
    let value = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    head.version == Version::HTTP_2 && value.starts_with(b"application/grpc")
}

impl Route {
    /// `None` for another path.
    fn matches<'p>(&self, path: &'p str) -> Option<KeyringName<'p>> {
        match self.path.strip_suffix(KEY_NAME) {
            Some(prefix) => {
                path.strip_prefix(prefix).filter(|name| !name.contains('/')).map(KeyringName::Named)
            }
            None => (path == self.path).then_some(KeyringName::Default),
        }
    }

    /// How many bytes of a body to read; `None` without a body.
    pub(super) fn body_size(&self, limits: &Limits) -> Option<usize> {
        match self.body {
            BodyLimit::None => None,
            BodyLimit::RequestSize => Some(limits.request_size),
            BodyLimit::Bytes(size) => Some(size.min(limits.request_size)),
        }
    }
}

/// Kong's endpoints of its cluster strategy, below `/keyring/`.
const CLUSTER_STRATEGY: [&str; 7] =
    ["generate", "activate", "remove", "import", "import/raw", "export", "recover"];

fn no_route(path: &str, grpc: bool) -> Unrouted {
    if path.strip_prefix("/keyring/").is_some_and(|rest| CLUSTER_STRATEGY.contains(&rest)) {
        return Unrouted {
            error: ApiError::invalid(
                "this endpoint belongs to Kong's cluster strategy; here keys live in Vault: write a new version of the \
                 secret to rotate, destroy a version to remove its key, and POST /keyring/vault/sync to load the change",
            ),
            format: ErrorFormat::Kong,
        };
    }
    let (family, format) = match grpc {
        true => ("/v2.", ErrorFormat::Grpc),
        false if path.starts_with("/v1/transit/") => ("/v1/transit/", ErrorFormat::Vault),
        false => ("", ErrorFormat::Vault),
    };
    let routes = ROUTES
        .iter()
        .filter(|route| (route.format == ErrorFormat::Grpc) == grpc && route.path.starts_with(family));
    let paths = routes.map(|route| route.path).collect::<Vec<_>>().join(", ");
    Unrouted {
        error: ApiError::new(ErrorKind::NoRoute, format!("no such path here: {paths} are served")),
        format,
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;
    use crate::keyring::{Format, Formats, KongFields, Published};

    fn keyrings() -> Keyrings {
        let formats = Formats { write: Format::Native, kong_fields: KongFields::Refuse };
        let published = Arc::new(Published::default());
        Keyrings::single(KeyringEntry { name: "keyring".to_owned(), published, formats, max_stale: None })
    }

    fn found(request: hyper::http::request::Builder) -> Result<&'static str, u16> {
        let (head, ()) = request.body(()).unwrap().into_parts();
        let (keyrings, status) = (keyrings(), |unrouted: Unrouted| unrouted.error.status().as_u16());
        find(&head, &keyrings).map(|(route, _)| route.path).map_err(status)
    }

    #[test]
    fn each_path_has_its_route() {
        for (method, path, expected) in [
            ("POST", "/v1/transit/encrypt/keyring", Ok("/v1/transit/encrypt/{name}")),
            ("PUT", "/v1/transit/decrypt/keyring/", Ok("/v1/transit/decrypt/{name}")),
            ("POST", "/v1/transit/datakey/plaintext/keyring", Ok("/v1/transit/datakey/plaintext/{name}")),
            ("GET", "/v1/transit/keys/keyring", Ok("/v1/transit/keys/{name}")),
            ("LIST", "/v1/transit/keys", Ok("/v1/transit/keys")),
            ("GET", "/v1/transit/keys/?list=true", Ok("/v1/transit/keys")),
            ("GET", "/v1/resolve", Err(405)),
            ("GET", "/keyring/", Ok("/keyring")),
            ("GET", "/v1/transit/encrypt/keyring", Err(405)),
            ("GET", "/v1/transit/encrypt/other", Err(404)),
            ("POST", "/v1/transit/keys/keyring", Err(405)),
            ("DELETE", "/keyring", Err(405)),
            ("POST", "/v1/transit/encrypt/other", Err(404)),
            ("POST", "/v1/transit/encrypt", Err(404)),
            ("POST", "/v1/transit/encrypt/keyring/keyring", Err(404)),
            ("POST", "/v1/transit/datakey/keyring", Err(404)),
            ("POST", "/v1/transit/sign/keyring", Err(404)),
            ("GET", "/", Err(404)),
            ("POST", "/keyring/generate", Err(400)),
            ("POST", "/v2.KeyManagementService/Status", Err(404)),
        ] {
            assert_eq!(found(Request::builder().method(method).uri(path)), expected, "{method} {path}");
        }
    }

    #[test]
    fn grpc_calls_reach_kms_only() {
        for (path, expected) in [
            ("/v2.KeyManagementService/Status", Ok("/v2.KeyManagementService/Status")),
            ("/v2.KeyManagementService/", Err(404)),
            ("/v2.KeyManagementService/status", Err(404)),
            ("/v1beta1.KeyManagementService/Version", Err(404)),
            ("/livez", Err(404)),
        ] {
            let request = Request::post(path).version(Version::HTTP_2);
            assert_eq!(found(request.header("content-type", "application/grpc+proto")), expected, "{path}");
        }
        assert_eq!(found(Request::get("/livez").version(Version::HTTP_2)), Err(404), "plain HTTP/2");
    }

    #[test]
    fn paths_are_unique_and_every_route_has_an_operation() {
        let mut paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), ROUTES.len());
        assert!(ROUTES.iter().all(|route| route.operation != Operation::Other && !route.methods.is_empty()));
    }
}
