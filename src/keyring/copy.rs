//! What a sealed copy holds: the keyrings of a daemon, as JSON with K and the HMAC key of each key. No tokens.
//!
//! Versions and creation times are in it, so that a keyring from a copy has the same public names. `cipher::copy` seals it.
//! The file is longer than most: it has both directions and their tests.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::{
    format::Format,
    key::{HeldKey, Key, KeyDerivation, KeyId, VersionId, decode_32_bytes},
    options::Options,
    record::RecordForm,
    snapshot::{Keyring, KeyringSource, SecretLocation},
};
use crate::secret::Secret;
use base64::prelude::{BASE64_STANDARD, Engine as _};

#[derive(Debug)]
pub struct CopyContents {
    pub written: SystemTime,
    pub keyrings: Vec<CopiedKeyring>,
}

#[derive(Debug)]
pub struct CopiedKeyring {
    pub name: String,
    /// Its last good sync.
    pub synced: SystemTime,
    pub keyring: Arc<Keyring>,
}

/// The JSON is not that of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedCopy;

#[derive(Serialize, Deserialize)]
struct CopyJson {
    written: Time,
    keyrings: Vec<KeyringJson>,
}

#[derive(Serialize, Deserialize)]
struct KeyringJson {
    name: String,
    synced: Time,
    path: String,
    derivation: KeyDerivation,
    options: OptionsJson,
    active: String,
    keys: Vec<KeyJson>,
}

/// The options that the secret carries.
#[derive(Serialize, Deserialize)]
struct OptionsJson {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    derivation: Option<KeyDerivation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index_key: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct KeyJson {
    id: String,
    key: Base64,
    hmac_key: Base64,
    /// Of the newest version.
    form: RecordForm,
    state: KeyState,
    /// Oldest first.
    versions: Vec<VersionJson>,
}

#[derive(Serialize, Deserialize)]
struct VersionJson {
    number: u64,
    created: Time,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeyState {
    Live,
    /// Vault no longer lists a version with this key.
    Retired,
}

/// A secret as the base64 of its bytes.
struct Base64(Secret<String>);

/// RFC 3339 with nanoseconds, which the public names contain.
#[derive(Clone, Copy)]
struct Time(SystemTime);

impl CopyContents {
    /// Appends the JSON.
    pub fn write_to(&self, buffer: &mut Vec<u8>) {
        let keyrings = self.keyrings.iter().map(KeyringJson::from_keyring).collect();
        let json = CopyJson { written: Time(self.written), keyrings };
        // Writing plain values into memory cannot fail.
        let _ = serde_json::to_writer(buffer, &json);
    }

    /// The copy of the keyrings that are in Vault at `location`, but for the path of each.
    pub fn parse(json: &[u8], location: &SecretLocation) -> Result<Self, MalformedCopy> {
        let json: CopyJson = serde_json::from_slice(json).map_err(|_| MalformedCopy)?;
        let keyrings = json.keyrings.into_iter().map(|keyring| keyring.into_keyring(location));
        let keyrings = keyrings.collect::<Option<_>>().ok_or(MalformedCopy)?;
        Ok(Self { written: json.written.0, keyrings })
    }
}

impl KeyringJson {
    fn from_keyring(CopiedKeyring { name, synced, keyring }: &CopiedKeyring) -> Self {
        let SecretLocation { path, derivation, .. } = keyring.location();
        Self {
            name: name.clone(),
            synced: Time(*synced),
            path: path.clone(),
            derivation: *derivation,
            options: OptionsJson::from_options(keyring.options()),
            active: keyring.active().key.id().to_string(),
            keys: keyring.newest_first().into_iter().map(KeyJson::from_key).collect(),
        }
    }

    fn into_keyring(self, location: &SecretLocation) -> Option<CopiedKeyring> {
        let Self { name, synced: Time(synced), path, derivation, options, active, keys } = self;
        let keys: Vec<_> = keys.into_iter().map(KeyJson::into_key).collect::<Option<_>>()?;
        let keyring = Keyring::new(keys, &KeyId::parse(&active).ok()?)?;
        let location = SecretLocation { path, derivation, ..location.clone() };
        let keyring = keyring
            .with_location(location)
            .with_options(options.into_options()?)
            .with_source(KeyringSource::Copy { synced });
        Some(CopiedKeyring { name, synced, keyring: Arc::new(keyring) })
    }
}

impl OptionsJson {
    fn from_options(Options { derivation, format, index_key }: &Options) -> Self {
        Self {
            derivation: *derivation,
            format: format.map(|format| format.name().to_owned()),
            index_key: index_key.as_ref().map(KeyId::to_string),
        }
    }

    fn into_options(self) -> Option<Options> {
        let format = match self.format.as_deref() {
            None => None,
            Some(name) => Some([Format::Native, Format::Transit].into_iter().find(|one| one.name() == name)?),
        };
        let index_key = self.index_key.map(|id| KeyId::parse(&id)).transpose().ok()?;
        Some(Options { derivation: self.derivation, format, index_key })
    }
}

impl KeyJson {
    fn from_key(held: &HeldKey) -> Self {
        let versions = held.earlier_versions.iter().copied().chain([held.newest()]);
        Self {
            id: held.key.id().to_string(),
            key: Base64::encode(held.key.k()),
            hmac_key: Base64::encode(held.key.hmac()),
            form: if held.mapped { RecordForm::Map } else { RecordForm::Single },
            state: if held.retired { KeyState::Retired } else { KeyState::Live },
            versions: versions
                .map(|version| VersionJson { number: version.number, created: Time(version.created) })
                .collect(),
        }
    }

    fn into_key(self) -> Option<HeldKey> {
        let k = decode_32_bytes(self.key.0.expose())?;
        let key = Key::new(KeyId::parse(&self.id).ok()?, k).with_hmac_key(&self.hmac_key.0).ok()?;
        let version = |VersionJson { number, created: Time(created) }| VersionId { number, created };
        let mut earlier_versions: Vec<_> = self.versions.into_iter().map(version).collect();
        let newest = earlier_versions.pop()?;
        Some(HeldKey {
            earlier_versions,
            mapped: self.form == RecordForm::Map,
            retired: self.state == KeyState::Retired,
            ..HeldKey::new(Arc::new(key), newest.number, newest.created)
        })
    }
}

impl Base64 {
    fn encode(bytes: &[u8]) -> Self {
        Self(Secret::new(BASE64_STANDARD.encode(bytes)))
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Secret::deserialize(deserializer).map(Self)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 < SystemTime::UNIX_EPOCH {
            return Err(ser::Error::custom("before 1970"));
        }
        serializer.collect_str(&humantime::format_rfc3339_nanos(self.0))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Self).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn location() -> SecretLocation {
        let (mount, path) = ("secret".to_owned(), "a \"quoted\"/päth".to_owned());
        SecretLocation { mount, path, versioned: true, ..SecretLocation::default() }
    }

    fn time(nanoseconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_000 + nanoseconds)
    }

    /// A key in these versions, newest last.
    fn held(id: &str, k: u8, versions: &[u64]) -> HeldKey {
        let (newest, earlier) = versions.split_last().unwrap();
        let key = Arc::new(Key::new(KeyId::parse(id).unwrap(), Secret::new([k; 32])));
        let version = |number: &u64| VersionId { number: *number, created: time(*number) };
        HeldKey {
            earlier_versions: earlier.iter().map(version).collect(),
            ..HeldKey::new(key, *newest, time(*newest))
        }
    }

    fn json(keyring: Keyring) -> Vec<u8> {
        let (name, keyring) = ("keyring".to_owned(), Arc::new(keyring));
        let keyrings = vec![CopiedKeyring { name, synced: time(5), keyring }];
        let mut json = Vec::new();
        CopyContents { written: time(6), keyrings }.write_to(&mut json);
        json
    }

    fn keyring() -> Keyring {
        let keys = [
            held("a", 1, &[1, 4]),
            HeldKey { retired: true, ..held("b", 2, &[2]) },
            HeldKey { mapped: true, ..held("c", 3, &[3]) },
        ];
        let index_key = Some(KeyId::parse("b").unwrap());
        let options =
            Options { derivation: Some(KeyDerivation::Raw), format: Some(Format::Transit), index_key };
        let keyring = Keyring::new(keys, &KeyId::parse("a").unwrap()).unwrap();
        keyring.with_location(location()).with_options(options)
    }

    #[test]
    fn a_keyring_comes_back_with_its_keys_states_and_public_names() {
        let before = keyring();
        let CopyContents { written, keyrings } = CopyContents::parse(&json(keyring()), &location()).unwrap();
        let [CopiedKeyring { name, synced, keyring }] = &keyrings[..] else { panic!("{keyrings:?}") };
        assert_eq!((*synced, written), (time(5), time(6)));
        assert_eq!((name.as_str(), keyring.location()), ("keyring", &location()));
        assert_eq!(keyring.source(), KeyringSource::Copy { synced: time(5) });
        assert_eq!(keyring.options(), before.options());
        assert_eq!(keyring.names().active(), before.names().active());
        let names = |keyring: &Keyring| {
            keyring.names().all().iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(keyring), names(&before));
        for id in ["a", "b", "c"] {
            let (one, other) = (keyring.get(id).unwrap(), before.get(id).unwrap());
            assert!(one.key.same_key(&other.key) && one.key.same_hmac_key(&other.key), "{id}");
            assert!(!one.key.has_own_hmac(), "{id}: its HMACs have contexts");
            assert_eq!((one.retired, one.mapped), (other.retired, other.mapped), "{id}");
        }
    }

    #[test]
    fn an_hmac_key_of_the_record_comes_back() {
        let text = Secret::new(BASE64_STANDARD.encode([9; 64]));
        let key = Key::new(KeyId::parse("a").unwrap(), Secret::new([1; 32])).with_hmac_key(&text).unwrap();
        let keyring = Keyring::new([HeldKey::new(Arc::new(key), 1, time(1))], &KeyId::parse("a").unwrap());
        let parsed = CopyContents::parse(&json(keyring.unwrap()), &location()).unwrap();
        let key = &parsed.keyrings[0].keyring.active().key;
        assert!(key.hmac() == [9; 64] && key.has_own_hmac());
    }

    #[test]
    fn json_of_another_shape_is_malformed() {
        let good = String::from_utf8(json(keyring())).unwrap();
        let changes = [
            (r#""active":"a""#, r#""active":"d""#),
            (r#""id":"a""#, r#""id":"active""#),
            (r#""state":"live""#, r#""state":"lost""#),
            (r#""form":"map""#, r#""form":"list""#),
            (r#""derivation":"sha256""#, r#""derivation":"md5""#),
            (r#""format":"transit""#, r#""format":"kong""#),
            (r#""index_key":"b""#, r#""index_key":"active""#),
            ("Z", ""),
            (r#""number":1"#, r#""number":-1"#),
            (r#""key":"AQ"#, r#""key":"A"#),
            (r#""hmac_key":""#, r#""hmac_key":"!"#),
            ("}", ""),
        ];
        for (from, to) in changes {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            assert_eq!(CopyContents::parse(bad.as_bytes(), &location()).err(), Some(MalformedCopy), "{from}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = CopyContents::parse(&bytes, &location());
        }
    }
}
