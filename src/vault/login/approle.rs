//! `approle`: a role ID and a secret ID, which may come wrapped in a token that opens once.
//!
//! <https://openbao.org/api-docs/auth/approle/>: `{"role_id", "secret_id"}`. A wrapped one is looked up first, and its
//! creation path checked; then it is unwrapped once and never again. Whoever else opened it first knows the secret ID,
//! so a failure is a security event. What was unwrapped stays in memory, so that later logins work.

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Method;
use crate::{
    metrics::{Metrics, Outcome},
    secret::Secret,
    settings::{SecretPath, auth::AppRole},
    vault::{
        VaultError,
        lease::Lease,
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
        ("invalid role id", "keyring_vault_approle_role_id names no role of the auth method"),
        ("source address", "the secret ID may not be used from this machine's address"),
    ],
    otherwise: "check keyring_vault_approle_role_id and the secret ID",
};

/// What is remembered between logins of a wrapped secret ID.
#[derive(Debug, Default)]
pub struct Memory {
    /// SHA-256 of the last wrapping token that was tried, whatever came of it: it is not tried again.
    tried: Option<[u8; 32]>,
    /// What the last one that opened held.
    secret_id: Option<Secret<String>>,
}

const SPENT: &str = "its wrapping token was tried before and gave nothing: issue a new wrapped secret ID";

/// Borrowed, so that the one copy of the secret is the one that is sent and wiped.
#[derive(Serialize)]
struct Login<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

#[derive(Serialize)]
struct ToLookUp<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
struct Lookup {
    data: Wrapped,
}

#[derive(Deserialize)]
struct Wrapped {
    creation_path: String,
}

#[derive(Deserialize)]
struct Unwrapped {
    data: SecretId,
}

#[derive(Deserialize)]
struct SecretId {
    secret_id: Secret<String>,
}

pub async fn log_in(
    transport: &Transport,
    settings: &AppRole,
    memory: &mut Memory,
    metrics: &Metrics,
) -> Result<Lease, VaultError> {
    let given = settings.secret_id.read().map_err(|error| no_secret_id(error.to_string()));
    if settings.wrapped {
        let opened = open(transport, &settings.mount, given, memory, metrics).await;
        let secret_id = match (&memory.secret_id, opened) {
            (Some(secret_id), _) => secret_id, // the last one that opened is good until its login is refused
            (None, Err(error)) => return Err(error),
            (None, Ok(())) => return Err(no_secret_id(SPENT.to_owned())),
        };
        return send(transport, settings, secret_id).await;
    }
    send(transport, settings, &given?).await
}

async fn send(
    transport: &Transport,
    settings: &AppRole,
    secret_id: &Secret<String>,
) -> Result<Lease, VaultError> {
    let body = Login { role_id: &settings.role_id, secret_id: secret_id.expose() };
    METHOD.log_in(transport, &settings.mount, &body, Some(secret_id)).await
}

/// Opens the wrapping token that is given, if it is a new one, and remembers what was in it. A file that is gone, or a
/// token that does not open, leaves what is remembered.
async fn open(
    transport: &Transport,
    mount: &SecretPath,
    given: Result<Secret<String>, VaultError>,
    memory: &mut Memory,
    metrics: &Metrics,
) -> Result<(), VaultError> {
    let token = given?;
    let hash: [u8; 32] = Sha256::digest(token.expose()).into();
    if memory.tried == Some(hash) {
        return Ok(());
    }
    match look_up(transport, mount, &token, metrics).await {
        Err(error @ VaultError::NoCredential { .. }) => {
            memory.tried = Some(hash);
            return Err(error);
        }
        other => other?,
    }
    // From here on it is spent, also if no answer comes: it is never sent again.
    memory.tried = Some(hash);
    match unwrap(transport, &token).await {
        Ok(secret_id) => {
            metrics.unwrapped(Outcome::Success);
            memory.secret_id = Some(secret_id);
            Ok(())
        }
        Err(why) => Err(alarm(&why, metrics)),
    }
}

/// Looks at a wrapped secret ID without opening it.
pub async fn look_at_wrapping(transport: &Transport, settings: &AppRole) -> Result<(), VaultError> {
    let token = settings.secret_id.read().map_err(|error| no_secret_id(error.to_string()))?;
    look_up(transport, &settings.mount, &token, &Metrics::default()).await
}

/// Checks that the token wraps what it should, without opening it.
async fn look_up(
    transport: &Transport,
    mount: &SecretPath,
    token: &Secret<String>,
    metrics: &Metrics,
) -> Result<(), VaultError> {
    let url = transport.url(["sys", "wrapping", "lookup"]);
    let request = Request::post(url, &ToLookUp { token: token.expose() }).holding(token);
    let answer = transport.send(request).await?;
    if !answer.status.is_success() {
        return Err(alarm(&format!("Vault does not know it any more{}", answer.said), metrics));
    }
    let Some(Lookup { data }) = answer.json() else {
        return Err(VaultError::Malformed { path: answer.path, what: "data.creation_path is missing" });
    };
    if is_secret_id_of(mount, &data.creation_path) {
        return Ok(());
    }
    Err(alarm(
        "it was not made by the role's secret-id endpoint, so somebody may have put it in the place of ours",
        metrics,
    ))
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
    let answer = transport.send_once(&request).await.map_err(|error| error.to_string())?;
    if !answer.status.is_success() {
        return Err(format!("Vault does not open it{}", answer.said));
    }
    let opened: Option<Unwrapped> = answer.json();
    opened.map(|opened| opened.data.secret_id).ok_or_else(|| "there is no secret_id in it".to_owned())
}

/// Somebody else may know the secret ID.
fn alarm(why: &str, metrics: &Metrics) -> VaultError {
    metrics.unwrapped(Outcome::Failure);
    tracing::error!(
        security_event = "response-wrapping",
        "the wrapped secret ID could not be opened: {why}; if nobody of yours opened it, destroy the secret IDs of the role"
    );
    no_secret_id(format!("the wrapped secret ID could not be opened: {why}; issue a new one"))
}

const fn no_secret_id(why: String) -> VaultError {
    VaultError::no_credential(METHOD.name, why)
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
