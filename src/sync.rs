//! The sync: reads what Vault holds, builds the keyring, publishes it, and decides when to do so again.
//!
//! `Syncer` owns the history and the clock of one keyring, `read` reads once, and `schedule` says when. [`Syncs`] has
//! one for each keyring, and [`CopyKeeper`] follows them with a sealed copy. Others send requests through a [`SyncHandle`]. A failure leaves the keyring as it was. API and sync meet in `keyring::registry`.
//! The file is longer than most: it is one state and all that changes it.

#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, reason = "times and sizes from outside must not overflow")
)]

pub mod copy;
mod folders;
mod keeper;
mod lost;
mod queue;
mod read;
mod running;
mod schedule;
mod syncs;
mod warnings;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::{
    clock,
    keyring::{
        KeyDerivation, KeyId, Keyring, Published, SecretLocation, history::NoKeyring, registry::Report,
    },
    logging::NOTICE,
    metrics::{Metrics, Outcome},
    secret::Secret,
    settings::{self, KvSecret, KvVersion},
    vault::{Client, Kv, VaultError, backoff, kv::Purpose},
};
pub use folders::all_keyrings;
pub use keeper::{CopyKeeper, CopyReport};
pub use queue::SyncHandle;
use queue::{Queue, Request};
pub use read::{Read, Reader, Rules};
use schedule::{after_success, from_now, out_of_step, with_keys, without_keys};
pub use syncs::Syncs;
pub use warnings::{expiry_warning, index_key_warning, record_warnings};

/// The least time from a failed sync to one that another answer from Vault causes.
const WAKE_INTERVAL: Duration = Duration::from_secs(1);

/// The least time between two syncs for callers. Those that ask meanwhile share the next one, which begins after they asked.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// The limit on one sync: a Vault that answers each request slowly must not hold it for long.
const SYNC_TIMEOUT: Duration = Duration::from_secs(120);

/// The least time between two syncs for unknown keys.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(5);

/// Why a sync failed. The keyring stays as it was.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("{0}: write a usable record to Vault")]
    NoKeyring(NoKeyring),
    #[error("the sync took longer than {} s: Vault answers too slowly", .0.as_secs())]
    TooSlow(Duration),
}

/// What one sync reads, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The keyring's name.
    name: Arc<str>,
    secret: KvSecret,
    rules: Rules,
    /// The record whose key makes blind indexes, unless the secret names one.
    index_key: Option<KeyId>,
    interval: Duration,
}

/// Where records are, and how they become keys.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    namespace: Option<String>,
    secret: KvSecret,
    rules: Rules,
}

/// Keeps one published keyring in step with Vault.
#[derive(Debug)]
pub(super) struct Syncer {
    client: Client,
    target: Target,
    reader: Reader,
    /// The reader of the place that the published keyring is from, while the present place has given none.
    left: Option<(Place, Reader)>,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
    report: Report,
    queue: Queue,
    /// Whether any answer from Vault makes the next sync due.
    waits_for_vault: bool,
    /// When the last sync for a caller began, and when it ended.
    request_begun: Option<Instant>,
    last_request: Option<Instant>,
}

impl SyncError {
    /// Whether it can pass without a change in Vault or in the settings.
    const fn can_pass(&self) -> bool {
        matches!(self, Self::Vault(error) if error.is_outage())
    }

    /// Whether Vault gave and refused nothing.
    const fn is_away(&self) -> bool {
        match self {
            Self::Vault(error) => error.is_away(),
            Self::TooSlow(_) => true,
            Self::NoKeyring(_) => false,
        }
    }

    /// Whether nothing is known of keys that are not held.
    const fn is_outage(&self) -> bool {
        matches!(self, Self::Vault(error) if !error.is_missing())
    }

    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Vault(error) => error.retry_after(),
            Self::NoKeyring(_) | Self::TooSlow(_) => None,
        }
    }
}

impl Syncer {
    fn new(
        (client, target): (Client, Target),
        reader: Reader,
        published: Arc<Published>,
        metrics: Arc<Metrics>,
        queue: Queue,
    ) -> Self {
        Self {
            client,
            target,
            reader,
            left: None,
            published,
            metrics,
            report: Report::default(),
            queue,
            waits_for_vault: false,
            request_begun: None,
            last_request: None,
        }
    }

    /// Syncs at once, then at every interval and for every request, with backoff while Vault fails. Ends at `stop`, or when
    /// every handle is gone.
    async fn run(&mut self, stop: CancellationToken) {
        self.reader.history.forget_source(); // before a restart a keyring may have been built that was not published
        tokio::select! {
            biased;
            () = self.keep_in_step() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn keep_in_step(&mut self) {
        let delay = self.scheduled_sync().await;
        let mut next = self.due_in(delay);
        let mut is_woken = false;
        loop {
            let answered = self.client.answered();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {
                    let delay = self.scheduled_sync().await;
                    next = self.due_in(delay);
                    // One early sync per wait: other requests may succeed while the sync keeps failing.
                    self.waits_for_vault &= !std::mem::take(&mut is_woken);
                }
                // Vault answers again, whatever the request: the sync need not wait for the end of its backoff.
                () = answered, if self.waits_for_vault && !is_woken => {
                    (is_woken, next) = (true, next.min(from_now(WAKE_INTERVAL)));
                }
                request = self.queue.next() => match request {
                    Some(request) => self.execute(request, &mut next).await,
                    None => return,
                },
            }
        }
    }

    async fn execute(&mut self, request: Request, next: &mut Instant) {
        let is_from_operator = matches!(request, Request::Sync(_));
        match request {
            // While Vault fails the backoff holds, whatever clients send.
            Request::UnknownKey(done) if self.report.outage.is_some() => {
                done.send(self.report.outage.clone().map_or(Ok(()), Err));
            }
            Request::UnknownKey(_) if self.report.failures > 0 || self.synced_a_moment_ago() => {}
            Request::SyncWith(token, done) => {
                self.pace().await;
                let outcome = self.sync_with(&token).instrument(done.cause.clone()).await;
                done.send(outcome);
            }
            Request::Change(changed, done) => {
                let delay = self.change(*changed).await;
                *next = self.due_in(delay);
                done.send(self.report.last_error.clone().map_or(Ok(()), Err));
            }
            Request::Sync(done) | Request::UnknownKey(done) => {
                if is_from_operator {
                    self.client.forget_failures();
                }
                self.pace().await;
                let mut waiting = self.queue.take_alike();
                let outcome = self.requested_sync(next).instrument(done.cause.clone()).await;
                waiting.push(done);
                self.last_request = Some(Instant::now());
                for done in waiting {
                    done.send(outcome.clone());
                }
            }
        }
    }

    /// Applies other settings. The history stays if it was read from the same place by the same rules. If not, the keyring
    /// serves until the new place has given one; until then, a way back finds its history, with the keys that Vault no longer
    /// has. Returns how long to wait until the next sync.
    async fn change(&mut self, (client, target): (Client, Target)) -> Duration {
        let before = self.place();
        (self.client, self.target) = (client, target);
        let place = self.place();
        if place != before {
            let new = self.reader.forgetful();
            let reader = std::mem::replace(&mut self.reader, new);
            let (from, history) = self.left.take().unwrap_or((before, reader));
            if from == place {
                self.reader = history;
            } else {
                self.left = Some((from, history));
            }
        }
        self.report.failures = 0; // of the settings before
        let delay = self.scheduled_sync().await;
        // Settings often change on many hosts at once.
        if self.report.failures > 0 { delay } else { out_of_step(self.target.interval, backoff::random()) }
    }

    fn place(&self) -> Place {
        let Target { secret, rules, .. } = &self.target;
        Place { namespace: self.client.server().namespace.clone(), secret: secret.clone(), rules: *rules }
    }

    /// Waits until a further sync for callers may begin.
    async fn pace(&mut self) {
        if let Some(begun) = self.request_begun {
            tokio::time::sleep(REQUEST_INTERVAL.saturating_sub(begun.elapsed())).await;
        }
        self.request_begun = Some(Instant::now());
    }

    fn synced_a_moment_ago(&self) -> bool {
        self.last_request.is_some_and(|at| at.elapsed() < UNKNOWN_KEY_INTERVAL)
    }

    /// The sync that was due. Returns how long to wait until the next, which grows with each failure.
    async fn scheduled_sync(&mut self) -> Duration {
        let random = backoff::random();
        let in_step = self.report.failures > 0 || self.report.last_success.is_none();
        let outcome = self.sync().await;
        self.report.failures = match &outcome {
            Ok(()) => 0,
            Err(_) => self.report.failures.saturating_add(1),
        };
        self.publish_report(); // before the log line, so that the status agrees with it
        if let Some(outage) = &self.report.outage {
            // One timeout is enough for all that came meanwhile.
            for done in self.queue.take_alike() {
                done.send(Err(outage.clone()));
            }
        }
        match outcome {
            Ok(()) if in_step => out_of_step(self.target.interval, random),
            Ok(()) => after_success(self.target.interval, random),
            Err(error) => {
                let delay = backoff::after_failure(self.report.failures, error.retry_after(), random);
                let delay = if self.published.keyring().is_some() {
                    // There is no login before the cooldown ends.
                    delay.max(self.client.cooldown()).max(with_keys(self.target.interval, random))
                } else {
                    delay.min(without_keys(random))
                };
                let (keyring, retry_in_seconds) = (&*self.target.name, delay.as_secs());
                tracing::warn!(keyring, retry_in_seconds, %error, "sync failed, the keyring stays as it was");
                delay
            }
        }
    }

    /// The sync for a caller. Many daemons may get such requests at once, so the next sync is due when it was; sooner only
    /// after Vault was away.
    async fn requested_sync(&mut self, next: &mut Instant) -> Result<(), String> {
        let was_away = self.report.failures > 0;
        let outcome = self.sync().await;
        self.publish_report();
        match &outcome {
            Ok(()) if was_away => {
                *next = self.due_in(out_of_step(self.target.interval, backoff::random()));
            }
            Ok(()) => {}
            Err(error) => {
                let keyring = &*self.target.name;
                tracing::warn!(keyring, %error, "requested sync failed, the keyring stays as it was");
            }
        }
        outcome.map_err(|error| error.to_string())
    }

    /// One sync in the session.
    async fn sync(&mut self) -> Result<(), SyncError> {
        let now = clock::wall();
        self.report.last_attempt = Some(now);
        let outcome = self.read(None, now).await;
        self.metrics.synced(&self.target.name, Outcome::from_result(&outcome));
        self.waits_for_vault = matches!(&outcome, Err(error) if error.can_pass());
        match outcome {
            Ok(keyring) => {
                if self.report.failures > 0 {
                    let (keyring, failures) = (&*self.target.name, self.report.failures);
                    tracing::info!(target: NOTICE, keyring, failures, "sync with Vault succeeds again");
                }
                (self.report.last_error, self.report.outage, self.report.failures) = (None, None, 0);
                self.report.is_away = false;
                self.publish(keyring, now);
                Ok(())
            }
            Err(error) => {
                self.report.last_error = Some(error.to_string());
                self.report.outage = error.is_outage().then(|| error.to_string());
                self.report.is_away = error.is_away();
                Err(error)
            }
        }
    }

    /// One sync with a caller's token. Its outcome changes nothing about the session.
    async fn sync_with(&mut self, token: &Secret<String>) -> Result<(), String> {
        let now = clock::wall();
        let outcome = self.read(Some(token), now).await;
        self.metrics.synced(&self.target.name, Outcome::from_result(&outcome));
        self.publish(outcome.map_err(|error| error.to_string())?, now);
        Ok(())
    }

    /// Reads what changed. Returns the new keyring; `None` when the current one stays.
    async fn read(
        &mut self,
        token: Option<&Secret<String>>,
        now: SystemTime,
    ) -> Result<Option<Keyring>, SyncError> {
        let kv = Kv::new(&self.client, &self.target.secret, Purpose::Keyring).with_token(token);
        let reading = self.reader.read(&kv, self.target.rules, now, |_, _| {});
        let read = in_time(SYNC_TIMEOUT, reading).await?;
        self.apply(read)
    }

    /// Puts into the report what was read.
    fn apply(&mut self, mut read: Read) -> Result<Option<Keyring>, SyncError> {
        let Some(built) = read.built.take() else {
            self.report.listing = read.listing;
            return Ok(None);
        };
        let current = self.published.keyring();
        let (history, index_key) = (&self.reader.history, self.target.index_key.as_ref());
        let warnings = warnings::from_sync(&read, &built, history, current.as_deref(), index_key);
        for warning in warnings.iter().filter(|warning| !self.report.warnings.contains(warning)) {
            tracing::warn!(keyring = &*self.target.name, "{warning}");
        }
        (self.report.rejected, self.report.warnings, self.report.listing) =
            (built.rejected, warnings, read.listing);
        match built.keyring {
            Ok(keyring) => Ok(Some(keyring.with_location(self.location()).with_options(read.options))),
            // The sync succeeded, and the keyring stays as it was: that is among the warnings.
            Err(_) if self.published.keyring().is_some() && self.left.is_none() => Ok(None),
            Err(reason) => Err(SyncError::NoKeyring(reason)),
        }
    }

    /// The time of the next scheduled sync, which the status shows.
    fn due_in(&mut self, delay: Duration) -> Instant {
        self.report.next_attempt = clock::wall().checked_add(delay);
        self.published.set_report(self.report.clone());
        from_now(delay)
    }

    fn publish_report(&self) {
        self.published.set_report(self.report.clone());
        self.queue.notify();
    }

    fn location(&self) -> SecretLocation {
        location(self.client.server(), &self.target.secret, self.target.rules.derivation)
    }

    /// The report first, so that the status has the sync of every keyring that can be seen. The notification last, so that
    /// its receivers see the keyring.
    fn publish(&mut self, keyring: Option<Keyring>, now: SystemTime) {
        self.left = None;
        self.report.last_success = Some(now);
        self.published.set_report(self.report.clone());
        if let Some(keyring) = keyring {
            self.publish_keyring(keyring);
        }
        self.queue.notify();
    }

    fn publish_keyring(&self, keyring: Keyring) {
        let (before, keys) = (self.published.keyring(), keyring.key_count());
        let (id, version) = (keyring.active().key.id().clone(), keyring.active().version);
        if let Some(before) = &before {
            lost::warn_of_rules(&self.target.name, before, &keyring);
            lost::warn(before, &keyring);
        }
        self.published.publish(keyring);
        if before.is_none_or(|before| *before.active().key.id() != id) {
            let keyring = &*self.target.name;
            tracing::info!(target: NOTICE, keyring, key_id = %id, version, keys, "active key");
        }
    }
}

/// What a read gave, if it ended within the limit.
async fn in_time<T>(
    limit: Duration,
    reading: impl Future<Output = Result<T, VaultError>>,
) -> Result<T, SyncError> {
    match tokio::time::timeout(limit, reading).await {
        Ok(read) => Ok(read?),
        Err(_) => Err(SyncError::TooSlow(limit)),
    }
}

/// Where a keyring is in Vault.
pub fn location(server: &settings::Server, secret: &KvSecret, derivation: KeyDerivation) -> SecretLocation {
    SecretLocation {
        host: server.host.as_str().trim_end_matches('/').to_owned(),
        namespace: server.namespace.clone().unwrap_or_default(),
        mount: secret.mount.to_string(),
        path: secret.path.to_string(),
        versioned: secret.kv == KvVersion::V2,
        derivation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sync_that_never_ends_fails_and_the_next_one_may_pass() {
        let short = Duration::from_millis(1);
        let error = in_time(short, std::future::pending::<Result<(), VaultError>>()).await.unwrap_err();
        assert!(matches!(error, SyncError::TooSlow(limit) if limit == short), "{error}");
        assert!(in_time(SYNC_TIMEOUT, async { Ok(()) }).await.is_ok());
        let shown = SyncError::TooSlow(SYNC_TIMEOUT).to_string();
        assert_eq!(shown, "the sync took longer than 120 s: Vault answers too slowly");
    }
}
