//! One cache entry and its freshness rules: pure functions of the entry, of a reference's times, and of the clock.
//!
//! A value is fresh for `ttl`. After that it is served stale for `resurrect_ttl` while it cannot be read. An absence is
//! cached for `neg_ttl` and drops the value: it was removed on purpose. Reading is up to `cache`.

#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, reason = "times and sizes from outside must not overflow")
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    secret::Secret,
    settings::reference::Caching,
    vault::{VaultError, backoff},
};

/// The least time between two background refreshes, however short the TTL: no client waits for them.
const LEAST_REFRESH: Duration = Duration::from_secs(5);

/// The longest backoff: a value must not stay stale for long once Vault is back.
const LONGEST_BACKOFF: Duration = Duration::from_secs(16);

pub(super) type Json = Arc<Secret<String>>;

pub(super) type Outcome = Result<Json, Arc<VaultError>>;

#[derive(Debug, Default)]
pub(super) struct CacheEntry {
    value: Option<Value>,
    /// When the last read ended, with its error if it failed.
    last_read: Option<(Instant, Option<Arc<VaultError>>)>,
    failures: u32,
    not_before: Option<Instant>,
    /// The times that references have asked for since the value was read, or before if none has since.
    requested: Option<Caching>,
    requested_since_read: bool,
    /// The longest that any reference needs the value, and that an absence is cached.
    retention: Duration,
    negative_ttl: Duration,
    last_used: Option<Instant>,
}

#[derive(Debug)]
struct Value {
    json: Json,
    read: Instant,
    /// The settings have changed since it was read.
    outdated: bool,
}

/// What to do for a reference.
#[derive(Debug)]
pub(super) enum Decision {
    /// The value is fresh, or expired that long ago.
    Serve(Json, Option<Duration>),
    Refuse(Arc<VaultError>),
    /// Read it. If that fails, serve this value, which expired that long ago.
    Read(Option<(Json, Duration)>),
}

/// A TTL of 0 never expires, as in Kong.
fn ttl(caching: Caching) -> Option<Duration> {
    caching.ttl.filter(|ttl| !ttl.is_zero())
}

/// How long a value can be served at all.
fn retention(caching: Caching) -> Duration {
    match (ttl(caching), caching.resurrect_ttl) {
        (Some(ttl), Some(resurrect_ttl)) => ttl.saturating_add(resurrect_ttl),
        _ => Duration::MAX,
    }
}

impl Value {
    /// How long ago it expired; `None` while it is fresh.
    fn expired_for(&self, caching: Caching, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(self.read);
        match ttl(caching) {
            Some(ttl) if age >= ttl => Some(age.saturating_sub(ttl)),
            _ if self.outdated => Some(Duration::ZERO),
            _ => None,
        }
    }
}

impl CacheEntry {
    /// Records a request for it and the times that the reference asks for.
    pub(super) fn record_request(&mut self, caching: Caching, now: Instant) {
        self.last_used = Some(now);
        self.retention = self.retention.max(retention(caching));
        self.negative_ttl = self.negative_ttl.max(caching.neg_ttl.unwrap_or_default());
        let shorter = |one: Option<Duration>, other| match (one, other) {
            (Some(one), Some(other)) => Some(std::cmp::min(one, other)),
            (one, other) => one.or(other),
        };
        let before = self.requested.filter(|_| self.requested_since_read);
        self.requested_since_read = true;
        self.requested = Some(match before {
            None => Caching { ttl: ttl(caching), ..caching },
            Some(before) => Caching { ttl: shorter(before.ttl, ttl(caching)), ..caching },
        });
    }

    pub(super) fn decide(&self, caching: Caching, now: Instant) -> Decision {
        let stale = match &self.value {
            None => None,
            Some(value) => match value.expired_for(caching, now) {
                None => return Decision::Serve(Arc::clone(&value.json), None),
                Some(over) if caching.resurrect_ttl.is_none_or(|most| over < most) => {
                    Some((Arc::clone(&value.json), over))
                }
                Some(_) => None,
            },
        };
        match (&self.last_read, stale) {
            (Some((at, Some(error))), _) if is_absence(error) => {
                if now.saturating_duration_since(*at) < caching.neg_ttl.unwrap_or_default() {
                    return Decision::Refuse(Arc::clone(error));
                }
                Decision::Read(None)
            }
            (Some((_, Some(error))), stale) if self.backs_off(now) => match stale {
                Some((json, over)) => Decision::Serve(json, Some(over)),
                None => Decision::Refuse(Arc::clone(error)),
            },
            (_, stale) => Decision::Read(stale),
        }
    }

    fn backs_off(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|at| now < at)
    }

    /// The outcome of a read that ended after `start`, by the settings of now.
    pub(super) fn outcome_since(&self, start: Instant) -> Option<Outcome> {
        let (at, error) = self.last_read.as_ref()?;
        if *at < start {
            return None;
        }
        match error {
            Some(error) => Some(Err(Arc::clone(error))),
            None => {
                let value = self.value.as_ref().filter(|value| !value.outdated);
                value.map(|value| Ok(Arc::clone(&value.json)))
            }
        }
    }

    /// Applies the outcome of a read. A value that is dropped is wiped with its last user.
    pub(super) fn apply(&mut self, outcome: &Outcome, now: Instant) {
        match outcome {
            Ok(json) => {
                self.value = Some(Value { json: Arc::clone(json), read: now, outdated: false });
                (self.last_read, self.failures, self.not_before) = (Some((now, None)), 0, None);
                self.requested_since_read = false;
            }
            Err(error) => {
                if is_absence(error) {
                    (self.value, self.failures, self.not_before) = (None, 0, None);
                } else {
                    self.failures = self.failures.saturating_add(1);
                    let delay = backoff::after_failure(self.failures, error.retry_after(), backoff::random());
                    self.not_before = now.checked_add(delay.min(LONGEST_BACKOFF));
                }
                self.last_read = Some((now, Some(Arc::clone(error))));
            }
        }
    }

    /// The settings have changed: the next reference causes a read at once.
    pub(super) fn outdate(&mut self) {
        if let Some(value) = &mut self.value {
            value.outdated = true;
        }
        (self.not_before, self.failures) = (None, 0);
        if self.last_read.as_ref().is_some_and(|(_, error)| error.is_some()) {
            self.last_read = None;
        }
    }

    /// When a background refresh is due: at 80 % of the TTL, and not too often, if a reference used it within `idle`.
    pub(super) fn refresh_due(&self, now: Instant, idle: Duration) -> Option<Instant> {
        let (value, ttl) = (self.value.as_ref()?, ttl(self.requested?)?);
        let used = self.last_used.is_some_and(|at| now.saturating_duration_since(at) < idle);
        let due = value.read.checked_add(ttl.mul_f64(0.8).max(LEAST_REFRESH))?;
        used.then(|| self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// Drops a value that no reference can be served any more, which wipes it. Returns whether the entry is empty.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.value.as_ref().is_some_and(|value| self.retention <= since(value.read)) {
            self.value = None;
        }
        let is_failure_cached = match &self.last_read {
            Some((at, Some(error))) if is_absence(error) => since(*at) < self.negative_ttl,
            Some((_, Some(_))) => self.backs_off(now),
            _ => false,
        };
        self.value.is_none() && !is_failure_cached
    }

    pub(super) fn last_used(&self) -> Option<Instant> {
        self.last_used
    }

    pub(super) fn size(&self) -> usize {
        self.value.as_ref().map_or(0, |value| value.json.expose().len())
    }
}

/// Whether Vault reports that there is no such secret.
pub(super) const fn is_absence(error: &VaultError) -> bool {
    matches!(error, VaultError::NotFound { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn caching(ttl: u64, neg_ttl: u64, resurrect_ttl: u64) -> Caching {
        Caching {
            ttl: Some(seconds(ttl)),
            neg_ttl: Some(seconds(neg_ttl)),
            resurrect_ttl: Some(seconds(resurrect_ttl)),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "an outcome like the others")]
    fn json(text: &str) -> Outcome {
        Ok(Arc::new(Secret::new(text.to_owned())))
    }

    fn unreachable() -> Outcome {
        Err(Arc::new(VaultError::Timeout { host: "planted".into() }))
    }

    fn absent() -> Outcome {
        Err(Arc::new(VaultError::NotFound { path: "p".into(), hint: "h" }))
    }

    /// `fresh`, `stale by N`, `refused`, `read`, or `read or stale by N`.
    fn decision(entry: &CacheEntry, caching: Caching, now: Instant) -> String {
        match entry.decide(caching, now) {
            Decision::Serve(_, None) => "fresh".to_owned(),
            Decision::Serve(_, Some(over)) => format!("stale by {}", over.as_secs()),
            Decision::Refuse(_) => "refused".to_owned(),
            Decision::Read(None) => "read".to_owned(),
            Decision::Read(Some((_, over))) => format!("read or stale by {}", over.as_secs()),
        }
    }

    #[test]
    fn a_value_is_fresh_for_its_ttl_and_served_stale_for_its_resurrect_ttl() {
        let (mut entry, start, times) = (CacheEntry::default(), Instant::now(), caching(10, 0, 20));
        assert_eq!(decision(&entry, times, start), "read");
        entry.apply(&json("a"), start);
        assert_eq!(decision(&entry, times, start + seconds(9)), "fresh");
        assert_eq!(decision(&entry, times, start + seconds(10)), "read or stale by 0");
        entry.apply(&unreachable(), start + seconds(12));
        assert_eq!(decision(&entry, times, start + seconds(12)), "stale by 2");
        assert_eq!(decision(&entry, times, start + seconds(29)), "read or stale by 19");
        assert_eq!(decision(&entry, times, start + seconds(30)), "read");
        entry.apply(&unreachable(), start + seconds(30));
        assert_eq!(decision(&entry, times, start + seconds(30)), "refused");
        entry.apply(&json("b"), start + seconds(40));
        assert_eq!(decision(&entry, times, start + seconds(41)), "fresh");
    }

    #[test]
    fn each_reference_has_its_own_times() {
        let (mut entry, start) = (CacheEntry::default(), Instant::now());
        entry.apply(&json("a"), start);
        let later = start + seconds(100_000);
        assert_eq!(decision(&entry, Caching::default(), later), "fresh");
        assert_eq!(decision(&entry, caching(0, 0, 0), later), "fresh");
        assert_eq!(decision(&entry, caching(5, 0, 0), later), "read");
        let no_limit = Caching { resurrect_ttl: None, ..caching(5, 0, 0) };
        assert_eq!(decision(&entry, no_limit, later), "read or stale by 99995");
    }

    #[test]
    fn an_absence_is_cached_for_neg_ttl_and_drops_the_value() {
        let (mut entry, start, times) = (CacheEntry::default(), Instant::now(), caching(10, 5, 1000));
        entry.apply(&json("a"), start);
        entry.apply(&absent(), start + seconds(8));
        assert_eq!(decision(&entry, times, start + seconds(8)), "refused");
        assert_eq!(decision(&entry, times, start + seconds(12)), "refused");
        assert_eq!(decision(&entry, times, start + seconds(13)), "read");
        assert_eq!(decision(&entry, Caching::default(), start + seconds(8)), "read");
        assert_eq!(entry.size(), 0);
    }

    #[test]
    fn failures_delay_the_next_read_for_seconds_at_most() {
        let (mut entry, start, times) = (CacheEntry::default(), Instant::now(), caching(1, 0, 0));
        for _ in 0..30 {
            entry.apply(&unreachable(), start);
        }
        assert_eq!(decision(&entry, times, start + seconds(1)), "refused");
        assert_eq!(decision(&entry, times, start + LONGEST_BACKOFF), "read");
    }

    #[test]
    fn a_used_value_is_refreshed_before_its_ttl_is_over() {
        let (mut entry, start, idle) = (CacheEntry::default(), Instant::now(), seconds(60));
        entry.record_request(caching(100, 0, 0), start);
        entry.record_request(caching(10, 0, 0), start);
        entry.record_request(caching(0, 0, 0), start);
        assert_eq!(entry.refresh_due(start, idle), None);
        entry.apply(&json("a"), start);
        assert_eq!(entry.refresh_due(start, idle), Some(start + seconds(8)));
        assert_eq!(entry.refresh_due(start + seconds(60), idle), None);
        let mut unlimited = CacheEntry::default();
        unlimited.record_request(caching(0, 0, 0), start);
        unlimited.apply(&json("a"), start);
        assert_eq!(unlimited.refresh_due(start, idle), None);
        assert!(!unlimited.expire(start + seconds(1_000_000)));
    }

    #[test]
    fn changed_settings_cause_a_read_and_leave_the_value_as_stale() {
        let (mut entry, start) = (CacheEntry::default(), Instant::now());
        entry.apply(&json("a"), start);
        entry.apply(&unreachable(), start);
        entry.outdate();
        assert_eq!(decision(&entry, caching(0, 0, 100), start + seconds(1)), "read or stale by 0");
    }

    #[test]
    fn an_expired_value_is_wiped() {
        let (mut entry, start) = (CacheEntry::default(), Instant::now());
        assert!(entry.expire(start));
        entry.record_request(caching(10, 5, 20), start);
        entry.record_request(caching(1, 0, 1), start);
        let value = json("a").unwrap();
        entry.apply(&Ok(Arc::clone(&value)), start);
        assert!(!entry.expire(start + seconds(29)));
        assert_eq!(Arc::strong_count(&value), 2);
        assert!(entry.expire(start + seconds(30)));
        assert_eq!(Arc::strong_count(&value), 1);
        entry.apply(&absent(), start);
        assert!(!entry.expire(start + seconds(4)) && entry.expire(start + seconds(5)));
    }
}
