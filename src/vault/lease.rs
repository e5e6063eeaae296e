//! The lease of a token: when to renew it and when to log in again.
//!
//! Pure: the present is a parameter. The clock is the monotonic one, so a wall clock that jumps changes nothing. After a
//! suspend of the machine, a 403 shows that the lease is over.

use std::time::Duration;

use tokio::time::Instant;

/// The least time between two steps, however short a lease is: at most 120 requests a minute for a lease of no length.
const LEAST_INTERVAL: Duration = Duration::from_millis(500);

/// A longer lease counts as this one, which can be added to any time.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) origin: TokenOrigin,
    since: Instant,
    /// Zero for a token that does not expire.
    ttl: Duration,
    /// What the login granted: renewals near the token's longest life grant less and less.
    full: Duration,
    renewal: Renewal,
    /// Nothing can replace the token.
    is_last: bool,
    /// In 0..1: how much sooner than necessary the next step is.
    jitter: f64,
}

/// Where a token comes from, which decides whether it is revoked at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenOrigin {
    Login,
    Configured,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Possible,
    Impossible,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    Renew,
    LogIn,
}

impl Renewal {
    /// From Vault's field `renewable`.
    pub(super) const fn from_renewable(renewable: bool) -> Self {
        if renewable { Self::Possible } else { Self::Impossible }
    }
}

impl Lease {
    pub(super) fn new(origin: TokenOrigin, ttl: Duration, renewal: Renewal, now: Instant) -> Self {
        let ttl = ttl.min(LONGEST);
        Self { origin, since: now, ttl, full: ttl, renewal, is_last: false, jitter: 0.0 }
    }

    /// Takes each step somewhat sooner, which avoids synchronised renewals. `random` is in 0..1.
    #[must_use]
    pub(super) fn with_jitter(mut self, random: f64) -> Self {
        self.jitter = random;
        self
    }

    /// Applies what a renewal granted.
    pub(super) fn renewed(&mut self, ttl: Duration, renewal: Renewal, now: Instant) {
        (self.since, self.ttl, self.renewal) = (now, ttl.min(LONGEST), renewal);
    }

    /// A renewal was refused.
    pub(super) fn not_renewable(&mut self) {
        self.renewal = Renewal::Impossible;
    }

    /// Nothing can replace the token, so no step is due any more.
    pub(super) fn keep_until_expiry(&mut self) {
        self.is_last = true;
    }

    /// What is left at `now`; `None` for a token that does not expire.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        if self.ttl.is_zero() {
            return None;
        }
        Some(self.ttl.saturating_sub(now.saturating_duration_since(self.since)))
    }

    /// The next step and when it is due: a renewal between half and two thirds of what was granted last; a login when
    /// between a fifth and a tenth of the full lease is left, which is sooner for a lease that cannot be renewed.
    /// `None`: never.
    #[expect(clippy::arithmetic_side_effects, reason = "a lease counts as LONGEST at most")]
    pub(super) fn next(&self) -> Option<(Instant, Step)> {
        let login = self.login_due()?;
        let used = (self.ttl / 3 * 2).saturating_sub((self.ttl / 6).mul_f64(self.jitter));
        let renewal = self.since + used.max(LEAST_INTERVAL);
        let renew = self.renewal == Renewal::Possible && renewal < login;
        Some(if renew { (renewal, Step::Renew) } else { (login, Step::LogIn) })
    }

    /// When so little of the full lease is left that a login cannot wait.
    #[expect(clippy::arithmetic_side_effects, reason = "a lease counts as LONGEST at most")]
    pub(super) fn login_due(&self) -> Option<Instant> {
        if self.ttl.is_zero() || self.is_last {
            return None;
        }
        let left = self.full / 10 + (self.full / 10).mul_f64(self.jitter);
        Some(self.since + self.ttl.saturating_sub(left).max(LEAST_INTERVAL))
    }

    /// The step that is due at `now`.
    pub(super) fn step(&self, now: Instant) -> Step {
        match (self.login_due(), self.next()) {
            (Some(login), _) if login <= now => Step::LogIn,
            (_, Some((at, step))) if at <= now => step,
            _ => Step::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(seconds: u64, renewable: bool, now: Instant) -> Lease {
        let renewal = Renewal::from_renewable(renewable);
        Lease::new(TokenOrigin::Login, Duration::from_secs(seconds), renewal, now)
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
    fn jitter_makes_each_step_sooner() {
        let now = Instant::now();
        for (renewable, expected) in [(true, 30..40), (false, 48..54)] {
            let due =
                |random| (lease(60, renewable, now).with_jitter(random).next().unwrap().0 - now).as_secs();
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
        let tiny = Lease::new(TokenOrigin::Login, Duration::from_nanos(1), Renewal::Possible, now);
        assert!(tiny.next().unwrap().0 >= now + LEAST_INTERVAL);
    }

    #[test]
    fn a_token_near_its_longest_life_is_replaced_instead_of_renewed_ever_more_often() {
        let now = Instant::now();
        let mut lease = lease(100, true, now);
        let mut renewals = 0;
        let (mut at, mut left) = (now, 250);
        // Each renewal grants 100 s, or what is left of 250.
        while let Some((due, Step::Renew)) = lease.next() {
            left = 250 - (due - now).as_secs();
            at = due;
            lease.renewed(Duration::from_secs(left.min(100)), Renewal::Possible, at);
            renewals += 1;
        }
        assert!(renewals < 8, "{renewals}");
        let (due, step) = lease.next().unwrap();
        assert_eq!(step, Step::LogIn);
        assert!(due < at + Duration::from_secs(left), "before it expires");
    }

    #[test]
    fn a_login_that_is_due_with_a_renewal_comes_instead_of_it() {
        let now = Instant::now();
        let mut lease = lease(100, true, now);
        lease.renewed(Duration::from_secs(30), Renewal::Possible, now);
        assert_eq!(lease.next(), Some((now + Duration::from_secs(20), Step::LogIn)));
    }

    #[test]
    fn a_clock_that_jumps_ahead_causes_a_login_and_one_that_jumps_back_changes_nothing() {
        let now = Instant::now() + Duration::from_secs(10_000);
        let lease = lease(30, true, now);
        assert_eq!(lease.step(now), Step::Wait);
        assert_eq!(lease.step(now + Duration::from_secs(20)), Step::Renew);
        assert_eq!(lease.step(now + Duration::from_secs(28)), Step::LogIn);
        assert_eq!(lease.step(now + Duration::from_secs(1_000_000)), Step::LogIn);
        assert_eq!(lease.step(now.checked_sub(Duration::from_secs(9_000)).unwrap()), Step::Wait);
        assert_eq!(lease.remaining(now + Duration::from_secs(1_000_000)), Some(Duration::ZERO));
    }

    #[test]
    fn a_token_that_nothing_can_replace_is_kept_without_a_step() {
        let now = Instant::now();
        let mut lease = lease(30, true, now);
        lease.keep_until_expiry();
        assert_eq!((lease.next(), lease.login_due()), (None, None));
        assert_eq!(lease.step(now + Duration::from_secs(29)), Step::Wait);
        assert_eq!(lease.remaining(now + Duration::from_secs(29)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_token_without_a_ttl_does_not_expire() {
        let (lease, now) = (lease(0, true, Instant::now()), Instant::now());
        assert_eq!((lease.remaining(now), lease.step(now)), (None, Step::Wait));
    }

    #[test]
    fn a_refused_renewal_leads_to_a_login() {
        let now = Instant::now();
        let mut lease = lease(30, true, now);
        lease.not_renewable();
        assert_eq!(lease.next(), Some((now + Duration::from_secs(27), Step::LogIn)));
    }
}
