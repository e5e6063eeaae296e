//! Versions of keys that a new keyring takes away, each in a log line with the hash that Kubernetes' metrics have.

use crate::keyring::{Format, KeyDerivation, Keyring, name_hash};

/// Warns of other rules for the same records: other keys, or another format of what is encrypted from now on.
pub(super) fn warn_of_rules(keyring: &str, before: &Keyring, after: &Keyring) {
    let derivation =
        |keyring: &Keyring| keyring.options().derivation.unwrap_or_else(|| keyring.location().derivation);
    let is_same_secret = before.location().path == after.location().path;
    if is_same_secret && derivation(before) != derivation(after) {
        let [former, now] = [derivation(before), derivation(after)].map(KeyDerivation::name);
        tracing::warn!(
            keyring,
            former,
            now,
            "the keys are derived otherwise (keyringd_derivation of the secret, or keyring_key_derivation): what was encrypted \
             before cannot be decrypted; set it back, or restore the plaintexts"
        );
    }
    let index = |keyring: &Keyring| keyring.options().index_key.clone();
    if is_same_secret && index(before) != index(after) {
        let [former, now] = [index(before), index(after)]
            .map(|id| id.map_or_else(|| "of the settings".to_owned(), |id| id.to_string()));
        tracing::warn!(
            keyring,
            former,
            now,
            "another record makes blind indexes (keyringd_index_key of the secret): rows with an index under the former one \
             are not found"
        );
    }
    let (former, now) = (before.options().format, after.options().format);
    if former != now {
        let [former, now] = [former, now].map(|format| format.map_or("of the settings", Format::name));
        tracing::warn!(
            keyring,
            former,
            now,
            "encrypt writes another format (keyringd_format of the secret): clients that read one format only fail; both are \
             decrypted here"
        );
    }
}

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
