//! The JSON of a Transit request, with its texts borrowed from the body where they can be.
//!
//! A field that is null counts as absent, and so does an empty text, except for the plaintext of a request without a
//! batch: to Transit that is the empty plaintext, and an application's field may well be empty. `type` is accepted and
//! ignored. A field that we do not know is refused by name, since ignoring `context` or `nonce` would seal something
//! other than what was asked for.

use std::{fmt, ops::Deref};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny},
};
use zeroize::Zeroizing;

/// A request, checked as a whole.
pub struct Request<'a> {
    pub input: Input<'a>,
    /// The status of a batch of which some items failed.
    pub partial_failure_status: u16,
}

pub enum Input<'a> {
    One(Item<'a>),
    Batch(Vec<Item<'a>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item<'a> {
    #[serde(borrow)]
    pub plaintext: Option<Text<'a>>,
    #[serde(borrow)]
    pub ciphertext: Option<Text<'a>>,
    #[serde(borrow)]
    pub associated_data: Option<Text<'a>>,
    #[serde(borrow)]
    pub reference: Option<Text<'a>>,
    #[serde(rename = "type")]
    _type: Option<IgnoredAny>,
}

/// A text of the body: borrowed, or unescaped into a copy that is wiped.
pub enum Text<'a> {
    Borrowed(&'a str),
    Unescaped(Zeroizing<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    plaintext: Option<Text<'a>>,
    #[serde(borrow)]
    ciphertext: Option<Text<'a>>,
    #[serde(borrow)]
    associated_data: Option<Text<'a>>,
    #[serde(borrow)]
    reference: Option<Text<'a>>,
    #[serde(borrow)]
    batch_input: Option<Vec<Item<'a>>>,
    partial_failure_response_code: Option<u16>,
    #[serde(rename = "type")]
    _type: Option<IgnoredAny>,
}

impl<'a> Request<'a> {
    /// The error is for the caller and quotes none of its values.
    pub fn parse(body: &'a [u8], max_batch: usize) -> Result<Self, String> {
        let body: Body<'a> = serde_json::from_slice(body).map_err(|error| describe(&error))?;
        let partial_failure_status = match body.partial_failure_response_code {
            None => 400,
            Some(code @ 200..=599) => code,
            Some(_) => return Err("partial_failure_response_code must be from 200 to 599".to_owned()),
        };
        let item = Item {
            plaintext: body.plaintext,
            ciphertext: absent_if_empty(body.ciphertext),
            associated_data: absent_if_empty(body.associated_data),
            reference: body.reference,
            _type: None,
        };
        let input = match body.batch_input {
            None => Input::One(item),
            Some(items) => Input::Batch(checked_batch(&item, items, max_batch)?),
        };
        Ok(Self { input, partial_failure_status })
    }
}

fn checked_batch<'a>(
    beside: &Item<'a>,
    mut items: Vec<Item<'a>>,
    max_batch: usize,
) -> Result<Vec<Item<'a>>, String> {
    let filled = |text: &Option<Text<'_>>| text.as_deref().is_some_and(|text| !text.is_empty());
    if filled(&beside.plaintext) || filled(&beside.ciphertext) || filled(&beside.associated_data) {
        return Err(
            "beside batch_input, plaintext, ciphertext and associated_data belong in its items".to_owned()
        );
    }
    if items.is_empty() {
        return Err("batch_input is empty".to_owned());
    }
    if items.len() > max_batch {
        return Err(format!(
            "batch_input has {} items, and {max_batch} is the most (keyring_max_batch)",
            items.len()
        ));
    }
    for item in &mut items {
        item.ciphertext = absent_if_empty(item.ciphertext.take());
        item.associated_data = absent_if_empty(item.associated_data.take());
    }
    Ok(items)
}

fn absent_if_empty(text: Option<Text<'_>>) -> Option<Text<'_>> {
    text.filter(|text| !text.is_empty())
}

/// What is wrong with the JSON, without quoting it: serde names unknown fields, and quotes values of a wrong type.
fn describe(error: &serde_json::Error) -> String {
    let place = format!("line {} column {}", error.line(), error.column());
    if !error.is_data() {
        return format!("the body is not JSON: {place}");
    }
    let text = error.to_string();
    match text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        Some((field, _)) if is_name(field) => format!("{field:?} is not supported here ({place})"),
        Some(_) => format!("a field is not supported here ({place})"),
        None if text.starts_with("duplicate field") => format!("a field stands twice ({place})"),
        None => format!("a value has the wrong type ({place})"),
    }
}

/// Whether a field's name is one, and not a payload that slipped into its place.
fn is_name(field: &str) -> bool {
    field.len() <= 64 && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Unescaped(text) => text,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text::Borrowed(text))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text::Unescaped(Zeroizing::new(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Visitor)
    }
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
            (r#"{"plaintext": 12345}"#, "a value has the wrong type (line 1 column 19)"),
            (r#"{"batch_input": "planted"}"#, "a value has the wrong type (line 1 column 25)"),
            (r#"{"nonce": "planted"}"#, "\"nonce\" is not supported here (line 1 column 8)"),
            (
                r#"{"batch_input": [{"context": "x"}]}"#,
                "\"context\" is not supported here (line 1 column 27)",
            ),
            (r#"{"plaintext": "a", "plaintext": "b"}"#, "a field stands twice (line 1 column 30)"),
            (r#"{"batch_input": []}"#, "batch_input is empty"),
            (
                r#"{"batch_input": [{},{},{}]}"#,
                "batch_input has 3 items, and 2 is the most (keyring_max_batch)",
            ),
            (
                r#"{"plaintext": "a", "batch_input": [{}]}"#,
                "beside batch_input, plaintext, ciphertext and associated_data belong in its items",
            ),
            (
                r#"{"partial_failure_response_code": 99}"#,
                "partial_failure_response_code must be from 200 to 599",
            ),
        ] {
            assert_eq!(error(body), said, "{body}");
        }
        assert!(error(&"[".repeat(100_000)).starts_with("a value has the wrong type"));
        assert!(error(&format!(r#"{{"type": {}"#, "[".repeat(100_000))).starts_with("the body is not JSON"));
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>) {
            let _ = Request::parse(&body, 2);
        }
    }
}
