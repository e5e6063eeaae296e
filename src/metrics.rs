//! Counters and gauges for Prometheus, in the OpenMetrics text format. Fixed label sets: no ID, path or error text is
//! ever a label. Nothing of ours is imported here; whoever has something to count holds the [`Metrics`].

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

type ByOutcome = Family<[(&'static str, &'static str); 1], Counter>;

/// All that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    syncs: ByOutcome,
    logins: ByOutcome,
    renewals: ByOutcome,
    unwraps: ByOutcome,
    reloads: ByOutcome,
    last_sync: Gauge,
    token_expiry: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keyringd");
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
        let (last_sync, token_expiry) = (Gauge::default(), Gauge::default());
        let at = |name: &str| format!("{name}_timestamp");
        registry.register_with_unit(
            at("last_sync_success"),
            "When the last good sync was; 0 before the first",
            Unit::Seconds,
            last_sync.clone(),
        );
        registry.register_with_unit(
            at("token_expiry"),
            "When the Vault token expires unless it is renewed; 0 for never",
            Unit::Seconds,
            token_expiry.clone(),
        );
        Self { registry, syncs, logins, renewals, unwraps, reloads, last_sync, token_expiry }
    }
}

impl Outcome {
    pub const fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Success } else { Self::Failure }
    }

    const fn label(self) -> [(&'static str, &'static str); 1] {
        match self {
            Self::Success => [("outcome", "success")],
            Self::Failure => [("outcome", "failure")],
        }
    }
}

impl Metrics {
    pub fn synced(&self, outcome: Outcome) {
        self.syncs.get_or_create(&outcome.label()).inc();
        if outcome == Outcome::Success {
            self.last_sync.set(timestamp(SystemTime::now()));
        }
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

    pub fn token_expires(&self, at: Option<SystemTime>) {
        self.token_expiry.set(at.map_or(0, timestamp));
    }

    /// Everything, as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into memory cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

fn timestamp(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_from_the_start_and_counts() {
        let metrics = Metrics::default();
        let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
        let before = series(&metrics.text());
        for _ in 0..1000 {
            metrics.synced(Outcome::Failure);
            metrics.logged_in(Outcome::Success);
        }
        let text = metrics.text();
        assert_eq!(series(&text), before);
        assert!(text.contains("keyringd_syncs_total{outcome=\"failure\"} 1000"), "{text}");
        assert!(text.contains("keyringd_unwraps_total{outcome=\"failure\"} 0"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
