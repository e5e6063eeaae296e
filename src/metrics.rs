//! Counters and gauges for Prometheus, in the OpenMetrics text format. Fixed label sets: no ID, path or error text is
//! ever a label. Nothing of ours is imported here; whoever has something to count holds the [`Metrics`].
//!
//! What is told apart is in `labels`, what is set at a scrape in `gauges`, how long requests took in `latency`. A request is
//! counted without a lock, and finds its series without looking it up.

mod gauges;
mod labels;
mod latency;

use std::time::{Duration, SystemTime};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

pub use gauges::State;
use gauges::{Gauges, TokenLife};
pub use labels::{Answered, Operation, Outcome};
use latency::Latency;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels<const N: usize> = [(&'static str, &'static str); N];
type ByOutcome = Family<Labels<1>, Counter>;

/// One series an operation and outcome, made at the start.
type Requests = [[Latency; Answered::ALL.len()]; Operation::ALL.len()];

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
    let family = Family::<Labels<2>, Latency>::default();
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

impl Metrics {
    /// A request is being handled for as long as the guard lives.
    pub fn handling(&self) -> Handling {
        self.in_flight.inc();
        Handling(self.in_flight.clone())
    }

    /// A request was answered: how, in what time, with how many bytes in and out.
    pub fn answered(&self, operation: Operation, outcome: Answered, took: Duration, bytes: (usize, usize)) {
        self.requests[operation as usize][outcome as usize].observe(took);
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
