//! The byte budget: how many bytes all requests hold together, the limit on them, and each uid's share.
//!
//! A request reserves memory before it is allocated: its body's buffer, what handling it takes, then its response until the
//! client has read it. A uid below its fair share always gets its bytes: requests of the uids above theirs are revoked for
//! it. Small requests never wait. A refused request gives its bytes back at once, so that others can finish. `shares` decides
//! who gets them. The file is longer than most: one guard, from the first byte of a body to the last one of its response.

mod shares;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::body::Bytes;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use shares::{Claim, Grant, Shares, most};

/// Requests that hold no more than this never wait, and are not refused. The limit on connections bounds them.
pub(super) const SMALL: usize = 16 << 10;

/// How long a whole body waits for the memory to handle it.
const WORK_PATIENCE: Duration = Duration::from_secs(2);

/// How long a uid below its share waits for the bytes of revoked requests: their handlers may be computing.
const SHARE_PATIENCE: Duration = Duration::from_secs(5);

/// How often a waiting request looks whether further ones have to be revoked.
const REVOKE_INTERVAL: Duration = Duration::from_millis(50);

/// The bytes that all requests hold.
#[derive(Default)]
pub(super) struct ByteBudget {
    small: AtomicUsize,
    shares: Mutex<Shares>,
    released: Notify,
}

/// The bytes that one request holds. They are given back on drop.
pub(super) struct ByteBudgetGuard {
    budget: Arc<ByteBudget>,
    limit: usize,
    uid: u32,
    /// Once it is no longer small.
    number: Option<u64>,
    held: usize,
    received: usize,
    /// Its body is whole, and it has the memory to handle it.
    is_handled: bool,
    /// Of requests that are not small.
    revoked: Option<CancellationToken>,
}

/// Why bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Others hold them.
    Busy,
    /// The request holds more than the limit by itself.
    TooLarge,
}

impl ByteBudget {
    pub(super) fn used(&self) -> usize {
        self.lock().used + self.small.load(Ordering::Relaxed)
    }

    /// A guard of `uid` that holds nothing yet, for as long as all requests together hold at most `limit`.
    pub(super) fn guard(self: &Arc<Self>, uid: u32, limit: usize) -> ByteBudgetGuard {
        ByteBudgetGuard {
            budget: Arc::clone(self),
            limit,
            uid,
            number: None,
            held: 0,
            received: 0,
            is_handled: false,
            revoked: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ByteBudgetGuard {
    /// Whether that many bytes would fit now. An announced length reserves nothing.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        if self.held + bytes <= SMALL {
            return true;
        }
        self.budget.lock().has_room(self.uid, self.limit, bytes)
    }

    /// Reserves bytes for a body. On an error the guard holds nothing any more.
    pub(super) async fn reserve(&mut self, bytes: usize) -> Result<(), Refused> {
        self.reserve_for(bytes, Duration::ZERO).await
    }

    /// Reserves what handling the body takes, once, and waits for it: requests that are handled give back theirs. Where none
    /// is, only one body waits, and the others make room. On an error the guard holds nothing any more.
    pub(super) async fn reserve_work(&mut self, bytes: usize) -> Result<(), Refused> {
        self.reserve_for(bytes, WORK_PATIENCE).await?;
        if self.number.is_some() {
            self.is_handled = true;
            self.budget.lock().handled += 1;
        }
        Ok(())
    }

    async fn reserve_for(&mut self, bytes: usize, patience: Duration) -> Result<(), Refused> {
        if self.number.is_none() && self.held + bytes <= SMALL {
            self.budget.small.fetch_add(bytes, Ordering::Relaxed);
            self.held += bytes;
            return Ok(());
        }
        if self.held + bytes > most(self.limit) {
            self.release_all();
            return Err(Refused::TooLarge);
        }
        let number = self.register();
        if !self.is_granted(number, bytes, patience).await {
            self.release_all();
            return Err(Refused::Busy);
        }
        self.held += bytes;
        Ok(())
    }

    /// Gives back bytes that are no longer allocated.
    pub(super) fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        if bytes == 0 {
            return;
        }
        self.held -= bytes;
        match self.number {
            None => drop(self.budget.small.fetch_sub(bytes, Ordering::Relaxed)),
            Some(number) => {
                self.budget.lock().remove(self.uid, number, bytes);
                self.budget.released.notify_waiters();
            }
        }
    }

    /// Cancelled when the request must end for another uid's. A small one never must.
    pub(super) fn revoked(&mut self) -> CancellationToken {
        self.revoked.get_or_insert_default().clone()
    }

    /// How many bytes of the body arrived.
    pub(super) const fn received(&self) -> usize {
        self.received
    }

    pub(super) const fn count_received(&mut self, bytes: usize) {
        self.received += bytes;
    }

    /// Holds the response instead of the body, until it was sent. An existing response is never refused. When its bytes are
    /// needed for another uid, `connection` is cancelled. A small one is not held: it fits into what a connection buffers.
    pub(super) fn attach(&mut self, response: Bytes, connection: &CancellationToken) -> Bytes {
        if response.len() <= SMALL {
            self.release_all();
            return response;
        }
        let mut guard = self.budget.guard(self.uid, self.limit);
        guard.held = response.len();
        let mut shares = self.budget.lock();
        guard.number = Some(shares.register(self.uid, guard.held, connection));
        // In one step: what the response needs of the body's bytes must not be granted to others meanwhile.
        if let Some(number) = self.number {
            shares.remove(self.uid, number, std::mem::take(&mut self.held));
        }
        drop(shares);
        self.release_all();
        self.budget.released.notify_waiters();
        Bytes::from_owner(HeldBytes { bytes: response, _guard: guard })
    }

    /// Moves a small request's bytes to its uid's account.
    fn register(&mut self) -> u64 {
        if let Some(number) = self.number {
            return number;
        }
        self.budget.small.fetch_sub(self.held, Ordering::Relaxed);
        let revoked = self.revoked();
        let number = self.budget.lock().register(self.uid, self.held, &revoked);
        self.number = Some(number);
        number
    }

    async fn is_granted(&self, number: u64, bytes: usize, patience: Duration) -> bool {
        let claim = Claim { uid: self.uid, number, bytes, limit: self.limit };
        let revoked = self.revoked.clone().unwrap_or_default();
        let begun = Instant::now();
        let (mut below_share, mut whole_body) = (None, None);
        loop {
            let mut released = std::pin::pin!(self.budget.released.notified());
            released.as_mut().enable();
            let small = self.budget.small.load(Ordering::Relaxed);
            let grant = self.budget.lock().grant(&claim, small);
            let until = match grant {
                Grant::Granted => return true,
                Grant::Wait => {
                    if below_share.is_none() {
                        below_share = Some(WaitingForBytes::new(self));
                    }
                    begun + SHARE_PATIENCE.max(patience)
                }
                Grant::Refused if patience.is_zero() => return false,
                Grant::Refused => {
                    if !whole_body.get_or_insert_with(|| WaitingBody::new(&self.budget)).may_wait() {
                        return false;
                    }
                    begun + patience
                }
            };
            if Instant::now() >= until {
                return false;
            }
            let look = Instant::now() + REVOKE_INTERVAL;
            tokio::select! {
                () = revoked.cancelled() => return false,
                _ = timeout_at(until.min(look), released) => {}
            }
        }
    }

    fn release_all(&mut self) {
        if std::mem::take(&mut self.is_handled) {
            self.budget.lock().handled -= 1;
        }
        self.release(self.held);
    }
}

impl Drop for ByteBudgetGuard {
    fn drop(&mut self) {
        self.release_all();
        if let Some(number) = self.number {
            self.budget.lock().remove(self.uid, number, 0);
        }
    }
}

/// A request below its uid's share that waits: others get no bytes above theirs meanwhile.
struct WaitingForBytes<'a>(&'a ByteBudgetGuard);

impl<'a> WaitingForBytes<'a> {
    fn new(guard: &'a ByteBudgetGuard) -> Self {
        guard.budget.lock().wait(guard.uid);
        Self(guard)
    }
}

impl Drop for WaitingForBytes<'_> {
    fn drop(&mut self) {
        self.0.budget.lock().waited(self.0.uid);
    }
}

/// A whole body that waits for the memory to handle it.
struct WaitingBody<'a>(&'a ByteBudget);

impl<'a> WaitingBody<'a> {
    fn new(budget: &'a ByteBudget) -> Self {
        budget.lock().waiting_bodies += 1;
        Self(budget)
    }

    /// Whether bytes can become free: a request is handled, or no other body waits.
    fn may_wait(&self) -> bool {
        let shares = self.0.lock();
        shares.handled > 0 || shares.waiting_bodies == 1
    }
}

impl Drop for WaitingBody<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting_bodies -= 1;
    }
}

struct HeldBytes {
    bytes: Bytes,
    _guard: ByteBudgetGuard,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Wake, Waker};

    use super::*;

    const LIMIT: usize = 16 << 20;

    /// Notes how many bytes are held each time that bytes were given back.
    struct Observer {
        budget: Arc<ByteBudget>,
        seen: Mutex<Vec<usize>>,
    }

    impl Wake for Observer {
        fn wake(self: Arc<Self>) {
            self.seen.lock().unwrap().push(self.budget.used());
        }
    }

    #[tokio::test]
    async fn requests_share_the_limit_and_give_back_their_bytes() {
        let budget = Arc::new(ByteBudget::default());
        let (mut one, mut two) = (budget.guard(1, LIMIT), budget.guard(1, LIMIT));
        assert!(one.reserve(10 << 20).await.is_ok());
        assert!(two.reserve(5 << 20).await.is_ok() && !two.has_room_for(1 << 20));
        assert!(two.reserve(1 << 20).await.is_err(), "the reserve is for others");
        assert_eq!(
            (budget.used(), two.held),
            (10 << 20, 0),
            "a refused request gives back its bytes at once"
        );
        assert!(two.reserve(SMALL).await.is_ok(), "small requests are never refused");
        let response = one.attach(Bytes::from(vec![0; 1 << 20]), &CancellationToken::new());
        assert_eq!((budget.used(), response.len()), ((1 << 20) + SMALL, 1 << 20));
        drop((response, two));
        assert_eq!(budget.used(), 0);
        assert!(budget.lock().is_empty());
    }

    #[tokio::test]
    async fn a_uid_below_its_share_gets_its_bytes_from_those_above() {
        let budget = Arc::new(ByteBudget::default());
        let mut hostile: Vec<_> = (0..3).map(|_| budget.guard(1, LIMIT)).collect();
        for guard in &mut hostile {
            guard.reserve(5 << 20).await.unwrap();
        }
        let mut honest = budget.guard(2, LIMIT);
        assert!(honest.has_room_for(7 << 20) && !honest.has_room_for(8 << 20));
        let (taken, hostile) = tokio::join!(honest.reserve(6 << 20), one_revoked(hostile));
        assert!(taken.is_ok() && budget.used() <= LIMIT);
        // Its own share is not taken away for others.
        let mut third = budget.guard(3, LIMIT);
        let (taken, mut hostile) = tokio::join!(third.reserve(2 << 20), one_revoked(hostile));
        assert!(taken.is_ok() && budget.used() <= LIMIT);
        assert!(
            !honest.revoked().is_cancelled()
                && hostile.iter_mut().all(|guard| !guard.revoked().is_cancelled())
        );
    }

    /// Ends the first request that is revoked.
    async fn one_revoked(mut guards: Vec<ByteBudgetGuard>) -> Vec<ByteBudgetGuard> {
        loop {
            match guards.iter_mut().position(|guard| guard.revoked().is_cancelled()) {
                Some(at) => {
                    drop(guards.remove(at));
                    return guards;
                }
                None => tokio::task::yield_now().await,
            }
        }
    }

    #[tokio::test]
    async fn a_request_that_waits_gets_what_others_give_back() {
        let budget = Arc::new(ByteBudget::default());
        let (mut one, mut two) = (budget.guard(1, LIMIT), budget.guard(1, LIMIT));
        one.reserve(14 << 20).await.unwrap();
        let waiting = two.reserve_work(8 << 20);
        let giving = async { one.release(10 << 20) };
        assert!(tokio::join!(waiting, giving).0.is_ok());
        assert_eq!(budget.used(), 12 << 20);
    }

    #[tokio::test]
    async fn bytes_of_a_body_that_its_response_needs_are_never_free() {
        let budget = Arc::new(ByteBudget::default());
        let (mut one, mut two) = (budget.guard(1, LIMIT), budget.guard(1, LIMIT));
        one.reserve(10 << 20).await.unwrap();
        let observer = Arc::new(Observer { budget: Arc::clone(&budget), seen: Mutex::default() });
        let waker = Waker::from(Arc::clone(&observer));
        let mut waiting = std::pin::pin!(two.reserve_work(8 << 20));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let response = one.attach(Bytes::from(vec![0; 9 << 20]), &CancellationToken::new());
        let seen = std::mem::take(&mut *observer.seen.lock().unwrap());
        assert!(!seen.is_empty() && seen.iter().all(|used| *used >= response.len()), "{seen:?}");
    }

    #[tokio::test]
    async fn of_bodies_that_block_each_other_all_but_one_make_room() {
        let budget = Arc::new(ByteBudget::default());
        let mut bodies: Vec<_> = (0..3).map(|_| budget.guard(1, LIMIT)).collect();
        for body in &mut bodies {
            body.reserve(4 << 20).await.unwrap();
        }
        let [one, two, three] = bodies.as_mut_slice() else { unreachable!() };
        let (one, two, three) =
            tokio::join!(one.reserve_work(6 << 20), two.reserve_work(6 << 20), three.reserve_work(1 << 20));
        assert_eq!((one, two, three), (Ok(()), Err(Refused::Busy), Ok(())));
        drop(bodies);
        let counts = |shares: &Shares| (shares.used, shares.handled, shares.waiting_bodies);
        assert_eq!(counts(&budget.lock()), (0, 0, 0));
    }
}
