//! Requests to the sync: the handle that others hold, and the queue that the sync takes them from.
//!
//! Requests for unknown keys have a queue of their own, so that a flood of them delays no operator. Abandoned requests are
//! skipped. How a request is executed is in `sync`.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;

use super::Target;
use crate::{secret::Secret, vault::Client};

/// The most operators' requests that wait. More of them would not change the outcome.
const MAX_SYNCS: usize = 256;

/// The most requests for unknown keys that wait. Further ones are answered from the keys held.
const MAX_UNKNOWN_KEYS: usize = 256;

/// Gets the outcome of a request; dropped if nothing was done.
#[derive(Debug)]
pub(super) struct Done {
    sender: oneshot::Sender<Result<(), String>>,
    /// What it is for, in the log.
    pub(super) cause: Span,
}

impl Done {
    fn new() -> (Self, oneshot::Receiver<Result<(), String>>) {
        let (sender, outcome) = oneshot::channel();
        (Self { sender, cause: Span::current() }, outcome)
    }

    /// The caller may have gone.
    pub(super) fn send(self, outcome: Result<(), String>) {
        let _ = self.sender.send(outcome);
    }
}

/// Asks the sync to run; cheap to clone.
#[derive(Clone, Debug)]
pub struct SyncHandle {
    syncs: mpsc::Sender<Request>,
    unknown_keys: mpsc::Sender<Done>,
    /// Whether a sync has ended, successfully or not. It is sent again at each change.
    ended: watch::Receiver<bool>,
    ends: Ends,
}

#[derive(Debug)]
pub(super) enum Request {
    Sync(Done),
    /// With a token for this one sync.
    SyncWith(Secret<String>, Done),
    /// A ciphertext names a key that is not held.
    UnknownKey(Done),
    /// Other settings, and the session for them.
    Change(Box<(Client, Target)>, Done),
}

#[derive(Debug)]
pub(super) struct Queue {
    syncs: mpsc::Receiver<Request>,
    unknown_keys: mpsc::Receiver<Done>,
    /// Taken from the channel and not executed yet.
    postponed: VecDeque<Request>,
    ends: Ends,
}

/// Who is notified of the end of a sync.
#[derive(Clone, Debug)]
struct Ends {
    of_this: watch::Sender<bool>,
    /// The syncs of all keyrings share it.
    of_any: watch::Sender<()>,
}

impl Ends {
    fn notify(&self) {
        self.of_this.send_replace(true);
        self.of_any.send_replace(());
    }
}

pub(super) fn new(any_ended: watch::Sender<()>) -> (SyncHandle, Queue) {
    let (syncs, next_syncs) = mpsc::channel(MAX_SYNCS);
    let (unknown_keys, next_unknown_keys) = mpsc::channel(MAX_UNKNOWN_KEYS);
    let (of_this, ended) = watch::channel(false);
    let ends = Ends { of_this, of_any: any_ended };
    let queue = Queue {
        syncs: next_syncs,
        unknown_keys: next_unknown_keys,
        postponed: VecDeque::new(),
        ends: ends.clone(),
    };
    (SyncHandle { syncs, unknown_keys, ended, ends }, queue)
}

impl SyncHandle {
    /// Syncs now, with this token if there is one.
    pub async fn sync(&self, token: Option<Secret<String>>) -> Result<(), String> {
        let (done, outcome) = Done::new();
        let request = match token {
            None => Request::Sync(done),
            Some(token) => Request::SyncWith(token, done),
        };
        self.syncs.try_send(request).map_err(|_| "too many syncs are waiting".to_owned())?;
        outcome.await.unwrap_or_else(|_| Err("keyringd is shutting down".to_owned()))
    }

    /// Notifies as at the end of a sync: the sealed copy published keys or took them away.
    pub(super) fn notify(&self) {
        self.ends.notify();
    }

    /// Waits until the first sync has ended, successfully or not.
    pub async fn first_outcome(&self) {
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Uses other settings from the next sync on, which is made at once.
    ///
    /// # Errors
    /// Why that sync failed.
    pub(super) async fn change(&self, client: Client, target: Target) -> Result<(), String> {
        let (done, outcome) = Done::new();
        if self.syncs.send(Request::Change(Box::new((client, target)), done)).await.is_err() {
            return Ok(()); // it has gone
        }
        outcome.await.unwrap_or(Ok(()))
    }

    /// Syncs for an unknown key, unless that was done a moment ago. The caller limits how long it waits.
    ///
    /// # Errors
    /// Why Vault cannot be asked, as a message.
    pub async fn look_for_new_keys(&self) -> Result<(), String> {
        let (done, outcome) = Done::new();
        if self.unknown_keys.try_send(done).is_err() {
            return Ok(());
        }
        outcome.await.unwrap_or(Ok(()))
    }
}

impl Queue {
    /// Wakes everyone that waits for a publication.
    pub(super) fn notify(&self) {
        self.ends.notify();
    }

    /// The next request whose caller still waits; `None` when all handles are gone.
    pub(super) async fn next(&mut self) -> Option<Request> {
        loop {
            let request = match self.postponed.pop_front() {
                Some(request) => request,
                None => tokio::select! {
                    biased;
                    request = self.syncs.recv() => request?,
                    Some(done) = self.unknown_keys.recv() => Request::UnknownKey(done),
                },
            };
            if !request.is_abandoned() {
                return Some(request);
            }
        }
    }

    /// All further requests that one sync answers, since they came before it began.
    pub(super) fn take_alike(&mut self) -> Vec<Done> {
        let mut alike = Vec::new();
        while let Ok(request) = self.syncs.try_recv() {
            match request {
                Request::Sync(done) | Request::UnknownKey(done) => alike.push(done),
                other => self.postponed.push_back(other),
            }
        }
        while let Ok(done) = self.unknown_keys.try_recv() {
            alike.push(done);
        }
        alike
    }
}

impl Request {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Sync(done) | Self::SyncWith(_, done) | Self::UnknownKey(done) => done.sender.is_closed(),
            Self::Change(..) => false,
        }
    }
}
