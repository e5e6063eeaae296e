//! Connection permits, shared between the uids that connect.
//!
//! A uid below its fair share always gets a permit: the oldest connection of the uid with the most is closed for it, an
//! idle one if there is one. Other connections wait. `accept` asks for permits, `connection` marks requests.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Fair shares are those of at most this many uids.
const MOST_SHARES: usize = 8;

/// A uid above its fair share leaves 1/16 of the limit to the others.
const RESERVE: usize = 16;

/// How many connections may wait for a permit: of uids above their share, and of one uid.
const MOST_WAITING: usize = 32;
const MOST_WAITING_OF_ONE: usize = 16;

/// The permits of one listener.
#[derive(Default)]
pub(super) struct Permits {
    state: Mutex<State>,
    released: Notify,
}

#[derive(Default)]
struct State {
    open: usize,
    numbers: u64,
    users: HashMap<u32, User>,
}

#[derive(Default)]
struct User {
    /// By age.
    open: BTreeMap<u64, Arc<Held>>,
    waiting: usize,
}

/// What a permit shares with its connection.
#[derive(Default)]
struct Held {
    activity: Activity,
    closed: CancellationToken,
}

/// How many requests of a connection began and ended.
#[derive(Debug, Default)]
pub(super) struct Activity {
    pub(super) begun: AtomicU64,
    pub(super) ended: AtomicU64,
}

impl Activity {
    fn is_idle(&self) -> bool {
        self.begun.load(Ordering::Relaxed) == self.ended.load(Ordering::Relaxed)
    }
}

/// One open connection. It is given back on drop.
pub(super) struct Permit {
    permits: Arc<Permits>,
    uid: u32,
    number: u64,
    held: Arc<Held>,
}

/// A connection that waits for its permit.
pub(super) struct Waiting {
    permits: Arc<Permits>,
    uid: u32,
}

impl Permits {
    /// A permit for a connection of `uid`, while at most `limit` are open; or a place in the queue, or neither.
    pub(super) fn enter(self: &Arc<Self>, uid: u32, limit: usize) -> Result<Permit, Option<Waiting>> {
        let mut state = self.lock();
        if let Some(permit) = self.take(&mut state, uid, limit) {
            return Ok(permit);
        }
        state.make_room(uid, limit);
        let is_full = !state.is_below_share(uid, limit)
            && state.users.values().map(|user| user.waiting).sum::<usize>() >= MOST_WAITING;
        let mine = state.users.get(&uid).map_or(0, |user| user.waiting);
        if is_full || mine >= MOST_WAITING_OF_ONE {
            return Err(None);
        }
        state.users.entry(uid).or_default().waiting += 1;
        drop(state);
        Err(Some(Waiting { permits: Arc::clone(self), uid }))
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.lock().open
    }

    /// More may be open than before.
    pub(super) fn limit_changed(&self) {
        self.released.notify_waiters();
    }

    fn take(self: &Arc<Self>, state: &mut State, uid: u32, limit: usize) -> Option<Permit> {
        let below = state.is_below_share(uid, limit);
        let most = if below { limit } else { limit - limit / RESERVE };
        if state.open >= most {
            return None;
        }
        state.open += 1;
        state.numbers += 1;
        let (number, held) = (state.numbers, Arc::new(Held::default()));
        state.users.entry(uid).or_default().open.insert(number, Arc::clone(&held));
        Some(Permit { permits: Arc::clone(self), uid, number, held })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_below_share(&self, uid: u32, limit: usize) -> bool {
        let others = self.users.keys().filter(|other| **other != uid).count();
        let mine = self.users.get(&uid).map_or(0, |user| user.open.len());
        mine < ((limit - limit / RESERVE) / (others + 1).min(MOST_SHARES)).max(1)
    }

    /// Closes a connection of the uid with the most, if `uid` is below its share and that one above.
    fn make_room(&self, uid: u32, limit: usize) {
        let mine = self.users.get(&uid).map_or(0, |user| user.open.len());
        let Some(most) = self.users.values().max_by_key(|user| user.open.len()) else { return };
        if !self.is_below_share(uid, limit) || most.open.len() <= mine + 1 {
            return;
        }
        let open = || most.open.values().filter(|held| !held.closed.is_cancelled());
        let idle = open().find(|held| held.activity.is_idle());
        if let Some(held) = idle.or_else(|| open().next()) {
            held.closed.cancel();
        }
    }

    fn forget_if_unused(&mut self, uid: u32) {
        if self.users.get(&uid).is_some_and(|user| user.open.is_empty() && user.waiting == 0) {
            self.users.remove(&uid);
        }
    }
}

impl Waiting {
    /// Waits for the permit. `limit` is asked each time, since a reload can change it.
    pub(super) async fn permit(self, limit: impl Fn() -> usize) -> Permit {
        loop {
            let released = self.permits.released.notified();
            let permit = {
                let mut state = self.permits.lock();
                self.permits.take(&mut state, self.uid, limit())
            };
            match permit {
                Some(permit) => return permit,
                None => released.await,
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.permits.lock();
        if let Some(user) = state.users.get_mut(&self.uid) {
            user.waiting = user.waiting.saturating_sub(1);
        }
        state.forget_if_unused(self.uid);
    }
}

impl Permit {
    /// The connection counts its requests here.
    pub(super) fn activity(&self) -> &Activity {
        &self.held.activity
    }

    /// Cancelled when the connection must end for another uid's.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.held.closed
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.permits.lock();
        state.open -= 1;
        if let Some(user) = state.users.get_mut(&self.uid) {
            user.open.remove(&self.number);
        }
        state.forget_if_unused(self.uid);
        drop(state);
        self.permits.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(permits: &Arc<Permits>, uid: u32, limit: usize) -> Vec<Permit> {
        std::iter::from_fn(|| permits.enter(uid, limit).ok()).collect()
    }

    #[tokio::test]
    async fn a_lone_uid_gets_all_but_the_reserve_and_the_next_one_gets_its_share() {
        let permits = Arc::new(Permits::default());
        let mut crowd = fill(&permits, 1, 32);
        assert_eq!((crowd.len(), permits.open()), (30, 30));
        // The reserve first, then connections that the first uid has above its share.
        let mut others = fill(&permits, 2, 32);
        assert_eq!(others.len(), 2);
        crowd.retain(|permit| !permit.closed().is_cancelled());
        assert_eq!(crowd.len(), 29, "the attempt that found no permit closed one");
        while others.len() < 15 {
            let permit = match permits.enter(2, 32) {
                Ok(permit) => permit,
                Err(Some(waiting)) => {
                    let before = crowd.len();
                    crowd.retain(|permit| !permit.closed().is_cancelled());
                    assert!(crowd.len() < before, "a connection was closed for it");
                    waiting.permit(|| 32).await
                }
                Err(None) => panic!("no place in the queue"),
            };
            others.push(permit);
        }
        assert!(matches!(permits.enter(2, 32), Err(Some(_))), "its share is used up");
        assert!(crowd.iter().all(|permit| !permit.closed().is_cancelled()));
    }

    #[tokio::test]
    async fn idle_connections_are_closed_first_and_the_queue_is_bounded() {
        let permits = Arc::new(Permits::default());
        let crowd = fill(&permits, 1, 4);
        for busy in &crowd[..3] {
            busy.activity().begun.fetch_add(1, Ordering::Relaxed);
        }
        let Err(Some(first)) = permits.enter(2, 4) else { panic!("there was room") };
        let closed: Vec<_> = crowd.iter().map(|permit| permit.closed().is_cancelled()).collect();
        assert_eq!(closed, [false, false, false, true]);
        drop(crowd);
        drop(first.permit(|| 4).await);
        assert_eq!(permits.open(), 0);
        let _full = fill(&permits, 1, 4);
        let mut queue = Vec::new();
        while let Err(Some(waiting)) = permits.enter(1, 4) {
            queue.push(waiting);
        }
        assert_eq!(queue.len(), MOST_WAITING_OF_ONE);
    }
}
