//! The content of one Vault secret: Kong's single record, or a map of several records.
//!
//! Single: `{"id": "…", "key": "…"}`. Map: `{"active": "<id>", "keys": {"<id>": "<key>", …}}`. A malformed record is
//! rejected alone, with a reason that never quotes its content. `history` combines the versions.
//! The file is longer than most: both forms of records and every reason to reject one.

#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, reason = "times and sizes from outside must not overflow")
)]

use std::{collections::HashSet, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use sha2::{Digest as _, Sha256};

use super::key::{Key, KeyDerivation, KeyError, KeyId};
use crate::secret::{Secret, wipe_stack};

/// The limit on the keys of one map.
const MAX_KEYS: usize = 10_000;

/// Several times the stack use of parsing a record and deriving its keys.
const STACK: usize = 128 << 10;

/// A key text for `sha256` with fewer characters is probably a password.
const SHORT_KEY_TEXT: usize = 32;

/// The usable records of one Vault secret, and why the others were rejected.
#[derive(Debug, Default)]
pub struct Contents {
    pub form: RecordForm,
    /// The active ID; `None` when its record was rejected.
    pub active: Option<KeyId>,
    pub keys: Vec<Arc<Key>>,
    pub rejected: Vec<RejectedRecord>,
    /// The keys with fewer than [`SHORT_KEY_TEXT`] characters.
    pub short: Vec<KeyId>,
    /// IDs whose key text ends in a line break, and what becomes of it.
    pub line_breaks: Vec<(KeyId, &'static str)>,
    /// [`digest`] of what was parsed.
    pub digest: [u8; 32],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordForm {
    /// `{"id", "key"}`: one record per version.
    #[default]
    Single,
    /// `{"active", "keys"}`: a whole keyring.
    Map,
}

/// `id` is present only if it is well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    pub id: Option<KeyId>,
    pub reason: RecordError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the secret is not a JSON object")]
    NotAnObject,
    #[error("the secret has neither `id` and `key` nor `active` and `keys`")]
    NoRecord,
    #[error("the secret mixes two forms; use either `id` and `key`, or `active` and `keys`")]
    Mixed,
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{0}` must be a string, found {1}")]
    NotText(&'static str, &'static str),
    #[error("`keys` must be an object of strings, found {0}")]
    KeysNotAnObject(&'static str),
    #[error("`active` names no usable record of `keys`")]
    ActiveNotHeld,
    #[error("`keys` contains this id twice")]
    Duplicate,
    #[error("`keys` has {0} keys, and at most {MAX_KEYS} are held: remove keys whose ciphertexts are gone")]
    TooManyKeys(usize),
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// SHA-256, which tells whether a secret changed.
pub(super) fn digest(json: &[u8]) -> [u8; 32] {
    Sha256::digest(json).into()
}

impl Contents {
    /// Parses the JSON object of a KV secret. It never fails as a whole: errors are in `rejected`.
    pub fn parse(json: &[u8], derivation: KeyDerivation) -> Self {
        let mut contents = Self { digest: digest(json), ..Self::default() };
        contents.read(json, derivation);
        wipe_stack::<STACK>(); // parsing copied keys over the stack
        contents
    }

    #[inline(never)]
    fn read(&mut self, json: &[u8], derivation: KeyDerivation) {
        match serde_json::from_slice::<RawRecord>(json) {
            Ok(raw) => self.fill(raw, derivation),
            Err(_) => self.reject(None, RecordError::NotAnObject),
        }
    }

    /// Whether both make the same keyring: equal form, active ID, keys and rejected records.
    pub fn same_as(&self, other: &Self) -> bool {
        self.form == other.form
            && self.active == other.active
            && self.rejected == other.rejected
            && self.keys.len() == other.keys.len()
            && self
                .keys
                .iter()
                .zip(&other.keys)
                .all(|(a, b)| a.id() == b.id() && a.same_key(b) && a.same_hmac_key(b))
    }

    fn fill(&mut self, raw: RawRecord, derivation: KeyDerivation) {
        match raw {
            RawRecord { id: None, key: None, hmac_key: None, active: None, keys: None } => {
                self.reject(None, RecordError::NoRecord);
            }
            RawRecord { id, key, hmac_key, active: None, keys: None } => {
                let id = match text("id", id).and_then(|id| Ok(KeyId::parse(id.expose())?)) {
                    Ok(id) => id,
                    Err(reason) => return self.reject(None, reason),
                };
                let hmac_key = hmac_key.map(|field| text("hmac_key", Some(field))).transpose();
                match text("key", key).and_then(|key| Ok((key, hmac_key?))) {
                    Ok((key, hmac_key)) => {
                        self.active = Some(id.clone());
                        self.add(id, &key, hmac_key.as_ref(), derivation);
                        self.forget_active_unless_held();
                    }
                    Err(reason) => self.reject(Some(id), reason),
                }
            }
            RawRecord { id: None, key: None, hmac_key: None, active, keys } => {
                self.form = RecordForm::Map;
                self.fill_map(active, keys, derivation);
            }
            _ => self.reject(None, RecordError::Mixed),
        }
    }

    fn fill_map(&mut self, active: Option<Field>, keys: Option<Field>, derivation: KeyDerivation) {
        let entries = match keys {
            Some(Field::Object(entries)) => entries,
            Some(other) => return self.reject(None, RecordError::KeysNotAnObject(other.kind())),
            None => return self.reject(None, RecordError::Missing("keys")),
        };
        if entries.len() > MAX_KEYS {
            return self.reject(None, RecordError::TooManyKeys(entries.len()));
        }
        let mut seen = HashSet::new();
        for (id, key) in entries {
            let Ok(id) = KeyId::parse(&id) else {
                self.reject(None, KeyError::Id.into());
                continue;
            };
            if !seen.insert(id.clone()) {
                self.reject(Some(id), RecordError::Duplicate);
                continue;
            }
            match text("key", Some(key)) {
                Ok(key) => self.add(id, &key, None, derivation),
                Err(reason) => self.reject(Some(id), reason),
            }
        }
        match text("active", active).and_then(|id| Ok(KeyId::parse(id.expose())?)) {
            Ok(id) => {
                self.active = Some(id.clone());
                self.forget_active_unless_held();
                if self.active.is_none() {
                    self.reject(Some(id), RecordError::ActiveNotHeld);
                }
            }
            Err(reason) => self.reject(None, reason),
        }
    }

    fn add(
        &mut self,
        id: KeyId,
        text: &Secret<String>,
        hmac_key: Option<&Secret<String>>,
        derivation: KeyDerivation,
    ) {
        if derivation == KeyDerivation::Sha256 && text.expose().chars().count() < SHORT_KEY_TEXT {
            self.short.push(id.clone());
        }
        if text.expose().ends_with(['\n', '\r']) {
            let meaning = match derivation {
                KeyDerivation::Sha256 => "part of the key",
                KeyDerivation::Raw => "ignored",
            };
            self.line_breaks.push((id.clone(), meaning));
        }
        let key = Key::derive(id.clone(), text, derivation);
        let key = key.and_then(|key| match hmac_key {
            Some(hmac_key) => key.with_hmac_key(hmac_key),
            None => Ok(key),
        });
        match key {
            Ok(key) => self.keys.push(Arc::new(key)),
            Err(reason) => self.reject(Some(id), reason.into()),
        }
    }

    fn forget_active_unless_held(&mut self) {
        self.active = self.active.take().filter(|id| self.keys.iter().any(|key| key.id() == id));
    }

    fn reject(&mut self, id: Option<KeyId>, reason: RecordError) {
        self.rejected.push(RejectedRecord { id, reason });
    }
}

/// The fields of both forms. Each may have any JSON type.
#[derive(Deserialize)]
struct RawRecord {
    id: Option<Field>,
    key: Option<Field>,
    hmac_key: Option<Field>,
    active: Option<Field>,
    keys: Option<Field>,
}

/// A JSON value, reduced to the types of a record. Errors of serde would quote the value, so no error is used.
enum Field {
    Text(Secret<String>),
    Object(Vec<(String, Self)>),
    Other(&'static str),
}

impl Field {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Object(_) => "an object",
            Self::Other(kind) => kind,
        }
    }
}

fn text(name: &'static str, field: Option<Field>) -> Result<Secret<String>, RecordError> {
    match field {
        Some(Field::Text(text)) => Ok(text),
        Some(other) => Err(RecordError::NotText(name, other.kind())),
        None => Err(RecordError::Missing(name)),
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Field, E> {
        Ok(Field::Text(Secret::new(value.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Field::Object(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other("a list"))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Field, E> {
        Ok(Field::Other("a boolean"))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Field, E> {
        Ok(Field::Other("null"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Contents {
        Contents::parse(json.as_bytes(), KeyDerivation::Sha256)
    }

    fn reasons(json: &str) -> Vec<String> {
        parse(json).rejected.iter().map(|rejected| rejected.reason.to_string()).collect()
    }

    #[test]
    fn a_single_record_is_its_own_active_key() {
        let contents = parse(r#"{"id": "a", "key": "0123456789abcdef0123456789abcdef", "note": 1}"#);
        assert_eq!(contents.active.unwrap().as_str(), "a");
        assert_eq!((contents.form, contents.keys.len(), contents.short.len()), (RecordForm::Single, 1, 0));
        assert!(contents.rejected.is_empty());
    }

    #[test]
    fn a_map_holds_several_records_and_names_the_active_one() {
        let contents = parse(r#"{"active": "b", "keys": {"a": "x", "b": "y", "bad id": "z", "c": 1}}"#);
        assert_eq!(contents.active.unwrap().as_str(), "b");
        assert_eq!((contents.form, contents.keys.len(), contents.short.len()), (RecordForm::Map, 2, 2));
        assert_eq!(contents.rejected.len(), 2);
    }

    #[test]
    fn the_error_of_a_malformed_record_does_not_quote_its_content() {
        for (json, reason) in [
            ("[]", "the secret is not a JSON object"),
            ("{", "the secret is not a JSON object"),
            ("{}", "the secret has neither `id` and `key` nor `active` and `keys`"),
            (r#"{"id": "a"}"#, "`key` is missing"),
            (r#"{"key": "planted"}"#, "`id` is missing"),
            (r#"{"id": "a", "key": 7}"#, "`key` must be a string, found a number"),
            (r#"{"id": "a", "key": {"planted": "x"}}"#, "`key` must be a string, found an object"),
            (r#"{"id": ["planted"], "key": "x"}"#, "`id` must be a string, found a list"),
            (r#"{"id": "a", "key": ""}"#, "`key` is empty"),
            (
                r#"{"id": "active", "key": "x"}"#,
                "`id` must be 1 to 64 of A-Z a-z 0-9 _ . - and must not be `active`",
            ),
            (
                r#"{"id": "a", "key": "x", "keys": {}}"#,
                "the secret mixes two forms; use either `id` and `key`, or `active` and `keys`",
            ),
            (r#"{"active": "a"}"#, "`keys` is missing"),
            (r#"{"active": "a", "keys": true}"#, "`keys` must be an object of strings, found a boolean"),
            (r#"{"active": "a", "keys": {"b": "x"}}"#, "`active` names no usable record of `keys`"),
            (r#"{"keys": {"b": "x"}}"#, "`active` is missing"),
            (r#"{"active": "b", "keys": {"b": "x", "b": "y"}}"#, "`keys` contains this id twice"),
        ] {
            assert_eq!(reasons(json), [reason], "{json}");
            assert!(!format!("{:?}", parse(json)).contains("planted"), "{json}");
        }
    }

    #[test]
    fn null_means_absent() {
        assert_eq!(reasons(r#"{"id": "a", "key": null}"#), ["`key` is missing"]);
    }
}
