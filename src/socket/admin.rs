//! What operators ask: Kong's `/keyring` API, the daemon's status, and whether it is alive and ready.

use std::time::{Duration, SystemTime};

use hyper::header::{self, HeaderMap};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Service, Upstream, answer::Answer};
use crate::{
    keyring::{
        HeldKey, KeyId, Keyring, Listing, Published,
        key::{MESSAGE_BUDGET, MESSAGES_TO_WARN_FROM, TOO_MANY_MESSAGES},
        published::Report,
    },
    metrics::State,
    secret::Secret,
};

/// Kong's endpoints for its cluster strategy.
const CLUSTER_STRATEGY: [&str; 7] =
    ["generate", "activate", "remove", "import", "import/raw", "export", "recover"];

/// `GET /keyring` → `{"active": "…", "ids": ["…"]}`; without keys, `{"ids": []}`.
pub fn keyring(published: &Published) -> Answer {
    let Some(keyring) = published.keyring() else { return Answer::json(200, &json!({ "ids": [] })) };
    let ids: Vec<_> = keyring.newest_first().iter().map(|held| held.key.id().as_str()).collect();
    Answer::json(200, &json!({ "active": keyring.active().key.id().as_str(), "ids": ids }))
}

/// `GET /keyring/active` → `{"id": "…"}`; 503 without one.
pub fn active(published: &Published) -> Answer {
    match published.keyring() {
        Some(keyring) => Answer::json(200, &json!({ "id": keyring.active().key.id().as_str() })),
        None => no_keys(published),
    }
}

/// `POST /keyring/vault/sync` → 204; a failure is 500 `{"error": "…"}`. A `token` in a JSON or form body serves this one
/// sync.
pub async fn sync(upstream: &dyn Upstream, headers: &HeaderMap, body: &[u8]) -> Answer {
    let token = match token(headers, body) {
        Ok(token) => token,
        Err(message) => return Answer::error(400, message),
    };
    match upstream.sync(token).await {
        Ok(()) => Answer::nothing(),
        Err(message) => Answer::error(500, message),
    }
}

fn token(headers: &HeaderMap, body: &[u8]) -> Result<Option<Secret<String>>, &'static str> {
    #[derive(Deserialize)]
    struct Body {
        token: Option<Secret<String>>,
    }
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form"));
    let token = if form && !body.starts_with(b"{") {
        let mut fields = url::form_urlencoded::parse(body);
        fields.find(|(name, _)| name == "token").map(|(_, value)| Secret::new(value.into_owned()))
    } else {
        let body: Body = serde_json::from_slice(body)
            .map_err(|_| "the body must be empty, a form, or JSON: {\"token\": \"…\"}")?;
        body.token
    };
    let token = token.filter(|token| !token.expose().is_empty());
    match &token {
        Some(text) if !text.expose().bytes().all(|b| b.is_ascii_graphic()) => {
            Err("the token has characters that no token has")
        }
        _ => Ok(token),
    }
}

/// `GET /readyz`: 200 once there are keys to serve with, unless the last good sync is too long ago.
pub fn ready(published: &Published, max_stale: Option<Duration>) -> Answer {
    match health(published, max_stale) {
        Ok(()) => Answer::text(200, "ok\n"),
        Err(why) => Answer::text(503, format!("{why}\n")),
    }
}

/// Whether there are keys that are fresh enough to serve with; the error says why not, and nothing secret.
pub fn health(published: &Published, max_stale: Option<Duration>) -> Result<(), String> {
    let report = published.report();
    if published.keyring().is_none() {
        return Err(why_no_keys(&report));
    }
    let age = report.last_success.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
    match (age, max_stale) {
        (Some(age), Some(most)) if age > most => {
            let why = report.last_error.as_deref().unwrap_or("the next one is under way");
            Err(format!("the last good sync was {} s ago (keyring_max_stale): {why}", age.as_secs()))
        }
        _ => Ok(()),
    }
}

/// 503 for whoever needs a key before there is one.
pub fn no_keys(published: &Published) -> Answer {
    Answer::not_yet(why_no_keys(&published.report()))
}

pub fn why_no_keys(report: &Report) -> String {
    match &report.last_error {
        Some(error) => format!("no keys yet: {error}"),
        None => "no keys yet: the first sync with Vault is under way".to_owned(),
    }
}

/// `GET /status`: everything that `keyringd status` shows.
pub fn status(service: &Service) -> Answer {
    let (keyring, report) = (service.published.keyring(), service.published.report());
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": keyring.is_some(),
        "reason": keyring.is_none().then(|| why_no_keys(&report)),
        "name": service.live().name,
        "keyring": keyring.as_deref().map(keys),
        "warnings": keyring.as_deref().map(warnings).unwrap_or_default(),
        "sync": sync_state(&report, SystemTime::now()),
        "source": service.upstream.describe(),
    });
    Answer::json(200, &body)
}

/// What an operator should see to, beside what the syncs say.
fn warnings(keyring: &Keyring) -> Vec<String> {
    let worn = |held: &&&HeldKey| held.key.messages() >= MESSAGES_TO_WARN_FROM;
    let keys = keyring.newest_first();
    keys.iter().filter(worn).map(|held| format!("{}: {TOO_MANY_MESSAGES}", held.key.id())).collect()
}

fn keys(keyring: &Keyring) -> Value {
    let active = keyring.active().key.id();
    let one = |held: &&HeldKey| {
        let mut told = key(held, active);
        told["version"] = held.version.into();
        told["messages"] = held.key.messages().into();
        told
    };
    let keys: Vec<_> = keyring.newest_first().iter().map(one).collect();
    json!({ "active": active.as_str(), "keys": keys })
}

/// What is told of a key: `id`, `creation_time`, `state`.
pub fn key(held: &HeldKey, active: &KeyId) -> Value {
    let id = held.key.id();
    let state = match (id == active, held.retired) {
        (true, _) => "active",
        (_, true) => "retired",
        _ => "live",
    };
    json!({ "id": id.as_str(), "creation_time": rfc3339(held.created), "state": state })
}

/// The gauges, as they are now.
pub fn metrics(service: &Service) -> Answer {
    let (keyring, report) = (service.published.keyring(), service.published.report());
    let keys = keyring.as_ref().map(|keyring| keyring.newest_first()).unwrap_or_default();
    let active = keyring.as_ref().map(|keyring| keyring.active());
    let is_active = |held: &HeldKey| active.is_some_and(|active| active.key.id() == held.key.id());
    let others = || keys.iter().filter(|held| !is_active(held));
    let retired = others().filter(|held| held.retired).count();
    let age = |held: &HeldKey| SystemTime::now().duration_since(held.created).unwrap_or_default();
    let most_messages = others().map(|held| held.key.messages()).max();
    Answer::metrics(service.metrics.text(&State {
        connections: service.connections(),
        inflight_bytes: service.inflight.bytes(),
        keys_active: active.is_some(),
        keys_live: others().count() - retired,
        keys_retired: retired,
        records_rejected: report.rejected.len(),
        // Version 1 of the KV engine does not say when anything was written.
        active_key_age: active.filter(|_| report.listing.is_some()).map(age),
        messages: [active.map_or(0, |held| held.key.messages()), most_messages.unwrap_or(0)],
        messages_budget: MESSAGE_BUDGET,
        last_sync: report.last_success,
        versions_headroom: report.listing.as_ref().map(Listing::headroom),
    }))
}

fn sync_state(report: &Report, now: SystemTime) -> Value {
    let since = |time: SystemTime| now.duration_since(time).unwrap_or_default().as_secs();
    let rejected: Vec<_> = report
        .rejected
        .iter()
        .map(|rejection| {
            json!({
                "version": rejection.version,
                "id": rejection.id.as_ref().map(KeyId::as_str),
                "reason": rejection.reason.to_string(),
            })
        })
        .collect();
    json!({
        "last_success": report.last_success.map(rfc3339),
        "seconds_since_success": report.last_success.map(since),
        "last_attempt": report.last_attempt.map(rfc3339),
        "last_error": report.last_error,
        "failures": report.failures,
        "current_version": report.listing.as_ref().map(|listing| listing.current),
        "max_versions": report.listing.as_ref().map(|listing| listing.max_versions),
        "headroom": report.listing.as_ref().map(Listing::headroom),
        "rejected": rejected,
        "warnings": report.warnings,
    })
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A path that is not served here.
pub fn elsewhere(path: &str) -> Answer {
    let cluster = path.strip_prefix("/keyring/").is_some_and(|rest| CLUSTER_STRATEGY.contains(&rest));
    if cluster {
        return Answer::error(
            400,
            "this endpoint belongs to Kong's cluster strategy; here keys live in Vault: write a new version of the \
             secret to rotate, destroy a version to remove its key, and POST /keyring/vault/sync to see it at once",
        );
    }
    Answer::errors(
        404,
        "no such path: see /v1/transit/encrypt/{name}, /v1/transit/decrypt/{name}, /keyring, /status, /metrics",
    )
}
