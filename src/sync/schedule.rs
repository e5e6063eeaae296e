//! When to sync: waits with jitter, so that a fleet does not sync at once.
//!
//! Pure functions of an interval and a random number; `sync` has the clock.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait of a daemon with keys after Vault's first failure: as long as the longest backoff.
const LONGEST_WITH_KEYS: Duration = Duration::from_secs(300);

/// The longest wait of a daemon without keys, which serves nothing until a sync succeeds.
const WITHOUT_KEYS: Duration = Duration::from_secs(15);

/// Settings bound all times by far less than a clock holds.
pub(super) fn from_now(delay: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(delay).unwrap_or(now)
}

/// Any time within the interval, after an event that many daemons may have had at once: a start, other settings, or Vault's
/// return. From then on they sync at different times. `random` is in 0..1.
pub(super) fn out_of_step(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(1.0 - random)
}

/// The interval with a jitter of a tenth. `random` is in 0..1.
pub(super) fn after_success(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(random.mul_add(0.2, 0.9))
}

/// The least wait after a failure of a daemon that holds keys: half an interval, less up to half of that as jitter. Such a
/// daemon can wait, and a fleet that retries early hits Vault in the first second of its return. `random` is in 0..1.
pub(super) fn with_keys(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(0.5).min(LONGEST_WITH_KEYS).mul_f64(random.mul_add(-0.5, 1.0))
}

/// At most this long after a failure without keys: 15 s, give or take a quarter. `random` is in 0..1.
pub(super) fn without_keys(random: f64) -> Duration {
    WITHOUT_KEYS.mul_f64(random.mul_add(0.5, 0.75))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synchronised_daemons_spread_over_the_interval() {
        let minute = Duration::from_secs(60);
        assert_eq!(out_of_step(minute, 0.0), minute);
        assert_eq!(out_of_step(minute, 0.5), minute / 2);
        assert!(out_of_step(minute, 0.999_999) > Duration::ZERO);
    }

    #[test]
    fn a_daemon_with_keys_waits_a_quarter_of_the_interval_at_least_and_five_minutes_at_most() {
        let minute = Duration::from_secs(60);
        assert_eq!((with_keys(minute, 0.0), with_keys(minute, 1.0)), (minute / 2, minute / 4));
        assert_eq!(with_keys(60 * minute, 0.0), LONGEST_WITH_KEYS);
    }

    #[test]
    fn the_interval_is_kept_within_a_tenth() {
        let minute = Duration::from_secs(60);
        assert_eq!(after_success(minute, 0.0), Duration::from_secs(54));
        assert_eq!(after_success(minute, 0.5), minute);
        assert!(after_success(minute, 0.999_999) <= Duration::from_secs(66));
    }

    #[test]
    fn without_keys_a_daemon_waits_15_s_at_most_give_or_take_a_quarter() {
        assert_eq!(without_keys(0.0), Duration::from_millis(11_250));
        assert!(without_keys(0.999_999) <= Duration::from_millis(18_750));
    }
}
