//! The table of routes: methods, path, operation, error format, body limit and handler. A new endpoint is one row here and one
//! handler. [`find`] compares the rows in order, so the frequent ones are first.
//!
//! Transit's paths are written with its usual mount; [`find`] puts it in the place of any configured one.
//! The file is longer than most: a row per endpoint.

use std::{borrow::Cow, pin::Pin};

use hyper::{
    header,
    http::{Version, request::Parts},
};

use super::{
    body::Limits,
    context::{Call, RuntimeConfig},
    error::{ApiError, ErrorKind},
    keyring, kms, resolve,
    response::{ErrorFormat, Response},
    status, sys,
    transit::{self, Action, Form},
};
use crate::operation::Operation;

type Handler = for<'c> fn(&'c mut Call<'_>) -> HandlerFuture<'c>;
type HandlerFuture<'c> = Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send + 'c>>;

/// One row of the table.
pub(super) struct Route {
    methods: &'static [&'static str],
    /// One segment may be [`KEY_NAME`], and the end may be [`TAIL`].
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

/// Nothing, or a slash and further segments.
const TAIL: &str = "[/…]";

/// The mount in the table's paths.
const TRANSIT: &str = "/v1/transit/";

const GET: &[&str] = &["GET"];
const READ: &[&str] = &["GET", "HEAD"];
/// Vault's own method for lists, which its clients also write as GET with a query.
const LIST: &[&str] = &["GET", "LIST"];
const POST: &[&str] = &["POST", "PUT"];
const ANY: &[&str] = &["GET", "POST", "PUT"];

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
        route(LIST, "/v1/transit/keys", Op::Discovery, Vault, BodyLimit::None, |call| Box::pin(keyring::list_transit_keys(call))),
        post("/v1/transit/hmac/{name}[/…]", Op::Hmac, Vault, |call| Box::pin(transit::hmac(call))),
        post("/v1/transit/verify/{name}[/…]", Op::Verify, Vault, |call| Box::pin(transit::verify(call))),
        post("/v1/transit/random[/…]", Op::Random, Vault, |call| Box::pin(transit::random(call))),
        post("/v1/transit/hash[/…]", Op::Hash, Vault, |call| Box::pin(transit::hash(call))),
        post("/v1/sys/tools/random[/…]", Op::Random, Vault, |call| Box::pin(transit::random(call))),
        post("/v1/sys/tools/hash[/…]", Op::Hash, Vault, |call| Box::pin(transit::hash(call))),
        route(READ, "/v1/sys/health", Op::Discovery, Vault, BodyLimit::None, |call| Box::pin(sys::health(call))),
        get("/v1/sys/seal-status", Op::Discovery, Vault, |call| Box::pin(sys::seal_status(call))),
        get("/v1/sys/init", Op::Discovery, Vault, |call| Box::pin(sys::init(call))),
        get("/v1/sys/leader", Op::Discovery, Vault, |call| Box::pin(sys::leader(call))),
        get("/v1/sys/internal/ui/mounts[/…]", Op::Discovery, Vault, |call| Box::pin(sys::mount(call))),
        route(ANY, "/v1/auth/token/lookup-self", Op::Discovery, Vault, BodyLimit::RequestSize, |call| Box::pin(sys::lookup_self(call))),
        post("/v1/auth/token/renew-self", Op::Discovery, Vault, |call| Box::pin(sys::renew_self(call))),
        post("/v1/resolve", Op::Resolve, Vault, |call| Box::pin(resolve::resolve(call))),
        get("/livez", Op::Health, Text, |call| Box::pin(status::alive(call))),
        get("/readyz", Op::Health, Text, |call| Box::pin(status::ready(call))),
        get("/metrics", Op::Metrics, Text, |call| Box::pin(status::metrics(call))),
        get("/status", Op::Status, Vault, |call| Box::pin(status::status(call))),
        route(POST, "/reload", Op::Reload, Vault, BodyLimit::None, |call| Box::pin(status::reload(call))),
        get("/keyring", Op::Status, Kong, |call| Box::pin(keyring::list(call))),
        get("/keyring/active", Op::Status, Kong, |call| Box::pin(keyring::active(call))),
        route(POST, "/keyring/vault/sync", Op::Sync, Kong, BodyLimit::Bytes(16 << 10), |call| Box::pin(keyring::sync(call))),
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

/// The segments that a route's path leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Captured<'p> {
    /// `None` on a route without [`KEY_NAME`].
    name: Option<&'p str>,
    /// What [`TAIL`] stands for, without the slash.
    tail: &'p str,
}

/// The route of a request, the keyring's name in it, and the rest of the path.
pub(super) struct Found<'a> {
    pub(super) route: &'static Route,
    /// From the path, the query, or for Kubernetes the settings. No keyring need have it.
    pub(super) name: Option<Cow<'a, str>>,
    pub(super) tail: &'a str,
}

/// Why no route serves a request, and the shape in which to report it.
pub(super) struct Unrouted {
    pub(super) error: ApiError,
    pub(super) format: ErrorFormat,
}

/// The path with its escapes decoded. One that is no UTF-8 stays as it is: nothing has such a name.
pub(super) fn decode(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    percent_encoding::percent_decode_str(path).decode_utf8().unwrap_or(Cow::Borrowed(path))
}

pub(super) fn find<'a>(
    head: &'a Parts,
    path: &'a str,
    config: &'a RuntimeConfig,
) -> Result<Found<'a>, Unrouted> {
    let grpc = is_grpc(head);
    // A client of h2 can leave a response unread for as long as it likes, so long ones are for HTTP/1.1.
    if head.version == Version::HTTP_2 && !grpc {
        let error = ApiError::new(ErrorKind::NoRoute, "HTTP/2 serves gRPC only: use HTTP/1.1");
        return Err(Unrouted { error, format: ErrorFormat::Vault });
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let below_mount = below_mount(path, &config.transit_mounts);
    let rows = ROUTES.iter().filter(|route| (route.format == ErrorFormat::Grpc) == grpc);
    let mut matches = rows.filter_map(|route| Some((route, route.matches(path, below_mount)?)));
    let Some((route, Captured { name, tail })) = matches.next() else {
        return Err(no_route(path, below_mount, grpc, &config.transit_mounts));
    };
    let failed = |error| Unrouted { error, format: route.format };
    if !route.methods.contains(&head.method.as_str()) {
        let message = format!("this path supports {} only", route.methods.join(", "));
        let message = match below_mount {
            Some(rest) if rest.starts_with("keys/") => format!("{message}; {MANAGED}"),
            _ => message,
        };
        return Err(failed(ApiError::new(ErrorKind::Method(route.methods), message)));
    }
    let name = match name {
        Some(name) => Some(Cow::Borrowed(name)),
        None if grpc => config.kms_name.as_deref().map(Cow::Borrowed),
        None if route.takes_name() => name_of_query(head.uri.query().unwrap_or_default()),
        None => None,
    };
    Ok(Found { route, name, tail })
}

/// `?name=`
fn name_of_query(query: &str) -> Option<Cow<'_, str>> {
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "name").map(|(_, name)| name)
}

/// What follows a mount of Transit, which may have slashes itself. The longest one counts.
fn below_mount<'p>(path: &'p str, mounts: &[String]) -> Option<&'p str> {
    let path = path.strip_prefix("/v1/")?;
    let rests = mounts.iter().filter_map(|mount| path.strip_prefix(mount.as_str())?.strip_prefix('/'));
    rests.min_by_key(|rest| rest.len())
}

fn is_grpc(head: &Parts) -> bool {
    let value = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    head.version == Version::HTTP_2 && value.starts_with(b"application/grpc")
}

impl Route {
    /// `None` for another path.
    fn matches<'p>(&self, path: &'p str, below_mount: Option<&'p str>) -> Option<Captured<'p>> {
        let (pattern, path) = match self.path.strip_prefix(TRANSIT) {
            Some(pattern) => (pattern, below_mount?),
            None => (self.path, path),
        };
        let (pattern, tail) = match pattern.strip_suffix(TAIL) {
            Some(pattern) => (pattern, true),
            None => (pattern, false),
        };
        let (name, rest) = match pattern.strip_suffix(KEY_NAME) {
            Some(prefix) => {
                let path = path.strip_prefix(prefix)?;
                let name = path.split('/').next().filter(|name| !name.is_empty())?;
                (Some(name), &path[name.len()..])
            }
            None => (None, path.strip_prefix(pattern)?),
        };
        match rest.strip_prefix('/') {
            None if rest.is_empty() => Some(Captured { name, tail: "" }),
            Some(rest) if tail => Some(Captured { name, tail: rest }),
            _ => None,
        }
    }

    /// Whether `?name=` chooses the keyring: on what shows the state of one, or syncs it.
    const fn takes_name(&self) -> bool {
        matches!(self.operation, Operation::Status | Operation::Sync | Operation::Health)
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

/// Transit's operations that change, export or sign with keys, by the first segment.
const OF_KEYS: [&str; 9] =
    ["sign", "export", "byok-export", "backup", "restore", "import", "wrapping_key", "cache-config", "keys"];

const MANAGED: &str = "keys are symmetric and live in Vault: write a new record there to rotate, destroy a version to remove \
its key; they are neither exported nor used to sign";

fn no_route(path: &str, below_mount: Option<&str>, grpc: bool, mounts: &[String]) -> Unrouted {
    if path.strip_prefix("/keyring/").is_some_and(|rest| CLUSTER_STRATEGY.contains(&rest)) {
        return Unrouted {
            error: ApiError::invalid(
                "this endpoint belongs to Kong's cluster strategy; here keys live in Vault: write a new version of the \
                 secret to rotate, destroy a version to remove its key, and POST /keyring/vault/sync to load the change",
            ),
            format: ErrorFormat::Kong,
        };
    }
    let format = if grpc { ErrorFormat::Grpc } else { ErrorFormat::Vault };
    let operation = below_mount.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let message = if OF_KEYS.contains(&operation) {
        format!("no such operation here: {MANAGED}")
    } else {
        let family = match (grpc, below_mount) {
            (true, _) => "/v2.",
            (false, Some(_)) => TRANSIT,
            (false, None) => "",
        };
        let served: Vec<_> = ROUTES
            .iter()
            .filter(|route| (route.format == ErrorFormat::Grpc) == grpc && route.path.starts_with(family))
            .map(|route| route.path)
            .collect();
        let mounted = if path.starts_with("/v1/") && below_mount.is_none() {
            format!("Transit is mounted at {} (keyring_transit_mounts); ", mounts.join(", "))
        } else {
            String::new()
        };
        format!("no such path here: {mounted}{} are served", served.join(", "))
    };
    Unrouted { error: ApiError::new(ErrorKind::NoRoute, message), format }
}

#[cfg(test)]
mod openapi;

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::{super::context::testing, *};

    fn found(request: hyper::http::request::Builder) -> Result<&'static str, u16> {
        let (head, ()) = request.body(()).unwrap().into_parts();
        let mounts = ["transit".to_owned(), "teams/a".to_owned()];
        let config = RuntimeConfig { transit_mounts: mounts.into(), ..testing::config() };
        let path = decode(head.uri.path());
        let found = find(&head, &path, &config);
        found.map(|found| found.route.path).map_err(|unrouted| unrouted.error.status().as_u16())
    }

    #[test]
    fn each_path_has_its_route() {
        for (method, path, expected) in [
            ("POST", "/v1/transit/encrypt/keyring", Ok("/v1/transit/encrypt/{name}")),
            ("PUT", "/v1/transit/decrypt/keyring/", Ok("/v1/transit/decrypt/{name}")),
            ("POST", "/v1/transit/datakey/plaintext/keyring", Ok("/v1/transit/datakey/plaintext/{name}")),
            ("GET", "/v1/transit/keys/keyring", Ok("/v1/transit/keys/{name}")),
            ("POST", "/v1/transit/encrypt/key%72ing", Ok("/v1/transit/encrypt/{name}")),
            ("POST", "/v1/transit/encrypt%2Fkeyring", Ok("/v1/transit/encrypt/{name}")),
            ("POST", "/v1/transit/encrypt/%ff", Ok("/v1/transit/encrypt/{name}")),
            ("POST", "/v1/teams/a/encrypt/keyring", Ok("/v1/transit/encrypt/{name}")),
            ("POST", "/v1/teams/encrypt/keyring", Err(404)),
            ("POST", "/v1/transit//encrypt/keyring", Err(404)),
            ("POST", "/v1/transit/encrypt//keyring", Err(404)),
            ("POST", "/v1/transit/hmac/keyring", Ok("/v1/transit/hmac/{name}[/…]")),
            ("POST", "/v1/transit/verify/keyring/sha2-512", Ok("/v1/transit/verify/{name}[/…]")),
            ("POST", "/v1/transit/hmac", Err(404)),
            ("POST", "/v1/transit/random", Ok("/v1/transit/random[/…]")),
            ("POST", "/v1/transit/random/all/16", Ok("/v1/transit/random[/…]")),
            ("POST", "/v1/transit/randomness", Err(404)),
            ("POST", "/v1/sys/tools/hash/sha2-256", Ok("/v1/sys/tools/hash[/…]")),
            ("HEAD", "/v1/sys/health", Ok("/v1/sys/health")),
            ("LIST", "/v1/transit/keys", Ok("/v1/transit/keys")),
            ("GET", "/v1/transit/keys/?list=true", Ok("/v1/transit/keys")),
            ("GET", "/v1/resolve", Err(405)),
            ("GET", "/keyring/", Ok("/keyring")),
            ("GET", "/v1/transit/encrypt/keyring", Err(405)),
            ("GET", "/v1/transit/encrypt/other", Err(405)),
            ("POST", "/v1/transit/keys/keyring", Err(405)),
            ("DELETE", "/keyring", Err(405)),
            ("POST", "/v1/transit/encrypt/other", Ok("/v1/transit/encrypt/{name}")),
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
