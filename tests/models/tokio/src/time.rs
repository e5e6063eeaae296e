//! Timers of the models' clock. They fire when a model moves it by [`advance`], and only then.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use models_std::clock;
pub use models_std::clock::Instant;

thread_local! {
    static SLEEPERS: RefCell<Vec<(Instant, Waker)>> = const { RefCell::new(Vec::new()) };
}

/// A new execution of a model begins.
pub fn reset() {
    clock::set(Duration::ZERO);
    SLEEPERS.take();
}

/// Moves the clock, and wakes those whose time has come.
pub fn advance(by: Duration) {
    super::point();
    clock::set(clock::now() + by);
    let now = Instant::now();
    let (due, later) = SLEEPERS.take().into_iter().partition(|(at, _)| *at <= now);
    SLEEPERS.set(later);
    let due: Vec<(Instant, Waker)> = due;
    due.into_iter().for_each(|(_, waker)| waker.wake());
}

pub struct Sleep(Instant);

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 <= Instant::now() {
            return Poll::Ready(());
        }
        SLEEPERS.with_borrow_mut(|sleepers| sleepers.push((self.0, cx.waker().clone())));
        Poll::Pending
    }
}

pub fn sleep(duration: Duration) -> Sleep {
    Sleep(Instant::now().checked_add(duration).unwrap_or(Instant::now() + Duration::from_secs(1 << 30)))
}

pub const fn sleep_until(at: Instant) -> Sleep {
    Sleep(at)
}

#[derive(Debug, PartialEq, Eq)]
pub struct Elapsed;

pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    within(sleep(duration), future).await
}

pub async fn timeout_at<F: Future>(at: Instant, future: F) -> Result<F::Output, Elapsed> {
    within(Sleep(at), future).await
}

async fn within<F: Future>(mut sleep: Sleep, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed)),
    })
    .await
}
