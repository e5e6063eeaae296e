//! The syncs of all keyrings: a task for each, and one that lists the folders whose secrets are keyrings.
//!
//! A keyring is known by its secret, so that a reload that names it otherwise keeps its keys. One that fails does not
//! concern the others: each has its own schedule, and they share only the session and the turns of requests.
//! The file is longer than most: a reload, a folder and a copy all change the one list of running syncs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{future::join_all, join};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    REQUEST_INTERVAL, SyncHandle, Syncer, Target,
    folders::{self, Folders},
    queue,
    read::{Reader, Rules, Turns},
    running::Running,
    schedule::{after_success, with_keys, without_keys},
};
use crate::{
    keyring::{Keyrings, KongFields, Published, SecretLocation},
    metrics::{BackgroundTask, Metrics},
    secret::Secret,
    settings,
    supervise::supervise,
    vault::{Client, backoff},
};

/// Keeps all keyrings in step with Vault.
#[derive(Debug)]
pub struct Syncs {
    keyrings: Keyrings,
    metrics: Arc<Metrics>,
    turns: Turns,
    state: Mutex<State>,
    /// When the last listing of the folders began. Held while they are listed.
    listing: AsyncMutex<Option<Instant>>,
    /// Notified when a sync of any keyring has ended.
    any_ended: watch::Sender<()>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Cancelled when a task panics again and again.
    crashed: CancellationToken,
}

#[derive(Debug)]
struct State {
    client: Client,
    /// The session of the settings, which may have to log in before it is used.
    next: Client,
    settings: settings::Keyring,
    folders: Folders,
    /// In the order of the settings: the default one first.
    running: Vec<Running>,
}

/// A keyring, for its sealed copy.
pub(super) struct Place {
    pub(super) name: Arc<str>,
    /// Where the settings say that it is.
    pub(super) location: SecretLocation,
    pub(super) kong_fields: KongFields,
    pub(super) published: Arc<Published>,
    pub(super) handle: SyncHandle,
}

impl Syncs {
    /// Starts a task for each keyring, and one for the folders. They end at `stop`.
    pub fn start(
        client: &Client,
        settings: settings::Keyring,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let folders = Folders::default().with_settings(&settings);
        let state =
            State { client: client.clone(), next: client.clone(), settings, folders, running: Vec::new() };
        let syncs = Arc::new(Self {
            keyrings: Keyrings::none(),
            metrics,
            turns: Turns::default(),
            state: Mutex::new(state),
            listing: AsyncMutex::default(),
            any_ended: watch::Sender::new(()),
            tasks: TaskTracker::new(),
            stop,
            crashed: CancellationToken::new(),
        });
        syncs.reconcile(&mut syncs.state(), client);
        let lister = Arc::clone(&syncs);
        syncs.spawn(move || {
            let syncs = Arc::clone(&lister);
            async move {
                let _ = syncs.stop.run_until_cancelled(syncs.keep_listing()).await;
            }
        });
        let namer = Arc::clone(&syncs);
        syncs.spawn(move || {
            let syncs = Arc::clone(&namer);
            async move {
                let _ = syncs.stop.run_until_cancelled(syncs.keep_names()).await;
            }
        });
        syncs
    }

    /// The keyrings as they are served. They change with the settings and the folders.
    pub const fn keyrings(&self) -> &Keyrings {
        &self.keyrings
    }

    /// Notifies of the end of every sync.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.any_ended.subscribe()
    }

    /// The sync of a keyring; `None` if it has gone.
    pub fn handle(&self, name: &str) -> Option<SyncHandle> {
        let is_it = |running: &&Running| *running.name == *name;
        self.state().running.iter().find(is_it).map(|running| running.handle.clone())
    }

    /// Syncs a keyring for an operator, with this token if there is one. Without one, it lists the folders, too.
    pub async fn sync(&self, name: &str, token: Option<Secret<String>>) -> Result<(), String> {
        let handle = self.handle(name).ok_or_else(|| format!("the keyring {name} is served no longer"))?;
        match token {
            Some(token) => handle.sync(Some(token)).await,
            None => join!(handle.sync(None), self.list()).0,
        }
    }

    /// Lists the folders and syncs every keyring.
    pub async fn sync_all(&self) {
        self.list().await;
        let handles: Vec<_> = self.state().running.iter().map(|running| running.handle.clone()).collect();
        join_all(handles.iter().map(|handle| handle.sync(None))).await;
    }

    /// Uses other settings: keyrings appear, go, and are named otherwise at once. What the others read stays as it is until
    /// [`Syncs::switch`]; those that appear use this session.
    pub fn change(&self, client: &Client, settings: settings::Keyring) {
        let mut state = self.state();
        state.folders = state.folders.with_settings(&settings);
        (state.settings, state.next) = (settings, client.clone());
        self.reconcile(&mut state, client);
        drop(state);
    }

    /// Reads what the settings say, in this session, from now on. The default keyring is read at once, and every other one of
    /// which something has changed.
    ///
    /// # Errors
    /// Why keyrings could not be read, a line for each.
    pub async fn switch(&self, client: Client) -> Result<(), Vec<String>> {
        let changes = self.changes(&client);
        let apply = |(handle, target): &(SyncHandle, Target)| {
            let (handle, client, target) = (handle.clone(), client.clone(), target.clone());
            async move {
                let name = Arc::clone(&target.name);
                handle.change(client, target).await.map_err(|error| format!("keyring {name}: {error}"))
            }
        };
        let (outcomes, ()) = join!(join_all(changes.iter().map(apply)), self.list());
        // Only now: a further reload may have dropped this future before.
        for running in &mut self.state().running {
            if changes.iter().any(|(_, target)| *target == running.target) {
                running.applied = (client.clone(), running.target.clone());
            }
        }
        let folder = self.state().folders.failure().map(folders::FolderError::to_string);
        let failures: Vec<_> = outcomes.into_iter().filter_map(Result::err).chain(folder).collect();
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// Uses this session for the folders. Returns the syncs that have to change.
    fn changes(&self, client: &Client) -> Vec<(SyncHandle, Target)> {
        let mut state = self.state();
        state.client = client.clone();
        let is_changed = |(at, one): &(usize, &Running)| {
            *at == 0 || one.applied.1 != one.target || !one.applied.0.is_same_session(client)
        };
        let changed = state.running.iter().enumerate().filter(is_changed);
        let changes = changed.map(|(_, one)| (one.handle.clone(), one.target.clone())).collect();
        drop(state);
        changes
    }

    /// All keyrings, the default one first.
    pub(super) fn places(&self) -> Vec<Place> {
        let state = self.state();
        let place = |running: &Running| Place {
            name: Arc::clone(&running.name),
            location: running.wanted(&state.next),
            kong_fields: running.target.rules.kong_fields,
            published: Arc::clone(&running.published),
            handle: running.handle.clone(),
        };
        state.running.iter().map(place).collect()
    }

    /// Whether Vault refused a listing of a folder, or gave one.
    pub(super) fn is_folder_answered(&self) -> bool {
        self.state().folders.is_answered()
    }

    /// Whether a folder could not be listed yet, because Vault is away for its listing.
    pub(super) fn is_folder_away(&self) -> bool {
        self.state().folders.is_away()
    }

    /// Serves the keyrings of a sealed copy, by their paths, in folders that could not be listed yet.
    pub(super) fn adopt(&self, paths: &[&str]) {
        let mut state = self.state();
        if state.folders.is_empty() {
            return;
        }
        state.folders.adopt(paths);
        let client = state.client.clone();
        self.reconcile(&mut state, &client);
        drop(state);
    }

    /// What `GET /status` shows of the folders.
    pub fn describe_folders(&self) -> serde_json::Value {
        self.state().folders.describe()
    }

    /// Waits for the end of all tasks, which `stop` begins, or until a task panicked more often than it is restarted.
    pub async fn run(&self) {
        let ended = async {
            self.stop.cancelled().await;
            self.tasks.close();
            self.tasks.wait().await;
        };
        tokio::select! {
            () = self.crashed.cancelled() => {}
            () = ended => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts, names and ends syncs, so that they are those of the settings and the folders, and publishes them.
    fn reconcile(&self, state: &mut State, client: &Client) {
        let wanted = state.folders.wanted(&state.settings);
        let mut before: Vec<_> = std::mem::take(&mut state.running).into_iter().map(Some).collect();
        let mut kept: Vec<_> = wanted
            .iter()
            .map(|one| take(&mut before, |running| running.target.secret == one.secret))
            .collect();
        for (one, kept) in wanted.iter().zip(&mut kept).filter(|(_, kept)| kept.is_none()) {
            *kept = take(&mut before, |running| running.name == one.name);
        }
        // The default keyring serves the keys of before until its new place has given some.
        if let (Some(kept @ None), Some(default)) = (kept.first_mut(), before.first_mut()) {
            *kept = default.take();
        }
        let next = state.next.clone();
        let names: Vec<_> = wanted.iter().map(|one| Arc::clone(&one.name)).collect();
        for (one, kept) in wanted.into_iter().zip(kept) {
            let folders::Wanted { name, secret } = one;
            let settings = &state.settings;
            let rules = Rules::from_settings(settings);
            let (index_key, interval) = (settings.index_key.clone(), settings.sync_interval);
            let target = Target { name, secret, rules, index_key, interval };
            state.running.push(match kept {
                Some(running) => running.with_target(target, &next, &names),
                None => self.begin(target, client),
            });
        }
        for gone in before.into_iter().flatten() {
            let keyring = &*gone.name;
            tracing::warn!(keyring, "served no longer: its secret left the settings or its folder");
            gone.stop.cancel();
        }
        let entries =
            state.running.iter().map(|running| running.entry(&state.settings, &state.next)).collect();
        self.keyrings.replace(entries, state.folders.incomplete());
    }

    fn begin(&self, target: Target, client: &Client) -> Running {
        let (handle, queue) = queue::new(self.any_ended.clone());
        let published = Arc::<Published>::default();
        let (reader, metrics) = (Reader::new(self.turns.clone()), Arc::clone(&self.metrics));
        let applied = (client.clone(), target.clone());
        let syncer = Syncer::new(applied.clone(), reader, Arc::clone(&published), metrics, queue);
        let (syncer, stop) = (Arc::new(AsyncMutex::new(syncer)), self.stop.child_token());
        let stopping = stop.clone();
        self.spawn(move || {
            let (syncer, stop) = (Arc::clone(&syncer), stopping.clone());
            async move { syncer.lock().await.run(stop).await }
        });
        let name = Arc::clone(&target.name);
        Running { name, is_moving: false, target, applied, handle, published, stop }
    }

    /// Starts a supervised task.
    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, run: impl FnMut() -> F + Send + 'static) {
        let (metrics, crashed) = (Arc::clone(&self.metrics), self.crashed.clone().drop_guard());
        self.tasks.spawn(async move {
            supervise(BackgroundTask::Sync, &metrics, run).await;
            drop(crashed.disarm());
        });
    }

    /// Lists the folders at once and then at every interval.
    async fn keep_listing(&self) {
        let mut failures = 0_u32;
        loop {
            self.list().await;
            let (interval, failure, incomplete) = {
                let state = self.state();
                (
                    state.settings.sync_interval,
                    state.folders.failure().map(|error| error.retry_after),
                    state.folders.incomplete(),
                )
            };
            let random = backoff::random();
            let delay = match failure {
                None => {
                    failures = 0;
                    after_success(interval, random)
                }
                Some(retry_after) => {
                    failures = failures.saturating_add(1);
                    let delay = backoff::after_failure(failures, retry_after, random);
                    match incomplete {
                        Some(_) => delay.min(without_keys(random)),
                        None => delay.max(with_keys(interval, random)),
                    }
                }
            };
            tokio::time::sleep(delay).await;
        }
    }

    /// Names keyrings as in the settings, once their new places were read.
    async fn keep_names(&self) {
        let mut ended = self.watch();
        while ended.changed().await.is_ok() {
            let mut state = self.state();
            let has_arrived = |running: &Running| running.is_moving && !running.has_other_keys(&state.next);
            if state.running.iter().any(has_arrived) {
                let client = state.client.clone();
                self.reconcile(&mut state, &client);
            }
            drop(state);
        }
    }

    /// Lists the folders, at most once a second, and serves what they hold. Callers share a listing that began after they
    /// asked.
    async fn list(&self) {
        if self.state().folders.is_empty() {
            return;
        }
        let asked = Instant::now();
        let mut last = self.listing.lock().await;
        if last.is_some_and(|begun| begun > asked) {
            return;
        }
        if let Some(begun) = *last {
            tokio::time::sleep(REQUEST_INTERVAL.saturating_sub(begun.elapsed())).await;
        }
        *last = Some(Instant::now());
        let (client, known) = {
            let state = self.state();
            (state.client.clone(), state.folders.known())
        };
        let listings = known.into_iter().map(|(folder, names)| {
            let client = &client;
            async move { folders::list(client, &self.turns, folder, &names).await }
        });
        let listed = join_all(listings).await;
        let mut state = self.state();
        state.folders.update(listed);
        let client = state.client.clone();
        self.reconcile(&mut state, &client);
        drop(state);
        drop(last);
    }
}

/// Takes the sync that fits, if there is one.
fn take(before: &mut [Option<Running>], fits: impl Fn(&Running) -> bool) -> Option<Running> {
    before.iter_mut().find(|one| one.as_ref().is_some_and(&fits))?.take()
}
