//! The standard library as the models see it: locks, atomics and threads are Shuttle's, and so its scheduler decides who goes
//! on after each use of them. Time stands still until a model moves it.

pub use ::std::*;

pub mod sync {
    pub use ::std::sync::*;
    pub use shuttle::sync::{Mutex, MutexGuard};

    pub mod atomic {
        pub use ::std::sync::atomic::*;
        // Not AtomicU64, which is for metrics and counts of messages.
        pub use shuttle::sync::atomic::{AtomicBool, AtomicUsize};
    }
}

pub mod time {
    pub use ::std::time::{Duration, SystemTime, SystemTimeError, UNIX_EPOCH};

    pub use crate::clock::Instant;
}

pub mod clock {
    //! The one clock of a model, which is one thread of the system.

    use ::std::{
        cell::Cell,
        ops::{Add, Sub},
        time::Duration,
    };

    thread_local! {
        static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub fn now() -> Duration {
        NOW.get()
    }

    pub fn set(now: Duration) {
        NOW.set(now);
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Instant(Duration);

    impl Instant {
        pub fn now() -> Self {
            Self(now())
        }

        pub fn elapsed(&self) -> Duration {
            now().saturating_sub(self.0)
        }

        pub fn checked_add(&self, more: Duration) -> Option<Self> {
            self.0.checked_add(more).map(Self)
        }

        pub fn checked_sub(&self, less: Duration) -> Option<Self> {
            self.0.checked_sub(less).map(Self)
        }

        pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
            self.0.saturating_sub(earlier.0)
        }

        pub fn duration_since(&self, earlier: Self) -> Duration {
            self.saturating_duration_since(earlier)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Self;

        fn add(self, more: Duration) -> Self {
            Self(self.0 + more)
        }
    }

    impl Sub<Duration> for Instant {
        type Output = Self;

        fn sub(self, less: Duration) -> Self {
            Self(self.0 - less)
        }
    }

    impl Sub for Instant {
        type Output = Duration;

        fn sub(self, earlier: Self) -> Duration {
            self.saturating_duration_since(earlier)
        }
    }
}
