//! Who reads secrets: a session of one's own with a server, driven by a task of its own; or, behind the same trait, the
//! keyring's session, which the sync drives.
//!
//! The task keeps its session alive and ends it when nobody asks any more.

use std::{future::Future, pin::Pin};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::cache::stopping;
use crate::{
    secret::Secret,
    vault::{Place, Session, VaultError, any_secret},
};

/// How many may wait for a session; further ones wait to get into the line.
const LINE: usize = 64;

pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Secret<String>, VaultError>> + Send + 'a>>;

/// Reads the fields of a secret, as JSON text.
pub trait Reads: Send + Sync {
    fn read(&self, place: Place) -> Reading<'_>;
}

type Asked = (Place, oneshot::Sender<Result<Secret<String>, VaultError>>);

/// A session of one's own.
pub struct OwnSession(mpsc::Sender<Asked>);

impl OwnSession {
    /// The way to the session, and what drives it until `stop`, or until nobody can ask any more.
    pub fn new(session: Session, stop: CancellationToken) -> (Self, impl Future<Output = ()> + Send) {
        let (asked, line) = mpsc::channel(LINE);
        (Self(asked), drive(session, line, stop))
    }
}

impl Reads for OwnSession {
    fn read(&self, place: Place) -> Reading<'_> {
        Box::pin(async move {
            let (done, outcome) = oneshot::channel();
            self.0.send((place, done)).await.map_err(|_| stopping())?;
            outcome.await.unwrap_or_else(|_| Err(stopping()))
        })
    }
}

async fn drive(mut session: Session, mut line: mpsc::Receiver<Asked>, stop: CancellationToken) {
    loop {
        let maintenance = session.next_maintenance().map(Instant::from_std);
        let due = async {
            match maintenance {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = due => session.maintain().await,
            asked = line.recv() => match asked {
                Some((_, done)) if done.is_closed() => {}
                Some((place, done)) => {
                    let outcome = any_secret::read(&mut session, &place).await;
                    if let Err(error) = &outcome {
                        refuse_all(&mut line, error);
                    }
                    let _ = done.send(outcome);
                }
                None => break,
            },
        }
    }
    session.end().await;
}

/// That the server cannot be reached holds for whoever waits: each in turn would wait as long to hear it.
fn refuse_all(line: &mut mpsc::Receiver<Asked>, error: &VaultError) {
    while let Some(same) = error.for_others() {
        match line.try_recv() {
            Ok((_, done)) => drop(done.send(Err(same))),
            Err(_) => return,
        }
    }
}
