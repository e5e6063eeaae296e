//! The grammar of Kong's references: `{vault://<backend>/<path…>[/<key>][?ttl=…&neg_ttl=…&resurrect_ttl=…][#version]}`.
//!
//! Pure. No error quotes the text, which may be a secret in the wrong place. The grammar of APISIX references is in
//! [`apisix`]. References in settings are resolved in `resolve`, all others in `references`.

pub(crate) mod apisix;

use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::setting::digits;

const PREFIX: &str = "prefix=";

const OPENING: &str = "{vault://";

/// The longest time, as in the settings: about three years.
pub(super) const MAX_SECONDS: u64 = 100_000_000;

/// The parts of a reference, with `%XX` decoded and without empty segments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The name of a backend, or of a configured alias of one.
    pub backend: String,
    /// The path of the secret: one segment at least.
    pub path: Vec<String>,
    /// The field of the secret; `None` for the whole secret.
    pub key: Option<String>,
    pub caching: Caching,
    /// For the env backend: what the name of the variable begins with, in place of `vault_env_prefix`.
    pub prefix: Option<String>,
    /// A version of the secret, where the backend keeps several.
    pub version: Option<u64>,
}

/// Cache times. `None` where the reference sets none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caching {
    pub ttl: Option<Duration>,
    /// For secrets that do not exist.
    pub neg_ttl: Option<Duration>,
    /// How long an expired value is used while a refresh fails.
    pub resurrect_ttl: Option<Duration>,
}

impl Caching {
    /// The times that satisfy both: the shorter of each.
    pub(crate) fn strictest(self, other: Self) -> Self {
        // A TTL of 0 never expires.
        let ttl = |caching: Self| caching.ttl.filter(|ttl| !ttl.is_zero());
        let shorter = |one: Option<Duration>, other: Option<Duration>| one.into_iter().chain(other).min();
        Self {
            ttl: shorter(ttl(self), ttl(other)),
            neg_ttl: self.neg_ttl.zip(other.neg_ttl).map(|(one, other)| one.min(other)),
            resurrect_ttl: shorter(self.resurrect_ttl, other.resurrect_ttl),
        }
    }
}

/// Why a text is not a well-formed reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it must begin with {{vault:// and end with }}")]
    NoReference,
    #[error("it must name a backend of letters, digits, - and _ after {{vault://")]
    Backend,
    #[error("it has no path after the backend")]
    NoPath,
    #[error("the version after # must be a whole number")]
    Version,
    #[error(
        "the parameters after ? must be ttl=, neg_ttl= or resurrect_ttl=, or prefix= for the env backend"
    )]
    Parameter,
    #[error("the times after ? must be whole seconds from 0 to {MAX_SECONDS}")]
    Seconds,
    #[error("its %XX escapes do not decode to UTF-8 text")]
    Escape,
}

/// Whether a value is a reference, well-formed or not: it begins with `{vault://` and ends with `}`.
pub(crate) fn is_reference(text: &str) -> bool {
    inside(text).is_some()
}

/// Whether a value is a reference in either notation, well-formed or not.
pub(crate) fn is_any_reference(text: &str) -> bool {
    is_reference(text) || apisix::is_reference(text)
}

/// Whether a value begins like a reference but has no end.
pub(crate) fn is_unfinished(text: &str) -> bool {
    text.starts_with(OPENING) && !is_reference(text)
}

fn inside(text: &str) -> Option<&str> {
    text.strip_prefix(OPENING)?.strip_suffix('}')
}

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        let text = inside(text).ok_or(Malformed::NoReference)?;
        let (text, version) = split_off(text, '#');
        let (text, query) = split_off(text, '?');
        let (backend, path) = split_off(text, '/');
        if backend.is_empty() || !is_name(backend) {
            return Err(Malformed::Backend);
        }
        let (path, key) = path_and_key(path.unwrap_or_default())?;
        let is_prefix = |parameter: &&str| backend == "env" && parameter.starts_with(PREFIX);
        let (prefixes, times): (Vec<_>, Vec<_>) = query
            .unwrap_or_default()
            .split('&')
            .filter(|parameter| !parameter.is_empty())
            .partition(is_prefix);
        Ok(Self {
            backend: backend.to_owned(),
            path,
            key,
            caching: Caching::parse(&times)?,
            prefix: prefixes.last().map(|parameter| decoded(&parameter[PREFIX.len()..])).transpose()?,
            version: version.map(|text| digits(text).ok_or(Malformed::Version)).transpose()?,
        })
    }
}

/// The text before the first `at`, and the text after it if there is one.
fn split_off(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

/// Whether a text has letters, digits, `-` and `_` only.
pub(super) fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// The last segment is the key, unless it is the only one or a `/` follows it.
fn path_and_key(text: &str) -> Result<(Vec<String>, Option<String>), Malformed> {
    let segments = text.split('/').filter(|segment| !segment.is_empty()).map(decoded);
    let mut path = segments.collect::<Result<Vec<_>, _>>()?;
    let key = if path.len() > 1 && !text.ends_with('/') { path.pop() } else { None };
    if path.is_empty() { Err(Malformed::NoPath) } else { Ok((path, key)) }
}

/// Decodes `%XX` (RFC 3986, 2.1). A `%` that begins no escape is itself.
fn decoded(segment: &str) -> Result<String, Malformed> {
    let text = percent_decode_str(segment).decode_utf8().map_err(|_| Malformed::Escape)?;
    Ok(text.into_owned())
}

impl Caching {
    /// These times, and those of `other` where they are unset.
    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            ttl: self.ttl.or(other.ttl),
            neg_ttl: self.neg_ttl.or(other.neg_ttl),
            resurrect_ttl: self.resurrect_ttl.or(other.resurrect_ttl),
        }
    }

    fn parse(parameters: &[&str]) -> Result<Self, Malformed> {
        let mut caching = Self::default();
        for parameter in parameters {
            let (name, seconds) = split_off(parameter, '=');
            let place = match name {
                "ttl" => &mut caching.ttl,
                "neg_ttl" => &mut caching.neg_ttl,
                "resurrect_ttl" => &mut caching.resurrect_ttl,
                _ => return Err(Malformed::Parameter),
            };
            let seconds = digits(seconds.unwrap_or_default()).filter(|seconds| *seconds <= MAX_SECONDS);
            *place = Some(Duration::from_secs(seconds.ok_or(Malformed::Seconds)?));
        }
        Ok(caching)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A reference as `backend path,path key ttl,neg_ttl,resurrect_ttl version`, with `-` for absent parts.
    fn shown(reference: &Reference) -> String {
        let Reference { backend, path, key, caching, version, .. } = reference;
        let seconds =
            |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), |time| time.as_secs().to_string());
        let times = [caching.ttl, caching.neg_ttl, caching.resurrect_ttl].map(seconds).join(",");
        let key = key.as_deref().unwrap_or("-");
        let version = version.map_or_else(|| "-".to_owned(), |version| version.to_string());
        format!("{backend} {} {key} {times} {version}", path.join(","))
    }

    /// The cases of one notation: each text, and its parts or the name of the error.
    pub(super) fn cases(notation: &str) -> Vec<(String, Result<String, String>)> {
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
    fn each_case_of_the_table_is_parsed_or_rejected() {
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
            assert!(is_reference(text) && is_any_reference(text) && !is_unfinished(text), "{text}");
        }
        for text in ["$secret://", "$SECRET://vault/1/a/b", "$env://x", "$ENV://"] {
            assert!(is_any_reference(text) && !is_reference(text), "{text}");
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
        fn every_parsed_reference_has_a_backend_and_a_path(inside in "(env|hcv)?[a-z/]{0,12}[?#]?[a-z=0-9]{0,6}") {
            if let Ok(reference) = Reference::parse(&format!("{{vault://{inside}}}")) {
                prop_assert!(!reference.backend.is_empty() && !reference.path.is_empty());
                prop_assert!(reference.path.iter().chain(&reference.key).all(|segment| !segment.is_empty()));
            }
        }
    }
}
