//! The sync: read what Vault holds, build the keyring, publish it; and when to do so again.
//!
//! [`Syncer`] owns the history and the clock, [`schedule`] the pure rule of when. Others ask through a [`SyncHandle`].
//! What failed leaves everything as it was. The socket is not known here: both meet in `keyring::published`. The file is
//! longer than most: it is one state, and all that changes it.

mod queue;
pub mod schedule;
mod warnings;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    keyring::{
        History, Keyring, Listing, Place, Published,
        history::{Built, NoKeyring, VersionId, VersionState},
        published::Report,
    },
    metrics::{Metrics, Outcome},
    secret::Secret,
    settings::{self, KvVersion},
    vault::{Kv, Session, VaultError, any_secret, backoff},
};
pub use queue::SyncHandle;
use queue::{Queue, Request};

/// How many versions are fetched at once.
const CONCURRENT_READS: usize = 4;

/// How long a sync or a login under way at the stop may take to finish: a login that is cut off leaves its token behind.
const LAST_STEP: Duration = Duration::from_secs(2);

/// The least time between two syncs that an unknown key ID causes.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(5);

/// Why a sync did not go through. The keyring is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("{0}: write a usable record to Vault")]
    NoKeyring(NoKeyring),
}

/// Keeps the published keyring in step with Vault. It runs for as long as it is polled.
#[derive(Debug)]
pub struct Syncer {
    session: Session,
    kv: Kv,
    version: KvVersion,
    interval: Duration,
    history: History,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
    report: Report,
    queue: Queue,
    last_look: Option<Instant>,
}

impl SyncError {
    /// How long the server asked to be left alone.
    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Vault(error) => error.retry_after(),
            Self::NoKeyring(_) => None,
        }
    }
}

impl Syncer {
    pub fn new(
        settings: &settings::Keyring,
        session: Session,
        published: Arc<Published>,
        metrics: Arc<Metrics>,
    ) -> (Self, SyncHandle) {
        let (handle, queue) = queue::new();
        let syncer = Self {
            kv: Kv::new(session.settings(), settings.derivation),
            version: session.settings().kv,
            session,
            interval: settings.sync_interval,
            history: History::default(),
            published,
            metrics,
            report: Report::default(),
            queue,
            last_look: None,
        };
        (syncer, handle)
    }

    /// Syncs at once, then at every interval and whenever it is asked to, with backoff while Vault fails, and keeps the
    /// session alive meanwhile. Ends at `stop`, or when every handle is gone, and then ends the session.
    pub async fn run(mut self, stop: CancellationToken) {
        let no_longer = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_STEP).await;
        };
        tokio::select! {
            () = self.keep_in_step(&stop) => {}
            () = no_longer => {}
        }
        self.session.end().await;
    }

    async fn keep_in_step(&mut self, stop: &CancellationToken) {
        let mut next = Instant::now() + self.scheduled_sync().await;
        loop {
            let maintenance = self.session.next_maintenance().map(Instant::from_std);
            let request = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + self.scheduled_sync().await;
                    continue;
                }
                () = tokio::time::sleep_until(maintenance.unwrap_or(next)), if maintenance.is_some() => {
                    self.session.maintain().await;
                    continue;
                }
                request = self.queue.next() => match request {
                    Some(request) => request,
                    None => return,
                },
            };
            match request {
                // While Vault fails the backoff holds, whatever clients ask for.
                Request::Look(_) if self.report.failures > 0 || self.looked_a_moment_ago() => {}
                Request::SyncWith(token, done) => {
                    let _ = done.send(self.sync_with(token).await);
                }
                Request::Read(place, done) => {
                    let outcome = any_secret::read(&mut self.session, &place).await;
                    if let Err(error) = &outcome {
                        self.queue.refuse_readers(error);
                    }
                    let _ = done.send(outcome);
                }
                Request::Change(changed, done) => {
                    next = Instant::now() + self.change(*changed).await;
                    let _ = done.send(Ok(()));
                }
                Request::Sync(done) | Request::Look(done) => {
                    let mut waiting = self.queue.take_alike();
                    waiting.push(done);
                    let outcome = self.asked_sync(&mut next).await;
                    self.last_look = Some(Instant::now());
                    for done in waiting {
                        let _ = done.send(outcome.clone());
                    }
                }
            }
        }
    }

    /// Takes in other settings. What was read stays when it was read from the same place by the same rules; if not, the
    /// keyring serves until the new place has given one. Answers how long to wait until the next sync.
    async fn change(&mut self, (session, settings): (Session, settings::Keyring)) -> Duration {
        let place = |session: &Session| {
            let vault = session.settings();
            (vault.namespace.clone(), vault.mount.clone(), vault.path.clone(), vault.kv)
        };
        if place(&session) != place(&self.session) || settings.derivation != self.kv.derivation() {
            self.history = History::default();
        }
        self.kv = Kv::new(session.settings(), settings.derivation);
        (self.version, self.interval) = (session.settings().kv, settings.sync_interval);
        let before = std::mem::replace(&mut self.session, session);
        let delay = self.scheduled_sync().await;
        before.end().await;
        // Settings often change on many hosts at once.
        if self.report.failures > 0 { delay } else { schedule::out_of_step(self.interval, backoff::random()) }
    }

    fn looked_a_moment_ago(&self) -> bool {
        self.last_look.is_some_and(|at| at.elapsed() < UNKNOWN_KEY_INTERVAL)
    }

    /// The sync that was due; answers how long to wait until the next, longer with each failure.
    async fn scheduled_sync(&mut self) -> Duration {
        let random = backoff::random();
        let in_step = self.report.failures > 0 || self.report.last_success.is_none();
        let outcome = self.sync().await;
        self.report.failures = match &outcome {
            Ok(()) => 0,
            Err(_) => self.report.failures.saturating_add(1),
        };
        self.publish_report(); // first, so that the status knows what the log says
        match outcome {
            Ok(()) if in_step => schedule::out_of_step(self.interval, random),
            Ok(()) => schedule::after_success(self.interval, random),
            Err(error) => {
                let delay = backoff::after_failure(self.report.failures, error.retry_after(), random);
                let mut delay = delay.max(self.session.rest()); // sooner there would be no login
                if self.published.keyring().is_some() {
                    delay = delay.max(schedule::without_hurry(self.interval, random));
                }
                let retry_in_seconds = delay.as_secs();
                tracing::warn!(retry_in_seconds, "sync failed, the keyring stays as it was: {error}");
                delay
            }
        }
    }

    /// A sync that somebody asked for. Many may be asked at once, so the next is due when it was; sooner only where Vault
    /// was thought to be away.
    async fn asked_sync(&mut self, next: &mut Instant) -> Result<(), String> {
        let was_away = self.report.failures > 0;
        let outcome = self.sync().await;
        self.publish_report();
        match &outcome {
            Ok(()) if was_away => {
                *next = Instant::now() + schedule::out_of_step(self.interval, backoff::random());
            }
            Ok(()) => {}
            Err(error) => {
                tracing::warn!("a sync that was asked for failed, the keyring stays as it was: {error}");
            }
        }
        outcome.map_err(|error| error.to_string())
    }

    /// One sync in our own session.
    async fn sync(&mut self) -> Result<(), SyncError> {
        let now = SystemTime::now();
        self.report.last_attempt = Some(now);
        let mut outcome = self.read(None, now).await;
        if let Err(SyncError::Vault(VaultError::Denied { path })) = outcome {
            // The token, or its policy? With a new login it is worth one more try.
            outcome = match self.session.after_denial(path).await {
                Ok(()) => self.read(None, now).await,
                Err(error) => Err(error.into()),
            };
        }
        self.metrics.synced(Outcome::from_result(&outcome));
        match outcome {
            Ok(keyring) => {
                self.session.proved();
                if self.report.failures > 0 {
                    tracing::info!(failures = self.report.failures, "syncing with Vault again");
                }
                (self.report.last_error, self.report.failures) = (None, 0);
                self.publish(keyring, now);
                Ok(())
            }
            Err(error) => {
                self.report.last_error = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// One sync under a token that somebody brought along. How it goes says nothing of our own session.
    async fn sync_with(&mut self, token: Secret<String>) -> Result<(), String> {
        let now = SystemTime::now();
        let outcome = self.read(Some(&token), now).await;
        self.metrics.synced(Outcome::from_result(&outcome));
        self.publish(outcome.map_err(|error| error.to_string())?, now);
        Ok(())
    }

    /// Reads what changed. Answers the keyring that it makes; `None` when the one before stays.
    async fn read(
        &mut self,
        token: Option<&Secret<String>>,
        now: SystemTime,
    ) -> Result<Option<Keyring>, SyncError> {
        let access = match token {
            Some(token) => self.session.access_with(token),
            None => self.session.access().await?,
        };
        let (built, listing) = match self.version {
            KvVersion::V2 => {
                let mut listing = self.kv.list(&access, now).await?;
                let (kv, access) = (&self.kv, &access);
                let read = |id: VersionId| async move {
                    Ok::<_, VaultError>((id, kv.read(access, id.number).await?))
                };
                let missing = self.history.missing(&listing);
                let read: Vec<_> =
                    stream::iter(missing).map(read).buffered(CONCURRENT_READS).try_collect().await?;
                let mut fetched = Vec::new();
                for (id, contents) in read {
                    match contents {
                        Some(contents) => fetched.push((id, contents)),
                        // Removed since it was listed, or by a clock that is ahead of ours.
                        None => drop(listing.versions.insert(id, VersionState::Removed)),
                    }
                }
                (self.history.advance(&listing, fetched), Some(listing))
            }
            KvVersion::V1 => (self.history.replace(self.kv.read_v1(&access).await?, now), None),
        };
        self.judge(built, listing)
    }

    /// Takes into the report what is to be said of what was read.
    fn judge(&mut self, built: Built, listing: Option<Listing>) -> Result<Option<Keyring>, SyncError> {
        let warnings = warnings::of(&built, &self.history, listing.as_ref());
        for warning in warnings.iter().filter(|warning| !self.report.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        (self.report.rejected, self.report.warnings, self.report.listing) =
            (built.rejected, warnings, listing);
        match built.keyring {
            Ok(keyring) => Ok(Some(keyring.read_from(self.place()))),
            // The sync went through, and the keyring stays as it was: that is among the warnings.
            Err(_) if self.published.keyring().is_some() => Ok(None),
            Err(reason) => Err(SyncError::NoKeyring(reason)),
        }
    }

    fn publish_report(&self) {
        self.published.set_report(self.report.clone());
        self.queue.tell_of_change();
    }

    /// Where the session reads.
    fn place(&self) -> Place {
        let vault = self.session.settings();
        Place {
            mount: vault.mount.to_string(),
            path: vault.path.to_string(),
            versioned: self.version == KvVersion::V2,
        }
    }

    /// The report first, since whoever sees the new keyring finds its sync in the status; the word that there is something new
    /// last, since whoever waits for it looks for the keyring.
    fn publish(&mut self, keyring: Option<Keyring>, now: SystemTime) {
        self.report.last_success = Some(now);
        self.published.set_report(self.report.clone());
        if let Some(keyring) = keyring {
            self.publish_keyring(keyring);
        }
        self.queue.tell_of_change();
    }

    fn publish_keyring(&self, keyring: Keyring) {
        let (before, keys) = (self.published.keyring(), keyring.key_count());
        let (id, version) = (keyring.active().key.id().clone(), keyring.active().version);
        self.published.publish(keyring);
        if before.is_none_or(|before| *before.active().key.id() != id) {
            tracing::info!(key_id = %id, version, keys, "active key");
        }
    }
}
