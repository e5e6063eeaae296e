//! The keeper of the sealed copy: at the start its keys stand in for a Vault that is away, then it is written after syncs.
//!
//! Vault decides for the time of `keyring_cache_wait`. A keyring that it gives or refuses is not taken from the copy. While
//! Vault is unreachable, sealed or failing, the copy's keyrings are published, and the next good sync replaces each. Reading
//! and writing run off the I/O threads, and a failure never fails a sync.
//! The file is longer than most: what was read at the start decides what is written later.

mod report;

use std::{
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::spawn_blocking, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Syncs,
    copy::{CopyError, CopyFile, ReadCopy},
    syncs::Place,
};
use crate::{
    clock,
    keyring::{
        Format, Keyring, KeyringSource, KongFields, SecretLocation,
        copy::{CopiedKeyring, CopyContents},
    },
    logging::NOTICE,
    metrics::{Metrics, Outcome},
};

pub use report::CopyReport;

/// A copy is written at the latest after this part of its maximum age.
const WRITES_PER_MAX_AGE: u32 = 4;

#[derive(Debug)]
pub struct CopyKeeper {
    file: Arc<CopyFile>,
    wait: Duration,
    syncs: Arc<Syncs>,
    ended: watch::Receiver<()>,
    metrics: Arc<Metrics>,
    is_started: bool,
    /// The keyrings that were written last, and when.
    written: Option<(Vec<Weak<Keyring>>, Instant)>,
    report: Arc<CopyReport>,
}

/// What is known of a keyring in Vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Vault gave its keys, or they are held.
    Keys,
    /// Vault refused it, or has none.
    Refused,
    /// Vault is unreachable, sealed or failing.
    Away,
    /// The first sync has not ended.
    Awaited,
}

impl Answer {
    fn from_place(place: &Place) -> Self {
        let (keyring, report) = (place.published.keyring(), place.published.report());
        match &report.last_error {
            _ if keyring.is_some_and(|keyring| keyring.source() == KeyringSource::Vault) => Self::Keys,
            Some(_) if report.is_away => Self::Away,
            Some(_) => Self::Refused,
            // Vault may have no usable record any more: then the keys that there are stay.
            None if report.last_success.is_some() => Self::Keys,
            None => Self::Awaited,
        }
    }
}

impl CopyKeeper {
    pub fn new(file: CopyFile, wait: Duration, syncs: Arc<Syncs>, metrics: Arc<Metrics>) -> Self {
        let report = Arc::new(CopyReport::new(file.path().to_owned()));
        let (file, ended) = (Arc::new(file), syncs.watch());
        Self { file, wait, syncs, ended, metrics, is_started: false, written: None, report }
    }

    /// What the status says of the copy.
    pub fn report(&self) -> Arc<CopyReport> {
        Arc::clone(&self.report)
    }

    /// Ends at `stop`, after a write in progress.
    pub async fn run(&mut self, stop: CancellationToken) {
        if !std::mem::replace(&mut self.is_started, true) {
            tokio::select! {
                biased;
                () = self.bridge_start() => {}
                () = stop.cancelled() => return,
            }
        }
        loop {
            self.write_if_due().await;
            tokio::select! {
                biased;
                ended = self.ended.changed() => if ended.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Publishes the copy's keyrings for which Vault is away.
    async fn bridge_start(&mut self) {
        if !self.is_vault_away().await {
            return;
        }
        let Some(copied) = self.read().await else { return };
        let paths: Vec<_> = copied.iter().map(|one| one.keyring.location().path.as_str()).collect();
        self.syncs.adopt(&paths);
        let mut awaited = self.publish(copied);
        // The first answer still counts, however late it comes: a refusal takes the keys away.
        while !awaited.is_empty() && self.ended.changed().await.is_ok() {
            awaited.retain(|place| match Answer::from_place(place) {
                Answer::Awaited => true,
                Answer::Refused if place.published.withdraw_copy() => {
                    let keyring = &*place.name;
                    tracing::warn!(
                        keyring,
                        "Vault refused the keys after the wait: those of the sealed copy are gone"
                    );
                    place.handle.notify();
                    false
                }
                _ => false,
            });
        }
    }

    /// Waits until Vault has answered for all keyrings, or for the end of the wait.
    async fn is_vault_away(&mut self) -> bool {
        let wait = tokio::time::sleep(self.wait);
        tokio::pin!(wait);
        loop {
            let answers: Vec<_> = self.syncs.places().iter().map(Answer::from_place).collect();
            let undecided = |answer: &Answer| matches!(answer, Answer::Away | Answer::Awaited);
            if self.syncs.keyrings().incomplete().is_none() && !answers.iter().any(undecided) {
                if answers.contains(&Answer::Refused) {
                    tracing::warn!("Vault answered and gave no keys: the sealed copy is not used");
                }
                return false;
            }
            tokio::select! {
                biased;
                () = &mut wait => {
                    return answers.is_empty() || answers.iter().any(undecided) || self.syncs.is_folder_away();
                }
                _ = self.ended.changed() => {}
            }
        }
    }

    async fn read(&self) -> Option<Vec<CopiedKeyring>> {
        let (file, location) = (Arc::clone(&self.file), self.syncs.places().first()?.location.clone());
        let now = clock::wall();
        let read = spawn_blocking(move || file.read(&location, now)).await;
        match read.ok()? {
            Ok(ReadCopy { keyrings, written, from_the_future }) => {
                self.report.opened(written);
                if from_the_future {
                    tracing::warn!("the sealed copy was written in the future: correct this machine's clock");
                }
                return Some(keyrings);
            }
            Err(CopyError::None(_)) => {
                tracing::info!(target: NOTICE, path = %self.file.path().display(), "there is no sealed copy yet");
            }
            Err(error) => {
                self.report.unusable(error.to_string());
                tracing::warn!(%error, "the sealed copy is not used; the next good sync replaces it");
            }
        }
        None
    }

    /// Returns the keyrings for which Vault's first answer is awaited.
    fn publish(&self, mut copied: Vec<CopiedKeyring>) -> Vec<Place> {
        let mut places = self.syncs.places();
        let is_answered = |place: &Place| matches!(Answer::from_place(place), Answer::Keys | Answer::Refused);
        // A Vault that answers for others is not away: it decides, when it gets to it.
        let is_vault_there = self.syncs.is_folder_answered() || places.iter().any(is_answered);
        places.retain(|place| {
            let answer = Answer::from_place(place);
            if answer != Answer::Away && (answer != Answer::Awaited || is_vault_there) {
                return false;
            }
            let is_it = |one: &CopiedKeyring| {
                *one.name == *place.name
                    && *one.keyring.location() == place.location
                    && is_allowed(place, one)
            };
            let found = copied.iter().position(is_it).map(|at| copied.swap_remove(at));
            let Some(CopiedKeyring { synced, keyring, .. }) = found else {
                let reason = format!(
                    "the sealed copy {} has no keyring {} of this path and keyring_key_derivation",
                    self.file.path().display(),
                    place.name
                );
                self.report.unusable(reason.clone());
                tracing::warn!(error = %reason, "the sealed copy is not used; the next good sync replaces it");
                return false;
            };
            publish_one(place, keyring, synced) && answer == Answer::Awaited
        });
        places
    }

    /// Writes the keyrings if one of them changed in Vault, or if a part of the maximum age has passed.
    async fn write_if_due(&mut self) {
        let places = self.syncs.places();
        let is_first_round = |place: &Place| Answer::from_place(place) == Answer::Awaited;
        let keyrings: Vec<_> = places.iter().filter_map(copied).collect();
        let from_vault = keyrings.iter().find(|one| one.keyring.source() == KeyringSource::Vault);
        let (Some(from_vault), false) = (from_vault, places.iter().any(is_first_round)) else { return };
        // The default keyring's own, or while it has no keys, where it is to be.
        let default = places.first().and_then(|place| Some(place.published.keyring()?.location().clone()));
        let location = default
            .or_else(|| places.first().map(|place| place.location.clone()))
            .unwrap_or_else(|| from_vault.keyring.location().clone());
        let keyrings: Vec<_> =
            keyrings.into_iter().filter(|one| is_beside(one.keyring.location(), &location)).collect();
        if self.is_due(&keyrings) {
            self.write(keyrings, location).await;
        }
    }

    async fn write(&mut self, keyrings: Vec<CopiedKeyring>, location: SecretLocation) {
        let written = keyrings.iter().map(|one| Arc::downgrade(&one.keyring)).collect();
        let file = Arc::clone(&self.file);
        let contents = CopyContents { written: clock::wall(), keyrings };
        let write = move || file.write(&contents, &location);
        let Ok(outcome) = spawn_blocking(write).await else { return }; // the panic was reported
        self.metrics.copy_written(Outcome::from_result(&outcome));
        match outcome {
            Ok(()) => {
                self.written = Some((written, Instant::now()));
                self.report.wrote(clock::wall());
            }
            Err(error) if self.report.failed(&error.to_string()) => {
                tracing::warn!(%error, "the sealed copy was not written; the next sync tries again");
            }
            Err(_) => {}
        }
    }

    fn is_due(&self, keyrings: &[CopiedKeyring]) -> bool {
        let Some((before, at)) = &self.written else { return true };
        let is_same = |(before, now): (&Weak<Keyring>, &CopiedKeyring)| {
            std::ptr::eq(before.as_ptr(), Arc::as_ptr(&now.keyring))
        };
        before.len() != keyrings.len()
            || !before.iter().zip(keyrings).all(is_same)
            || at.elapsed().saturating_mul(WRITES_PER_MAX_AGE) >= self.file.max_age()
    }
}

/// Whether the copy's keys are served now.
fn publish_one(place: &Place, keyring: Arc<Keyring>, synced: SystemTime) -> bool {
    let (id, keys) = (keyring.active().key.id().clone(), keyring.key_count());
    if !place.published.publish_copy(keyring) {
        return false;
    }
    let (keyring, age_in_seconds) =
        (&*place.name, clock::wall().duration_since(synced).unwrap_or_default().as_secs());
    tracing::warn!(keyring, key_id = %id, keys, age_in_seconds, "Vault is away: serving the keys of the sealed copy");
    place.handle.notify();
    true
}

/// Whether the settings allow the copied options: transit's ciphertexts and Kong's fields exclude each other.
fn is_allowed(place: &Place, one: &CopiedKeyring) -> bool {
    place.kong_fields == KongFields::Refuse || one.keyring.options().format != Some(Format::Transit)
}

/// What to copy of a keyring that has keys.
fn copied(place: &Place) -> Option<CopiedKeyring> {
    let (keyring, synced) = (place.published.keyring()?, place.published.synced()?);
    Some(CopiedKeyring { name: place.name.to_string(), synced, keyring })
}

/// Whether both are in one mount of one Vault.
fn is_beside(one: &SecretLocation, other: &SecretLocation) -> bool {
    let place = |location: &SecretLocation| {
        let SecretLocation { host, namespace, mount, versioned, .. } = location.clone();
        (host, namespace, mount, versioned)
    };
    place(one) == place(other)
}
