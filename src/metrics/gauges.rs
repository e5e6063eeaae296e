//! The gauges that are set at a scrape: keys, ages, bytes in flight. Their values come as a [`State`] from the API.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::labels::Labels;

type Seconds = Gauge<f64, AtomicU64>;

/// The values at the scrape.
#[derive(Debug)]
pub struct State {
    pub inflight_bytes: usize,
    pub keys_active: bool,
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
}

/// When the Vault token expires.
#[derive(Clone, Copy, Debug)]
pub(super) enum TokenExpiry {
    At(SystemTime),
    Never,
}

#[derive(Clone, Debug)]
pub(super) struct Gauges {
    inflight_bytes: Gauge,
    keys: Family<Labels<1>, Gauge>,
    active_key_age: Seconds,
    messages: Family<Labels<1>, Gauge>,
    messages_budget: Gauge,
    since_sync: Seconds,
    token_remaining: Seconds,
    versions_headroom: Seconds,
}

impl Gauges {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let gauges = Self {
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
        registry.register_with_unit(
            "inflight",
            "Bytes of requests being handled, and of responses that clients have not read yet",
            Unit::Bytes,
            all.inflight_bytes,
        );
        registry.register("keys", "Keys by state; rejected counts the records that were left out", all.keys);
        registry.register_with_unit(
            "active_key_age",
            "Since the active key was written to Vault; NaN if unknown",
            Unit::Seconds,
            all.active_key_age,
        );
        registry.register(
            "messages",
            "Messages sealed with 96-bit nonces by this process: under the active key, and the maximum of the other keys",
            all.messages,
        );
        registry.register(
            "messages_budget",
            "How many such messages one key may seal, over all of its holders",
            all.messages_budget,
        );
        registry.register_with_unit(
            "since_last_sync",
            "Since the last successful sync; NaN before the first",
            Unit::Seconds,
            all.since_sync,
        );
        registry.register_with_unit(
            "token_remaining",
            "Until the Vault token expires unless it is renewed; +Inf for never, NaN without a token",
            Unit::Seconds,
            all.token_remaining,
        );
        registry.register(
            "versions_headroom",
            "How many versions can be written before Vault destroys the oldest; NaN on KV v1",
            all.versions_headroom,
        );
        gauges
    }

    pub(super) fn set(&self, state: &State, token: Option<TokenExpiry>, now: SystemTime) {
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
            Some(TokenExpiry::Never) => f64::INFINITY,
            Some(TokenExpiry::At(at)) => at.duration_since(now).unwrap_or_default().as_secs_f64(),
        });
        #[expect(clippy::cast_precision_loss, reason = "a count of versions is far below 2^52")]
        self.versions_headroom.set(state.versions_headroom.map_or(f64::NAN, |headroom| headroom as f64));
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
