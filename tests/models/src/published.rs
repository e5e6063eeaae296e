//! The snapshot that the sync publishes, and the sealed copy's, against readers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use shuttle::thread;

use crate::{
    keyring::{
        Format, Formats, HeldKey, Key, KeyId, Keyring, KeyringEntry, KeyringSource, Keyrings, KongFields,
        Published,
    },
    secret::Secret,
};

fn keyring(version: u64) -> Keyring {
    let id = KeyId::parse(&format!("key-{version}")).unwrap();
    let key = Key::new(id.clone(), Secret::new([7; 32]));
    Keyring::new([HeldKey::new(key.into(), version, SystemTime::UNIX_EPOCH)], &id).unwrap()
}

fn copy() -> Arc<Keyring> {
    let synced = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    Arc::new(keyring(0).with_source(KeyringSource::Copy { synced }))
}

/// 0 is the copy's, higher ones are Vault's.
fn version(published: &Published) -> Option<u64> {
    published.keyring().map(|keyring| keyring.active().version)
}

pub(crate) fn copy_and_vault() {
    let published = Arc::<Published>::default();
    let sync = thread::spawn({
        let published = Arc::clone(&published);
        move || (1..=2).for_each(|version| published.publish(keyring(version)))
    });
    let keeper = thread::spawn({
        let published = Arc::clone(&published);
        move || {
            let is_used = published.publish_copy(copy());
            (is_used, published.withdraw_copy())
        }
    });
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let published = Arc::clone(&published);
            thread::spawn(move || {
                let seen: Vec<_> = (0..4).map(|_| version(&published)).collect();
                for pair in seen.windows(2) {
                    let is_withdrawn = pair == [Some(0), None];
                    assert!(pair[0] <= pair[1] || is_withdrawn, "keys of before came back: {seen:?}");
                }
                // The time belongs to a keyring: only a copy has one here.
                assert!(published.synced().is_none_or(|at| at > SystemTime::UNIX_EPOCH));
            })
        })
        .collect();
    sync.join().unwrap();
    let (is_used, is_withdrawn) = keeper.join().unwrap();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert!(is_used || !is_withdrawn, "only a copy is withdrawn");
    assert_eq!(version(&published), Some(2), "the last keys of Vault stay");
}

fn entry(name: &str) -> KeyringEntry {
    KeyringEntry {
        name: name.into(),
        published: Arc::default(),
        formats: Formats { write: Format::Native, kong_fields: KongFields::Refuse },
        index_key: None,
        max_stale: None,
        secret: None,
        moving_to: None,
    }
}

pub(crate) fn names() {
    let keyrings = Keyrings::single(entry("a"));
    let changing = thread::spawn({
        let keyrings = keyrings.clone();
        move || {
            keyrings.replace(vec![entry("a"), entry("b"), entry("c")], None);
            keyrings.replace(vec![entry("a"), entry("c")], None);
        }
    });
    for name in ["c", "b", "a", "c"] {
        let found = keyrings.get(name);
        assert!(found.as_ref().is_none_or(|entry| &*entry.name == name), "{name} is {found:?}");
        assert!(found.is_some() || name != "a", "a is in each of the lists");
        assert_eq!(&*keyrings.default().unwrap().name, "a");
    }
    changing.join().unwrap();
    assert!(keyrings.get("b").is_none() && keyrings.get("c").is_some());
}
