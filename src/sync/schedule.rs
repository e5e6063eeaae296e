//! When to sync next: a pure function of the interval and of a random number. Waits after failures are in
//! `vault::backoff`.

use std::time::Duration;

/// Some time within the interval: for what may have happened to many daemons at once, such as a start, other settings, or
/// Vault's return. From then on they ask at different times. `random` is in 0..1.
pub fn out_of_step(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(1.0 - random)
}

/// The interval, give or take a tenth, so that no two daemons stay together. `random` is in 0..1.
pub fn after_success(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(random.mul_add(0.2, 0.9))
}

/// The longest that daemons with keys wait at first once Vault fails them: as long as they wait at last.
const UNHURRIED: Duration = Duration::from_secs(300);

/// At least so long after a failure where there are keys: half an interval, less up to half of that. Who has keys is in no
/// hurry, and of a fleet that hurries, most are back in the first second in which Vault is. `random` is in 0..1.
pub fn without_hurry(interval: Duration, random: f64) -> Duration {
    (interval / 2).min(UNHURRIED).mul_f64(random.mul_add(-0.5, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_that_were_in_step_spread_over_the_interval() {
        let minute = Duration::from_secs(60);
        assert_eq!(out_of_step(minute, 0.0), minute);
        assert_eq!(out_of_step(minute, 0.5), minute / 2);
        assert!(out_of_step(minute, 0.999_999) > Duration::ZERO);
    }

    #[test]
    fn who_has_keys_waits_a_quarter_of_the_interval_at_least_and_five_minutes_at_most() {
        let minute = Duration::from_secs(60);
        assert_eq!((without_hurry(minute, 0.0), without_hurry(minute, 1.0)), (minute / 2, minute / 4));
        assert_eq!(without_hurry(60 * minute, 0.0), UNHURRIED);
    }

    #[test]
    fn the_interval_is_kept_within_a_tenth() {
        let minute = Duration::from_secs(60);
        assert_eq!(after_success(minute, 0.0), Duration::from_secs(54));
        assert_eq!(after_success(minute, 0.5), minute);
        assert!(after_success(minute, 0.999_999) <= Duration::from_secs(66));
    }
}
