//! The JSON of a Transit request, checked as a whole.
//!
//! A null field counts as absent, and so does an empty text, except for the plaintext of a request without a batch, where
//! Transit takes it for the empty plaintext. `type` is ignored. An unsupported field that is set is refused by name: ignoring
//! `context` or `nonce` would change the meaning of the ciphertext.

use hyper::StatusCode;
use serde::de::DeserializeSeed as _;

use super::fields::{Fields, FieldsOf, Item, SAFE, Text};

pub(super) struct Request<'a> {
    pub(super) input: Input<'a>,
    /// The format to write instead of the configured one.
    pub(super) format: Option<Text<'a>>,
    /// The status of a batch of which some items failed.
    pub(super) partial_failure_status: StatusCode,
}

pub(super) enum Input<'a> {
    One(Item<'a>),
    Batch(Vec<Item<'a>>),
}

impl<'a> Request<'a> {
    /// The error is for the caller and quotes no value.
    pub(super) fn parse(body: &'a [u8], max_batch: usize) -> Result<Self, String> {
        let fields = fields(body, FieldsOf::Request { max_batch })?;
        let partial_failure_status = match fields.partial_failure_status {
            None => StatusCode::BAD_REQUEST,
            // A status without a body would drop the results.
            Some(code @ 200..=599) if !matches!(code, 204 | 205 | 304) => {
                StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST)
            }
            Some(_) => {
                return Err("partial_failure_response_code must be a status from 200 to 599 that has a body"
                    .to_owned());
            }
        };
        let input = match fields.batch {
            None => Input::One(fields.item.normalised()),
            Some(items) => Input::Batch(check_batch(&fields.item, items)?),
        };
        let format = fields.format.filter(|text| !text.is_empty());
        Ok(Self { input, format, partial_failure_status })
    }
}

pub(super) struct DataKeyRequest<'a> {
    pub(super) bits: Option<u16>,
    pub(super) item: Item<'a>,
}

impl<'a> DataKeyRequest<'a> {
    /// The error is for the caller and quotes no value.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, String> {
        // Clients send these when they set no field.
        let body = if matches!(body.trim_ascii(), b"" | b"null") { b"{}" } else { body };
        let fields = fields(body, FieldsOf::DataKey)?;
        Ok(Self { bits: fields.bits, item: fields.item.normalised() })
    }
}

fn fields(body: &[u8], of: FieldsOf) -> Result<Fields<'_>, String> {
    // One check of the whole body saves one per text.
    let body = str::from_utf8(body).map_err(|_| "invalid JSON: the body is not UTF-8")?;
    let mut json = serde_json::Deserializer::from_str(body);
    let parsed = of.deserialize(&mut json);
    parsed.and_then(|fields| json.end().map(|()| fields)).map_err(|error| describe(&error))
}

fn check_batch<'a>(outer: &Item<'a>, items: Vec<Item<'a>>) -> Result<Vec<Item<'a>>, String> {
    let filled = |text: &Option<Text<'_>>| text.as_deref().is_some_and(|text| !text.is_empty());
    if filled(&outer.plaintext) || filled(&outer.ciphertext) || filled(&outer.associated_data) {
        return Err(
            "with batch_input, plaintext, ciphertext and associated_data belong in its items".to_owned()
        );
    }
    if items.is_empty() {
        return Err("batch_input is empty".to_owned());
    }
    Ok(items.into_iter().map(Item::normalised).collect())
}

/// The error without the values that serde's own messages quote.
fn describe(error: &serde_json::Error) -> String {
    let position = format!("line {} column {}", error.line(), error.column());
    if !error.is_data() {
        return format!("invalid JSON at {position}");
    }
    let text = error.to_string();
    if let Some((message, _)) = text.strip_prefix(SAFE).and_then(|text| text.rsplit_once(" at line ")) {
        return format!("{message} ({position})");
    }
    format!("a value has the wrong type ({position})")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(body: &str) -> String {
        Request::parse(body.as_bytes(), 2).err().unwrap_or_default()
    }

    #[test]
    fn null_and_empty_count_as_absent() {
        let body = br#"{"plaintext": null, "ciphertext": "", "associated_data": null, "batch_input": null, "type": 5}"#;
        let Request { input: Input::One(item), .. } = Request::parse(body, 2).unwrap() else {
            panic!("a batch")
        };
        assert!(item.plaintext.is_none() && item.ciphertext.is_none() && item.associated_data.is_none());
        let body = br#"{"plaintext": "", "batch_input": [{"plaintext": "YQ=="}]}"#;
        assert!(matches!(Request::parse(body, 2).unwrap().input, Input::Batch(items) if items.len() == 1));
    }

    #[test]
    fn an_empty_unsupported_field_counts_as_absent() {
        let body = br#"{"plaintext": "YQ==", "context": "", "nonce": null, "key_version": null, "partial_failure_response_code": ""}"#;
        assert!(matches!(Request::parse(body, 2).unwrap().input, Input::One(_)));
        let body = br#"{"batch_input": [{"plaintext": "YQ==", "nonce": ""}], "partial_failure_response_code": "202"}"#;
        assert_eq!(Request::parse(body, 2).unwrap().partial_failure_status, StatusCode::ACCEPTED);
    }

    #[test]
    fn escaped_texts_are_unescaped() {
        let Request { input: Input::One(item), .. } =
            Request::parse(br#"{"plaintext": "a\/b="}"#, 2).unwrap()
        else {
            panic!("a batch")
        };
        assert_eq!(item.plaintext.as_deref(), Some("a/b="));
    }

    #[test]
    fn errors_name_the_field_and_quote_no_value() {
        for (body, expected) in [
            ("", "invalid JSON at line 1 column 0"),
            ("planted", "invalid JSON at line 1 column 1"),
            ("{} planted", "invalid JSON at line 1 column 4"),
            ("[]", "a value has the wrong type"),
            (r#"{"plaintext": 12345}"#, "a value has the wrong type"),
            (r#"{"batch_input": "planted"}"#, "a value has the wrong type"),
            (r#"{"batch_input": ["planted"]}"#, "a value has the wrong type"),
            (r#"{"nonce": "planted"}"#, "\"nonce\" is not supported here"),
            (r#"{"planted!": 1}"#, "a field is not supported here"),
            (r#"{"batch_input": [{"context": "x"}]}"#, "\"context\" is not supported here"),
            (r#"{"batch_input": [{"batch_input": [{}]}]}"#, "\"batch_input\" is not supported here"),
            (r#"{"plaintext": "a", "plaintext": "b"}"#, "a field is set twice"),
            (r#"{"batch_input": []}"#, "batch_input is empty"),
            (r#"{"batch_input": [{},{},{},{}]}"#, "batch_input has more than 2 items (keyring_max_batch)"),
            (
                r#"{"plaintext": "a", "batch_input": [{}]}"#,
                "with batch_input, plaintext, ciphertext and associated_data belong in its items",
            ),
            (
                r#"{"partial_failure_response_code": 99}"#,
                "partial_failure_response_code must be a status from 200 to 599 that has a body",
            ),
            (
                r#"{"partial_failure_response_code": 204}"#,
                "partial_failure_response_code must be a status from 200 to 599 that has a body",
            ),
            (r#"{"partial_failure_response_code": "planted"}"#, "a value has the wrong type"),
        ] {
            let error = error(body);
            assert_eq!(error.split(" (line ").next().unwrap(), expected, "{body}");
        }
        assert!(error(&"[".repeat(100_000)).starts_with("a value has the wrong type"));
        assert!(
            error(&format!(r#"{{"type": {}"#, "[".repeat(100_000)))
                .starts_with("a field is nested too deeply")
        );
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>) {
            let _ = Request::parse(&body, 2);
        }
    }
}
