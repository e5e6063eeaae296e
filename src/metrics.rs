//! Counters and gauges for Prometheus, in the OpenMetrics text format. Fixed label sets: no ID, path or error text is
//! ever a label. Nothing of ours is imported here; whoever has something to count holds the [`Metrics`].
//!
//! Counting takes no lock that a scrape holds for long, and finds its series without looking it up.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a request on one field, which takes microseconds, to a body of many megabytes.
const SECONDS: [f64; 8] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.1, 1.0, 5.0];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

/// What a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Encrypt,
    Decrypt,
    Rewrap,
    DataKey,
    Status,
    Sync,
    Resolve,
    Metrics,
    Health,
    KmsStatus,
    KmsEncrypt,
    KmsDecrypt,
    /// No path that is served.
    Other,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answered {
    Success,
    /// Some items of a batch failed.
    Partial,
    /// A bad request, or a ciphertext that does not open.
    Invalid,
    /// The peer may not.
    Denied,
    /// Too large, too slow, or too much at once.
    Limited,
    /// No keys yet.
    Unavailable,
    /// The daemon's own failure, or Vault's.
    Failed,
    /// The client went away before its answer was there.
    Aborted,
}

/// What the gauges say, as it is at the scrape.
#[derive(Debug)]
pub struct State {
    pub connections: usize,
    pub inflight_bytes: usize,
    pub keys_active: bool,
    pub keys_live: usize,
    pub keys_retired: usize,
    pub records_rejected: usize,
    /// Since the active key was written to Vault.
    pub active_key_age: Option<Duration>,
    /// Messages sealed with short nonces: under the active key, and the most under any other.
    pub messages: [u64; 2],
    pub messages_budget: u64,
    pub last_sync: Option<SystemTime>,
    /// How many more versions Vault keeps; `None` where there are none.
    pub versions_headroom: Option<u64>,
}

type Labels<const N: usize> = [(&'static str, &'static str); N];
type ByOutcome = Family<Labels<1>, Counter>;
type Seconds = Gauge<f64, AtomicU64>;

/// One series an operation and outcome, made at the start.
type Requests = [[Histogram; Answered::ALL.len()]; Operation::ALL.len()];

/// All that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    received: [Counter; Operation::ALL.len()],
    sent: [Counter; Operation::ALL.len()],
    in_flight: Gauge,
    syncs: ByOutcome,
    logins: ByOutcome,
    renewals: ByOutcome,
    unwraps: ByOutcome,
    reloads: ByOutcome,
    token_expiry: std::sync::Mutex<Option<TokenLife>>,
    gauges: Gauges,
}

/// A request that is being handled, for as long as this lives.
#[derive(Debug)]
pub struct Handling(Gauge);

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is known of the token's life.
#[derive(Clone, Copy, Debug)]
enum TokenLife {
    Until(SystemTime),
    ForEver,
}

/// What is set at the scrape.
#[derive(Clone, Debug)]
struct Gauges {
    connections: Gauge,
    inflight_bytes: Gauge,
    keys: Family<Labels<1>, Gauge>,
    active_key_age: Seconds,
    messages: Family<Labels<1>, Gauge>,
    messages_budget: Gauge,
    since_sync: Seconds,
    token_remaining: Seconds,
    versions_headroom: Seconds,
}

impl Outcome {
    pub const fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Success } else { Self::Failure }
    }

    const fn label(self) -> Labels<1> {
        match self {
            Self::Success => [("outcome", "success")],
            Self::Failure => [("outcome", "failure")],
        }
    }
}

impl Operation {
    pub const ALL: [Self; 13] = [
        Self::Encrypt,
        Self::Decrypt,
        Self::Rewrap,
        Self::DataKey,
        Self::Status,
        Self::Sync,
        Self::Resolve,
        Self::Metrics,
        Self::Health,
        Self::KmsStatus,
        Self::KmsEncrypt,
        Self::KmsDecrypt,
        Self::Other,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Rewrap => "rewrap",
            Self::DataKey => "datakey",
            Self::Status => "status",
            Self::Sync => "sync",
            Self::Resolve => "resolve",
            Self::Metrics => "metrics",
            Self::Health => "health",
            Self::KmsStatus => "kms_status",
            Self::KmsEncrypt => "kms_encrypt",
            Self::KmsDecrypt => "kms_decrypt",
            Self::Other => "other",
        }
    }
}

impl Answered {
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::Partial,
        Self::Invalid,
        Self::Denied,
        Self::Limited,
        Self::Unavailable,
        Self::Failed,
        Self::Aborted,
    ];

    /// What a status says of a request of which some items failed, or none, or all.
    pub const fn of(status: u16, items: usize, failed_items: usize) -> Self {
        match status {
            _ if failed_items > 0 && failed_items < items => Self::Partial,
            _ if failed_items > 0 => Self::Invalid,
            403 => Self::Denied,
            408 | 413 | 429 => Self::Limited,
            400..=499 => Self::Invalid,
            503 => Self::Unavailable,
            500..=599 => Self::Failed,
            _ => Self::Success,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Partial => "partial",
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keyringd");
        let requests = requests(&mut registry);
        let received = bytes(&mut registry, "received", "Bytes of requests' bodies");
        let sent = bytes(&mut registry, "sent", "Bytes of answers' bodies");
        let in_flight = Gauge::default();
        registry.register("requests_in_flight", "Requests being handled", in_flight.clone());
        let mut by_outcome = |name, help| {
            let family = ByOutcome::default();
            for outcome in [Outcome::Success, Outcome::Failure] {
                drop(family.get_or_create(&outcome.label())); // a series is there from the start, at 0
            }
            registry.register(name, help, family.clone());
            family
        };
        let syncs = by_outcome("syncs", "Syncs with Vault");
        let logins = by_outcome("logins", "Logins to Vault");
        let renewals = by_outcome("token_renewals", "Renewals of the Vault token");
        let unwraps =
            by_outcome("unwraps", "Openings of a response-wrapped secret ID; a failure is a security event");
        let reloads = by_outcome("reloads", "Reloads of the settings");
        let gauges = Gauges::registered(&mut registry);
        Self {
            registry,
            requests,
            received,
            sent,
            in_flight,
            syncs,
            logins,
            renewals,
            unwraps,
            reloads,
            token_expiry: std::sync::Mutex::default(),
            gauges,
        }
    }
}

fn requests(registry: &mut Registry) -> Requests {
    let family =
        Family::<Labels<2>, Histogram, fn() -> Histogram>::new_with_constructor(|| Histogram::new(SECONDS));
    let series = |operation: Operation, outcome: Answered| {
        let labels = [("operation", operation.name()), ("outcome", outcome.name())];
        family.get_or_create(&labels).clone()
    };
    let requests = Operation::ALL.map(|operation| Answered::ALL.map(|outcome| series(operation, outcome)));
    let help = "Requests, and how long each took from its head to its answer";
    registry.register_with_unit("request", help, Unit::Seconds, family);
    requests
}

fn bytes(registry: &mut Registry, name: &str, help: &str) -> [Counter; Operation::ALL.len()] {
    let family = Family::<Labels<1>, Counter>::default();
    let counters =
        Operation::ALL.map(|operation| family.get_or_create(&[("operation", operation.name())]).clone());
    registry.register_with_unit(name, help, Unit::Bytes, family);
    counters
}

impl Gauges {
    fn registered(registry: &mut Registry) -> Self {
        let gauges = Self {
            connections: Gauge::default(),
            inflight_bytes: Gauge::default(),
            keys: Family::default(),
            active_key_age: Seconds::default(),
            messages: Family::default(),
            messages_budget: Gauge::default(),
            since_sync: Seconds::default(),
            token_remaining: Seconds::default(),
            versions_headroom: Seconds::default(),
        };
        let all = gauges.clone();
        registry.register("connections", "Connections that are open on the socket", all.connections);
        registry.register_with_unit(
            "inflight",
            "Bytes of requests being handled, and of answers that are not taken yet",
            Unit::Bytes,
            all.inflight_bytes,
        );
        registry.register("keys", "Keys by state; those rejected are records that were left out", all.keys);
        registry.register_with_unit(
            "active_key_age",
            "Since the active key was written to Vault; NaN where that is not known",
            Unit::Seconds,
            all.active_key_age,
        );
        registry.register(
            "messages",
            "Messages sealed with 96-bit nonces by this process: under the active key, and the most under any other",
            all.messages,
        );
        registry.register(
            "messages_budget",
            "How many such messages one key may seal, by everybody who holds it",
            all.messages_budget,
        );
        registry.register_with_unit(
            "since_last_sync",
            "Since the last good sync; NaN before the first",
            Unit::Seconds,
            all.since_sync,
        );
        registry.register_with_unit(
            "token_remaining",
            "Until the Vault token expires unless it is renewed; +Inf for never, NaN without one",
            Unit::Seconds,
            all.token_remaining,
        );
        registry.register(
            "versions_headroom",
            "How many more versions can be written before Vault destroys the oldest; NaN where there are none",
            all.versions_headroom,
        );
        gauges
    }

    fn set(&self, state: &State, token: Option<TokenLife>, now: SystemTime) {
        self.connections.set(count(state.connections));
        self.inflight_bytes.set(count(state.inflight_bytes));
        for (label, keys) in [
            ("active", usize::from(state.keys_active)),
            ("live", state.keys_live),
            ("retired", state.keys_retired),
            ("rejected", state.records_rejected),
        ] {
            self.keys.get_or_create(&[("state", label)]).set(count(keys));
        }
        for (slot, messages) in ["active", "other"].into_iter().zip(state.messages) {
            self.messages.get_or_create(&[("slot", slot)]).set(i64::try_from(messages).unwrap_or(i64::MAX));
        }
        self.messages_budget.set(i64::try_from(state.messages_budget).unwrap_or(i64::MAX));
        self.active_key_age.set(state.active_key_age.map_or(f64::NAN, |age| age.as_secs_f64()));
        let since = |time: SystemTime| now.duration_since(time).unwrap_or_default().as_secs_f64();
        self.since_sync.set(state.last_sync.map_or(f64::NAN, since));
        self.token_remaining.set(match token {
            None => f64::NAN,
            Some(TokenLife::ForEver) => f64::INFINITY,
            Some(TokenLife::Until(at)) => at.duration_since(now).unwrap_or_default().as_secs_f64(),
        });
        #[expect(clippy::cast_precision_loss, reason = "a count of versions is far below 2^52")]
        self.versions_headroom.set(state.versions_headroom.map_or(f64::NAN, |headroom| headroom as f64));
    }
}

impl Metrics {
    /// A request is being handled for as long as the guard lives.
    pub fn handling(&self) -> Handling {
        self.in_flight.inc();
        Handling(self.in_flight.clone())
    }

    /// A request was answered: how, in what time, with how many bytes in and out.
    pub fn answered(&self, operation: Operation, outcome: Answered, took: Duration, bytes: (usize, usize)) {
        self.requests[operation as usize][outcome as usize].observe(took.as_secs_f64());
        self.received[operation as usize].inc_by(bytes.0 as u64);
        self.sent[operation as usize].inc_by(bytes.1 as u64);
    }

    pub fn synced(&self, outcome: Outcome) {
        self.syncs.get_or_create(&outcome.label()).inc();
    }

    pub fn logged_in(&self, outcome: Outcome) {
        self.logins.get_or_create(&outcome.label()).inc();
    }

    pub fn renewed(&self, outcome: Outcome) {
        self.renewals.get_or_create(&outcome.label()).inc();
    }

    pub fn unwrapped(&self, outcome: Outcome) {
        self.unwraps.get_or_create(&outcome.label()).inc();
    }

    pub fn reloaded(&self, outcome: Outcome) {
        self.reloads.get_or_create(&outcome.label()).inc();
    }

    /// The session holds a token, which expires at this time or never.
    pub fn token_expires(&self, at: Option<SystemTime>) {
        let life = at.map_or(TokenLife::ForEver, TokenLife::Until);
        *self.token_expiry.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(life);
    }

    /// Everything, as OpenMetrics text, with the gauges as they are now.
    pub fn text(&self, state: &State) -> String {
        let token = *self.token_expiry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.gauges.set(state, token, SystemTime::now());
        let mut text = String::new();
        // Writing into memory cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            connections: 3,
            inflight_bytes: 70,
            keys_active: true,
            keys_live: 2,
            keys_retired: 1,
            records_rejected: 0,
            active_key_age: Some(Duration::from_secs(60)),
            messages: [5, 7],
            messages_budget: 1 << 32,
            last_sync: None,
            versions_headroom: Some(9),
        }
    }

    #[test]
    fn every_series_is_there_from_the_start_and_counts() {
        let metrics = Metrics::default();
        let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        let before = series(&metrics.text(&state()));
        for _ in 0..1000 {
            metrics.synced(Outcome::Failure);
            metrics.logged_in(Outcome::Success);
            metrics.answered(Operation::Rewrap, Answered::Denied, Duration::from_micros(70), (100, 10));
        }
        metrics.token_expires(None);
        let handling = metrics.handling();
        let text = metrics.text(&state());
        assert_eq!(series(&text), before);
        for line in [
            "keyringd_syncs_total{outcome=\"failure\"} 1000",
            "keyringd_unwraps_total{outcome=\"failure\"} 0",
            "keyringd_request_seconds_count{operation=\"rewrap\",outcome=\"denied\"} 1000",
            "keyringd_request_seconds_bucket{le=\"0.0001\",operation=\"rewrap\",outcome=\"denied\"} 1000",
            "keyringd_request_seconds_count{operation=\"encrypt\",outcome=\"success\"} 0",
            "keyringd_received_bytes_total{operation=\"rewrap\"} 100000",
            "keyringd_sent_bytes_total{operation=\"rewrap\"} 10000",
            "keyringd_requests_in_flight 1",
            "keyringd_connections 3",
            "keyringd_inflight_bytes 70",
            "keyringd_keys{state=\"live\"} 2",
            "keyringd_active_key_age_seconds 60.0",
            "keyringd_messages{slot=\"other\"} 7",
            "keyringd_messages_budget 4294967296",
            "keyringd_since_last_sync_seconds NaN",
            "keyringd_token_remaining_seconds inf",
            "keyringd_versions_headroom 9.0",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
        drop(handling);
        assert!(metrics.text(&state()).contains("keyringd_requests_in_flight 0"));
    }

    #[test]
    fn a_token_that_has_expired_has_nothing_remaining() {
        let metrics = Metrics::default();
        metrics.token_expires(Some(SystemTime::UNIX_EPOCH));
        assert!(metrics.text(&state()).contains("keyringd_token_remaining_seconds 0.0"));
    }

    #[test]
    fn a_status_has_one_outcome() {
        assert_eq!(Answered::of(204, 0, 0), Answered::Success);
        assert_eq!(Answered::of(207, 2, 1), Answered::Partial);
        assert_eq!(Answered::of(400, 2, 2), Answered::Invalid);
        assert_eq!(Answered::of(400, 0, 0), Answered::Invalid);
        assert_eq!(Answered::of(403, 0, 0), Answered::Denied);
        assert_eq!(Answered::of(429, 0, 0), Answered::Limited);
        assert_eq!(Answered::of(500, 0, 0), Answered::Failed);
    }
}
