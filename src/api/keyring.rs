//! What clients can read of the keys, never key material: Kong's `/keyring` API, on the default keyring, and Transit's keys
//! (<https://openbao.org/api-docs/secret/transit/#read-key>). Kong's API also syncs.

use std::{
    collections::BTreeMap,
    time::{Instant, UNIX_EPOCH},
};

use hyper::{
    Method, StatusCode,
    header::{self, HeaderMap},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    context::Call,
    envelope::{self, Warnings},
    error::{ApiError, ErrorKind},
    response::{self, Response},
    status::describe_key,
};
use crate::{
    keyring::{Format, HeldKey, Keyring, KeyringEntry},
    secret::Secret,
};

/// `GET /keyring` → `{"active": "…", "ids": ["…"]}`; without keys, `{"ids": []}`.
pub(super) async fn list(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let body = match call.keyring()?.published.keyring() {
        None => json!({ "ids": [] }),
        Some(keyring) => {
            let ids: Vec<_> = keyring.newest_first().iter().map(|held| held.key.id().as_str()).collect();
            json!({ "active": keyring.active().key.id().as_str(), "ids": ids })
        }
    };
    Ok(response::json(StatusCode::OK, &body))
}

/// `GET /keyring/active` → `{"id": "…"}`; 503 without one.
pub(super) async fn active(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let entry = call.keyring()?;
    let keyring = entry.published.keyring().ok_or_else(|| ApiError::unavailable(entry.no_keys()))?;
    Ok(response::json(StatusCode::OK, &json!({ "id": keyring.active().key.id().as_str() })))
}

/// `POST /keyring/vault/sync` → 204. A `token` in a JSON or form body is used for this sync only.
pub(super) async fn sync(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let token = token(&call.head.headers, call.body.as_bytes()).map_err(ApiError::invalid)?;
    let (upstream, name) = (&call.context.upstream, &call.keyring()?.name);
    if token.is_none() {
        upstream.sync(name, None).await.map_err(ApiError::failed)?;
        return Ok(response::empty(StatusCode::NO_CONTENT));
    }
    let uid = call.caller.uid();
    if call.config.access.is_none() && !call.caller.is_administrator() {
        let message = format!(
            "without keyring_access, only root and the daemon's user may sync with a token of their own: \
             keyring_access would allow it with the entry uid:{uid}=sync"
        );
        return Err(ApiError::new(ErrorKind::Denied, message));
    }
    let attempt = call.context.tokens.begin(uid, Instant::now()).ok_or_else(|| {
        let message =
            "the last token of this user failed a moment ago, or is being tried: try again in a second";
        ApiError::new(ErrorKind::Busy, message)
    })?;
    upstream.sync(name, token).await.map_err(ApiError::failed)?;
    attempt.succeeded();
    Ok(response::empty(StatusCode::NO_CONTENT))
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
        .is_some_and(|value| value.as_bytes().starts_with(b"application/x-www-form"));
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
            Err("the token has a space or a character that is not ASCII")
        }
        _ => Ok(token),
    }
}

/// `GET /v1/transit/keys/{name}`
pub(super) async fn read_transit_key(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let entry = call.keyring()?;
    let keyring = call.context.snapshot(entry).await?;
    Ok(describe(&keyring, entry))
}

/// `LIST /v1/transit/keys`
pub(super) async fn list_transit_keys(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let query = call.head.uri.query().unwrap_or_default();
    let listed = url::form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| name == "list" && matches!(&*value, "true" | "1"));
    if call.head.method == Method::GET && !listed {
        let message = "this path supports LIST, and GET with ?list=true";
        return Err(ApiError::new(ErrorKind::Method(&["LIST"]), message));
    }
    call.keyring()?;
    let mut keyrings = call.config.keyrings.all();
    keyrings.retain(|entry| call.caller.may_use(&entry.name, call.config.access.as_ref()));
    if keyrings.is_empty() {
        return Err(ApiError::new(
            ErrorKind::Denied,
            "this user may use no keyring here: see keyring_access",
        ));
    }
    let names: Vec<_> = keyrings.iter().map(|entry| &*entry.name).collect();
    Ok(envelope::response(&json!({ "keys": names }), &Warnings::default()))
}

fn describe(keyring: &Keyring, entry: &KeyringEntry) -> Response {
    let mut versions: BTreeMap<u64, Vec<&HeldKey>> = BTreeMap::new();
    for held in keyring.newest_first() {
        versions.entry(held.version).or_default().push(held);
    }
    let oldest = versions.keys().next().copied();
    // Versions that Vault no longer lists only decrypt.
    let live = versions.iter().find(|(_, held)| held.iter().any(|held| !held.retired));
    let oldest_live = live.map(|(version, _)| *version);
    let times: Map<_, _> =
        versions.iter().map(|(version, held)| (version.to_string(), unix_time(held))).collect();
    let info: Map<_, _> = versions
        .iter()
        .map(|(version, held)| (version.to_string(), describe_version(keyring, held)))
        .collect();
    let data = json!({
        "name": &*entry.name,
        // What clients check; the cipher itself is `algorithm`.
        "type": "aes256-gcm96",
        "algorithm": match entry.formats_of(keyring).write {
            Format::Transit => "AES-256-GCM",
            _ => "XAES-256-GCM",
        },
        "latest_version": keyring.active().version,
        "keys": times,
        "key_info": info,
        "min_available_version": oldest,
        "min_decryption_version": oldest,
        "min_encryption_version": oldest_live,
        "allow_plaintext_backup": false,
        "auto_rotate_period": 0,
        "deletion_allowed": false,
        "derived": false,
        "exportable": false,
        "imported_key": false,
        "soft_deleted": false,
        "supports_decryption": true,
        "supports_derivation": true,
        "supports_encryption": true,
        "supports_signing": false,
    });
    envelope::response(&data, &Warnings::default())
}

/// When the version was written, in seconds since 1970.
fn unix_time(held: &[&HeldKey]) -> Value {
    let created = held.iter().map(|held| held.created).min();
    created.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_secs().into()
}

/// A version with several keys is described by the active one, or any, with the IDs of all.
fn describe_version(keyring: &Keyring, held: &[&HeldKey]) -> Value {
    let active = keyring.active().key.id();
    let first = held.iter().find(|held| held.key.id() == active).unwrap_or(&held[0]);
    let mut description = describe_key(first, active);
    if held.len() > 1 {
        description["ids"] = held.iter().map(|held| held.key.id().as_str()).collect();
    }
    description
}
