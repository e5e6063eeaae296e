//! The gauges that are set at a scrape: keys, ages, bytes in flight. Their values come as a [`State`] from the API.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use enum_map::EnumMap;
use prometheus_client::{
    metrics::gauge::Gauge,
    registry::{Registry, Unit},
};

use super::{
    SessionKind,
    keyrings::KeyringState,
    series::{Series, registered},
};

pub(super) type Labels<const N: usize> = [(&'static str, &'static str); N];
type Seconds = Gauge<f64, AtomicU64>;

/// The values at the scrape.
#[derive(Debug)]
pub struct State {
    pub inflight_bytes: usize,
    pub keys_active: bool,
    /// The keys are those of the sealed copy.
    pub from_copy: bool,
    pub keys_live: usize,
    pub keys_retired: usize,
    pub records_rejected: usize,
    /// Since the active key was written to Vault.
    pub active_key_age: Option<Duration>,
    /// Messages sealed with 96-bit nonces: under the active key, and the maximum of the other keys.
    pub messages: [u64; 2],
    pub messages_budget: u64,
    pub last_sync: Option<SystemTime>,
    /// Versions that can be written before Vault destroys the oldest; `None` on KV v1.
    pub versions_headroom: Option<u64>,
    /// When Vault deletes a version by itself (`delete_version_after`).
    pub next_version_deletion: Option<SystemTime>,
    /// Those before are of the default one.
    pub keyrings: Vec<KeyringState>,
}

/// When the Vault token expires.
#[derive(Clone, Copy, Debug)]
pub(super) enum TokenExpiry {
    At(SystemTime),
    Never,
}

#[derive(Debug)]
pub(super) struct Gauges {
    inflight_bytes: Gauge,
    keys: Series<Labels<1>, Gauge>,
    keys_by_source: Series<Labels<1>, Gauge>,
    active_key_age: Seconds,
    messages: Series<Labels<1>, Gauge>,
    messages_budget: Gauge,
    since_sync: Seconds,
    versions_headroom: Seconds,
    to_version_deletion: Seconds,
    tokens: TokenGauges,
}

/// How long the tokens are valid: that of the keyring's session, and that of each session.
#[derive(Debug)]
struct TokenGauges {
    keyring: Seconds,
    by_session: Series<Labels<1>, Seconds>,
}

impl Gauges {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let seconds = Some(Unit::Seconds);
        Self {
            inflight_bytes: registered(
                registry,
                "inflight",
                "Bytes of requests being handled, and of responses that clients have not read yet",
                Some(Unit::Bytes),
            ),
            keys: registered(
                registry,
                "keys",
                "Keys by state; rejected counts the records that were left out",
                None,
            ),
            keys_by_source: registered(
                registry,
                "keys_by_source",
                "Keys that are served, by where they come from: Vault, or the sealed copy while Vault is away",
                None,
            ),
            active_key_age: registered(
                registry,
                "active_key_age",
                "Seconds since the active key was written to Vault; NaN if unknown",
                seconds.clone(),
            ),
            messages: registered(
                registry,
                "messages",
                "Messages sealed with 96-bit nonces by this process: under the active key, and the maximum of the other keys",
                None,
            ),
            messages_budget: registered(
                registry,
                "messages_budget",
                "How many such messages one key may seal, over all of its holders",
                None,
            ),
            since_sync: registered(
                registry,
                "since_last_sync",
                "Seconds since the last successful sync; NaN before the first",
                seconds,
            ),
            versions_headroom: registered(
                registry,
                "versions_headroom",
                "How many versions can be written before Vault destroys the oldest; NaN on KV v1",
                None,
            ),
            to_version_deletion: registered(
                registry,
                "seconds_to_version_deletion",
                "Seconds until Vault deletes a live version by itself (delete_version_after); NaN if it deletes none",
                None,
            ),
            tokens: TokenGauges::register(registry),
        }
    }

    pub(super) fn set(
        &self,
        state: &State,
        tokens: &EnumMap<SessionKind, Option<TokenExpiry>>,
        now: SystemTime,
    ) {
        self.inflight_bytes.set(count(state.inflight_bytes));
        for (label, keys) in [
            ("active", usize::from(state.keys_active)),
            ("live", state.keys_live),
            ("retired", state.keys_retired),
            ("rejected", state.records_rejected),
        ] {
            self.keys.get_or_create(&[("state", label)]).set(count(keys));
        }
        let served = usize::from(state.keys_active) + state.keys_live + state.keys_retired;
        for (label, is_it) in [("vault", !state.from_copy), ("copy", state.from_copy)] {
            self.keys_by_source.get_or_create(&[("source", label)]).set(if is_it {
                count(served)
            } else {
                0
            });
        }
        for (slot, messages) in ["active", "other"].into_iter().zip(state.messages) {
            self.messages.get_or_create(&[("slot", slot)]).set(count(messages));
        }
        self.messages_budget.set(count(state.messages_budget));
        self.active_key_age.set(state.active_key_age.map_or(f64::NAN, |age| age.as_secs_f64()));
        let since = |time: SystemTime| now.duration_since(time).unwrap_or_default().as_secs_f64();
        self.since_sync.set(state.last_sync.map_or(f64::NAN, since));
        self.tokens.set(tokens, now);
        self.to_version_deletion.set(state.next_version_deletion.map_or(f64::NAN, |at| until(at, now)));
        #[expect(clippy::cast_precision_loss, reason = "a count of versions is far below 2^52")]
        self.versions_headroom.set(state.versions_headroom.map_or(f64::NAN, |headroom| headroom as f64));
    }
}

impl TokenGauges {
    fn register(registry: &mut Registry) -> Self {
        Self {
            keyring: registered(
                registry,
                "token_remaining",
                "Seconds until the Vault token expires unless it is renewed; +Inf for never, NaN without a token",
                Some(Unit::Seconds),
            ),
            by_session: registered(
                registry,
                "session_token_remaining",
                "Seconds until the Vault token of a session expires unless it is renewed; +Inf for never, NaN without one",
                Some(Unit::Seconds),
            ),
        }
    }

    fn set(&self, tokens: &EnumMap<SessionKind, Option<TokenExpiry>>, now: SystemTime) {
        let remaining = |token| match token {
            None => f64::NAN,
            Some(TokenExpiry::Never) => f64::INFINITY,
            Some(TokenExpiry::At(at)) => until(at, now),
        };
        self.keyring.set(remaining(tokens[SessionKind::Keyring]));
        for (session, token) in tokens {
            self.by_session.get_or_create(&[("session", session.name())]).set(remaining(*token));
        }
    }
}

/// Seconds; 0 for a time that has passed.
fn until(at: SystemTime, now: SystemTime) -> f64 {
    at.duration_since(now).unwrap_or_default().as_secs_f64()
}

fn count(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
