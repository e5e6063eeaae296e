//! How long to wait after a failure: a pure function of what happened and of a random number, and a count of attempts.

use std::time::{Duration, Instant};

/// The first wait after a failure; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);

/// The longest wait after failures.
const LAST: Duration = Duration::from_secs(300);

/// The longest `Retry-After` that is honoured: a server must not be able to switch the sync off.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// 1 s, doubling to 5 min, less up to half at random (`random` is in 0..1), so that not all who failed at once are back at
/// once; not before the server's `Retry-After`, which many were told, and up to a quarter later.
pub fn after_failure(failures: u32, asked: Option<Duration>, random: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let backoff = (FIRST * 2_u32.pow(doublings)).min(LAST).mul_f64(random.mul_add(-0.5, 1.0));
    backoff.max(asked.unwrap_or_default().min(LONGEST_ASKED).mul_f64(random.mul_add(0.25, 1.0)))
}

/// A number in 0..1. Without randomness the waits are just not spread.
pub fn random() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / (f64::from(u32::MAX) + 1.0))
}

/// Attempts at one thing that failed since it last went well, and when the next may be made.
#[derive(Debug, Default)]
pub struct Attempts(Option<Failed>);

#[derive(Debug)]
struct Failed {
    times: u32,
    not_before: Instant,
    why: String,
}

impl Attempts {
    /// Notes a failure, and how long the server asked to be left alone.
    pub fn failed(&mut self, why: String, asked: Option<Duration>) {
        let times = self.0.as_ref().map_or(0, |failed| failed.times).saturating_add(1);
        let not_before = Instant::now() + after_failure(times, asked, random());
        self.0 = Some(Failed { times, not_before, why });
    }

    /// It went well.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// When the next attempt may be made; now, if nothing failed.
    pub fn not_before(&self) -> Instant {
        self.0.as_ref().map_or_else(Instant::now, |failed| failed.not_before)
    }

    /// How long until then, and why; `None` when it may be made now.
    pub fn waiting(&self) -> Option<(Duration, &str)> {
        let failed = self.0.as_ref()?;
        let wait = failed.not_before.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some((wait, &failed.why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off_from_1_s_to_5_min() {
        let waits: Vec<_> = (1..=11).map(|failures| after_failure(failures, None, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(after_failure(u32::MAX, None, 0.0), LAST);
        assert_eq!(after_failure(1, None, 1.0), Duration::from_millis(500));
    }

    #[test]
    fn retry_after_is_honoured_within_reason() {
        assert_eq!(after_failure(1, Some(Duration::from_secs(7)), 0.0), Duration::from_secs(7));
        assert_eq!(after_failure(9, Some(Duration::from_secs(7)), 0.0), Duration::from_secs(256));
        assert_eq!(after_failure(1, Some(Duration::from_secs(8)), 1.0), Duration::from_secs(10));
        assert_eq!(after_failure(1, Some(Duration::MAX), 0.0), LONGEST_ASKED);
    }

    #[test]
    fn random_numbers_are_in_range() {
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random())));
    }
}
