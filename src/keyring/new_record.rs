//! New records: a random key under an ID, as JSON that `record` parses. How it gets into Vault is in `vault::kv`.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value};

use super::key::KeyId;
use crate::secret::Secret;

/// Why a record could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NewRecordError {
    #[error("the operating system gives no random bytes: {0}")]
    NoRandomness(#[from] getrandom::Error),
    #[error("the secret is not a keyring of the form {{\"active\", \"keys\"}}")]
    NotAMap,
}

/// `{"id": "…", "key": "…"}` with the base64 of 32 random bytes.
pub(crate) fn single(id: &KeyId) -> Result<Secret<String>, NewRecordError> {
    let key = random_key()?;
    // Neither an ID nor base64 has a character that JSON escapes.
    Ok(Secret::new(format!(r#"{{"id":"{}","key":"{}"}}"#, id.as_str(), key.expose())))
}

/// The keyring `{"active": "…", "keys": {…}}` in `fields` with one more key, which is active.
pub(crate) fn added_to_map(fields: &Secret<String>, id: &KeyId) -> Result<Secret<String>, NewRecordError> {
    let mut map: Map<String, Value> =
        serde_json::from_str(fields.expose()).map_err(|_| NewRecordError::NotAMap)?;
    let keys = map.get_mut("keys").and_then(Value::as_object_mut).ok_or(NewRecordError::NotAMap)?;
    let mut key = random_key()?;
    keys.insert(id.as_str().to_owned(), Value::String(std::mem::take(key.expose_mut())));
    map.insert("active".to_owned(), Value::String(id.as_str().to_owned()));
    Ok(Secret::new(Value::Object(map).to_string()))
}

fn random_key() -> Result<Secret<String>, getrandom::Error> {
    let mut key = Secret::new([0; 32]);
    getrandom::fill(key.expose_mut())?;
    Ok(Secret::new(BASE64_STANDARD.encode(key.expose())))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            key::KeyDerivation,
            record::{Contents, RecordForm},
        },
        *,
    };

    #[test]
    fn a_new_record_is_usable_and_its_key_is_random() {
        let id = KeyId::parse("2026-11-28").unwrap();
        let records = [single(&id).unwrap(), single(&id).unwrap()];
        assert!(records[0] != records[1]);
        for derivation in [KeyDerivation::Sha256, KeyDerivation::Raw] {
            let contents = Contents::parse(records[0].expose().as_bytes(), derivation);
            assert_eq!((contents.form, contents.active.as_ref()), (RecordForm::Single, Some(&id)));
            assert!(contents.rejected.is_empty() && contents.short.is_empty());
        }
    }

    #[test]
    fn a_map_keeps_its_keys_and_other_fields_and_gets_an_active_one() {
        let id = KeyId::parse("new").unwrap();
        let fields =
            Secret::new(r#"{"active":"old","keys":{"old":"a key of enough characters 12345"}}"#.to_owned());
        let added = added_to_map(&fields, &id).unwrap();
        let contents = Contents::parse(added.expose().as_bytes(), KeyDerivation::Sha256);
        assert_eq!(
            (contents.form, contents.active, contents.keys.len()),
            (RecordForm::Map, Some(id.clone()), 2)
        );
        for wrong in ["[]", r#"{"id":"a","key":"b"}"#] {
            assert!(added_to_map(&Secret::new(wrong.to_owned()), &id).is_err(), "{wrong}");
        }
    }
}
