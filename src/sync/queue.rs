//! Who asks the sync for what: the handle that others hold, and the queue that the sync works off.
//!
//! Clients that name unknown keys wait in a line of their own, so that a flood of them keeps no operator waiting. Whoever
//! has gone is not worked for. What is done about a request is in `sync`.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    secret::Secret,
    settings,
    vault::{Place, Session, VaultError},
};

/// Requests of operators that may wait. More than that has nothing to add.
const MAX_ASKED: usize = 256;

/// Clients with unknown keys that may wait; further ones are answered from the keys that are there.
const MAX_LOOKING: usize = 256;

/// Secrets that are to be read in the keyring's session. Further ones wait to get into this line.
const MAX_READING: usize = 64;

/// Tells whoever asked how it went; dropped, that nothing was done.
pub type Done = oneshot::Sender<Result<(), String>>;

/// Hands over what was read.
pub type Read = oneshot::Sender<Result<Secret<String>, VaultError>>;

/// Asks the sync to run; cheap to clone.
#[derive(Clone, Debug)]
pub struct SyncHandle {
    asked: mpsc::Sender<Request>,
    looking: mpsc::Sender<Done>,
    reading: mpsc::Sender<(Place, Read)>,
    /// Whether a sync has ended, well or not; it is told again at each change.
    ended: watch::Receiver<bool>,
}

#[derive(Debug)]
pub enum Request {
    Sync(Done),
    /// With a token for this one sync.
    SyncWith(Secret<String>, Done),
    /// A ciphertext names a key that is not held.
    Look(Done),
    /// Another secret is wanted, by the right of the keyring's session.
    Read(Place, Read),
    /// The settings have changed.
    Change(Box<(Session, settings::Keyring)>, Done),
}

/// What waits to be done.
#[derive(Debug)]
pub struct Queue {
    asked: mpsc::Receiver<Request>,
    looking: mpsc::Receiver<Done>,
    reading: mpsc::Receiver<(Place, Read)>,
    /// Taken from the line and not worked off yet.
    put_off: VecDeque<Request>,
    ended: watch::Sender<bool>,
}

pub fn new() -> (SyncHandle, Queue) {
    let (asked, asked_end) = mpsc::channel(MAX_ASKED);
    let (looking, looking_end) = mpsc::channel(MAX_LOOKING);
    let (reading, reading_end) = mpsc::channel(MAX_READING);
    let (ended, told) = watch::channel(false);
    let queue = Queue {
        asked: asked_end,
        looking: looking_end,
        reading: reading_end,
        put_off: VecDeque::new(),
        ended,
    };
    (SyncHandle { asked, looking, reading, ended: told }, queue)
}

impl SyncHandle {
    /// Syncs now, and says how it went.
    ///
    /// # Errors
    /// The reason, for people.
    pub async fn sync(&self, token: Option<Secret<String>>) -> Result<(), String> {
        let (done, outcome) = oneshot::channel();
        let request = match token {
            None => Request::Sync(done),
            Some(token) => Request::SyncWith(token, done),
        };
        self.asked.try_send(request).map_err(|_| "too many syncs are waiting already".to_owned())?;
        outcome.await.unwrap_or_else(|_| Err("the daemon is stopping".to_owned()))
    }

    /// Waits until something was published that this handle has not waited for yet, or for ever.
    pub async fn changed(&mut self) {
        if self.ended.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the first sync has ended, well or not.
    pub async fn first_outcome(&self) {
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Goes on with other settings: syncs with them at once, and ends the session before them.
    pub async fn change(&self, session: Session, settings: settings::Keyring) {
        let (done, outcome) = oneshot::channel();
        if self.asked.send(Request::Change(Box::new((session, settings)), done)).await.is_ok() {
            let _ = outcome.await;
        }
    }

    /// Reads a secret in the keyring's session; `None` when the daemon is stopping.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn read(&self, place: Place) -> Option<Result<Secret<String>, VaultError>> {
        let (done, outcome) = oneshot::channel();
        self.reading.send((place, done)).await.ok()?;
        outcome.await.ok()
    }

    /// Looks for new keys, unless that was done a moment ago. The caller bounds how long it waits.
    pub async fn look_for_new_keys(&self) {
        let (done, outcome) = oneshot::channel();
        if self.looking.try_send(done).is_ok() {
            let _ = outcome.await;
        }
    }
}

impl Queue {
    /// Tells whoever waits that something was published.
    pub fn tell_of_change(&self) {
        self.ended.send_replace(true);
    }

    /// The next request whose asker still waits; `None` when nobody can ask any more.
    pub async fn next(&mut self) -> Option<Request> {
        loop {
            let request = match self.put_off.pop_front() {
                Some(request) => request,
                None => tokio::select! {
                    biased;
                    request = self.asked.recv() => request?,
                    Some(done) = self.looking.recv() => Request::Look(done),
                    Some((place, done)) = self.reading.recv() => Request::Read(place, done),
                },
            };
            if !request.is_abandoned() {
                return Some(request);
            }
        }
    }

    /// That the server cannot be reached holds for all who wait to read: each in turn would wait as long to hear it.
    pub fn refuse_readers(&mut self, error: &VaultError) {
        while let Some(same) = error.for_others() {
            match self.reading.try_recv() {
                Ok((_, done)) => drop(done.send(Err(same))),
                Err(_) => return,
            }
        }
    }

    /// All others whom one sync answers, since they asked before it began.
    pub fn take_alike(&mut self) -> Vec<Done> {
        let mut alike = Vec::new();
        while let Ok(request) = self.asked.try_recv() {
            match request {
                Request::Sync(done) | Request::Look(done) => alike.push(done),
                other => self.put_off.push_back(other),
            }
        }
        while let Ok(done) = self.looking.try_recv() {
            alike.push(done);
        }
        alike
    }
}

impl Request {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Sync(done) | Self::SyncWith(_, done) | Self::Look(done) => done.is_closed(),
            Self::Read(_, done) => done.is_closed(),
            Self::Change(..) => false,
        }
    }
}
