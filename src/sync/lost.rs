//! Versions of keys that a new keyring takes away, each in a log line with the hash that Kubernetes' metrics have.

use crate::keyring::{Keyring, name_hash};

/// Warns of every version that only `before` has, and of keys that Vault no longer has.
pub(super) fn warn(before: &Keyring, after: &Keyring) {
    for (name, gone) in before.names().all() {
        let (id, number, hash) = (gone.held.key.id(), gone.version.number, name_hash(name));
        match after.names().version(name) {
            None if after.get(id.as_str()).is_some_and(|held| held.key.same_key(&gone.held.key)) => {
                tracing::warn!(
                    key_id_hash = hash,
                    "version {number} of {id} left the keyring; the key stays in another version"
                );
            }
            None => {
                tracing::warn!(
                    key_id_hash = hash,
                    "version {number} of {id} left the keyring: what it sealed cannot be decrypted; undelete the version, or \
                     write the record back"
                );
            }
            Some(now) if now.held.retired && !gone.held.retired => {
                tracing::warn!(
                    key_id_hash = hash,
                    "version {number} of {id} is no longer in Vault and stays until this process ends"
                );
            }
            Some(_) => {}
        }
    }
}
