//! The wall clock, and random numbers for schedules: what a simulation sets. Keys and nonces do not come from here.
//!
//! Times to wait are of tokio's clock, which a simulation sets, too.

#[cfg(not(any(test, fuzzing)))]
use std::time::SystemTime;

/// The present by the wall clock.
#[cfg(not(any(test, fuzzing)))]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
}

/// A number in 0..1. Without a source of randomness there is no jitter.
#[cfg(not(any(test, fuzzing)))]
pub fn random() -> f64 {
    from_system()
}

fn from_system() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(any(test, fuzzing))]
pub use simulated::random;
#[cfg(any(test, fuzzing))]
pub(crate) use simulated::wall;

#[cfg(any(test, fuzzing))]
pub(crate) mod simulated {
    //! The clock and the numbers of a simulation, which is one thread.

    use std::{cell::RefCell, time::SystemTime};

    use tokio::time::Instant;

    /// A wall clock, and where the random numbers come from.
    pub(crate) struct Clock {
        pub(crate) wall: SystemTime,
        /// When the wall clock shows that.
        pub(crate) at: Instant,
        pub(crate) random: Box<dyn FnMut() -> f64>,
    }

    thread_local! {
        static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
    }

    /// From now on, for this thread; `None` for the system's.
    pub(crate) fn set(clock: Option<Clock>) {
        CLOCK.set(clock);
    }

    pub(crate) fn wall() -> SystemTime {
        CLOCK.with_borrow(|clock| match clock {
            Some(Clock { wall, at, .. }) => *wall + at.elapsed(),
            None => SystemTime::now(),
        })
    }

    pub fn random() -> f64 {
        CLOCK.with_borrow_mut(|clock| match clock {
            Some(Clock { random, .. }) => random(),
            None => super::from_system(),
        })
    }
}
