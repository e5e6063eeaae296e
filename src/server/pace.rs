//! Processor time of h2, by user: a client can send frames that cost far more than they weigh. A user who spent too much
//! is not read from until a while has passed. Calls of KMS take a small part of that.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, Sleep, sleep_until};

/// A user may spend half of one processor on h2.
const SHARE: u32 = 2;

/// And this much at once: an API server that starts decrypts thousands of keys.
const BURST: Duration = Duration::from_secs(1);

/// How many bytes are read of a client until other tasks run.
const TURN: usize = 2 << 10;

/// What each user has spent and not yet earned again.
#[derive(Default)]
pub(super) struct Pace(Mutex<HashMap<u32, Spent>>);

#[derive(Clone, Copy)]
struct Spent {
    debt: Duration,
    at: Instant,
}

impl Spent {
    fn left(self, now: Instant) -> Duration {
        self.debt.saturating_sub(now.saturating_duration_since(self.at) / SHARE)
    }
}

impl Pace {
    fn spend(&self, uid: u32, time: Duration, now: Instant) {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, spent| !spent.left(now).is_zero());
        let debt = users.get(&uid).map_or(Duration::ZERO, |spent| spent.left(now));
        users.insert(uid, Spent { debt: debt.saturating_add(time), at: now });
    }

    /// Until when nothing is read of this user; `None` for now.
    fn pause(&self, uid: u32, now: Instant) -> Option<Instant> {
        let users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = users.get(&uid)?.left(now).saturating_sub(BURST);
        drop(users);
        (!over.is_zero()).then(|| now + over * SHARE)
    }
}

/// The processor time of this thread, which other tasks and programs do not add to.
fn processor_time() -> Duration {
    // The kernel's times are never negative.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Counts the processor time of a future's polls.
pub(super) struct Timed<F> {
    pub(super) future: Pin<Box<F>>,
    pub(super) pace: Arc<Pace>,
    pub(super) uid: u32,
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let before = processor_time();
        let polled = self.future.as_mut().poll(cx);
        self.pace.spend(self.uid, processor_time().saturating_sub(before), Instant::now());
        polled
    }
}

/// The turns in which one connection reads.
pub(super) struct Turns {
    pace: Arc<Pace>,
    uid: u32,
    /// How many bytes were read in this turn.
    read: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Turns {
    pub(super) fn new(pace: &Arc<Pace>, uid: u32) -> Self {
        Self { pace: Arc::clone(pace), uid, read: 0, pause: None }
    }

    /// Whether it may read now.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.read >= TURN {
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.pause.is_none() {
            let until = self.pace.pause(self.uid, Instant::now());
            self.pause = until.map(|until| Box::pin(sleep_until(until)));
        }
        if self.pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_pending()) {
            return Poll::Pending;
        }
        self.pause = None;
        Poll::Ready(())
    }

    pub(super) const fn count(&mut self, bytes: usize) {
        self.read += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_who_spent_too_much_waits_and_others_do_not() {
        let (pace, start) = (Pace::default(), Instant::now());
        pace.spend(1, BURST, start);
        pace.spend(2, BURST / 2, start);
        assert_eq!(pace.pause(1, start), None);
        pace.spend(1, BURST, start);
        assert_eq!(pace.pause(1, start), Some(start + BURST * SHARE));
        assert_eq!(pace.pause(1, start + BURST), Some(start + BURST * SHARE));
        assert_eq!((pace.pause(1, start + BURST * SHARE), pace.pause(2, start)), (None, None));
        pace.spend(3, BURST, start + BURST * SHARE * 2);
        assert_eq!(pace.0.lock().unwrap().len(), 1, "who earned all again is forgotten");
    }
}
