//! Headers that change what a request means. One that cannot be served is refused by name.

use hyper::{
    header::{self, HeaderMap, HeaderName},
    http::request::Parts,
};

use super::{
    context::RuntimeConfig,
    error::{ApiError, ErrorKind},
};

const WRAP_TTL: &str = "x-vault-wrap-ttl";
const NAMESPACE: &str = "x-vault-namespace";

pub(super) fn check(head: &Parts, config: &RuntimeConfig) -> Result<(), ApiError> {
    let headers = &head.headers;
    if !headers.keys().any(changes_meaning) {
        return Ok(());
    }
    // hyper reads a body as chunked if that is the last coding: what is below it would be taken for the body.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !is_chunked || codings.next().is_some() {
        let message = "Transfer-Encoding must be chunked alone: send the body as it is";
        return Err(ApiError::invalid(message).closing_connection());
    }
    let encoding = text(headers, header::CONTENT_ENCODING.as_str());
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
        let message = "Content-Encoding is not supported: send the body as it is";
        return Err(ApiError::new(ErrorKind::MediaType, message));
    }
    let ttl = text(headers, WRAP_TTL);
    if !ttl.trim_end_matches(['s', 'm', 'h']).trim_matches('0').is_empty() {
        return Err(ApiError::invalid(
            "X-Vault-Wrap-TTL is not supported: a wrapped response needs a cubbyhole; read it without the header",
        ));
    }
    // `root` and `/` are Vault's names for no namespace.
    let namespace = text(headers, NAMESPACE).trim_matches('/');
    let configured = config.namespace.as_deref().unwrap_or_default();
    if !matches!(namespace, "" | "root") && namespace != configured {
        let message =
            "no such namespace here: X-Vault-Namespace must be unset, or as keyring_vault_namespace";
        return Err(ApiError::new(ErrorKind::NoRoute, message));
    }
    Ok(())
}

/// One pass over the names of a request costs less than a look for each of these.
fn changes_meaning(name: &HeaderName) -> bool {
    matches!(name.as_str(), "transfer-encoding" | "content-encoding" | WRAP_TTL | NAMESPACE)
}

/// A header's value; what is not ASCII counts as a value that fits nothing.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap_or("?")).trim()
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    #[test]
    fn wrapping_encodings_and_other_namespaces_are_refused() {
        let check = |name: &str, value: &str| {
            let request = Request::post("/v1/transit/encrypt/a").header(name, value).body(()).unwrap();
            let config =
                RuntimeConfig { namespace: Some("a/b".to_owned()), ..crate::api::context::testing::config() };
            check(&request.into_parts().0, &config).map_err(|error| error.status().as_u16())
        };
        for (name, value, expected) in [
            ("x-vault-wrap-ttl", "60", Err(400)),
            ("x-vault-wrap-ttl", "5m", Err(400)),
            ("x-vault-wrap-ttl", "x", Err(400)),
            ("x-vault-wrap-ttl", "0", Ok(())),
            ("x-vault-wrap-ttl", "0s", Ok(())),
            ("x-vault-namespace", "a/b/", Ok(())),
            ("x-vault-namespace", "root", Ok(())),
            ("x-vault-namespace", "/", Ok(())),
            ("x-vault-namespace", "a", Err(404)),
            ("transfer-encoding", "Chunked", Ok(())),
            ("transfer-encoding", "gzip, chunked", Err(400)),
            ("transfer-encoding", "chunked, chunked", Err(400)),
            ("content-encoding", "gzip", Err(415)),
            ("content-encoding", "Identity", Ok(())),
        ] {
            assert_eq!(check(name, value), expected, "{name}: {value}");
        }
    }
}
