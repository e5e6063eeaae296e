//! Which key encrypts for Kubernetes: the one that the last Status response announced.
//!
//! An API server discards a ciphertext whose key_id differs from the one in Status, and marks the plugin unhealthy. So a new
//! key waits for the next Status. The state belongs to the process and outlives reloads.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use crate::keyring::{HeldKey, Keyring};

/// How long an announced key encrypts without another Status. An API server does not write under a key whose Status is
/// older (`kmsv2PluginWriteDEKSourceMaxTTL`).
const ANNOUNCEMENT_TTL: Duration = Duration::from_secs(180);

#[derive(Debug, Default)]
pub(super) struct Promotion(ArcSwapOption<Announcement>);

/// The last Status response.
#[derive(Debug)]
pub(super) struct Announcement {
    name: String,
    at: Instant,
}

impl Promotion {
    /// Announces the active key. Returns whether the last announcement was of another key, or there was none.
    pub(super) fn announce(&self, keyring: &Keyring, now: Instant) -> bool {
        let name = keyring.names().active().to_owned();
        let previous = self.0.swap(Some(Arc::new(Announcement { name: name.clone(), at: now })));
        previous.is_none_or(|previous| previous.name != name)
    }

    /// The last announcement. Load it before the snapshot, which then has that key unless it was removed.
    pub(super) fn announced(&self) -> Option<Arc<Announcement>> {
        self.0.load_full()
    }
}

/// The key that encrypts and its name: the announced key, or the active one if the announcement is absent or expired, or its
/// key was removed.
pub(super) fn encryption_key<'k>(
    announced: Option<&'k Announcement>,
    keyring: &'k Keyring,
    now: Instant,
) -> (&'k str, &'k HeldKey) {
    let names = keyring.names();
    announced
        .filter(|announced| now.duration_since(announced.at) < ANNOUNCEMENT_TTL)
        .and_then(|announced| Some((announced.name.as_str(), names.get(&announced.name)?)))
        .unwrap_or_else(|| (names.active(), keyring.active()))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        keyring::{Key, KeyId},
        secret::Secret,
    };

    /// A keyring of these keys; the last is active.
    fn keyring(ids: &[&str]) -> Keyring {
        let keys = ids.iter().map(|id| {
            let key = Key::new(KeyId::parse(id).unwrap(), Secret::new([7; 32]));
            HeldKey::new(Arc::new(key), 1, SystemTime::UNIX_EPOCH)
        });
        Keyring::new(keys, &KeyId::parse(ids.last().unwrap()).unwrap()).unwrap()
    }

    fn encrypts_with(promotion: &Promotion, keyring: &Keyring, now: Instant) -> String {
        let announced = promotion.announced();
        let (name, held) = encryption_key(announced.as_deref(), keyring, now);
        assert_eq!(keyring.names().get(name).unwrap().key.id(), held.key.id());
        held.key.id().to_string()
    }

    #[test]
    fn a_new_key_encrypts_after_a_status_announced_it() {
        let (promotion, now) = (Promotion::default(), Instant::now());
        let (first, second) = (keyring(&["a"]), keyring(&["a", "b"]));
        assert!(promotion.announce(&first, now));
        assert!(!promotion.announce(&first, now));
        assert_eq!(encrypts_with(&promotion, &second, now), "a");
        assert!(promotion.announce(&second, now));
        assert_eq!(encrypts_with(&promotion, &second, now), "b");
    }

    #[test]
    fn without_a_current_announcement_the_active_key_encrypts() {
        let (promotion, now) = (Promotion::default(), Instant::now());
        let (first, second) = (keyring(&["a"]), keyring(&["a", "b"]));
        assert_eq!(encrypts_with(&promotion, &second, now), "b");
        promotion.announce(&first, now);
        assert_eq!(encrypts_with(&promotion, &keyring(&["b"]), now), "b", "the announced key was removed");
        let later = now + ANNOUNCEMENT_TTL;
        assert_eq!(encrypts_with(&promotion, &second, now + ANNOUNCEMENT_TTL / 2), "a");
        assert_eq!(encrypts_with(&promotion, &second, later), "b");
    }
}
