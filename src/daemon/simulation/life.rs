//! One life of the daemon: its sessions, its syncs and its copy, as `daemon` starts them, and what happens to them.
//!
//! What must hold is checked after the end of each sync, each minute and at the stop.
//! The file is longer than most: one daemon, all that happens to it, and what must hold.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Summary,
    configuration::{keyring, server},
    copy_path,
    folder::{self, Folder},
    operator::{self, CHANGES, Change},
    random::Random,
    vault::{self, Shared, Vault},
    wrapping::Wrapping,
};
use crate::{
    clock::{self, simulated::Clock},
    keyring::Published,
    metrics::Metrics,
    secret::Secret,
    settings::{SealedCopy, credential::Credential},
    sync::{CopyKeeper, Syncs, copy::CopyFile},
    vault::{SessionName, Sessions},
};

/// The mean time between two events.
const EVENTS_EVERY: Duration = Duration::from_secs(3600);

/// The default one, and those of the folder.
const KEYRINGS: u64 = folder::MOST as u64 + 1;

/// The requests of any hour: as if no keyring had keys, and each tried as often as it then does, every 11.25 s. A try that
/// fails is one request. What else there is, such as the syncs that an answer of Vault causes early, has room in this, since
/// keyrings that have keys try at most every 15 s.
const TROUBLED_LIMIT: u64 = 320 * (KEYRINGS + 1);

const COPY_MAX_AGE: Duration = Duration::from_secs(86_400);

/// How a life ended.
pub(super) struct Ended {
    /// The true time.
    pub(super) at: Duration,
    pub(super) keeps_copy: bool,
}

pub(super) struct Life<'a> {
    vault: &'a Shared,
    random: &'a mut Random,
    /// How many seconds the daemon's wall clock is ahead.
    ahead: &'a mut i64,
    sessions: Arc<Sessions>,
    syncs: Arc<Syncs>,
    published: Arc<Published>,
    ended: watch::Receiver<()>,
    keeping: JoinHandle<()>,
    /// What callers and reloads wait for.
    pending: JoinSet<()>,
    stop: CancellationToken,
    interval: Duration,
    /// The secret ID of the settings, or the token that wraps it.
    credential: String,
    /// The wall clock of the last good sync, and its true time.
    last_success: (Option<SystemTime>, Duration),
    /// When something was wrong last, and how long it may take from then on until everything is right.
    trouble: Duration,
    recovery: Duration,
    was_failing: bool,
    /// The hour of the last event or trouble.
    busy_hour: u64,
}

/// What happens to a daemon.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// An operator changes the secret.
    Change(Change),
    Fault,
    RevokeTokens,
    ChangeSecretId,
    ClockJump,
    Reload,
    OperatorSync,
    UnknownKeys,
    Stop,
    Kill,
}

/// The events other than changes of the secret, each as often as it is here.
const EVENTS: &[Event] = &[
    Event::Fault,
    Event::Fault,
    Event::Fault,
    Event::Fault,
    Event::RevokeTokens,
    Event::ChangeSecretId,
    Event::ClockJump,
    Event::Reload,
    Event::OperatorSync,
    Event::UnknownKeys,
    Event::UnknownKeys,
    Event::Stop,
    Event::Kill,
];

impl<'a> Life<'a> {
    pub(super) fn start(
        vault: &'a Shared,
        random: &'a mut Random,
        folder: &Path,
        ahead: &'a mut i64,
    ) -> Self {
        let (metrics, stop) = (Arc::<Metrics>::default(), CancellationToken::new());
        let mut jitter = Random::new(random.next());
        let (credential, is_wrapped, now, kv) = {
            let mut vault = vault::lock(vault);
            vault.oracle.restart();
            set_clock(&vault, *ahead, move || jitter.fraction());
            (vault.issue(), vault.wrapping.is_some(), vault.now(), vault.kv)
        };
        let interval = Duration::from_secs(random.of(&[60, 600, 600, 3600]));
        let sessions = Arc::new(Sessions::new(Arc::clone(&metrics), stop.clone()));
        let client = sessions.client(SessionName::Keyring, server(&credential, is_wrapped)).unwrap();
        let syncs = Syncs::start(&client, keyring(interval, kv), Arc::clone(&metrics), stop.clone());
        let file = CopyFile::new(&SealedCopy {
            path: copy_path(folder),
            key: Credential::Inline(Secret::new(BASE64_STANDARD.encode([7; 32]))),
            max_age: COPY_MAX_AGE,
            wait: Duration::ZERO,
        });
        let wait = Duration::from_secs(10);
        let mut keeper = CopyKeeper::new(file.unwrap(), wait, Arc::clone(&syncs), metrics);
        let keeping = tokio::spawn({
            let stop = stop.clone();
            async move { keeper.run(stop).await }
        });
        let published = Arc::clone(&syncs.keyrings().default().unwrap().published);
        let ended = syncs.watch();
        Self {
            vault,
            random,
            ahead,
            sessions,
            syncs,
            published,
            ended,
            keeping,
            pending: JoinSet::new(),
            stop,
            interval,
            credential,
            last_success: (None, now),
            trouble: now,
            recovery: Duration::from_secs(300),
            was_failing: false,
            busy_hour: now.as_secs() / 3600,
        }
    }

    /// The active key after a further sync.
    pub(super) async fn synced(&self) -> String {
        self.syncs.sync("keyring", None).await.unwrap();
        self.published.keyring().unwrap().active().key.id().as_str().to_owned()
    }

    /// Until a stop, a kill, or the end of the simulation.
    pub(super) async fn run(&mut self, end: Duration, summary: &mut Summary) -> Ended {
        summary.lives += 1;
        let mut next = Instant::now() + self.random.about(EVENTS_EVERY);
        let mut tick = Instant::now();
        loop {
            tokio::select! {
                biased;
                _ = self.ended.changed() => self.check_sync(summary),
                () = tokio::time::sleep_until(next) => {
                    summary.events += 1;
                    next = Instant::now() + self.random.about(EVENTS_EVERY);
                    let event = self.choose();
                    let at = vault::lock(self.vault).now();
                    self.busy_hour = at.as_secs() / 3600;
                    tracing::info!(?event, ?at, "event");
                    match event {
                        Event::Stop => return self.stop().await,
                        Event::Kill => return self.kill(),
                        other => self.happen(other),
                    }
                }
                () = tokio::time::sleep_until(tick) => {
                    tick = Instant::now() + Duration::from_secs(60);
                    self.check_times();
                    if vault::lock(self.vault).now() >= end {
                        return self.stop().await;
                    }
                }
            }
        }
    }

    fn choose(&mut self) -> Event {
        if self.random.one_in(2) { Event::Change(self.random.of(CHANGES)) } else { self.random.of(EVENTS) }
    }

    /// Checks what is published.
    fn check_sync(&mut self, summary: &mut Summary) {
        let (keyring, report) = (self.published.keyring(), self.published.report());
        let (now, is_troubled) = {
            let mut vault = vault::lock(self.vault);
            vault.oracle.sync_ended();
            vault.oracle.check(keyring.as_deref());
            Folder::check(self.syncs.keyrings());
            (vault.now(), vault.is_troubled())
        };
        if report.last_success == self.last_success.0 {
            return;
        }
        summary.syncs += 1;
        self.last_success = (report.last_success, now);
        if std::mem::take(&mut self.was_failing) && !is_troubled {
            summary.slowest_recovery = summary.slowest_recovery.max(now.saturating_sub(self.trouble));
        }
    }

    /// Checks what must hold at any time.
    fn check_times(&mut self) {
        let mut vault = vault::lock(self.vault);
        vault.wrapping.iter().for_each(Wrapping::check);
        let (now, troubled) = (vault.now(), vault.is_troubled());
        if vault.is_wrapping_lost() {
            self.credential = vault.issue();
            drop(vault);
            self.reload();
            vault = vault::lock(self.vault);
        }
        if troubled {
            self.trouble = now;
            let slowest = vault.faults.iter().map(|(fault, _)| fault.recovery()).max();
            self.recovery = self.recovery.max(slowest.unwrap_or_default());
            self.was_failing |= self.published.report().last_error.is_some();
            self.busy_hour = now.as_secs() / 3600;
        }
        let bound = self.recovery + self.interval.mul_f64(1.1) + Duration::from_secs(180);
        if now > self.trouble + bound {
            let since = now.saturating_sub(self.last_success.1);
            assert!(
                since <= self.interval.mul_f64(1.1) + Duration::from_secs(130),
                "no good sync for {since:?}"
            );
            vault.secret.folder.check_complete(self.syncs.keyrings());
            self.recovery = Duration::from_secs(300);
        }
        assert!(vault.tokens_in_use() <= 4, "{} tokens are valid and not returned", vault.tokens_in_use());
        self.check_requests(&vault, now);
        drop(vault);
    }

    /// The hour before the present one: as many requests as documented when nothing happened, and not very many whatever
    /// happened.
    fn check_requests(&self, vault: &Vault, now: Duration) {
        let hour = now.as_secs() / 3600;
        let Some(count) = hour.checked_sub(1).and_then(|hour| vault.requests.get(&hour)).copied() else {
            return;
        };
        let is_calm =
            hour > self.busy_hour + 2 && now > self.trouble + self.recovery + 2 * Duration::from_secs(3600);
        let limit = if is_calm { calm_limit(self.interval, vault.leases.ttl) } else { TROUBLED_LIMIT };
        assert!(count <= limit, "{count} requests within an hour, calm: {is_calm}, at most {limit} expected");
    }

    fn happen(&mut self, event: Event) {
        let now = vault::lock(self.vault).now();
        match event {
            Event::Fault => self.begin_fault(),
            Event::RevokeTokens => vault::lock(self.vault).revoke_all(),
            Event::ChangeSecretId => {
                {
                    let mut vault = vault::lock(self.vault);
                    vault.secret_id = format!("secret-{}", self.random.next());
                    self.credential = vault.issue();
                }
                self.reload();
            }
            Event::ClockJump => {
                *self.ahead = i64::try_from(self.random.below(4 * 86_400)).unwrap() - 2 * 86_400;
                let mut jitter = Random::new(self.random.next());
                set_clock(&vault::lock(self.vault), *self.ahead, move || jitter.fraction());
            }
            Event::Reload => {
                self.interval = Duration::from_secs(self.random.of(&[60, 600, 600, 3600]));
                self.reload();
            }
            Event::OperatorSync => {
                let syncs = Arc::clone(&self.syncs);
                self.pending.spawn(async move { drop(syncs.sync("keyring", None).await) });
            }
            Event::UnknownKeys => {
                for _ in 0..self.random.below(40) {
                    let handle = self.syncs.handle("keyring").unwrap();
                    self.pending.spawn(async move { drop(handle.look_for_new_keys().await) });
                }
            }
            Event::Change(change) => operator::change(&mut vault::lock(self.vault), self.random, change),
            Event::Stop | Event::Kill => {} // `run` ends with them
        }
        self.trouble = now;
    }

    fn begin_fault(&mut self) {
        let fault = self.random.of(vault::FAULTS);
        let mean = self.random.of(&[20, 600, 7200]);
        let lasts = self.random.about(Duration::from_secs(mean));
        vault::lock(self.vault).begin(fault, lasts);
        self.recovery = self.recovery.max(fault.recovery());
    }

    /// As `daemon::reload` changes the syncs.
    fn reload(&mut self) {
        let (is_wrapped, kv) = {
            let vault = vault::lock(self.vault);
            (vault.wrapping.is_some(), vault.kv)
        };
        let server = server(&self.credential, is_wrapped);
        let client = self.sessions.client(SessionName::Keyring, server).unwrap();
        self.pending.abort_all();
        self.syncs.change(&client, keyring(self.interval, kv));
        let syncs = Arc::clone(&self.syncs);
        self.pending.spawn(async move {
            if client.is_standby() {
                client.until_logged_in(|_| ()).await;
                client.take_over();
            }
            let _ = syncs.switch(client).await; // the reports have it
        });
    }

    /// As a signal stops the daemon. Tokens are revoked.
    async fn stop(&mut self) -> Ended {
        self.pending.abort_all();
        self.stop.cancel();
        self.syncs.run().await;
        (&mut self.keeping).await.unwrap();
        self.sessions.end().await;
        let mut vault = vault::lock(self.vault);
        assert_eq!(vault.tokens_in_use(), 0, "tokens are left after a stop");
        vault.forget_tokens();
        let away = self.random.about(Duration::from_secs(600));
        Ended { at: vault.now() + away, keeps_copy: !self.random.one_in(8) }
    }

    fn kill(&mut self) -> Ended {
        let mut vault = vault::lock(self.vault);
        vault.forget_tokens();
        Ended { at: vault.now(), keeps_copy: !self.random.one_in(8) }
    }
}

/// The requests of an hour in which nothing happens, as docs/speed.md describes them.
fn calm_limit(interval: Duration, ttl: Duration) -> u64 {
    // In an interval, which jitter makes shorter by a tenth at most, the folder is listed, and so is each secret.
    let syncs = 4000 / interval.as_secs() * (KEYRINGS + 1);
    // After half of the TTL at the earliest a token is renewed, or replaced by a login and given back.
    let tokens = 7200 / ttl.as_secs() * 3;
    // The limit of the engine once for each keyring, and what the divisions above leave out.
    syncs + tokens + KEYRINGS + 11
}

fn set_clock(vault: &Vault, ahead: i64, random: impl FnMut() -> f64 + 'static) {
    let (true_time, by) = (vault.true_time(), Duration::from_secs(ahead.unsigned_abs()));
    let wall = if ahead < 0 { true_time - by } else { true_time + by };
    clock::simulated::set(Some(Clock { wall, at: Instant::now(), random: Box::new(random) }));
}
