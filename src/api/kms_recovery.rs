//! KMS keys after a restore, a copy or a moved mount: what was decrypted by the record's ID, and what keys are missing.
//!
//! A `key_id` depends on mount, path, version and creation time, so a moved secret has other ones. `kms` decrypts with the
//! key that the ciphertext names and the request's `key_id` as associated data, which authentication then proves.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::keyring::HeldKey;

/// The most `key_id`s that are remembered as logged. More of them are logged again.
const MAX_LOGGED: usize = 256;

/// Counts decrypts under the `key_id` of another place.
#[derive(Debug, Default)]
pub(super) struct MovedKeys {
    decrypts: AtomicU64,
    logged: Mutex<HashSet<String>>,
}

impl MovedKeys {
    pub(super) fn decrypts(&self) -> u64 {
        self.decrypts.load(Ordering::Relaxed)
    }

    /// A decrypt under the `key_id` of this hash succeeded with `held`. It is logged once per `key_id`.
    pub(super) fn record(&self, hash: String, held: &HeldKey) {
        self.decrypts.fetch_add(1, Ordering::Relaxed);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.contains(&hash) {
            return;
        }
        tracing::warn!(
            key_id = %held.key.id(),
            key_id_hash = hash,
            "Kubernetes stored this under another place or version of the key, as before a restore or a move: store every \
             object again (kubectl get secrets -A -o json | kubectl replace -f -)"
        );
        if logged.len() >= MAX_LOGGED {
            logged.clear();
        }
        logged.insert(hash);
    }
}
