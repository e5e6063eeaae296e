//! One field of a secret, from the JSON text of all fields. It must be text. Without a field name, the whole JSON text.
//!
//! Pure. The other fields are not copied, and no error quotes the content of any field.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::error::ResolveError;
use crate::{secret::Secret, settings::resolve::kind};

pub(super) fn extract(
    json: &Secret<String>,
    field: Option<&str>,
    base64: bool,
) -> Result<Secret<String>, ResolveError> {
    let Some(name) = field else { return Ok(Secret::new(json.expose().clone())) };
    let fields: BTreeMap<String, &RawValue> =
        serde_json::from_str(json.expose()).map_err(|_| ResolveError::NoFields)?;
    let raw = fields.get(name).ok_or_else(|| ResolveError::NoField(name.to_owned()))?;
    let text: Secret<String> = serde_json::from_str(raw.get())
        .map_err(|_| ResolveError::NotText(name.to_owned(), kind(raw.get())))?;
    if base64 { decoded(name, &text) } else { Ok(text) }
}

fn decoded(name: &str, text: &Secret<String>) -> Result<Secret<String>, ResolveError> {
    let not_base64 = || ResolveError::NotBase64(name.to_owned());
    let bytes = BASE64_STANDARD.decode(text.expose().trim()).map(Zeroizing::new).map_err(|_| not_base64())?;
    let text = str::from_utf8(&bytes).map_err(|_| not_base64())?;
    Ok(Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"name": "ACME Inc.", "test.com.key": "-----BEGIN\nplanted\n-----END\n", "empty": "",
        "number": 1, "yes": true, "nothing": null, "object": {"planted": "x"}, "list": ["planted"],
        "base64": "aMOpbGxv", "bytes": "/w=="}"#;

    fn field(name: Option<&str>, base64: bool) -> Result<String, String> {
        let found = extract(&Secret::new(JSON.to_owned()), name, base64);
        found.map(|text| text.expose().clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_text_is_returned_unchanged_and_without_a_field_everything() {
        assert_eq!(field(Some("name"), false).unwrap(), "ACME Inc.");
        assert_eq!(field(Some("test.com.key"), false).unwrap(), "-----BEGIN\nplanted\n-----END\n");
        assert_eq!(field(Some("empty"), false).unwrap(), "");
        assert_eq!(field(None, false).unwrap(), JSON);
        assert_eq!(field(None, true).unwrap(), JSON);
        assert_eq!(field(Some("base64"), true).unwrap(), "héllo");
    }

    #[test]
    fn any_other_type_is_named_and_not_quoted() {
        for (name, base64, part) in [
            ("Name", false, "has no field \"Name\""),
            ("number", false, "is a number"),
            ("yes", false, "is a boolean"),
            ("nothing", false, "is null"),
            ("object", false, "is an object"),
            ("list", false, "is a list"),
            ("name", true, "is not base64"),
            ("bytes", true, "is not base64"),
        ] {
            let error = field(Some(name), base64).unwrap_err();
            assert!(error.contains(part) && !error.contains("planted") && !error.contains("ACME"), "{error}");
        }
        let list = extract(&Secret::new("[\"planted\"]".to_owned()), Some("0"), false).unwrap_err();
        assert!(matches!(list, ResolveError::NoFields));
    }
}
