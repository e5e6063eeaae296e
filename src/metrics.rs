//! Counters and gauges for Prometheus, in the OpenMetrics text format, with bounded label sets.
//!
//! `requests` has those of requests, with `latency`; `gauges` what is set at a scrape; `keyrings` those of each keyring; `process`
//! those of the process. Label values are names of operations, outcomes, states and the first keyrings only: no ID, path or
//! error text. The file is longer than most: it has every other counter.

mod gauges;
mod keyrings;
mod latency;
mod process;
mod requests;
mod series;

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use enum_map::{Enum, EnumMap};
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, gauge::Gauge, info::Info},
    registry::Registry,
};

use crate::operation::Operation;
pub use gauges::State;
use gauges::{Gauges, Labels, TokenExpiry};
use keyrings::KeyringSeries;
pub use keyrings::KeyringState;
use requests::Requests;
use series::{Series, registered};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The most hashes of missing keys that have series of their own.
const MAX_MISSING_KEYS: usize = 16;

type ByOutcome = EnumMap<Outcome, Counter>;

/// How an action of the daemon's own ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum Outcome {
    Success,
    Failure,
}

/// Which sessions with Vault a value is about. Those of all APISIX objects count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum SessionKind {
    Keyring,
    References,
    Objects,
}

/// A task that is restarted when it panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum BackgroundTask {
    Sync,
    References,
    Session,
    Accept,
    Systemd,
    Copy,
}

impl BackgroundTask {
    const fn labels(self) -> Labels<1> {
        match self {
            Self::Sync => [("task", "sync")],
            Self::References => [("task", "references")],
            Self::Session => [("task", "session")],
            Self::Accept => [("task", "accept")],
            Self::Systemd => [("task", "systemd")],
            Self::Copy => [("task", "copy")],
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum)]
pub enum RequestOutcome {
    Success,
    /// Some items of a batch failed.
    Partial,
    /// A bad request, or a ciphertext that does not open.
    Invalid,
    /// No key has the name that Kubernetes stored.
    MissingKey,
    /// The peer lacks a permission.
    Denied,
    /// Too large, too slow, or over a limit.
    Limited,
    /// No keys yet.
    Unavailable,
    /// A failure of the daemon or of Vault.
    Failed,
    /// The client disconnected before the response.
    Aborted,
}

impl Outcome {
    pub const fn from_result<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Success } else { Self::Failure }
    }

    const fn labels(self) -> Labels<1> {
        match self {
            Self::Success => [("outcome", "success")],
            Self::Failure => [("outcome", "failure")],
        }
    }
}

impl SessionKind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Keyring => "keyring",
            Self::References => "references",
            Self::Objects => "objects",
        }
    }
}

impl RequestOutcome {
    /// From a status, and from how many items of a batch failed.
    pub const fn from_status(status: u16, items: usize, failed_items: usize) -> Self {
        match status {
            503 => Self::Unavailable,
            _ if failed_items > 0 && failed_items < items => Self::Partial,
            _ if failed_items > 0 => Self::Invalid,
            403 => Self::Denied,
            408 | 413 | 429 => Self::Limited,
            400..=499 => Self::Invalid,
            500..=599 => Self::Failed,
            _ => Self::Success,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Partial => "partial",
            Self::Invalid => "invalid",
            Self::MissingKey => "missing_key",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    requests_in_flight: Gauge,
    connections: Gauge,
    syncs: ByOutcome,
    logins: ByOutcome,
    session_logins: EnumMap<SessionKind, ByOutcome>,
    renewals: ByOutcome,
    unwraps: ByOutcome,
    reloads: ByOutcome,
    copy_writes: ByOutcome,
    kms_moved_keys: Counter,
    kms_missing_keys: Series<[(&'static str, String); 1], Counter>,
    kms_missing_hashes: Mutex<HashSet<String>>,
    token_expiry: Mutex<EnumMap<SessionKind, Option<TokenExpiry>>>,
    task_restarts: EnumMap<BackgroundTask, Counter>,
    gauges: Gauges,
    keyrings: KeyringSeries,
}

/// Counts as one in a gauge until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keyringd");
        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", env!("KEYRINGD_COMMIT")),
            ("target", env!("KEYRINGD_TARGET")),
        ];
        registry.register("build", "What this program was built from", Info::new(build));
        let requests = Requests::register(&mut registry);
        let requests_in_flight =
            registered(&mut registry, "requests_in_flight", "Requests being handled", None);
        let connections =
            registered(&mut registry, "connections", "Connections that are open on the socket", None);
        let mut by_outcome = |name, help| {
            let family: Series<Labels<1>, Counter> = registered(&mut registry, name, help, None);
            ByOutcome::from_fn(|outcome: Outcome| family.get_or_create(&outcome.labels()))
        };
        let syncs = by_outcome("syncs", "Syncs with Vault");
        let logins = by_outcome("logins", "Logins to Vault");
        let renewals = by_outcome("token_renewals", "Renewals of the Vault token");
        let unwraps =
            by_outcome("unwraps", "Unwraps of a response-wrapped secret ID; a failure is a security event");
        let reloads = by_outcome("reloads", "Reloads of the settings");
        let copy_writes = by_outcome("copy_writes", "Writes of the sealed copy of the keys");
        let session_logins = register_session_logins(&mut registry);
        let kms_moved_keys = Counter::default();
        registry.register(
            "kms_moved_key_decrypts",
            "Decrypts for Kubernetes under the key_id of another place or version of a held key",
            kms_moved_keys.clone(),
        );
        let kms_missing_keys = Series::default();
        registry.register(
            "kms_missing_key",
            "Decrypts for Kubernetes under a key_id that no key has, by its hash; from the 17th hash on as `other`",
            kms_missing_keys.clone(),
        );
        let help = "Restarts of a background task that panicked";
        let family: Series<Labels<1>, Counter> = registered(&mut registry, "task_restarts", help, None);
        let task_restarts = EnumMap::from_fn(|task: BackgroundTask| family.get_or_create(&task.labels()));
        let (gauges, token_expiry) = (Gauges::register(&mut registry), Mutex::default());
        let keyrings = KeyringSeries::register(&mut registry);
        Self {
            registry,
            requests,
            requests_in_flight,
            connections,
            syncs,
            logins,
            session_logins,
            renewals,
            unwraps,
            reloads,
            copy_writes,
            kms_moved_keys,
            kms_missing_keys,
            kms_missing_hashes: Mutex::default(),
            task_restarts,
            token_expiry,
            gauges,
            keyrings,
        }
    }
}

fn register_session_logins(registry: &mut Registry) -> EnumMap<SessionKind, ByOutcome> {
    let family = Series::<Labels<2>, Counter>::default();
    let series = |session: SessionKind, outcome: Outcome| {
        let [outcome] = outcome.labels();
        family.get_or_create(&[("session", session.name()), outcome])
    };
    let logins = EnumMap::from_fn(|session| ByOutcome::from_fn(|outcome| series(session, outcome)));
    registry.register("session_logins", "Logins to Vault by session", family);
    logins
}

impl Metrics {
    pub fn task_restarted(&self, task: BackgroundTask) {
        self.task_restarts[task].inc();
    }

    /// A request is in flight until the guard is dropped.
    pub fn request_in_flight(&self) -> GaugeGuard {
        GaugeGuard::new(&self.requests_in_flight)
    }

    /// A connection on the Unix socket is open until the guard is dropped.
    pub fn open_connection(&self) -> GaugeGuard {
        GaugeGuard::new(&self.connections)
    }

    pub fn open_connections(&self) -> i64 {
        self.connections.get()
    }

    /// A request ended. The bytes are those of its body and of the response's.
    pub fn request_ended(
        &self,
        operation: Operation,
        outcome: RequestOutcome,
        took: Duration,
        received: usize,
        sent: usize,
    ) {
        self.requests.ended(operation, outcome, took, [received, sent]);
    }

    pub fn synced(&self, keyring: &str, outcome: Outcome) {
        self.syncs[outcome].inc();
        self.keyrings.synced(keyring, outcome);
    }

    pub fn logged_in(&self, session: SessionKind, outcome: Outcome) {
        self.session_logins[session][outcome].inc();
        if session == SessionKind::Keyring {
            self.logins[outcome].inc();
        }
    }

    pub fn renewed(&self, session: SessionKind, outcome: Outcome) {
        if session == SessionKind::Keyring {
            self.renewals[outcome].inc();
        }
    }

    pub fn unwrapped(&self, outcome: Outcome) {
        self.unwraps[outcome].inc();
    }

    /// Kubernetes got a plaintext under the `key_id` of another place of the key.
    pub fn kms_moved_key(&self) {
        self.kms_moved_keys.inc();
    }

    /// Kubernetes stored something under a `key_id` of this hash, which no key has. Callers choose the `key_id`, so the number
    /// of series has a limit.
    pub fn kms_missing_key(&self, hash: &str) {
        let label = if self.has_own_series(hash) { hash } else { "other" };
        self.kms_missing_keys.get_or_create(&[("key_id_hash", label.to_owned())]).inc();
    }

    fn has_own_series(&self, hash: &str) -> bool {
        let mut hashes = self.kms_missing_hashes.lock().unwrap_or_else(PoisonError::into_inner);
        hashes.contains(hash) || (hashes.len() < MAX_MISSING_KEYS && hashes.insert(hash.to_owned()))
    }

    pub fn reloaded(&self, outcome: Outcome) {
        self.reloads[outcome].inc();
    }

    pub fn copy_written(&self, outcome: Outcome) {
        self.copy_writes[outcome].inc();
    }

    /// The session has a token, which expires at this time or never.
    pub fn token_expires(&self, session: SessionKind, at: Option<SystemTime>) {
        let expiry = at.map_or(TokenExpiry::Never, TokenExpiry::At);
        self.token_expiry.lock().unwrap_or_else(PoisonError::into_inner)[session] = Some(expiry);
    }

    /// All metrics as OpenMetrics text.
    pub fn text(&self, state: &State) -> String {
        let tokens = *self.token_expiry.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        self.gauges.set(state, &tokens, now);
        self.keyrings.set(&state.keyrings, now);
        let mut text = String::new();
        // Writing into memory cannot fail.
        let _ = text::encode_registry(&mut text, &self.registry);
        let mut text = series::sorted(&(text + &process::text()));
        let _ = text::encode_eof(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            inflight_bytes: 70,
            keys_active: true,
            from_copy: false,
            keys_live: 2,
            keys_retired: 1,
            records_rejected: 0,
            active_key_age: Some(Duration::from_secs(60)),
            messages: [5, 7],
            messages_budget: 1 << 32,
            last_sync: None,
            versions_headroom: Some(9),
            next_version_deletion: None,
            keyrings: vec![KeyringState {
                name: "keyring".into(),
                ready: true,
                keys: 3,
                last_sync: None,
                versions_headroom: None,
            }],
        }
    }

    #[test]
    fn series_occur_or_are_for_alerts_and_keep_their_order() {
        let metrics = Metrics::default();
        let series = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
        };
        let before = series(&metrics.text(&state()));
        assert!(before.len() < 80, "{before:?}");
        for wanted in [
            "{operation=\"encrypt\",outcome=\"failed\"}",
            "{operation=\"kms_decrypt\",outcome=\"missing_key\"}",
        ] {
            assert!(before.contains(&format!("keyringd_requests_total{wanted}")), "{before:?}");
        }
        for _ in 0..1000 {
            metrics.synced("keyring", Outcome::Failure);
            metrics.logged_in(SessionKind::Keyring, Outcome::Success);
            let took = Duration::from_micros(70);
            metrics.request_ended(Operation::Rewrap, RequestOutcome::Denied, took, 100, 10);
        }
        metrics.token_expires(SessionKind::Keyring, None);
        let guards = (metrics.request_in_flight(), metrics.open_connection(), metrics.open_connection());
        let text = metrics.text(&state());
        let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(series(&text), series(&metrics.text(&state())));
        for unit in ["seconds", "bytes"] {
            for line in text.lines().filter(|line| line.starts_with("# UNIT ") && line.ends_with(unit)) {
                let name = line.split(' ').nth(2).unwrap();
                let help = text.lines().find(|line| line.starts_with(&format!("# HELP {name} "))).unwrap();
                assert!(help.to_lowercase().contains(unit), "{help}");
            }
        }
        for line in [
            "keyringd_syncs_total{outcome=\"failure\"} 1000",
            "keyringd_unwraps_total{outcome=\"failure\"} 0",
            "keyringd_session_logins_total{session=\"keyring\",outcome=\"success\"} 1000",
            "keyringd_session_logins_total{session=\"references\",outcome=\"failure\"} 0",
            "keyringd_session_token_remaining_seconds{session=\"objects\"} NaN",
            "keyringd_requests_total{operation=\"rewrap\",outcome=\"denied\"} 1000",
            "keyringd_request_seconds_count{operation=\"rewrap\"} 1000",
            "keyringd_request_seconds_bucket{le=\"0.0001\",operation=\"rewrap\"} 1000",
            "keyringd_requests_total{operation=\"encrypt\",outcome=\"failed\"} 0",
            "keyringd_received_bytes_total{operation=\"rewrap\"} 100000",
            "keyringd_sent_bytes_total{operation=\"rewrap\"} 10000",
            "keyringd_requests_in_flight 1",
            "keyringd_connections 2",
            "keyringd_inflight_bytes 70",
            "keyringd_keys{state=\"live\"} 2",
            "keyringd_keys_by_source{source=\"vault\"} 4",
            "keyringd_keys_by_source{source=\"copy\"} 0",
            "keyringd_copy_writes_total{outcome=\"failure\"} 0",
            "keyringd_active_key_age_seconds 60.0",
            "keyringd_messages{slot=\"other\"} 7",
            "keyringd_messages_budget 4294967296",
            "keyringd_since_last_sync_seconds NaN",
            "keyringd_token_remaining_seconds inf",
            "keyringd_versions_headroom 9.0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
        drop(guards);
        let text = metrics.text(&state());
        assert!(text.contains("keyringd_requests_in_flight 0") && text.contains("keyringd_connections 0"));
    }

    #[test]
    fn an_expired_token_has_no_time_remaining() {
        let metrics = Metrics::default();
        metrics.token_expires(SessionKind::Keyring, Some(SystemTime::UNIX_EPOCH));
        assert!(metrics.text(&state()).contains("keyringd_token_remaining_seconds 0.0"));
    }

    #[test]
    fn a_status_maps_to_one_outcome() {
        assert_eq!(RequestOutcome::from_status(204, 0, 0), RequestOutcome::Success);
        assert_eq!(RequestOutcome::from_status(207, 2, 1), RequestOutcome::Partial);
        assert_eq!(RequestOutcome::from_status(400, 2, 2), RequestOutcome::Invalid);
        assert_eq!(RequestOutcome::from_status(400, 0, 0), RequestOutcome::Invalid);
        assert_eq!(RequestOutcome::from_status(403, 0, 0), RequestOutcome::Denied);
        assert_eq!(RequestOutcome::from_status(429, 0, 0), RequestOutcome::Limited);
        assert_eq!(RequestOutcome::from_status(500, 0, 0), RequestOutcome::Failed);
    }
}
