//! What a reference in a setting stands for: the text of a variable, or one field of the JSON text in it.
//!
//! Only the `env` backend can give settings, since the others take settings to be reached. Every error tells what to look
//! at: a variable's and a field's name may be quoted, what they hold never is. The grammar is in `reference`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::reference::{
    Malformed, Reference,
    apisix::{self, Apisix},
    is_of_either_notation,
};
use crate::secret::Secret;

/// What a variable holds: nothing where it is not set, and why not where that is no text.
pub type Variable = Result<Option<Secret<String>>, String>;

/// Why a reference gives no value. After the setting's name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("is not a well-formed reference: {0}; {FORM} is expected")]
    Malformed(Malformed),
    #[error("is not a well-formed reference: {0}; $ENV://NAME or $ENV://NAME/FIELD is expected")]
    MalformedApisix(#[from] apisix::Malformed),
    #[error("is a reference that names no variable of letters, digits, - and _; {FORM} is expected")]
    NoVariable,
    #[error("is a reference with more than a variable and a field; {FORM} is expected")]
    TooLong,
    #[error("is a reference to another backend than env, and only the env backend can give settings: {FORM}")]
    OtherBackend,
    #[error(
        "is a reference that asks for a version, which variables do not have: leave the # and the number away"
    )]
    Version,
    #[error("is a reference to the variable {0}, which is not set: set it where keyringd starts")]
    NotSet(String),
    #[error("is a reference to the variable {0}, which is empty")]
    Empty(String),
    #[error("is a reference to the variable {0}, which {1}")]
    Unreadable(String, String),
    #[error("is a reference to the variable {0}, which holds a reference itself: refer to what it refers to")]
    Nested(String),
    #[error("is a reference to the field {1:?} of the variable {0}, which does not hold a JSON object")]
    NotJson(String, String),
    #[error("is a reference to the field {1:?} of the variable {0}, whose JSON has no such field")]
    NoField(String, String),
    #[error("is a reference to the field {1:?} of the variable {0}, which is {2}: only text can be a value")]
    NotText(String, String, &'static str),
    #[error("is a reference to the field {1:?} of the variable {0}, which is empty")]
    EmptyField(String, String),
}

const FORM: &str = "{vault://env/NAME} or {vault://env/NAME/FIELD}";

/// The variable that a reference names, and the field in it.
#[derive(Debug)]
pub struct Named {
    pub variable: String,
    field: Option<String>,
}

impl Named {
    /// What a setting refers to: in capitals, with `_` for `-`, as Kong's env backend has it.
    pub fn by(text: &str) -> Result<Self, Unresolved> {
        let reference = Reference::parse(text).map_err(|malformed| match malformed {
            Malformed::NoPath => Unresolved::NoVariable,
            other => Unresolved::Malformed(other),
        })?;
        if reference.backend != "env" {
            return Err(Unresolved::OtherBackend);
        }
        if reference.version.is_some() {
            return Err(Unresolved::Version);
        }
        let [name] = reference.path.as_slice() else { return Err(Unresolved::TooLong) };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Err(Unresolved::NoVariable);
        }
        Ok(Self { variable: name.to_ascii_uppercase().replace('-', "_"), field: reference.key })
    }

    /// The variable that a reference in either notation names; `None` where it names none, but a secret.
    pub fn of(text: &str) -> Option<Result<Self, Unresolved>> {
        if !apisix::is_reference(text) {
            let of_env = Reference::parse(text).is_ok_and(|reference| reference.backend == "env");
            return of_env.then(|| Self::by(text));
        }
        match Apisix::parse(text) {
            Ok(Apisix::Variable { name, field }) => Some(Ok(Self::exactly(name, field))),
            Err(malformed @ apisix::Malformed::NoVariable) => Some(Err(malformed.into())),
            _ => None,
        }
    }

    /// A variable by its very name, as APISIX refers to one.
    pub const fn exactly(variable: String, field: Option<String>) -> Self {
        Self { variable, field }
    }

    /// The value, from what its variable holds.
    pub fn value(&self, held: Variable) -> Result<Secret<String>, Unresolved> {
        let variable = || self.variable.clone();
        let text = match held {
            Err(why) => return Err(Unresolved::Unreadable(variable(), why)),
            Ok(None) => return Err(Unresolved::NotSet(variable())),
            Ok(Some(text)) => text,
        };
        if text.expose().is_empty() {
            return Err(Unresolved::Empty(variable()));
        }
        let text = match &self.field {
            None => text,
            Some(field) => self.field(field, text.expose())?,
        };
        // Followed further, it could go in circles; taken as it stands, it would be a password that everybody knows.
        if is_of_either_notation(text.expose()) { Err(Unresolved::Nested(variable())) } else { Ok(text) }
    }

    fn field(&self, field: &str, json: &str) -> Result<Secret<String>, Unresolved> {
        let (variable, field) = (|| self.variable.clone(), || field.to_owned());
        // Nothing of the other fields is copied.
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).map_err(|_| Unresolved::NotJson(variable(), field()))?;
        let raw = fields.get(field().as_str()).ok_or_else(|| Unresolved::NoField(variable(), field()))?;
        let text: Secret<String> = serde_json::from_str(raw.get())
            .map_err(|_| Unresolved::NotText(variable(), field(), kind(raw.get())))?;
        if text.expose().is_empty() { Err(Unresolved::EmptyField(variable(), field())) } else { Ok(text) }
    }
}

/// What a JSON value that is no text is, by its first character.
pub fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'"') => "no Unicode text",
        _ => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"password": "planted", "escaped\n": "a\u00e9\n", "number": 1, "yes": true, "no": false,
        "nothing": null, "object": {"password": "inner"}, "list": ["x"], "empty": "", "half": "\ud800",
        "nested": "{vault://env/x}", "twice": "first", "twice": "last"}"#;

    fn held(variable: &str) -> Variable {
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
        let named = Named::by(text)?;
        named.value(held(&named.variable)).map(|text| text.expose().clone())
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
    fn each_error_is_told_apart_and_quotes_no_value() {
        for (text, said) in [
            ("{vault://env/my-token?x=planted}", "is not a well-formed reference: after ? it has something"),
            ("{vault://planted!/x}", "is not a well-formed reference: it names no backend"),
            ("{vault://env/}", "is a reference that names no variable"),
            ("{vault://env}", "is a reference that names no variable"),
            ("{vault://env/a%00b=c/x}", "is a reference that names no variable"),
            ("{vault://env/my-json/object/password}", "is a reference with more than a variable and a field"),
            (
                "{vault://hcv/planted/password}",
                "is a reference to another backend than env, and only the env",
            ),
            ("{vault://env/my-token#1}", "is a reference that asks for a version"),
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
            ("{vault://env/my-json/number}", "which is a number: only text can be a value"),
            ("{vault://env/my-json/yes}", "which is a boolean: only text"),
            ("{vault://env/my-json/no}", "which is a boolean: only text"),
            ("{vault://env/my-json/nothing}", "which is null: only text"),
            ("{vault://env/my-json/object}", "which is an object: only text"),
            ("{vault://env/my-json/list}", "which is a list: only text"),
            ("{vault://env/my-json/half}", "which is no Unicode text: only text"),
            ("{vault://env/my-json/empty}", "\"empty\" of the variable MY_JSON, which is empty"),
        ] {
            let error = resolved(text).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("planted"), "{text}: {error}");
        }
    }
}
