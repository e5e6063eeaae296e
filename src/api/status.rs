//! What operators and probes ask: status, metrics, liveness and readiness.

use std::{sync::Arc, time::SystemTime};

use hyper::{StatusCode, header::HeaderName};
use serde_json::{Value, json};

use super::{
    access::Scope,
    context::{Call, Context},
    error::ApiError,
    kms_recovery::MovedKeys,
    response::{self, Response},
};
use crate::{
    keyring::{
        HeldKey, KeyId, Keyring, KeyringEntry, KeyringSource, Keyrings, Listing, NamedVersion, Published,
        SecretLocation,
        key::{MESSAGE_BUDGET, MESSAGES_TO_WARN_FROM, TOO_MANY_MESSAGES},
        name_hash,
    },
    metrics::{self, KeyringState, State},
    operation::Permission,
};

/// The header of `/livez` with the key name in Transit's paths: the CLI reads it without the permission for status.
const NAME: HeaderName = HeaderName::from_static("keyring-name");

/// How many keys one page of the status describes, the newest first, and how many rejected records.
const KEYS_PER_PAGE: usize = 1000;

/// `GET /livez`
pub(super) async fn alive(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let mut response = response::text(StatusCode::OK, "ok\n");
    if let Some(entry) = call.named {
        response::set_header(&mut response, NAME, &entry.name);
    }
    Ok(response)
}

/// `GET /readyz`: 200 if there are keys, and the last successful sync is not older than `keyring_max_stale`; without a
/// keyring, if a session for references has logged in.
pub(super) async fn ready(call: &mut Call<'_>) -> Result<Response, ApiError> {
    health(call, SystemTime::now()).map_err(|reason| {
        let name = call.named.map_or_else(String::new, |entry| format!("{}: ", entry.name));
        ApiError::unavailable(name + &reason)
    })?;
    Ok(response::text(StatusCode::OK, "ok\n"))
}

fn health(call: &Call<'_>, now: SystemTime) -> Result<(), String> {
    match call.named {
        Some(entry) => entry.health(now),
        None => call.context.upstream.can_resolve(),
    }
}

/// `GET /metrics`
pub(super) async fn metrics(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let text = call.context.metrics.text(&gauges(call.context, &call.config.keyrings));
    Ok(response::typed(StatusCode::OK, text.into(), metrics::CONTENT_TYPE))
}

/// `GET /status`: everything that `keyringd status` shows.
pub(super) async fn status(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let entry = call.named;
    let keyring = entry.and_then(|entry| entry.published.keyring());
    let now = SystemTime::now();
    let health = health(call, now);
    let page = page(call.head.uri.query().unwrap_or_default())?;
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_seconds": call.context.started.elapsed().as_secs(),
        "connections": call.context.metrics.open_connections(),
        "access_list": call.config.access.is_some(),
        "ready": health.is_ok(),
        "reason": health.err(),
        "name": entry.map(|entry| &*entry.name),
        "secret": entry.and_then(|entry| entry.secret.as_ref()).map(describe_secret),
        "moving_from": entry.and_then(|entry| entry.moving_from()),
        "keyring": keyring.as_deref().map(|keyring| describe_keyring(keyring, page)),
        "warnings": entry.map(|entry| warnings(entry, keyring.as_deref())).unwrap_or_default(),
        "sync": entry.map(|entry| describe_sync(&entry.published, now)),
        "kms": keyring.as_deref().map(|keyring| describe_kms(keyring, &call.context.moved_keys, page)),
        "keyrings": describe_all(call, now),
        "source": call.context.upstream.describe(),
    });
    Ok(response::json(StatusCode::OK, &body))
}

/// A line for each keyring of which the peer may read the status, the default one first.
fn describe_all(call: &Call<'_>, now: SystemTime) -> Value {
    let access = call.config.access.as_ref();
    let mut all = call.config.keyrings.all();
    all.retain(|entry| {
        call.caller.permissions(Scope::Keyring(&entry.name), access).contains(Permission::Status)
    });
    all.iter()
        .map(|entry| {
            let (health, keyring, report) =
                (entry.health(now), entry.published.keyring(), entry.published.report());
            json!({
                "name": &*entry.name,
                "ready": health.is_ok(),
                "reason": health.err(),
                "secret": entry.secret.as_ref().map(describe_secret),
                "moving_from": entry.moving_from(),
                "active": keyring.as_ref().map(|keyring| keyring.active().key.id().as_str()),
                "keys": keyring.as_ref().map(|keyring| keyring.key_count()),
                "last_success": report.last_success.map(rfc3339),
                "last_error": report.last_error,
                "rejected": report.rejected.len(),
                "warnings": report.warnings.len(),
            })
        })
        .collect()
}

/// `POST /reload`: what changed.
pub(super) async fn reload(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let changes = call.context.upstream.reload().await.map_err(ApiError::invalid)?;
    Ok(response::json(StatusCode::OK, &changes))
}

/// The version of each key with the hash of its `key_id`, for a join with the API server's metrics.
fn describe_kms(keyring: &Keyring, moved: &MovedKeys, page: usize) -> Value {
    let describe = |(name, named): (&str, &NamedVersion)| {
        json!({
            "id": named.held.key.id().as_str(),
            "version": named.version.number,
            "creation_time": rfc3339(named.version.created),
            "key_id_hash": name_hash(name),
        })
    };
    let names = keyring.names().all();
    let total = names.len();
    let keys: Vec<_> = on_page(names, page).map(describe).collect();
    json!({ "keys": keys, "keys_total": total, "moved_key_decrypts": moved.decrypts() })
}

/// `id`, `creation_time` and `state` of a key.
pub(super) fn describe_key(held: &HeldKey, active: &KeyId) -> Value {
    let id = held.key.id();
    let state = match (id == active, held.retired) {
        (true, _) => "active",
        (_, true) => "retired",
        _ => "live",
    };
    json!({ "id": id.as_str(), "creation_time": rfc3339(held.created), "state": state })
}

fn gauges(context: &Context, keyrings: &Keyrings) -> State {
    let entry = keyrings.default();
    let keyring = entry.as_ref().and_then(|entry| entry.published.keyring());
    let report = entry.as_ref().map(|entry| entry.published.report()).unwrap_or_default();
    let keys = keyring.as_ref().map(|keyring| keyring.newest_first()).unwrap_or_default();
    let active = keyring.as_ref().map(|keyring| keyring.active());
    let is_active = |held: &HeldKey| active.is_some_and(|active| active.key.id() == held.key.id());
    let others = || keys.iter().filter(|held| !is_active(held));
    let retired = others().filter(|held| held.retired).count();
    let age = |held: &HeldKey| SystemTime::now().duration_since(held.created).unwrap_or_default();
    let most_messages = others().map(|held| held.key.messages()).max();
    State {
        inflight_bytes: context.budget.used(),
        keys_active: active.is_some(),
        from_copy: keyring.as_ref().is_some_and(|keyring| keyring.source() != KeyringSource::Vault),
        keys_live: others().count() - retired,
        keys_retired: retired,
        records_rejected: report.rejected.len(),
        // KV v1 has no creation times.
        active_key_age: active.filter(|_| report.listing.is_some()).map(age),
        messages: [active.map_or(0, |held| held.key.messages()), most_messages.unwrap_or(0)],
        messages_budget: MESSAGE_BUDGET,
        last_sync: entry.and_then(|entry| entry.published.synced()),
        versions_headroom: report.listing.as_ref().map(Listing::headroom),
        next_version_deletion: report.listing.as_ref().and_then(Listing::next_deletion).map(|(_, at)| at),
        keyrings: keyrings.all().iter().map(|entry| keyring_state(entry)).collect(),
    }
}

fn keyring_state(entry: &KeyringEntry) -> KeyringState {
    let (keyring, report) = (entry.published.keyring(), entry.published.report());
    KeyringState {
        name: Arc::clone(&entry.name),
        ready: entry.health(SystemTime::now()).is_ok(),
        keys: keyring.map_or(0, |keyring| keyring.key_count()),
        last_sync: entry.published.synced(),
        versions_headroom: report.listing.as_ref().map(Listing::headroom),
    }
}

/// Keys of another secret than the settings name, and keys that sealed too many messages with short nonces.
fn warnings(entry: &KeyringEntry, keyring: Option<&Keyring>) -> Vec<String> {
    let worn = |held: &&HeldKey| held.key.messages() >= MESSAGES_TO_WARN_FROM;
    let keys = keyring.map(Keyring::newest_first).unwrap_or_default();
    let worn = keys.into_iter().filter(worn).map(|held| format!("{}: {TOO_MANY_MESSAGES}", held.key.id()));
    entry.moving_warning().into_iter().chain(worn).collect()
}

/// The page that `?page=` names; the first is 1.
fn page(query: &str) -> Result<usize, ApiError> {
    let mut parameters = url::form_urlencoded::parse(query.as_bytes());
    let Some((_, number)) = parameters.find(|(name, _)| name == "page") else { return Ok(1) };
    let number = number.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| ApiError::invalid("page must be a number from 1"))
}

/// The items of a page.
fn on_page<I: IntoIterator>(all: I, page: usize) -> impl Iterator<Item = I::Item> {
    let before = page.saturating_sub(1).saturating_mul(KEYS_PER_PAGE);
    all.into_iter().skip(before).take(KEYS_PER_PAGE)
}

fn describe_keyring(keyring: &Keyring, page: usize) -> Value {
    let active = keyring.active().key.id();
    let describe = |held: &&HeldKey| {
        let mut description = describe_key(held, active);
        description["version"] = held.version.into();
        description["messages"] = held.key.messages().into();
        description["fingerprint"] = held.key.fingerprint().into();
        description
    };
    let newest_first = keyring.newest_first();
    let keys: Vec<_> = on_page(newest_first.iter(), page).map(describe).collect();
    let source = match keyring.source() {
        KeyringSource::Vault => "vault",
        KeyringSource::Copy { .. } => "copy",
    };
    json!({ "active": active.as_str(), "source": source, "keys": keys, "keys_total": newest_first.len() })
}

/// Where a keyring is, by the settings.
fn describe_secret(SecretLocation { mount, path, versioned, .. }: &SecretLocation) -> Value {
    json!({ "mount": mount, "path": path, "kv": if *versioned { "v2" } else { "v1" } })
}

fn describe_sync(published: &Published, now: SystemTime) -> Value {
    let (report, synced) = (published.report(), published.synced());
    let since = |time: SystemTime| now.duration_since(time).unwrap_or_default().as_secs();
    let rejected: Vec<_> = report
        .rejected
        .iter()
        .take(KEYS_PER_PAGE)
        .map(|rejection| {
            json!({
                "version": rejection.version,
                "id": rejection.id.as_ref().map(KeyId::as_str),
                "reason": rejection.reason.to_string(),
            })
        })
        .collect();
    json!({
        "last_success": synced.map(rfc3339),
        "seconds_since_success": synced.map(since),
        "last_attempt": report.last_attempt.map(rfc3339),
        "seconds_to_next": report.next_attempt.map(|at| at.duration_since(now).unwrap_or_default().as_secs()),
        "last_error": report.last_error,
        "failures": report.failures,
        "current_version": report.listing.as_ref().map(|listing| listing.current),
        "max_versions": report.listing.as_ref().map(|listing| listing.max_versions),
        "next_deletion": report.listing.as_ref().and_then(Listing::next_deletion).map(|(version, at)| {
            json!({ "version": version, "time": rfc3339(at) })
        }),
        "headroom": report.listing.as_ref().map(Listing::headroom),
        "rejected": rejected,
        "rejected_total": report.rejected.len(),
        "warnings": report.warnings,
    })
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
