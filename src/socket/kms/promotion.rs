//! Which key seals for Kubernetes: the one that a Status has announced.
//!
//! An API server throws away what was sealed under another key than Status says, and calls the plugin unhealthy. So a new
//! key waits for the next Status. This is kept for the whole daemon, over reloads and for as long as it runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use crate::keyring::{HeldKey, Keyring};

/// For how long a key that was announced is waited with: an API server does not write under a key whose Status is older
/// (`kmsv2PluginWriteDEKSourceMaxTTL`). Nobody who asks for no Status for so long can be one.
const ANNOUNCED_FOR: Duration = Duration::from_secs(180);

#[derive(Debug, Default)]
pub struct Promotion(ArcSwapOption<Announced>);

/// What the last Status said, and when.
#[derive(Debug)]
pub struct Announced {
    name: String,
    at: Instant,
}

impl Promotion {
    /// A Status says that the active key is the one. Answers whether the last one said another, or none.
    pub fn announce(&self, keyring: &Keyring, now: Instant) -> bool {
        let name = keyring.names().active().to_owned();
        let before = self.0.swap(Some(Arc::new(Announced { name: name.clone(), at: now })));
        before.is_none_or(|before| before.name != name)
    }

    /// What was said last. To be read before the keyring is, which then has that key, unless it was removed.
    pub fn announced(&self) -> Option<Arc<Announced>> {
        self.0.load_full()
    }
}

/// The key that seals, and its name: the announced one, or the active one when there is none any more, or none was asked
/// for.
pub fn sealing<'k>(
    announced: Option<&'k Announced>,
    keyring: &'k Keyring,
    now: Instant,
) -> (&'k str, &'k HeldKey) {
    let names = keyring.names();
    announced
        .filter(|announced| now.duration_since(announced.at) < ANNOUNCED_FOR)
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

    /// A keyring of these keys, of which the last is active.
    fn keyring(ids: &[&str]) -> Keyring {
        let keys = ids.iter().map(|id| {
            let key = Key::new(KeyId::parse(id).unwrap(), Secret::new([7; 32]));
            HeldKey::new(Arc::new(key), 1, SystemTime::UNIX_EPOCH)
        });
        Keyring::new(keys, &KeyId::parse(ids.last().unwrap()).unwrap()).unwrap()
    }

    /// The key that seals.
    fn seals(promotion: &Promotion, keyring: &Keyring, now: Instant) -> String {
        let announced = promotion.announced();
        let (name, held) = sealing(announced.as_deref(), keyring, now);
        assert_eq!(keyring.names().get(name).unwrap().key.id(), held.key.id());
        held.key.id().to_string()
    }

    #[test]
    fn a_new_key_seals_once_a_status_has_announced_it() {
        let (promotion, now) = (Promotion::default(), Instant::now());
        let (first, second) = (keyring(&["a"]), keyring(&["a", "b"]));
        assert!(promotion.announce(&first, now));
        assert!(!promotion.announce(&first, now));
        assert_eq!(seals(&promotion, &second, now), "a");
        assert!(promotion.announce(&second, now));
        assert_eq!(seals(&promotion, &second, now), "b");
    }

    #[test]
    fn without_a_status_or_without_its_key_the_active_key_seals() {
        let (promotion, now) = (Promotion::default(), Instant::now());
        let (first, second) = (keyring(&["a"]), keyring(&["a", "b"]));
        assert_eq!(seals(&promotion, &second, now), "b");
        promotion.announce(&first, now);
        assert_eq!(seals(&promotion, &keyring(&["b"]), now), "b", "the announced key was removed");
        let later = now + ANNOUNCED_FOR;
        assert_eq!(seals(&promotion, &second, now + ANNOUNCED_FOR / 2), "a");
        assert_eq!(seals(&promotion, &second, later), "b");
    }
}
