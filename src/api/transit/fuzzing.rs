//! What the fuzz targets call here. Compiled for them and for tests only.

use serde_json::Value;

use super::{fields::Endpoint, request::Request};

/// Our reader of requests against serde_json's own: it takes only what that takes, and reads the same texts.
pub(crate) fn request(body: &[u8]) {
    const ENDPOINTS: [Endpoint; 5] =
        [Endpoint::Encrypt, Endpoint::Decrypt, Endpoint::Rewrap, Endpoint::Hmac, Endpoint::DataKey];
    for endpoint in ENDPOINTS {
        let Ok(request) = Request::parse(endpoint, body, 100) else { continue };
        assert!(request.input.items().len() <= 100);
        if body.trim_ascii().is_empty() {
            continue;
        }
        let read = serde_json::from_slice(body);
        assert!(read.is_ok(), "we took what is no JSON: {read:?}");
        let Ok(Value::Object(object)) = read else { continue };
        let plain =
            object.keys().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        if !plain || endpoint != Endpoint::Encrypt || object.contains_key("batch_input") {
            continue;
        }
        let expected =
            object.get("plaintext").and_then(Value::as_str).filter(|_| !has_twice(body, "plaintext"));
        if let (Some(expected), [item]) = (expected, request.input.items()) {
            assert_eq!(item.clear.as_deref(), Some(expected));
        }
    }
}

/// Whether the body may hold the name more than once: serde_json then keeps the last one.
fn has_twice(body: &[u8], name: &str) -> bool {
    let escaped = body.contains(&b'\\');
    escaped || body.windows(name.len()).filter(|window| *window == name.as_bytes()).count() > 1
}
