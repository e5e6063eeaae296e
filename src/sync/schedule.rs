//! When to sync next: a pure function of the interval and of a random number. Waits after failures are in
//! `vault::backoff`.

use std::time::Duration;

/// The interval, give or take a tenth, so that daemons started together drift apart. `random` is in 0..1.
pub fn after_success(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(random.mul_add(0.2, 0.9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_kept_within_a_tenth() {
        let minute = Duration::from_secs(60);
        assert_eq!(after_success(minute, 0.0), Duration::from_secs(54));
        assert_eq!(after_success(minute, 0.5), minute);
        assert!(after_success(minute, 0.999_999) <= Duration::from_secs(66));
    }
}
