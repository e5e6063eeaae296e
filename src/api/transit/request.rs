//! The body of a Transit request, JSON or a form, checked as a whole.
//!
//! A null field counts as absent, and so does an empty text, except for the plaintext of a request without a batch, where
//! Transit takes it for the empty plaintext. What each endpoint does with a field is in `fields`.

use std::borrow::Cow;

use hyper::{
    StatusCode,
    header::{self, HeaderMap},
};
use memchr::memchr;
use serde::de::DeserializeSeed as _;

use super::{
    fields::{Endpoint, Fields, FieldsOf, Item},
    values::{SAFE, Text},
};
use crate::api::envelope::{Warnings, write_json};

pub(super) struct Request<'a> {
    pub(super) input: Input<Text<'a>>,
    /// Of an HMAC batch: what stands beside it, for its items without.
    pub(super) defaults: Item<Text<'a>>,
    /// The format to write, or the encoding of an answer.
    pub(super) format: Option<Text<'a>>,
    pub(super) algorithm: Option<Text<'a>>,
    /// `bits` or `bytes`.
    pub(super) count: Option<i64>,
    /// The status of a batch of which some items failed; `None` if it was asked for one that cannot be.
    pub(super) partial_failure_status: Option<StatusCode>,
    pub(super) warnings: Warnings,
}

pub(super) enum Input<T> {
    One(Item<T>),
    Batch(Vec<Item<T>>),
}

impl<T> Input<T> {
    pub(super) fn items(&self) -> &[Item<T>] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Batch(items) => items,
        }
    }

    /// The same with each text replaced by what `map` makes of it.
    pub(super) fn map<U>(self, map: impl Fn(T) -> U) -> Input<U> {
        match self {
            Self::One(item) => Input::One(item.map(map)),
            Self::Batch(items) => Input::Batch(items.into_iter().map(|item| item.map(&map)).collect()),
        }
    }
}

impl<'a> Request<'a> {
    /// The error is for the caller and quotes no value.
    pub(super) fn parse(endpoint: Endpoint, body: &'a [u8], max_batch: usize) -> Result<Self, String> {
        let Fields { item, batch, format, algorithm, count, partial_failure_code, ignored, replaced } =
            fields(body, FieldsOf::request(endpoint, max_batch))?;
        let partial_failure_status = match partial_failure_code {
            None => Some(StatusCode::BAD_REQUEST),
            // A status without a body would drop the results.
            Some(204 | 205 | 304) => None,
            Some(code) => u16::try_from(code)
                .ok()
                .filter(|code| (200..=599).contains(code))
                .and_then(|code| StatusCode::from_u16(code).ok()),
        };
        let (input, defaults) = match batch {
            None => (Input::One(item.normalised()), Item::default()),
            Some(items) => {
                check_batch(endpoint, &item, &items)?;
                (Input::Batch(items.into_iter().map(Item::normalised).collect()), item.normalised())
            }
        };
        let set = |text: Option<Text<'a>>| text.filter(|text| !text.is_empty());
        let (format, algorithm) = (set(format), set(algorithm));
        let warnings = warnings(ignored, replaced);
        Ok(Self { input, defaults, format, algorithm, count, partial_failure_status, warnings })
    }

    pub(super) fn items(&self) -> &[Item<Text<'a>>] {
        self.input.items()
    }
}

/// Whether the body is a form. curl labels every body as one unless it is given a content type, so one that begins like an
/// object is JSON.
pub(super) fn is_form(headers: &HeaderMap, body: &[u8]) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"))
        && body.trim_ascii_start().first() != Some(&b'{')
}

/// The JSON of a form. Names and values have no characters that JSON writes longer than [`FORM_GROWTH`] times.
pub(super) fn form_as_json(form: &[u8]) -> Result<Vec<u8>, String> {
    let form = form.trim_ascii();
    let mut json = Vec::with_capacity(FORM_GROWTH * form.len() + 64);
    json.push(b'{');
    for (at, (name, value)) in url::form_urlencoded::parse(form).enumerate() {
        let control = |c: char| c.is_ascii_control() && !matches!(c, '\t' | '\r' | '\n');
        if name.contains(control) || value.contains(control) || at > MAX_FORM_FIELDS {
            return Err("a form has a control character, or too many fields: send JSON".to_owned());
        }
        if at > 0 {
            json.push(b',');
        }
        write_json(&*name, &mut json);
        json.push(b':');
        write_json(&*value, &mut json);
    }
    json.push(b'}');
    Ok(json)
}

/// The body as JSON.
pub(super) fn as_json<'b>(headers: &HeaderMap, body: &'b [u8]) -> Result<Cow<'b, [u8]>, String> {
    if is_form(headers, body) { form_as_json(body).map(Cow::Owned) } else { Ok(Cow::Borrowed(body)) }
}

/// How often a form's bytes are copied into its JSON at most: a quote or a line break is two characters there.
pub(super) const FORM_GROWTH: usize = 2;

/// More than any endpoint has. Each takes six bytes of JSON besides its own.
const MAX_FORM_FIELDS: usize = 64;

/// Replaces escapes of base64's characters in JSON, such as PHP's `\/`, behind `start`: texts without escapes are handled
/// where they are. None of these characters is JSON outside a text.
pub(super) fn unescape(json: &mut Vec<u8>, start: usize) {
    let (mut from, mut to) = (start, start);
    loop {
        let rest = &json[from..];
        let run = memchr(b'\\', rest).unwrap_or(rest.len());
        if from != to {
            json.copy_within(from..from + run, to);
        }
        (from, to) = (from + run, to + run);
        let (escape, read): (&[u8], _) = match &json[from..] {
            [] => break,
            [_, b'/', ..] => (b"/", 2),
            [_, b'u', b'0', b'0', b'2', b'b' | b'B', ..] => (b"+", 6),
            [_, b'u', b'0', b'0', b'2', b'f' | b'F', ..] => (b"/", 6),
            [_, b'u', b'0', b'0', b'3', b'd' | b'D', ..] => (b"=", 6),
            [_, next, ..] => (&[b'\\', *next], 2),
            [_] => (b"\\", 1),
        };
        json[to..][..escape.len()].copy_from_slice(escape);
        (from, to) = (from + read, to + escape.len());
    }
    json.truncate(to);
}

fn fields(body: &[u8], of: FieldsOf) -> Result<Fields<'_>, String> {
    // Clients send nothing when they set no field.
    let body = if body.trim_ascii().is_empty() { b"null" } else { body };
    // One check of the whole body saves one per text.
    let body = str::from_utf8(body).map_err(|_| "invalid JSON: the body is not UTF-8")?;
    let mut json = serde_json::Deserializer::from_str(body);
    let parsed = of.deserialize(&mut json);
    parsed.and_then(|fields| json.end().map(|()| fields)).map_err(|error| describe(&error))
}

/// Only HMACs take a version, a label and a width for all items.
fn check_batch(endpoint: Endpoint, outer: &Item<Text<'_>>, items: &[Item<Text<'_>>]) -> Result<(), String> {
    let filled = |text: &Option<Text<'_>>| text.as_ref().is_some_and(|text| !text.is_empty());
    let version = outer.key_version.is_some_and(|version| version != 0);
    let for_all = filled(&outer.associated_data) || version;
    if filled(&outer.clear)
        || filled(&outer.sealed)
        || filled(&outer.context)
        || for_all && endpoint != Endpoint::Hmac
    {
        return Err(
            "with batch_input, plaintext, ciphertext, input, hmac, context, associated_data and key_version \
                    belong in its items"
                .to_owned(),
        );
    }
    if items.is_empty() {
        return Err("batch_input is empty".to_owned());
    }
    Ok(())
}

/// Transit's own texts.
fn warnings(mut ignored: Vec<Box<str>>, mut replaced: Vec<Box<str>>) -> Warnings {
    let mut warnings = Warnings::default();
    let mut push = |names: &mut Vec<Box<str>>, text: &str| {
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            warnings.push(format!("Endpoint {text}: [{}]", names.join(" ")));
        }
    };
    push(&mut ignored, "ignored these unrecognized parameters");
    let path = "replaced the value of these parameters with the values captured from the endpoint's path";
    push(&mut replaced, path);
    warnings
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

    fn parse(body: &str) -> Result<Request<'_>, String> {
        Request::parse(Endpoint::Encrypt, body.as_bytes(), 2)
    }

    fn error(body: &str) -> String {
        parse(body).err().unwrap_or_default()
    }

    #[test]
    fn null_and_empty_count_as_absent() {
        let body = r#"{"plaintext": null, "associated_data": null, "batch_input": null, "type": 5}"#;
        let request = parse(body).unwrap();
        let [item] = request.items() else { panic!("a batch") };
        assert!(item.clear.is_none() && item.associated_data.is_none());
        for batch in ["null", r#""""#] {
            let body = format!(r#"{{"plaintext": "YQ==", "batch_input": {batch}}}"#);
            assert!(matches!(parse(&body).unwrap().input, Input::One(_)), "{body}");
        }
        let body = r#"{"plaintext": "", "batch_input": [{"plaintext": "YQ=="}, null]}"#;
        assert!(matches!(parse(body).unwrap().input, Input::Batch(items) if items.len() == 2));
        assert!(parse("").unwrap().items()[0].clear.is_none());
    }

    #[test]
    fn fields_without_effect_are_accepted() {
        for body in [
            r#"{"context": "", "nonce": null, "iv": "", "key_version": null, "partial_failure_response_code": ""}"#,
            r#"{"convergent_encryption": false, "derived": "false", "key_version": "0"}"#,
            r#"{"batch_input": [{"nonce": "", "context": null, "partial_failure_response_code": 200, "more": {}}]}"#,
        ] {
            assert_eq!(error(body), "", "{body}");
        }
        let status = |code: &str| {
            parse(&format!(r#"{{"partial_failure_response_code": {code}}}"#)).unwrap().partial_failure_status
        };
        assert_eq!(status(r#""202""#), Some(StatusCode::ACCEPTED));
        for code in ["0", "99", "204", "304", "600", "-1"] {
            assert_eq!(status(code), None, "{code}");
        }
    }

    #[test]
    fn unknown_fields_and_those_of_the_path_are_warned_of() {
        let warnings = |body| format!("{:?}", parse(body).unwrap().warnings);
        let ignored = warnings(r#"{"zeta": {"a": [1]}, "alpha": null, "planted! ": 1, "nonce": ""}"#);
        assert!(ignored.contains("parameters: [a field alpha nonce zeta]"), "{ignored}");
        assert!(warnings(r#"{"name": "other"}"#).contains("endpoint's path: [name]"));
        assert!(!warnings(r#"{"name": null, "type": "x", "context": ""}"#).contains("Endpoint"));
    }

    #[test]
    fn escaped_texts_are_unescaped() {
        let request = parse(r#"{"plaintext": "a\/b="}"#).unwrap();
        assert_eq!(request.items()[0].clear.as_deref(), Some("a/b="));
    }

    #[test]
    fn a_form_is_read_as_the_same_json() {
        let mut headers = HeaderMap::new();
        let json = |headers: &HeaderMap, body: &str| {
            String::from_utf8(as_json(headers, body.as_bytes()).unwrap().into()).unwrap()
        };
        assert_eq!(json(&headers, "a=b"), "a=b");
        headers.insert(
            header::CONTENT_TYPE,
            "application/x-www-form-urlencoded; charset=utf-8".parse().unwrap(),
        );
        assert_eq!(json(&headers, r#" {"a": 1}"#), r#" {"a": 1}"#);
        assert_eq!(json(&headers, "plaintext=YQ%3D%3D&b=%22+x"), r#"{"plaintext":"YQ==","b":"\" x"}"#);
        assert_eq!(json(&headers, ""), "{}");
        let longest = "\"".repeat(1000);
        assert!(json(&headers, &longest).len() <= FORM_GROWTH * longest.len() + 64);
        for refused in ["a=\u{1}", "a=%01", &"a&".repeat(100)] {
            assert!(as_json(&headers, refused.as_bytes()).unwrap_err().contains("control character"));
        }
    }

    #[test]
    fn escapes_of_base64_are_replaced_where_they_are_and_others_stay() {
        for (json, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"b"}"#),
            (r#"{"a":"b\/c\u002b\u002B\u002f\u003d\u003D"}"#, r#"{"a":"b/c++/=="}"#),
            (r#"{"a":"\\\/\\/ \\u002b \n\"\u0041"}"#, r#"{"a":"\\/\\/ \\u002b \n\"\u0041"}"#),
            ("\\", "\\"),
            ("\\u002", "\\u002"),
        ] {
            let mut bytes = format!("\\/{json}").into_bytes();
            unescape(&mut bytes, 2);
            assert_eq!(String::from_utf8(bytes).unwrap(), format!("\\/{expected}"));
        }
    }

    #[test]
    fn errors_name_the_field_and_quote_no_value() {
        for (body, expected) in [
            ("planted", "invalid JSON at line 1 column 1"),
            ("{} planted", "invalid JSON at line 1 column 4"),
            ("[]", "a value has the wrong type"),
            (r#"{"plaintext": 12345}"#, "\"plaintext\" must be text"),
            (r#"{"key_version": 1.5}"#, "\"key_version\" must be a number"),
            (r#"{"batch_input": "planted"}"#, "batch_input must be a list"),
            (r#"{"batch_input": ["planted"]}"#, "a value has the wrong type"),
            (
                r#"{"nonce": "planted"}"#,
                "\"nonce\" is not supported here: keys are not convergent, and derived by context only",
            ),
            (r#"{"batch_input": [{"context": 1}]}"#, "\"context\" must be text"),
            (
                r#"{"convergent_encryption": true}"#,
                "\"convergent_encryption\" is not supported here: equal plaintexts would be seen; to search, store a blind index \
                 (hmac with associated_data and bits)",
            ),
            (
                r#"{"derived": "planted"}"#,
                "\"derived\" is not supported here: keys are not convergent, and derived by context only",
            ),
            (r#"{"plaintext": "a", "plaintext": "b"}"#, "a field is set twice"),
            (r#"{"batch_input": []}"#, "batch_input is empty"),
            (r#"{"batch_input": [{},{},{},{}]}"#, "batch_input has more than 2 items (keyring_max_batch)"),
            (
                r#"{"partial_failure_response_code": "planted"}"#,
                "\"partial_failure_response_code\" must be a number",
            ),
        ] {
            let error = error(body);
            assert_eq!(error.split(" (line ").next().unwrap(), expected, "{body}");
        }
        for body in
            [r#"{"plaintext": "a", "batch_input": [{}]}"#, r#"{"key_version": 1, "batch_input": [{}]}"#]
        {
            assert!(error(body).contains("belong in its items"), "{body}");
        }
        assert!(error(&"[".repeat(100_000)).starts_with("a value has the wrong type"));
        assert!(
            error(&format!(r#"{{"type": {}"#, "[".repeat(100_000)))
                .starts_with("a field is nested too deeply")
        );
    }

    proptest! {
        #[test]
        fn no_body_panics(mut body: Vec<u8>) {
            let _ = Request::parse(Endpoint::Verify, &body, 2);
            unescape(&mut body, 0);
        }

        #[test]
        fn unescaped_json_means_the_same(text in r#"[/+=a\\"\n\u{e9}]*"#, every in 0..3_usize) {
            let json = serde_json::to_string(&text).unwrap();
            let escaped = [("/", r"\/"), ("+", r"\u002b"), ("=", r"\u003D")];
            let (from, to) = escaped[every];
            let mut bytes = json.replace(from, to).into_bytes();
            unescape(&mut bytes, 0);
            prop_assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
        }
    }
}
