//! `approle`: a role ID and a secret ID, which may be response-wrapped: a token that unwraps to it once.
//!
//! <https://openbao.org/api-docs/auth/approle/>: `{"role_id", "secret_id"}`. A wrapping token is looked up first and its
//! creation path checked; then it is unwrapped once and never again. If another party unwrapped it first, that party knows
//! the secret ID, so a failure is a security event. The secret ID stays in memory, so that later logins work.

use std::{collections::VecDeque, fmt::Write as _, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{sync::Mutex, time::Instant};

use super::method::{Issued, Method};
use crate::{
    metrics::{Metrics, Outcome},
    secret::Secret,
    settings::{SecretPath, Server, server::AppRole},
    vault::{
        error::VaultError,
        refusals::{self, Fingerprint, Refusal, Refusals},
        state::SessionName,
        transport::{Request, Transport},
    },
};

const METHOD: Method = Method {
    name: "approle",
    cures: &[
        ("invalid secret id", "the secret ID is wrong, was used up or has expired: issue a new one"),
        (
            "invalid role or secret ID",
            "the role ID or the secret ID is wrong, or the secret ID has expired or was used up",
        ),
        ("invalid role id", "{approle_role_id} names no role of the auth method"),
        ("source address", "the secret ID may not be used from this machine's address"),
    ],
    otherwise: "check {approle_role_id} and the secret ID",
    auth_path: "approle_auth_path",
};

/// The most wrapping tokens that are remembered: the latest of a few sessions that replaced each other.
const MAX_REMEMBERED: usize = 4;

const SPENT: &str = "its wrapping token was tried before and gave nothing: issue a new wrapped secret ID";

/// The wrapping tokens that were tried, newest last. A session shares it with the one that replaces it.
#[derive(Clone, Debug, Default)]
pub(in crate::vault) struct Memory(Arc<Mutex<VecDeque<Tried>>>);

#[derive(Debug)]
struct Tried {
    /// Of the wrapping token, which is not tried again.
    token: Fingerprint,
    /// What it unwrapped to.
    secret_id: Option<Arc<Secret<String>>>,
}

/// Who raises the alarm when a secret ID may be known to others.
#[derive(Clone, Copy)]
pub(super) struct Alarm<'a> {
    pub(super) session: &'a SessionName,
    pub(super) metrics: &'a Metrics,
}

/// Borrowed, so that the one copy of the secret is the one that is sent and wiped.
#[derive(Serialize)]
struct Login<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

#[derive(Serialize)]
struct LookUp<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
struct WrappingInfo {
    creation_path: String,
}

#[derive(Deserialize)]
struct SecretId {
    secret_id: Secret<String>,
}

/// The secret ID, unwrapped if that is configured.
pub(super) async fn secret_id(
    transport: &Transport,
    settings: &AppRole,
    memory: &Memory,
    alarm: Alarm<'_>,
) -> Result<Arc<Secret<String>>, VaultError> {
    match settings.secret_id.read() {
        Ok(secret_id) if !settings.wrapped => Ok(Arc::new(secret_id)),
        Ok(token) => unwrap_once(transport, &settings.mount, &token, memory, alarm).await,
        Err(error) => {
            let unwrapped = if settings.wrapped { latest(&*memory.0.lock().await) } else { None };
            unwrapped.ok_or_else(|| METHOD.no_credential(error.to_string()))
        }
    }
}

pub(super) async fn log_in(
    transport: &Transport,
    server: &Server,
    settings: &AppRole,
    secret_id: &Secret<String>,
    refusals: &Refusals,
) -> Result<Issued, VaultError> {
    let (namespace, mount) = (server.namespace.as_deref().unwrap_or_default(), settings.mount.to_string());
    let parts = [server.host.as_str(), namespace, &mount, &settings.role_id, secret_id.expose()];
    let credential = refusals::fingerprint(parts);
    refusals.check(&credential, Instant::now())?;
    let body = Login { role_id: &settings.role_id, secret_id: secret_id.expose() };
    let outcome = METHOD.log_in(transport, server.names, &settings.mount, &body, Some(secret_id)).await;
    let Err(VaultError::Login { method, message, mut cure }) = outcome else { return outcome };
    let mut kind = Refusal::Wrong;
    if message.contains("permission denied") {
        kind = Refusal::MaybeLocked;
        let _ = write!(
            cure,
            "; or failed logins, here or elsewhere, have locked the role: wait 15 min, or unlock it with `bao write -f \
             sys/locked-users/<accessor>/unlock/{}` (the accessor is in `bao auth list`), then run `keyringd sync`",
            settings.role_id
        );
    }
    let error = VaultError::Login { method, message, cure };
    refusals.add(credential, kind, error.to_string(), Instant::now());
    Err(error)
}

/// What the newest wrapping token that could be unwrapped held.
fn latest(tried: &VecDeque<Tried>) -> Option<Arc<Secret<String>>> {
    tried.iter().rev().find_map(|one| one.secret_id.clone())
}

/// The secret ID that a wrapping token holds, which is unwrapped unless that was tried before. A token that does not
/// unwrap leaves the secret ID that there was.
async fn unwrap_once(
    transport: &Transport,
    mount: &SecretPath,
    token: &Secret<String>,
    memory: &Memory,
    alarm: Alarm<'_>,
) -> Result<Arc<Secret<String>>, VaultError> {
    let fingerprint: Fingerprint = Sha256::digest(token.expose()).into();
    // Held to the end: the session that replaces this one must not unwrap the token a second time.
    let mut tried = memory.0.lock().await;
    if let Some(known) = tried.iter().find(|one| one.token == fingerprint) {
        let secret_id = known.secret_id.clone().or_else(|| latest(&tried));
        return secret_id.ok_or_else(|| METHOD.no_credential(SPENT.to_owned()));
    }
    let outcome = match look_up(transport, mount, token, alarm).await {
        // Nothing can be known about it: it is looked up again at the next login.
        Err(error) if !matches!(error, VaultError::NoCredential { .. }) => {
            return latest(&tried).ok_or(error);
        }
        Err(error) => Err(error),
        // From here on it is spent, even if no response comes: it is never sent again.
        Ok(()) => unwrap(transport, token).await.map_err(|cause| alarm.raise(&cause)),
    };
    if tried.len() >= MAX_REMEMBERED {
        tried.pop_front();
    }
    let unwrapped = outcome.map(Arc::new);
    tried.push_back(Tried { token: fingerprint, secret_id: unwrapped.as_ref().ok().map(Arc::clone) });
    let fallback = latest(&tried);
    drop(tried);
    if unwrapped.is_ok() {
        alarm.metrics.unwrapped(Outcome::Success);
    }
    unwrapped.or_else(|error| fallback.ok_or(error))
}

/// Checks a wrapped secret ID without unwrapping it.
pub(super) async fn check_wrapping(
    transport: &Transport,
    settings: &AppRole,
    alarm: Alarm<'_>,
) -> Result<(), VaultError> {
    let token = settings.secret_id.read().map_err(|error| METHOD.no_credential(error.to_string()))?;
    look_up(transport, &settings.mount, &token, alarm).await
}

/// Checks that the token wraps a secret ID, without unwrapping it.
async fn look_up(
    transport: &Transport,
    mount: &SecretPath,
    token: &Secret<String>,
    alarm: Alarm<'_>,
) -> Result<(), VaultError> {
    let url = transport.url(["sys", "wrapping", "lookup"]);
    let request = Request::post(url, &LookUp { token: token.expose() }).holding(token);
    let response = transport.send(request).await?;
    if !response.status.is_success() {
        return Err(alarm.raise(&format!("Vault does not know it any more{}", response.message)));
    }
    let Some(WrappingInfo { creation_path }) = response.data() else {
        return Err(VaultError::Malformed { path: response.path, what: "data.creation_path is missing" });
    };
    if is_secret_id_of(mount, &creation_path) {
        return Ok(());
    }
    Err(alarm
        .raise("the role's secret-id endpoint did not create it, so it may have been put in place of ours"))
}

/// Whether a creation path is exactly `auth/<mount>/role/<any>/secret-id`.
fn is_secret_id_of(mount: &SecretPath, creation_path: &str) -> bool {
    let role = creation_path
        .strip_prefix(&format!("auth/{mount}/role/"))
        .and_then(|rest| rest.strip_suffix("/secret-id"));
    role.is_some_and(|role| !role.is_empty() && !role.contains('/'))
}

/// `POST sys/wrapping/unwrap` with the wrapping token as the token. Once.
async fn unwrap(transport: &Transport, token: &Secret<String>) -> Result<Secret<String>, String> {
    let request = Request::post(transport.url(["sys", "wrapping", "unwrap"]), &json!({})).token(token);
    let response = transport.send_once(&request).await.map_err(|error| error.to_string())?;
    if !response.status.is_success() {
        return Err(format!("Vault does not unwrap it{}", response.message));
    }
    let unwrapped: Option<SecretId> = response.data();
    unwrapped.map(|unwrapped| unwrapped.secret_id).ok_or_else(|| "it holds no secret_id".to_owned())
}

impl Alarm<'_> {
    /// Another party may know the secret ID.
    fn raise(&self, cause: &str) -> VaultError {
        self.metrics.unwrapped(Outcome::Failure);
        tracing::error!(
            security_event = "response-wrapping",
            session = %self.session,
            error = %cause,
            "the wrapped secret ID could not be unwrapped; unless you unwrapped it yourself, destroy the secret \
             IDs of the role"
        );
        METHOD
            .no_credential(format!("the wrapped secret ID could not be unwrapped: {cause}; issue a new one"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_creation_path_is_checked_exactly() {
        let mount = SecretPath(vec!["team".into(), "approle".into()]);
        assert!(is_secret_id_of(&mount, "auth/team/approle/role/app/secret-id"));
        for bad in [
            "sys/wrapping/wrap",
            "auth/approle/role/app/secret-id",
            "auth/team/approle/role//secret-id",
            "auth/team/approle/role/a/b/secret-id",
            "auth/team/approle/role/app/secret-id/lookup",
            "auth/team/approle/role/app/custom-secret-id",
            "x/auth/team/approle/role/app/secret-id",
            "auth/team/approle/role/secret-id",
        ] {
            assert!(!is_secret_id_of(&mount, bad), "{bad}");
        }
    }
}
