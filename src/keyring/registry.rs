//! The keyrings that the daemon serves, by name: each with its published snapshot and the formats that it reads and writes.
//!
//! The sync stores a keyring and a report; readers load both without a lock. Handlers get a keyring by the
//! name in the path, and `default` where a protocol has no name. A daemon that serves references only has none.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{
    format::Formats,
    history::{Listing, Rejection},
    key::KeyId,
    snapshot::{Keyring, KeyringSource, SecretLocation},
};

/// The current keyring, and the report of the sync that built it.
#[derive(Debug, Default)]
pub struct Published {
    keyring: ArcSwapOption<Keyring>,
    report: ArcSwap<Report>,
}

/// The result of the last syncs. It contains no secret.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub last_attempt: Option<SystemTime>,
    pub last_success: Option<SystemTime>,
    /// When the next scheduled sync is due.
    pub next_attempt: Option<SystemTime>,
    /// `None` after a success.
    pub last_error: Option<String>,
    /// The same, if Vault or the way to it failed, so that nothing is known of keys that are not held.
    pub outage: Option<String>,
    /// Whether it was Vault that was unreachable, sealed or failing, and so neither gave nor refused anything.
    pub is_away: bool,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// Vault's last listing; `None` on KV v1 and before the first success.
    pub listing: Option<Listing>,
    pub rejected: Vec<Rejection>,
    pub warnings: Vec<String>,
}

/// One keyring as the API serves it.
#[derive(Clone, Debug)]
pub struct KeyringEntry {
    /// The key name in Transit's paths.
    pub name: Arc<str>,
    pub published: Arc<Published>,
    /// By the settings: the secret's options come first.
    pub formats: Formats,
    /// The record whose key makes blind indexes, by the settings.
    pub index_key: Option<KeyId>,
    /// The age of the last successful sync from which the keyring is not ready; `None` for no limit.
    pub max_stale: Option<Duration>,
    /// Where the settings say that it is; `None` for a keyring that is not in Vault.
    pub secret: Option<SecretLocation>,
    /// While that was not read yet, name and keys are those of before: the name that it has then.
    pub moving_to: Option<Arc<str>>,
}

/// All keyrings; clones share them. The sync replaces them as a whole when secrets appear or go. There is none if only
/// references are served.
#[derive(Clone, Debug)]
pub struct Keyrings(Arc<ArcSwap<Served>>);

/// The keyrings at one time, in the order of the settings: the default one first.
#[derive(Debug, Default)]
struct Served {
    all: Vec<Arc<KeyringEntry>>,
    by_name: HashMap<Arc<str>, usize>,
    incomplete: Option<String>,
}

/// Whether a keyring can have this name: 1 to 128 letters, digits and `_ . -`, and no path to a parent folder.
pub fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=128).contains(&text.len()) && !matches!(text, "." | "..") && text.bytes().all(is_plain)
}

impl Keyrings {
    /// For a daemon that serves references only.
    pub fn none() -> Self {
        Self(Arc::default())
    }

    pub fn single(entry: KeyringEntry) -> Self {
        let keyrings = Self::none();
        keyrings.replace(vec![entry], None);
        keyrings
    }

    pub fn get(&self, name: &str) -> Option<Arc<KeyringEntry>> {
        let served = self.0.load();
        served.by_name.get(name).map(|at| Arc::clone(&served.all[*at]))
    }

    /// The keyring that will have this name once its new place was read.
    pub fn moving_to(&self, name: &str) -> Option<Arc<KeyringEntry>> {
        let is_it = |entry: &&Arc<KeyringEntry>| entry.moving_to.as_deref() == Some(name);
        self.0.load().all.iter().find(is_it).map(Arc::clone)
    }

    /// The keyring of Kong's API and of requests without a name.
    pub fn default(&self) -> Option<Arc<KeyringEntry>> {
        self.0.load().all.first().map(Arc::clone)
    }

    /// The default one first.
    pub fn all(&self) -> Vec<Arc<KeyringEntry>> {
        self.0.load().all.clone()
    }

    /// Why there may be further keyrings that are not known yet.
    pub fn incomplete(&self) -> Option<String> {
        self.0.load().incomplete.clone()
    }

    /// Replaces all, of which the first is the default. Names are distinct.
    pub fn replace(&self, entries: Vec<KeyringEntry>, incomplete: Option<String>) {
        let all: Vec<_> = entries.into_iter().map(Arc::new).collect();
        let by_name = all.iter().enumerate().map(|(at, entry)| (Arc::clone(&entry.name), at)).collect();
        self.0.store(Arc::new(Served { all, by_name, incomplete }));
    }
}

impl KeyringEntry {
    /// The formats that this snapshot is used with.
    pub fn formats_of(&self, keyring: &Keyring) -> Formats {
        Formats { write: keyring.options().format.unwrap_or(self.formats.write), ..self.formats }
    }

    /// The ID of the record whose key makes blind indexes with this snapshot, if one is chosen.
    pub fn index_key_of<'k>(&'k self, keyring: &'k Keyring) -> Option<&'k KeyId> {
        keyring.options().index_key.as_ref().or(self.index_key.as_ref())
    }

    /// Whether there are keys that are fresh enough to serve with. The error gives the reason, without secrets.
    pub fn health(&self, now: SystemTime) -> Result<(), String> {
        if self.published.keyring().is_none() {
            return Err(self.no_keys());
        }
        let report = self.published.report();
        let age = self.published.synced().map(|at| now.duration_since(at).unwrap_or_default());
        match (age, self.max_stale) {
            (Some(age), Some(limit)) if age > limit => {
                let reason = report.last_error.as_deref().unwrap_or("the next one is running");
                Err(format!(
                    "the last successful sync was {} s ago (keyring_max_stale): {reason}",
                    age.as_secs()
                ))
            }
            _ => Ok(()),
        }
    }

    /// That the keys are not those of the settings, if so.
    pub fn moving_warning(&self) -> Option<String> {
        let (name, to, from) = (self.moving_to.as_ref()?, self.secret.as_ref()?, self.moving_from()?);
        let error = self.published.report().last_error.clone();
        let reason = error.map_or_else(String::new, |error| format!(": {error}"));
        if from == format!("{}/{}", to.mount, to.path) {
            return Some(format!(
                "the settings read {from} by other rules or in another namespace, which gave no keys yet; the keys are still those \
                 of before{reason}"
            ));
        }
        let renamed = if *name == self.name { "" } else { ", and the name," };
        Some(format!(
            "the settings name {}/{}, which was not read yet; the keys{renamed} are still those of {from}: correct the \
             path and reload, or make it readable{reason}",
            to.mount, to.path
        ))
    }

    /// The secret that the keys are of, if the settings name another.
    pub fn moving_from(&self) -> Option<String> {
        let keyring = self.moving_to.as_ref().and_then(|_| self.published.keyring())?;
        let SecretLocation { mount, path, .. } = keyring.location();
        Some(format!("{mount}/{path}"))
    }

    /// Why there is no snapshot yet.
    pub fn no_keys(&self) -> String {
        match &self.published.report().last_error {
            Some(error) => format!("no keys yet: {error}"),
            None => "no keys yet: the first sync with Vault is under way".to_owned(),
        }
    }
}

impl Published {
    pub fn with(keyring: Keyring) -> Self {
        let published = Self::default();
        published.publish(keyring);
        published
    }

    /// The current snapshot; `None` before the first sync. A request loads it once.
    pub fn keyring(&self) -> Option<Arc<Keyring>> {
        self.keyring.load_full()
    }

    pub fn publish(&self, keyring: Keyring) {
        self.keyring.store(Some(Arc::new(keyring)));
    }

    /// Publishes the keyring of a sealed copy, unless there are keys.
    pub fn publish_copy(&self, keyring: Arc<Keyring>) -> bool {
        let before = self.keyring.compare_and_swap(&None::<Arc<Keyring>>, Some(keyring));
        before.is_none()
    }

    /// Takes away the keyring of a sealed copy. One from Vault stays.
    pub fn withdraw_copy(&self) -> bool {
        let current = self.keyring();
        current.as_ref().is_some_and(|keyring| keyring.source() != KeyringSource::Vault)
            && self.keyring.compare_and_swap(&current, None).as_ref().map(Arc::as_ptr)
                == current.as_ref().map(Arc::as_ptr)
    }

    /// When the keys that are served were last in step with Vault.
    pub fn synced(&self) -> Option<SystemTime> {
        self.report().last_success.or_else(|| match self.keyring()?.source() {
            KeyringSource::Copy { synced } => Some(synced),
            KeyringSource::Vault => None,
        })
    }

    pub fn report(&self) -> Arc<Report> {
        self.report.load_full()
    }

    pub fn set_report(&self, report: Report) {
        self.report.store(Arc::new(report));
    }
}
