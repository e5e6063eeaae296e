//! The JSON of a Transit request, with its texts borrowed from the body where they can be.
//!
//! A field that is null counts as absent, and so does an empty text, except for the plaintext of a request without a
//! batch: to Transit that is the empty plaintext, and an application's field may well be empty. `type` is accepted and
//! ignored. A field that we do not know and that says something is refused by name, since ignoring `context` or `nonce`
//! would seal something other than what was asked for. How the fields are read is in `fields`.

mod fields;
mod skip;

use serde::de::DeserializeSeed as _;

use fields::{Fields, FieldsOf, OURS, Text};

/// A request, checked as a whole.
pub struct Request<'a> {
    pub input: Input<'a>,
    /// The format to write, where it is not to be the configured one.
    pub format: Option<Text<'a>>,
    /// The status of a batch of which some items failed.
    pub partial_failure_status: u16,
}

pub enum Input<'a> {
    One(Item<'a>),
    Batch(Vec<Item<'a>>),
}

#[derive(Default)]
pub struct Item<'a> {
    pub plaintext: Option<Text<'a>>,
    pub ciphertext: Option<Text<'a>>,
    pub associated_data: Option<Text<'a>>,
    pub reference: Option<Text<'a>>,
}

impl<'a> Request<'a> {
    /// The error is for the caller and quotes none of its values.
    pub fn parse(body: &'a [u8], max_batch: usize) -> Result<Self, String> {
        let fields = fields(body, FieldsOf::Request { max_batch })?;
        let partial_failure_status = match fields.partial_failure_status {
            None => 400,
            // A status without a body would drop the results.
            Some(code @ 200..=599) if !matches!(code, 204 | 205 | 304) => code,
            Some(_) => {
                return Err("partial_failure_response_code must be a status from 200 to 599 that has a body"
                    .to_owned());
            }
        };
        let input = match fields.batch {
            None => Input::One(fields.item.normalised()),
            Some(items) => Input::Batch(checked_batch(&fields.item, items)?),
        };
        let format = fields.format.filter(|text| !text.is_empty());
        Ok(Self { input, format, partial_failure_status })
    }
}

/// What is asked of a data key.
pub struct DataKeyRequest<'a> {
    pub bits: Option<u16>,
    pub item: Item<'a>,
}

impl<'a> DataKeyRequest<'a> {
    /// The error is for the caller and quotes none of its values.
    pub fn parse(body: &'a [u8]) -> Result<Self, String> {
        // What clients send for "nothing to say".
        let body = if matches!(body.trim_ascii(), b"" | b"null") { b"{}" } else { body };
        let fields = fields(body, FieldsOf::DataKey)?;
        Ok(Self { bits: fields.bits, item: fields.item.normalised() })
    }
}

fn fields(body: &[u8], of: FieldsOf) -> Result<Fields<'_>, String> {
    // Looked at once, as a whole: every text of it is one by then.
    let body = str::from_utf8(body).map_err(|_| "the body is not JSON: it is not UTF-8")?;
    let mut json = serde_json::Deserializer::from_str(body);
    let parsed = of.deserialize(&mut json);
    parsed.and_then(|fields| json.end().map(|()| fields)).map_err(|error| describe(&error))
}

impl Item<'_> {
    /// Empty texts are absent, but for the plaintext.
    fn normalised(mut self) -> Self {
        self.ciphertext = self.ciphertext.filter(|text| !text.is_empty());
        self.associated_data = self.associated_data.filter(|text| !text.is_empty());
        self
    }
}

fn checked_batch<'a>(beside: &Item<'a>, items: Vec<Item<'a>>) -> Result<Vec<Item<'a>>, String> {
    let filled = |text: &Option<Text<'_>>| text.as_deref().is_some_and(|text| !text.is_empty());
    if filled(&beside.plaintext) || filled(&beside.ciphertext) || filled(&beside.associated_data) {
        return Err(
            "beside batch_input, plaintext, ciphertext and associated_data belong in its items".to_owned()
        );
    }
    if items.is_empty() {
        return Err("batch_input is empty".to_owned());
    }
    Ok(items.into_iter().map(Item::normalised).collect())
}

/// What is wrong with the JSON, without quoting it: serde's own messages quote values.
fn describe(error: &serde_json::Error) -> String {
    let place = format!("line {} column {}", error.line(), error.column());
    if !error.is_data() {
        return format!("the body is not JSON: {place}");
    }
    let text = error.to_string();
    if let Some((ours, _)) = text.strip_prefix(OURS).and_then(|text| text.rsplit_once(" at line ")) {
        return format!("{ours} ({place})");
    }
    format!("a value has the wrong type ({place})")
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
    fn a_field_of_transits_that_says_nothing_is_as_good_as_absent() {
        let body = br#"{"plaintext": "YQ==", "context": "", "nonce": null, "key_version": null, "partial_failure_response_code": ""}"#;
        assert!(matches!(Request::parse(body, 2).unwrap().input, Input::One(_)));
        let body = br#"{"batch_input": [{"plaintext": "YQ==", "nonce": ""}], "partial_failure_response_code": "202"}"#;
        assert_eq!(Request::parse(body, 2).unwrap().partial_failure_status, 202);
    }

    #[test]
    fn texts_with_escapes_are_read_as_others() {
        let Request { input: Input::One(item), .. } =
            Request::parse(br#"{"plaintext": "a\/b="}"#, 2).unwrap()
        else {
            panic!("a batch")
        };
        assert_eq!(item.plaintext.as_deref(), Some("a/b="));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_quoted() {
        for (body, said) in [
            ("", "the body is not JSON: line 1 column 0"),
            ("planted", "the body is not JSON: line 1 column 1"),
            ("{} planted", "the body is not JSON: line 1 column 4"),
            ("[]", "a value has the wrong type"),
            (r#"{"plaintext": 12345}"#, "a value has the wrong type"),
            (r#"{"batch_input": "planted"}"#, "a value has the wrong type"),
            (r#"{"batch_input": ["planted"]}"#, "a value has the wrong type"),
            (r#"{"nonce": "planted"}"#, "\"nonce\" is not supported here"),
            (r#"{"planted!": 1}"#, "a field is not supported here"),
            (r#"{"batch_input": [{"context": "x"}]}"#, "\"context\" is not supported here"),
            (r#"{"batch_input": [{"batch_input": [{}]}]}"#, "\"batch_input\" is not supported here"),
            (r#"{"plaintext": "a", "plaintext": "b"}"#, "a field stands twice"),
            (r#"{"batch_input": []}"#, "batch_input is empty"),
            (r#"{"batch_input": [{},{},{},{}]}"#, "batch_input has more than 2 items (keyring_max_batch)"),
            (
                r#"{"plaintext": "a", "batch_input": [{}]}"#,
                "beside batch_input, plaintext, ciphertext and associated_data belong in its items",
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
            assert_eq!(error.split(" (line ").next().unwrap(), said, "{body}");
        }
        assert!(error(&"[".repeat(100_000)).starts_with("a value has the wrong type"));
        assert!(
            error(&format!(r#"{{"type": {}"#, "[".repeat(100_000))).starts_with("a field is nested deeper")
        );
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>) {
            let _ = Request::parse(&body, 2);
        }
    }
}
