//! Backoff after failures: a pure function of the failures and of a random number, and a counter of attempts.
//!
//! It is our own because it combines jitter, `Retry-After` and the reason that callers report while they wait.

use std::time::Duration;

use tokio::time::Instant;

use super::error::VaultError;
pub use crate::clock::random;

/// The wait after the first failure. It doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);

/// The longest wait after failures.
const LONGEST: Duration = Duration::from_secs(300);

/// The longest `Retry-After` that is honoured: a server must not be able to switch the sync off.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// 1 s, doubling to 5 min, less up to half as jitter (`random` is in 0..1), which avoids synchronised retries. Not before
/// the server's `Retry-After`, and up to a quarter later, since many clients get the same value.
pub fn after_failure(failures: u32, retry_after: Option<Duration>, random: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let backoff =
        FIRST.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST).mul_f64(random.mul_add(-0.5, 1.0));
    let least = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
    backoff.max(least.mul_f64(random.mul_add(0.25, 1.0)))
}

/// The failures of one operation since its last success, and when the next attempt is allowed.
#[derive(Debug, Default)]
pub(super) struct Backoff(Option<Failed>);

#[derive(Debug)]
struct Failed {
    times: u32,
    not_before: Instant,
    cause: String,
    /// [`VaultError::is_away`]
    is_away: bool,
}

impl Backoff {
    pub(super) fn failed(&mut self, cause: String, retry_after: Option<Duration>) {
        let (times, now) = (self.times(), Instant::now());
        let wait = after_failure(times, retry_after, random());
        let not_before = now.checked_add(wait).unwrap_or(now);
        self.0 = Some(Failed { times, not_before, cause, is_away: false });
    }

    /// A login failed. The wait has a limit, up to a quarter of which is added or subtracted as jitter.
    pub(super) fn login_failed(&mut self, error: &VaultError, longest: Duration) {
        let (times, now, random) = (self.times(), Instant::now(), random());
        let wait = after_failure(times, error.retry_after(), random);
        let wait = wait.min(longest.mul_f64(random.mul_add(0.5, 0.75)));
        let not_before = now.checked_add(wait).unwrap_or(now);
        self.0 = Some(Failed { times, not_before, cause: error.to_string(), is_away: error.is_away() });
    }

    /// The number of the failure that is being counted.
    fn times(&self) -> u32 {
        self.0.as_ref().map_or(0, |failed| failed.times).saturating_add(1)
    }

    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// Why the last attempt failed, unless one has succeeded since.
    pub(super) fn cause(&self) -> Option<String> {
        self.0.as_ref().map(|failed| failed.cause.clone())
    }

    /// When the next attempt is allowed: now if none failed.
    pub(super) fn not_before(&self) -> Instant {
        self.0.as_ref().map_or_else(Instant::now, |failed| failed.not_before)
    }

    /// How long until the next attempt is allowed.
    pub(super) fn cooldown(&self) -> Duration {
        self.not_before().saturating_duration_since(Instant::now())
    }

    /// [`VaultError::LoginWaits`] until the next attempt is allowed.
    pub(super) fn check(&self) -> Result<(), VaultError> {
        match (&self.0, self.cooldown()) {
            (Some(failed), wait) if !wait.is_zero() => {
                let (cause, is_away) = (failed.cause.clone(), failed.is_away);
                Err(VaultError::LoginWaits { wait, cause, is_away })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off_from_1_s_to_5_min() {
        let waits: Vec<_> = (1..=11).map(|failures| after_failure(failures, None, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(after_failure(u32::MAX, None, 0.0), LONGEST);
        assert_eq!(after_failure(1, None, 1.0), Duration::from_millis(500));
    }

    #[test]
    fn retry_after_is_honoured_up_to_a_limit() {
        assert_eq!(after_failure(1, Some(Duration::from_secs(7)), 0.0), Duration::from_secs(7));
        assert_eq!(after_failure(9, Some(Duration::from_secs(7)), 0.0), Duration::from_secs(256));
        assert_eq!(after_failure(1, Some(Duration::from_secs(8)), 1.0), Duration::from_secs(10));
        assert_eq!(after_failure(1, Some(Duration::MAX), 0.0), LONGEST_RETRY_AFTER);
    }

    #[test]
    fn random_numbers_are_in_range() {
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random())));
    }
}
