//! The JSON of a Transit request: its fields are deserialised one by one, then checked as a whole.
//!
//! Texts are borrowed from the body. A batch is refused at the first item over the limit. Ignored values are skipped without
//! memory or deep recursion. The file is longer than others: it has serde's visitors as well.
//!
//! A null field counts as absent, and so does an empty text, except for the plaintext of a request without a batch, where
//! Transit takes it for the empty plaintext. `type` is ignored. An unsupported field that is set is refused by name: ignoring
//! `context` or `nonce` would change the meaning of the ciphertext.

use std::{borrow::Cow, fmt, ops::Deref};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::StatusCode;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

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

/// A text of the body: borrowed, or unescaped into a copy.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// One item of a request.
#[derive(Default)]
pub(super) struct Item<'a> {
    pub(super) plaintext: Option<Text<'a>>,
    pub(super) ciphertext: Option<Text<'a>>,
    pub(super) associated_data: Option<Text<'a>>,
    pub(super) reference: Option<Text<'a>>,
}

/// The fields of a request, or of one item of its batch.
#[derive(Default)]
struct Fields<'a> {
    item: Item<'a>,
    batch: Option<Vec<Item<'a>>>,
    partial_failure_status: Option<u16>,
    format: Option<Text<'a>>,
    bits: Option<u16>,
}

impl Item<'_> {
    /// Empty texts count as absent, except for the plaintext.
    fn normalised(mut self) -> Self {
        self.ciphertext = self.ciphertext.filter(|text| !text.is_empty());
        self.associated_data = self.associated_data.filter(|text| !text.is_empty());
        self
    }

    /// `None` if it is not base64.
    pub(super) fn decoded_associated_data(&self) -> Option<Vec<u8>> {
        self.associated_data.as_deref().map_or_else(|| Some(Vec::new()), decode_associated_data)
    }
}

/// `None` if it is not base64.
pub(super) fn decode_associated_data(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).or_else(|_| BASE64_STANDARD.decode(without_line_breaks(text))).ok()
}

/// Transit ignores line breaks in base64, which base64(1) writes.
pub(super) fn without_line_breaks(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect()
}

/// Marks a message of this file, which quotes no value: serde's own messages do.
const SAFE: &str = "\u{1}";

fn refused<E: de::Error>(message: impl fmt::Display) -> E {
    E::custom(format_args!("{SAFE}{message}"))
}

/// Whether a field's name is safe to quote: it may be a payload in the wrong place.
fn is_name(field: &str) -> bool {
    field.len() <= 64 && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Which fields are allowed: those of a request, of an item of a batch, or of a data key request.
#[derive(Clone, Copy)]
enum FieldsOf {
    Request { max_batch: usize },
    Item,
    DataKey,
}

impl<'de> DeserializeSeed<'de> for FieldsOf {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsOf {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Text<'de>>()? {
            match (&*name, self) {
                ("associated_data", _) => once(&mut fields.item.associated_data, map.next_value()?)?,
                ("type", _) => {
                    map.next_value_seed(SKIP)?;
                }
                ("bits", Self::DataKey) => once(&mut fields.bits, map.next_value::<Number>()?.0)?,
                ("plaintext", Self::Request { .. } | Self::Item) => {
                    once(&mut fields.item.plaintext, map.next_value()?)?;
                }
                ("ciphertext", Self::Request { .. } | Self::Item) => {
                    once(&mut fields.item.ciphertext, map.next_value()?)?;
                }
                ("reference", Self::Request { .. } | Self::Item) => {
                    once(&mut fields.item.reference, map.next_value()?)?;
                }
                ("format", Self::Request { .. }) => once(&mut fields.format, map.next_value()?)?,
                ("batch_input", Self::Request { max_batch }) => {
                    once(&mut fields.batch, map.next_value_seed(Batch { max: max_batch })?)?;
                }
                ("partial_failure_response_code", Self::Request { .. }) => {
                    once(&mut fields.partial_failure_status, map.next_value::<Number>()?.0)?;
                }
                (other, _) => {
                    if map.next_value_seed(SKIP)? {
                        let name = if is_name(other) { format!("{other:?}") } else { "a field".to_owned() };
                        return Err(refused(format_args!("{name} is not supported here")));
                    }
                }
            }
        }
        Ok(fields)
    }
}

/// Sets a field that is not set yet.
fn once<T, E: de::Error>(field: &mut Option<T>, value: Option<T>) -> Result<(), E> {
    if field.is_some() {
        return Err(refused("a field is set twice"));
    }
    *field = value;
    Ok(())
}

/// `batch_input`: a list or null.
struct Batch {
    max: usize,
}

impl<'de> DeserializeSeed<'de> for Batch {
    type Value = Option<Vec<Item<'de>>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Batch {
    type Value = Option<Vec<Item<'de>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(fields) = seq.next_element_seed(FieldsOf::Item)? {
            if items.len() == self.max {
                let message =
                    format_args!("batch_input has more than {} items (keyring_max_batch)", self.max);
                return Err(refused(message));
            }
            items.push(fields.item);
        }
        Ok(Some(items))
    }
}

/// A number, or its text form, which command lines send. Null and an empty text are `None`.
struct Number(Option<u16>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                u16::try_from(number).map(|number| Number(Some(number))).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                if text.is_empty() {
                    return Ok(Number(None));
                }
                text.parse().map(|number| Number(Some(number))).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(NumberVisitor)
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Skips a value without keeping any of it. Returns whether the value is set: null and an empty text are not.
#[derive(Clone, Copy)]
struct Skip {
    /// How many more levels of nesting are allowed.
    depth: usize,
}

/// Deeper than anything that a client of Transit sends.
const SKIP: Skip = Skip { depth: 32 };

impl Skip {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        depth.map(|depth| Self { depth }).ok_or_else(|| refused("a field is nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: de::Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<bool, E> {
        Ok(!text.is_empty())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let items = self.deeper()?;
        while seq.next_element_seed(items)?.is_some() {}
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let values = self.deeper()?;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(values)?;
        }
        Ok(true)
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
