//! What is known of one secret, and what that is worth now: a pure function of it, of the times that a reference asks for,
//! and of the clock.
//!
//! A value is fresh for `ttl`, and from then on stands in, for `resurrect_ttl`, while it cannot be read. That there is
//! nothing is remembered for `neg_ttl`, and ends the value that there was: it was removed on purpose. Who reads is `cache`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    secret::Secret,
    settings::reference::Caching,
    vault::{VaultError, backoff},
};

/// The longest pause after failures: a secret must not stay old for long once Vault is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

pub type Json = Arc<Secret<String>>;

pub type Outcome = Result<Json, Arc<VaultError>>;

/// What is known of a secret.
#[derive(Debug, Default)]
pub struct Kept {
    value: Option<Value>,
    /// The last look for it, and how that ended, unless well.
    looked: Option<(Instant, Option<Arc<VaultError>>)>,
    failures: u32,
    not_before: Option<Instant>,
    /// The times that were asked for since it was read, or before if nobody asked since.
    wanted: Option<Caching>,
    asked_since: bool,
    /// The longest that anybody wants it kept, and that there is nothing remembered.
    life: Life,
    remembered: Duration,
    used: Option<Instant>,
}

/// How long a value can be of use at all. The greatest is without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Life {
    For(Duration),
    ForGood,
}

impl Default for Life {
    fn default() -> Self {
        Self::For(Duration::ZERO)
    }
}

impl Life {
    fn wanted_by(caching: Caching) -> Self {
        match (ttl(caching), caching.resurrect_ttl) {
            (Some(ttl), Some(resurrect_ttl)) => Self::For(ttl.saturating_add(resurrect_ttl)),
            _ => Self::ForGood,
        }
    }
}

#[derive(Debug)]
struct Value {
    json: Json,
    read: Instant,
    /// The settings have changed since.
    outdated: bool,
}

/// What it is worth.
#[derive(Debug)]
pub enum Worth {
    /// Good, or old by so much.
    Serve(Json, Option<Duration>),
    Refuse(Arc<VaultError>),
    /// It wants reading. What could stand in meanwhile, and how old beyond its time that is.
    Read(Option<(Json, Duration)>),
}

/// A time of nothing stands for good, as Kong has it.
fn ttl(caching: Caching) -> Option<Duration> {
    caching.ttl.filter(|ttl| !ttl.is_zero())
}

impl Value {
    /// How long it has been past its time; `None` while it is fresh.
    fn overdue(&self, caching: Caching, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(self.read);
        match ttl(caching) {
            Some(ttl) if age >= ttl => Some(age.saturating_sub(ttl)),
            _ if self.outdated => Some(Duration::ZERO),
            _ => None,
        }
    }
}

impl Kept {
    /// Notes that it is asked for, and what for.
    pub fn ask(&mut self, caching: Caching, now: Instant) {
        self.used = Some(now);
        self.life = self.life.max(Life::wanted_by(caching));
        self.remembered = self.remembered.max(caching.neg_ttl.unwrap_or_default());
        let shorter = |one: Option<Duration>, other| match (one, other) {
            (Some(one), Some(other)) => Some(std::cmp::min(one, other)),
            (one, other) => one.or(other),
        };
        let before = self.wanted.filter(|_| self.asked_since);
        self.asked_since = true;
        self.wanted = Some(match before {
            None => Caching { ttl: ttl(caching), ..caching },
            Some(before) => Caching { ttl: shorter(before.ttl, ttl(caching)), ..caching },
        });
    }

    pub fn worth(&self, caching: Caching, now: Instant) -> Worth {
        let stand_in = match &self.value {
            None => None,
            Some(value) => match value.overdue(caching, now) {
                None => return Worth::Serve(Arc::clone(&value.json), None),
                Some(over) if caching.resurrect_ttl.is_none_or(|most| over < most) => {
                    Some((Arc::clone(&value.json), over))
                }
                Some(_) => None,
            },
        };
        match (&self.looked, stand_in) {
            (Some((at, Some(error))), _) if is_absence(error) => {
                let remembered = caching.neg_ttl.unwrap_or_default();
                if now.saturating_duration_since(*at) < remembered {
                    return Worth::Refuse(Arc::clone(error));
                }
                Worth::Read(None)
            }
            (Some((_, Some(error))), stand_in) if self.pauses(now) => match stand_in {
                Some((json, over)) => Worth::Serve(json, Some(over)),
                None => Worth::Refuse(Arc::clone(error)),
            },
            (_, stand_in) => Worth::Read(stand_in),
        }
    }

    fn pauses(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|at| now < at)
    }

    /// How a look ended that did after `asked`.
    pub fn outcome_since(&self, asked: Instant) -> Option<Outcome> {
        let (at, error) = self.looked.as_ref()?;
        if *at < asked {
            return None;
        }
        match error {
            Some(error) => Some(Err(Arc::clone(error))),
            None => self.value.as_ref().map(|value| Ok(Arc::clone(&value.json))),
        }
    }

    /// Takes in how a look ended. A value that is gone is wiped with its last user.
    pub fn take(&mut self, outcome: &Outcome, now: Instant) {
        match outcome {
            Ok(json) => {
                self.value = Some(Value { json: Arc::clone(json), read: now, outdated: false });
                (self.looked, self.failures, self.not_before) = (Some((now, None)), 0, None);
                self.asked_since = false;
            }
            Err(error) => {
                if is_absence(error) {
                    (self.value, self.failures, self.not_before) = (None, 0, None);
                } else {
                    self.failures = self.failures.saturating_add(1);
                    let pause = backoff::after_failure(self.failures, error.retry_after(), backoff::random());
                    self.not_before = Some(now + pause.min(LONGEST_PAUSE));
                }
                self.looked = Some((now, Some(Arc::clone(error))));
            }
        }
    }

    /// The settings have changed: the next who asks has it read anew, and at once.
    pub fn outdate(&mut self) {
        if let Some(value) = &mut self.value {
            value.outdated = true;
        }
        (self.not_before, self.failures) = (None, 0);
        if self.looked.as_ref().is_some_and(|(_, error)| error.is_some()) {
            self.looked = None;
        }
    }

    /// When to read it anew of one's own accord: a fifth of its time before that is over, while it was asked for lately.
    pub fn refresh_due(&self, now: Instant, idle: Duration) -> Option<Instant> {
        let (value, ttl) = (self.value.as_ref()?, ttl(self.wanted?)?);
        let used = self.used.is_some_and(|at| now.saturating_duration_since(at) < idle);
        let due = value.read + ttl.mul_f64(0.8);
        used.then(|| self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// Lets go of a value that could serve nobody any more, which wipes it. Answers whether there is nothing left that is
    /// worth remembering.
    pub fn tidy(&mut self, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.value.as_ref().is_some_and(|value| self.life <= Life::For(since(value.read))) {
            self.value = None;
        }
        let remembers = match &self.looked {
            Some((at, Some(error))) if is_absence(error) => since(*at) < self.remembered,
            Some((_, Some(_))) => self.pauses(now),
            _ => false,
        };
        self.value.is_none() && !remembers
    }

    pub fn used(&self) -> Option<Instant> {
        self.used
    }

    pub fn size(&self) -> usize {
        self.value.as_ref().map_or(0, |value| value.json.expose().len())
    }
}

/// Whether there is no such secret, as Vault says.
pub const fn is_absence(error: &VaultError) -> bool {
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
        Err(Arc::new(VaultError::NotFound { path: "p".into(), hint: "h".into() }))
    }

    /// `fresh`, `old by N`, `refused`, `read`, or `read or old by N`.
    fn worth(kept: &Kept, caching: Caching, now: Instant) -> String {
        match kept.worth(caching, now) {
            Worth::Serve(_, None) => "fresh".to_owned(),
            Worth::Serve(_, Some(over)) => format!("old by {}", over.as_secs()),
            Worth::Refuse(_) => "refused".to_owned(),
            Worth::Read(None) => "read".to_owned(),
            Worth::Read(Some((_, over))) => format!("read or old by {}", over.as_secs()),
        }
    }

    #[test]
    fn a_value_is_fresh_for_its_ttl_and_stands_in_for_its_resurrect_ttl() {
        let (mut kept, start, times) = (Kept::default(), Instant::now(), caching(10, 0, 20));
        assert_eq!(worth(&kept, times, start), "read");
        kept.take(&json("a"), start);
        assert_eq!(worth(&kept, times, start + seconds(9)), "fresh");
        assert_eq!(worth(&kept, times, start + seconds(10)), "read or old by 0");
        kept.take(&unreachable(), start + seconds(12));
        assert_eq!(worth(&kept, times, start + seconds(12)), "old by 2");
        assert_eq!(worth(&kept, times, start + seconds(29)), "read or old by 19");
        assert_eq!(worth(&kept, times, start + seconds(30)), "read");
        kept.take(&unreachable(), start + seconds(30));
        assert_eq!(worth(&kept, times, start + seconds(30)), "refused");
        kept.take(&json("b"), start + seconds(40));
        assert_eq!(worth(&kept, times, start + seconds(41)), "fresh");
    }

    #[test]
    fn each_reference_has_times_of_its_own() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        kept.take(&json("a"), start);
        let later = start + seconds(100_000);
        assert_eq!(worth(&kept, Caching::default(), later), "fresh");
        assert_eq!(worth(&kept, caching(0, 0, 0), later), "fresh");
        assert_eq!(worth(&kept, caching(5, 0, 0), later), "read");
        let without_end = Caching { resurrect_ttl: None, ..caching(5, 0, 0) };
        assert_eq!(worth(&kept, without_end, later), "read or old by 99995");
    }

    #[test]
    fn what_is_not_there_is_remembered_for_neg_ttl_and_ends_what_was_there() {
        let (mut kept, start, times) = (Kept::default(), Instant::now(), caching(10, 5, 1000));
        kept.take(&json("a"), start);
        kept.take(&absent(), start + seconds(8));
        assert_eq!(worth(&kept, times, start + seconds(8)), "refused");
        assert_eq!(worth(&kept, times, start + seconds(12)), "refused");
        assert_eq!(worth(&kept, times, start + seconds(13)), "read");
        assert_eq!(worth(&kept, Caching::default(), start + seconds(8)), "read");
        assert_eq!(kept.size(), 0);
    }

    #[test]
    fn failures_pause_the_reading_and_for_no_longer_than_a_moment() {
        let (mut kept, start, times) = (Kept::default(), Instant::now(), caching(1, 0, 0));
        for _ in 0..30 {
            kept.take(&unreachable(), start);
        }
        assert_eq!(worth(&kept, times, start + seconds(1)), "refused");
        assert_eq!(worth(&kept, times, start + LONGEST_PAUSE), "read");
    }

    #[test]
    fn it_is_refreshed_before_its_time_is_over_while_somebody_asks() {
        let (mut kept, start, idle) = (Kept::default(), Instant::now(), seconds(60));
        kept.ask(caching(100, 0, 0), start);
        kept.ask(caching(10, 0, 0), start);
        kept.ask(caching(0, 0, 0), start);
        assert_eq!(kept.refresh_due(start, idle), None);
        kept.take(&json("a"), start);
        assert_eq!(kept.refresh_due(start, idle), Some(start + seconds(8)));
        assert_eq!(kept.refresh_due(start + seconds(60), idle), None);
        let mut for_good = Kept::default();
        for_good.ask(caching(0, 0, 0), start);
        for_good.take(&json("a"), start);
        assert_eq!(for_good.refresh_due(start, idle), None);
        assert!(!for_good.tidy(start + seconds(1_000_000)));
    }

    #[test]
    fn changed_settings_have_it_read_anew_and_let_it_stand_in() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        kept.take(&json("a"), start);
        kept.take(&unreachable(), start);
        kept.outdate();
        assert_eq!(worth(&kept, caching(0, 0, 100), start + seconds(1)), "read or old by 0");
    }

    #[test]
    fn what_can_serve_nobody_any_more_is_wiped() {
        let (mut kept, start) = (Kept::default(), Instant::now());
        assert!(kept.tidy(start));
        kept.ask(caching(10, 5, 20), start);
        kept.ask(caching(1, 0, 1), start);
        let value = json("a").unwrap();
        kept.take(&Ok(Arc::clone(&value)), start);
        assert!(!kept.tidy(start + seconds(29)));
        assert_eq!(Arc::strong_count(&value), 2);
        assert!(kept.tidy(start + seconds(30)));
        assert_eq!(Arc::strong_count(&value), 1);
        kept.take(&absent(), start);
        assert!(!kept.tidy(start + seconds(4)) && kept.tidy(start + seconds(5)));
    }
}
