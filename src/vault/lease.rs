//! A token and the time it has left; when to renew it and when to log in anew.
//!
//! Pure: the present is a parameter. The clock is the monotonic one, so a wall clock that jumps changes nothing; a
//! machine that slept finds out by a 403.

use std::time::{Duration, Instant};

use crate::secret::Secret;

/// Between two steps there is at least this much, however short a lease is: 120 requests a minute is the most that a
/// lease of no length can cause.
const LEAST_REST: Duration = Duration::from_millis(500);

/// What is granted beyond this is as good as this, and can be added to any time.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// A token with its lease.
#[derive(Debug)]
pub struct Lease {
    pub token: Secret<String>,
    /// We logged in for it, so it is ours to revoke.
    pub ours: bool,
    since: Instant,
    /// Zero stands for a token that does not expire.
    ttl: Duration,
    /// What was granted at login: renewals that come near the token's longest life grant less and less.
    full: Duration,
    renewable: bool,
    /// Nothing can be done about its end.
    last: bool,
    /// In 0..1: how much sooner than it must be the next step is taken.
    haste: f64,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Rest,
    Renew,
    LogIn,
}

impl Lease {
    pub fn new(token: Secret<String>, ours: bool, ttl: Duration, renewable: bool, now: Instant) -> Self {
        let ttl = ttl.min(LONGEST);
        Self { token, ours, since: now, ttl, full: ttl, renewable, last: false, haste: 0.0 }
    }

    /// Takes its steps somewhat sooner, so that many who logged in at once do not all renew at once. `random` is in 0..1.
    #[must_use]
    pub fn with_haste(mut self, random: f64) -> Self {
        self.haste = random;
        self
    }

    /// Takes in what a renewal granted.
    pub fn renewed(&mut self, ttl: Duration, renewable: bool, now: Instant) {
        (self.since, self.ttl, self.renewable) = (now, ttl.min(LONGEST), renewable);
    }

    /// Takes in that a renewal was refused.
    pub fn not_renewable(&mut self) {
        self.renewable = false;
    }

    /// Takes in that there is nothing to put in its place: it serves until it ends.
    pub fn last(&mut self) {
        self.last = true;
    }

    /// What is left of it at `now`; `None` for a token that does not expire.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        if self.ttl.is_zero() {
            return None;
        }
        Some(self.ttl.saturating_sub(now.saturating_duration_since(self.since)))
    }

    /// The next step and when it is due: renewal between half and two thirds of what was granted last; a new login when
    /// between a fifth and a tenth of a whole lease is left, which is sooner for one that cannot be renewed any further.
    /// `None`: never.
    pub fn next(&self) -> Option<(Instant, Step)> {
        let login = self.login_due()?;
        let used = (self.ttl / 3 * 2).saturating_sub((self.ttl / 6).mul_f64(self.haste));
        let renewal = self.since + used.max(LEAST_REST);
        Some(if self.renewable && renewal < login { (renewal, Step::Renew) } else { (login, Step::LogIn) })
    }

    /// When so little of a whole lease is left that a login cannot wait.
    pub fn login_due(&self) -> Option<Instant> {
        if self.ttl.is_zero() || self.last {
            return None;
        }
        let left = self.full / 10 + (self.full / 10).mul_f64(self.haste);
        Some(self.since + self.ttl.saturating_sub(left).max(LEAST_REST))
    }

    /// The step that is due at `now`.
    pub fn step(&self, now: Instant) -> Step {
        match (self.login_due(), self.next()) {
            (Some(login), _) if login <= now => Step::LogIn,
            (_, Some((at, step))) if at <= now => step,
            _ => Step::Rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(seconds: u64, renewable: bool, now: Instant) -> Lease {
        Lease::new(Secret::new(String::new()), true, Duration::from_secs(seconds), renewable, now)
    }

    /// The next step of a fresh lease, and after how many milliseconds.
    fn fresh(seconds: u64, renewable: bool) -> Option<(u128, Step)> {
        let now = Instant::now();
        lease(seconds, renewable, now).next().map(|(at, step)| ((at - now).as_millis(), step))
    }

    #[test]
    fn renewal_is_at_two_thirds_and_login_at_nine_tenths() {
        assert_eq!(fresh(30, true), Some((20_000, Step::Renew)));
        assert_eq!(fresh(30, false), Some((27_000, Step::LogIn)));
    }

    #[test]
    fn who_is_in_haste_takes_each_step_sooner() {
        let now = Instant::now();
        for (renewable, expected) in [(true, 30..40), (false, 48..54)] {
            let due =
                |random| (lease(60, renewable, now).with_haste(random).next().unwrap().0 - now).as_secs();
            assert_eq!((due(0.0), due(0.999)), (expected.end, expected.start));
        }
    }

    #[test]
    fn the_edges_neither_spin_nor_overflow() {
        assert_eq!((fresh(0, true), fresh(0, false)), (None, None));
        assert_eq!((fresh(1, true), fresh(1, false)), (Some((666, Step::Renew)), Some((900, Step::LogIn))));
        assert_eq!((fresh(2, true), fresh(2, false)), (Some((1333, Step::Renew)), Some((1800, Step::LogIn))));
        let longest = u64::from(u32::MAX);
        assert_eq!(fresh(longest, true), Some((u128::from(longest) * 1000 / 3 * 2, Step::Renew)));
        assert_eq!(fresh(u64::MAX, true), fresh(longest, true));
        let now = Instant::now();
        let tiny = Lease::new(Secret::new(String::new()), true, Duration::from_nanos(1), true, now);
        assert!(tiny.next().unwrap().0 >= now + LEAST_REST);
    }

    #[test]
    fn a_token_near_its_longest_life_is_replaced_not_renewed_ever_more_often() {
        let now = Instant::now();
        let mut lease = lease(100, true, now);
        let mut renewals = 0;
        let (mut at, mut left) = (now, 250);
        // Each renewal grants 100 s, or what is left of 250.
        while let Some((due, Step::Renew)) = lease.next() {
            left = 250 - (due - now).as_secs();
            at = due;
            lease.renewed(Duration::from_secs(left.min(100)), true, at);
            renewals += 1;
        }
        assert!(renewals < 8, "{renewals}");
        let (due, step) = lease.next().unwrap();
        assert_eq!(step, Step::LogIn);
        assert!(due < at + Duration::from_secs(left), "before it ends");
    }

    #[test]
    fn a_clock_that_jumps_ahead_means_a_login_and_one_that_jumps_back_means_nothing() {
        let now = Instant::now() + Duration::from_secs(10_000);
        let lease = lease(30, true, now);
        assert_eq!(lease.step(now), Step::Rest);
        assert_eq!(lease.step(now + Duration::from_secs(20)), Step::Renew);
        assert_eq!(lease.step(now + Duration::from_secs(28)), Step::LogIn);
        assert_eq!(lease.step(now + Duration::from_secs(1_000_000)), Step::LogIn);
        assert_eq!(lease.step(now.checked_sub(Duration::from_secs(9_000)).unwrap()), Step::Rest);
        assert_eq!(lease.remaining(now + Duration::from_secs(1_000_000)), Some(Duration::ZERO));
    }

    #[test]
    fn a_refused_renewal_leads_to_a_login() {
        let now = Instant::now();
        let mut lease = lease(30, true, now);
        lease.not_renewable();
        assert_eq!(lease.next(), Some((now + Duration::from_secs(27), Step::LogIn)));
    }
}
