//! The sealed copy of the keys: its file, its key, and when it is used.

use std::{path::PathBuf, time::Duration};

use super::{
    keys,
    reader::Reader,
    source::{self, Origin, credential::Credential},
};

/// Whether the keys are copied to a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Cache {
    On(SealedCopy),
    /// What an earlier start left is deleted: the named file, and any copy in systemd's state folders.
    Off {
        file: Option<PathBuf>,
        folders: Vec<PathBuf>,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub struct SealedCopy {
    pub path: PathBuf,
    pub key: Credential,
    /// The age from which it is not used.
    pub max_age: Duration,
    /// How long Vault may take to answer before it is used.
    pub wait: Duration,
}

pub(super) fn read(reader: &mut Reader) -> Option<Cache> {
    let path = reader.optional(&keys::CACHE_PATH);
    let max_age = reader.required(&keys::CACHE_MAX_AGE);
    let wait = reader.required(&keys::CACHE_WAIT);
    if !reader.is_given(&keys::CACHE_PATH.key) || max_age == Some(Duration::ZERO) {
        if reader.is_given(&keys::CACHE_KEY.key) {
            let message = "has no effect: keyring_cache_path is unset, or keyring_cache_max_age is 0";
            reader.warn(&keys::CACHE_KEY.key, message);
        }
        return Some(Cache::Off { file: path, folders: source::state_folders() });
    }
    let key = read_key(reader);
    let (path, key, max_age, wait) = (path?, key?, max_age?, wait?);
    let is_credential =
        matches!(reader.origin(&keys::CACHE_KEY.key), Origin::Credential(_)) || source::is_credential(&key);
    if !is_credential && source::shares_filesystem(&key, &path) {
        let message = "is on the file system of keyring_cache_path, so a stolen disk has both: use a systemd \
                       credential named keyring_cache_key, or a file on another file system, such as a mounted secret";
        reader.mistake(&keys::CACHE_KEY.key, message);
        return None;
    }
    Some(Cache::On(SealedCopy { path, key, max_age, wait }))
}

/// The key is a file: its text would stay in kong.conf or in the settings of a service, beside the copy.
fn read_key(reader: &mut Reader) -> Option<Credential> {
    let key = &keys::CACHE_KEY.key;
    let way =
        "use a systemd credential named keyring_cache_key, or a file that KONG_KEYRING_CACHE_KEY_FILE names";
    if !reader.is_given(key) {
        reader.mistake(key, format!("is required with keyring_cache_path: {way}"));
        return None;
    }
    match reader.credential(&keys::CACHE_KEY)? {
        Credential::Inline(_) => {
            reader.mistake(key, format!("must not be set as text or by a reference: {way}"));
            None
        }
        file @ Credential::File(_) => Some(file),
    }
}
