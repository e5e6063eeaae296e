//! The grammar of Kong's references: `{vault://<backend>/<path…>[/<key>][?ttl=…&neg_ttl=…&resurrect_ttl=…][#version]}`.
//!
//! Pure: text in, its parts or what is wrong with it out. No error quotes the text, which may hold a secret that somebody
//! put into the wrong place. APISIX's references have a grammar of their own, in [`apisix`]. What a backend makes of the
//! parts is not here: for settings that is `resolve`, for everything else `references`.

pub mod apisix;

use std::time::Duration;

const OPENING: &str = "{vault://";

/// The parts of a reference, with `%XX` decoded and empty segments gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Reference {
    /// A backend, or a name that stands for one with its settings.
    pub backend: String,
    /// Where the secret is, segment by segment; one at least.
    pub path: Vec<String>,
    /// The field of the secret; without one, the whole secret is meant.
    pub key: Option<String>,
    pub caching: Caching,
    /// A version of the secret, where the backend keeps several.
    pub version: Option<u64>,
}

/// How long to keep what was found, as far as the reference says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caching {
    pub ttl: Option<Duration>,
    /// How long to remember that there was nothing.
    pub neg_ttl: Option<Duration>,
    /// How long an old value serves while no new one is to be had.
    pub resurrect_ttl: Option<Duration>,
}

/// What is wrong with a text that should be a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it does not begin with {{vault:// and end with }}")]
    NoReference,
    #[error("it names no backend of letters, digits, - and _ after {{vault://")]
    Backend,
    #[error("it names no path behind the backend")]
    NoPath,
    #[error("after # it has no version, which is a whole number")]
    Version,
    #[error("after ? it has something else than ttl=, neg_ttl= and resurrect_ttl=")]
    Parameter,
    #[error("after ? it gives a time that is not in whole seconds")]
    Seconds,
    #[error("what its %XX stand for is not UTF-8 text")]
    Escape,
}

/// Whether a value is a reference, well-formed or not: the whole of it stands between `{vault://` and `}`.
pub fn is_reference(text: &str) -> bool {
    inside(text).is_some()
}

/// Whether a value is a reference in either notation, well-formed or not.
pub fn is_of_either_notation(text: &str) -> bool {
    is_reference(text) || apisix::is_reference(text)
}

/// Whether a value begins as a reference does and then is none.
pub fn is_unfinished(text: &str) -> bool {
    text.starts_with(OPENING) && !is_reference(text)
}

fn inside(text: &str) -> Option<&str> {
    text.strip_prefix(OPENING)?.strip_suffix('}')
}

impl Reference {
    /// Takes a reference apart.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let text = inside(text).ok_or(Malformed::NoReference)?;
        let (text, version) = split_off(text, '#');
        let (text, query) = split_off(text, '?');
        let (backend, path) = split_off(text, '/');
        if backend.is_empty() || !backend.bytes().all(is_of_a_name) {
            return Err(Malformed::Backend);
        }
        let (path, key) = path_and_key(path.unwrap_or_default())?;
        Ok(Self {
            backend: backend.to_owned(),
            path,
            key,
            caching: Caching::parse(query.unwrap_or_default())?,
            version: version.map(number).transpose().map_err(|()| Malformed::Version)?,
        })
    }
}

/// What stands before the first `at`, and what stands behind it if it is there.
fn split_off(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

const fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// The last segment is the key, unless it is the only one or a `/` stands behind it.
fn path_and_key(text: &str) -> Result<(Vec<String>, Option<String>), Malformed> {
    let segments = text.split('/').filter(|segment| !segment.is_empty()).map(decoded);
    let mut path = segments.collect::<Result<Vec<_>, _>>()?;
    let key = if path.len() > 1 && !text.ends_with('/') { path.pop() } else { None };
    if path.is_empty() { Err(Malformed::NoPath) } else { Ok((path, key)) }
}

/// A segment with each `%XX` as the byte that it stands for (RFC 3986, 2.1). A `%` that begins no such thing is itself.
fn decoded(segment: &str) -> Result<String, Malformed> {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut at) = (segment.as_bytes(), 0);
    let mut plain = Vec::with_capacity(bytes.len());
    while let Some(byte) = bytes.get(at) {
        let escape = (*byte == b'%').then(|| hex(bytes.get(at + 1)).zip(hex(bytes.get(at + 2)))).flatten();
        let stands_for = escape.and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        plain.push(stands_for.unwrap_or(*byte));
        at += if stands_for.is_some() { 3 } else { 1 };
    }
    String::from_utf8(plain).map_err(|_| Malformed::Escape)
}

impl Caching {
    /// What this says, and where it says nothing, what `other` does.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            ttl: self.ttl.or(other.ttl),
            neg_ttl: self.neg_ttl.or(other.neg_ttl),
            resurrect_ttl: self.resurrect_ttl.or(other.resurrect_ttl),
        }
    }

    fn parse(query: &str) -> Result<Self, Malformed> {
        let mut caching = Self::default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, seconds) = split_off(parameter, '=');
            let place = match name {
                "ttl" => &mut caching.ttl,
                "neg_ttl" => &mut caching.neg_ttl,
                "resurrect_ttl" => &mut caching.resurrect_ttl,
                _ => return Err(Malformed::Parameter),
            };
            let seconds = number(seconds.unwrap_or_default()).map_err(|()| Malformed::Seconds)?;
            *place = Some(Duration::from_secs(seconds));
        }
        Ok(caching)
    }
}

fn number(text: &str) -> Result<u64, ()> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A reference as `backend path,path key ttl,neg_ttl,resurrect_ttl version`, with `-` for what is not there.
    fn shown(reference: &Reference) -> String {
        let Reference { backend, path, key, caching, version } = reference;
        let seconds =
            |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), |time| time.as_secs().to_string());
        let times = [caching.ttl, caching.neg_ttl, caching.resurrect_ttl].map(seconds).join(",");
        let key = key.as_deref().unwrap_or("-");
        let version = version.map_or_else(|| "-".to_owned(), |version| version.to_string());
        format!("{backend} {} {key} {times} {version}", path.join(","))
    }

    /// The cases of one notation in the table: each text, and its parts or the name of what is wrong with it.
    pub fn cases(notation: &str) -> Vec<(String, Result<String, String>)> {
        #[derive(serde::Deserialize)]
        struct Case {
            text: String,
            is: Option<String>,
            error: Option<String>,
        }
        let table = include_str!("../../tests/vectors/references.json");
        let mut table: BTreeMap<String, Vec<Case>> = serde_json::from_str(table).unwrap();
        let cases = table.remove(notation).unwrap().into_iter();
        cases.map(|case| (case.text, case.is.ok_or_else(|| case.error.unwrap()))).collect()
    }

    #[test]
    fn each_case_of_the_table_is_taken_apart_or_told_what_is_wrong_with_it() {
        let cases = cases("kong");
        assert!(cases.len() > 40);
        for (text, expected) in cases {
            let parsed = Reference::parse(&text).map_err(|malformed| format!("{malformed:?}"));
            assert_eq!(parsed.map(|reference| shown(&reference)), expected, "{text}");
        }
    }

    #[test]
    fn only_a_whole_value_is_a_reference() {
        for text in ["{vault://env/x}", "{vault://}", "{vault://a} {b}"] {
            assert!(is_reference(text) && is_of_either_notation(text) && !is_unfinished(text), "{text}");
        }
        for text in ["$secret://", "$SECRET://vault/1/a/b", "$env://x", "$ENV://"] {
            assert!(is_of_either_notation(text) && !is_reference(text), "{text}");
        }
        for text in ["", "{vault:}", "a{vault://env/x}", "$secret://vault/1/a/b"] {
            assert!(!is_reference(text) && !is_unfinished(text), "{text}");
        }
        for text in ["{vault://env/x", "{vault://env/x}, system"] {
            assert!(!is_reference(text) && is_unfinished(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, inside in "[a-z/%{}?&=#0-9é]{0,40}") {
            let _ = (Reference::parse(&text), is_reference(&text), is_unfinished(&text));
            let _ = (Reference::parse(&format!("{{vault://{inside}}}")), decoded(&inside));
        }

        #[test]
        fn what_parses_names_a_backend_and_a_path(inside in "(env|hcv)?[a-z/]{0,12}[?#]?[a-z=0-9]{0,6}") {
            if let Ok(reference) = Reference::parse(&format!("{{vault://{inside}}}")) {
                prop_assert!(!reference.backend.is_empty() && !reference.path.is_empty());
                prop_assert!(reference.path.iter().chain(&reference.key).all(|segment| !segment.is_empty()));
            }
        }
    }
}
