//! References to environment variables: the text of a variable, or one field of the JSON object in it.
//!
//! Settings can only refer to the `env` backend, since the others need settings themselves. Errors quote the names of
//! variables and fields, never their content. The grammar is in `reference`.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::reference::{
    Malformed, Reference,
    apisix::{self, Apisix},
    is_any_reference, is_name,
};
use crate::secret::Secret;

/// The content of a variable: `None` if it is not set, an error if it cannot be read as text.
pub(crate) type Variable = Result<Option<Secret<String>>, String>;

/// Why a reference cannot be resolved. The message follows the setting's name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("is not a well-formed reference: {0}; expected {FORM}")]
    Malformed(Malformed),
    #[error("is not a well-formed reference: {0}; expected $ENV://NAME or $ENV://NAME/FIELD")]
    MalformedApisix(#[from] apisix::Malformed),
    #[error("is a reference {0}; expected {FORM}")]
    Unsupported(&'static str),
    #[error("is a reference to the variable {0}, which is not set: set it in the environment of keyringd")]
    NotSet(String),
    /// A variable, and what is wrong with its content.
    #[error("is a reference to the variable {0}, which {1}")]
    Variable(String, String),
    #[error("is a reference to the field {1:?} of the variable {0}, whose JSON has no such field")]
    NoField(String, String),
    /// A variable, a field, and what is wrong with the content of one of them.
    #[error("is a reference to the field {1:?} of the variable {0}, which {2}")]
    Field(String, String, String),
}

const FORM: &str = "{vault://env/NAME} or {vault://env/NAME/FIELD}";

/// A reference to an environment variable, or to a field of the JSON object in it.
#[derive(Debug)]
pub(crate) struct EnvReference {
    pub variable: String,
    pub(super) field: Option<String>,
    pub(super) decode_base64: bool,
}

/// The settings of Kong's env backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvBackend {
    /// What the name of every variable begins with.
    pub prefix: String,
    pub decode_base64: bool,
}

impl EnvReference {
    /// Parses a reference to Kong's env backend, which uses capitals and `_` for `-`.
    pub(crate) fn parse(text: &str, backend: &EnvBackend) -> Result<Self, Unresolved> {
        const NO_VARIABLE: &str = "that names no variable of letters, digits, - and _";
        let reference = Reference::parse(text).map_err(|malformed| match malformed {
            Malformed::NoPath => Unresolved::Unsupported(NO_VARIABLE),
            other => Unresolved::Malformed(other),
        })?;
        if reference.backend != "env" {
            return Err(Unresolved::Unsupported("to a backend that settings cannot use"));
        }
        let suffix = match reference.version {
            None | Some(1) => "",
            Some(2) => "_PREVIOUS",
            Some(_) => {
                return Err(Unresolved::Unsupported(
                    "with a version that variables do not have, which is #1 or #2",
                ));
            }
        };
        let [name] = reference.path.as_slice() else {
            return Err(Unresolved::Unsupported("with more than a variable and a field"));
        };
        let prefix = reference.prefix.as_ref().unwrap_or(&backend.prefix);
        let name = format!("{prefix}{name}{suffix}");
        if !is_name(&name) {
            return Err(Unresolved::Unsupported(NO_VARIABLE));
        }
        Ok(Self {
            variable: name.to_ascii_uppercase().replace('-', "_"),
            field: reference.key,
            decode_base64: backend.decode_base64,
        })
    }

    /// Parses a reference in either notation; `None` if it does not refer to a variable.
    pub(crate) fn from_either_notation(text: &str, backend: &EnvBackend) -> Option<Result<Self, Unresolved>> {
        if !apisix::is_reference(text) {
            let is_env = Reference::parse(text).is_ok_and(|reference| reference.backend == "env");
            return is_env.then(|| Self::parse(text, backend));
        }
        match Apisix::parse(text) {
            Ok(Apisix::Variable { name, field }) => {
                Some(Ok(Self { variable: name, field, decode_base64: false }))
            }
            Err(malformed @ apisix::Malformed::NoVariable) => Some(Err(malformed.into())),
            _ => None,
        }
    }

    /// The value, from the content of its variable.
    pub(crate) fn value(&self, content: Variable) -> Result<Secret<String>, Unresolved> {
        let name = || self.variable.clone();
        let text = match content {
            Err(why) => return Err(Unresolved::Variable(name(), why)),
            Ok(None) => return Err(Unresolved::NotSet(name())),
            Ok(Some(text)) if text.expose().is_empty() => {
                return Err(Unresolved::Variable(name(), "is empty".to_owned()));
            }
            Ok(Some(text)) => text,
        };
        let text = match &self.field {
            None => text,
            Some(field) => self.field(field, text.expose())?,
        };
        let text = if self.decode_base64 { self.decoded(text.expose())? } else { text };
        // Following it could loop. Using it as the value would be a password that is no secret.
        if is_any_reference(text.expose()) {
            let why = "holds a reference itself: use that reference instead";
            return Err(Unresolved::Variable(name(), why.to_owned()));
        }
        Ok(text)
    }

    fn decoded(&self, base64: &str) -> Result<Secret<String>, Unresolved> {
        let bytes = BASE64_STANDARD.decode(base64.trim()).map(Zeroizing::new).ok();
        let text = bytes.as_ref().and_then(|bytes| str::from_utf8(bytes).ok());
        text.map(|text| Secret::new(text.to_owned())).ok_or_else(|| {
            let why = "is not base64 of text, as vault_env_decode_base64 requires";
            Unresolved::Variable(self.variable.clone(), why.to_owned())
        })
    }

    fn field(&self, field: &str, json: &str) -> Result<Secret<String>, Unresolved> {
        let wrong = |why: String| Unresolved::Field(self.variable.clone(), field.to_owned(), why);
        // Raw values, so that the other fields are not copied.
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).map_err(|_| wrong("does not hold a JSON object".to_owned()))?;
        let Some(raw) = fields.get(field) else {
            return Err(Unresolved::NoField(self.variable.clone(), field.to_owned()));
        };
        let text: Secret<String> = serde_json::from_str(raw.get())
            .map_err(|_| wrong(format!("is {}: must be text", kind(raw.get()))))?;
        if text.expose().is_empty() { Err(wrong("is empty".to_owned())) } else { Ok(text) }
    }
}

/// The kind of a JSON value that is not text, by its first character.
pub(crate) fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'"') => "not Unicode text",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"password": "planted", "escaped\n": "a\u00e9\n", "number": 1, "yes": true, "no": false,
        "nothing": null, "object": {"password": "inner"}, "list": ["x"], "empty": "", "half": "\ud800",
        "nested": "{vault://env/x}", "twice": "first", "twice": "last"}"#;

    fn content_of(variable: &str) -> Variable {
        let text = match variable {
            "MY_TOKEN" => "planted ",
            "MY_JSON" => JSON,
            "NO_TEXT" => return Err("is not UTF-8 text".to_owned()),
            "NESTED" => "{vault://env/my-token}",
            "A_LIST" => "[\"planted\"]",
            "EMPTY" => "",
            _ => return Ok(None),
        };
        Ok(Some(Secret::new(text.to_owned())))
    }

    fn resolved(text: &str) -> Result<String, Unresolved> {
        let reference = EnvReference::parse(text, &EnvBackend::default())?;
        reference.value(content_of(&reference.variable)).map(|text| text.expose().clone())
    }

    #[test]
    fn a_variable_or_a_text_field_of_its_json_is_the_value() {
        for (text, value) in [
            ("{vault://env/my-token}", "planted "),
            ("{vault://env/MY_TOKEN/}", "planted "),
            ("{vault://env//my_token?ttl=1&neg_ttl=2&resurrect_ttl=3}", "planted "),
            ("{vault://env/my-json}", JSON),
            ("{vault://env/my-json/password}", "planted"),
            ("{vault://env/my-json/escaped%0A}", "aé\n"),
            ("{vault://env/my-json/twice}", "last"),
        ] {
            assert_eq!(resolved(text).as_deref(), Ok(value), "{text}");
        }
    }

    #[test]
    fn each_error_has_its_own_message_without_a_value() {
        for (text, message) in [
            ("{vault://env/my-token?x=planted}", "is not a well-formed reference: the parameters after ?"),
            ("{vault://planted!/x}", "is not a well-formed reference: it must name a backend"),
            ("{vault://env/}", "is a reference that names no variable"),
            ("{vault://env}", "is a reference that names no variable"),
            ("{vault://env/a%00b=c/x}", "is a reference that names no variable"),
            ("{vault://env/my-json/object/password}", "is a reference with more than a variable and a field"),
            ("{vault://hcv/planted/password}", "is a reference to a backend that settings cannot use"),
            ("{vault://env/my-token#3}", "is a reference with a version"),
            ("{vault://env/not-there}", "is a reference to the variable NOT_THERE, which is not set"),
            ("{vault://env/empty}", "is a reference to the variable EMPTY, which is empty"),
            ("{vault://env/empty/field}", "is a reference to the variable EMPTY, which is empty"),
            ("{vault://env/no-text}", "is a reference to the variable NO_TEXT, which is not UTF-8 text"),
            ("{vault://env/nested}", "is a reference to the variable NESTED, which holds a reference itself"),
            (
                "{vault://env/my-json/nested}",
                "is a reference to the variable MY_JSON, which holds a reference",
            ),
            ("{vault://env/my-token/x}", "\"x\" of the variable MY_TOKEN, which does not hold a JSON object"),
            ("{vault://env/a-list/0}", "\"0\" of the variable A_LIST, which does not hold a JSON object"),
            (
                "{vault://env/my-json/Password}",
                "\"Password\" of the variable MY_JSON, whose JSON has no such",
            ),
            ("{vault://env/my-json/number}", "which is a number: must be text"),
            ("{vault://env/my-json/yes}", "which is a boolean: must be text"),
            ("{vault://env/my-json/no}", "which is a boolean: must be text"),
            ("{vault://env/my-json/nothing}", "which is null: must be text"),
            ("{vault://env/my-json/object}", "which is an object: must be text"),
            ("{vault://env/my-json/list}", "which is a list: must be text"),
            ("{vault://env/my-json/half}", "which is not Unicode text: must be text"),
            ("{vault://env/my-json/empty}", "\"empty\" of the variable MY_JSON, which is empty"),
        ] {
            let error = resolved(text).unwrap_err().to_string();
            assert!(error.contains(message) && !error.contains("planted"), "{text}: {error}");
        }
    }
}
