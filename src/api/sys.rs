//! What clients of Vault ask before they start: health, seal status, their token, and the mount.
//!
//! The answers say what is so here: a keyring without keys is sealed, and the peer's permissions are its policies. Nothing is
//! granted: a token plays no part. <https://openbao.org/api-docs/system/health/>

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use serde_json::{Value, json};

use super::{
    access::Scope,
    context::Call,
    envelope::{self, Warnings},
    error::{ApiError, ErrorKind},
    response::{self, Response},
};
use crate::operation::Permission;

/// `GET /v1/sys/health`: 200 when the keyring is ready, 503 as for a sealed Vault otherwise.
pub(super) async fn health(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let now = SystemTime::now();
    let ready = call.keyring()?.health(now).is_ok();
    let body = json!({
        "initialized": true,
        "sealed": !ready,
        "standby": false,
        "performance_standby": false,
        "replication_performance_mode": "disabled",
        "replication_dr_mode": "disabled",
        "server_time_utc": now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(response::json(status, &body))
}

/// `GET /v1/sys/seal-status`
pub(super) async fn seal_status(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let body = json!({
        "type": "keyringd",
        "initialized": true,
        "sealed": call.keyring()?.health(SystemTime::now()).is_err(),
        "t": 0,
        "n": 0,
        "progress": 0,
        "nonce": "",
        "recovery_seal": false,
        "migration": false,
        "version": env!("CARGO_PKG_VERSION"),
        "storage_type": "vault",
    });
    Ok(response::json(StatusCode::OK, &body))
}

/// `GET /v1/sys/init`
pub(super) async fn init(_: &mut Call<'_>) -> Result<Response, ApiError> {
    Ok(response::json(StatusCode::OK, &json!({ "initialized": true })))
}

/// `GET /v1/sys/leader`
pub(super) async fn leader(_: &mut Call<'_>) -> Result<Response, ApiError> {
    Ok(response::json(StatusCode::OK, &json!({ "ha_enabled": false })))
}

/// `GET /v1/auth/token/lookup-self`: the peer, and its permissions in the place of policies.
pub(super) async fn lookup_self(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let permissions = call.caller.permissions(Scope::Daemon, call.config.access.as_ref());
    let policies: Vec<_> = permissions.iter().map(Permission::word).collect();
    let meta = call
        .caller
        .peer
        .as_ref()
        .map_or(Value::Null, |peer| json!({ "uid": peer.uid.to_string(), "gid": peer.gid.to_string() }));
    let uid = call.caller.peer.as_ref().map_or_else(String::new, |peer| format!("uid-{}", peer.uid));
    let data = json!({
        "accessor": "",
        "creation_time": 0,
        "creation_ttl": 0,
        "display_name": uid,
        "entity_id": "",
        "expire_time": null,
        "explicit_max_ttl": 0,
        "id": "",
        "issue_time": "1970-01-01T00:00:00Z",
        "meta": meta,
        "num_uses": 0,
        "orphan": true,
        "path": "keyring_access",
        "policies": policies,
        "renewable": false,
        "ttl": 0,
        "type": "service",
    });
    Ok(envelope::response(&data, &Warnings::default()))
}

/// `POST /v1/auth/token/renew-self`: as for a token without an end.
pub(super) async fn renew_self(_: &mut Call<'_>) -> Result<Response, ApiError> {
    Err(ApiError::invalid("lease is not renewable: the socket needs no token, and permissions do not expire"))
}

/// `GET /v1/sys/internal/ui/mounts/{mount}`, or any path below one.
pub(super) async fn mount(call: &mut Call<'_>) -> Result<Response, ApiError> {
    call.keyring()?;
    let mounts = &call.config.transit_mounts;
    let below = |mount: &&String| {
        call.tail.strip_prefix(mount.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mount = mounts.iter().find(below).ok_or_else(|| {
        let served = mounts.join(", ");
        ApiError::new(ErrorKind::NoRoute, format!("no such mount here: {served} (keyring_transit_mounts)"))
    })?;
    let data = json!({
        "accessor": "",
        "config": { "default_lease_ttl": 0, "force_no_cache": false, "max_lease_ttl": 0 },
        "deprecation_status": "supported",
        "description": "",
        "external_entropy_access": false,
        "local": true,
        "options": {},
        "path": format!("{mount}/"),
        "plugin_version": "",
        "running_plugin_version": env!("CARGO_PKG_VERSION"),
        "running_sha256": "",
        "seal_wrap": false,
        "type": "transit",
        "uuid": "",
    });
    Ok(envelope::response(&data, &Warnings::default()))
}
