//! The auth methods, one file each: settings in, a lease out.
//!
//! Each file says what it sends and which of the server's complaints mean what. Here is what they share: the request to
//! `auth/<mount>/login` and its answer. When to log in is for `session` to say.

pub mod approle;
pub mod cert;
pub mod jwt;
pub mod kubernetes;
pub mod token;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{
    VaultError,
    lease::Lease,
    transport::{Answer, Request, Transport},
};
use crate::{secret::Secret, settings::SecretPath};

/// A method's name and what its complaints mean: a part of the server's words, and the cure.
struct Method {
    name: &'static str,
    cures: &'static [(&'static str, &'static str)],
    /// For any other complaint.
    otherwise: &'static str,
}

/// Vault says no more than "permission denied" of a path where nothing is mounted.
const MOUNTED: &str =
    "and that the method is mounted where its …_auth_path says, in keyring_vault_namespace if that is set";

/// What is the same for every method.
const COMMON_CURES: [(&str, &str); 3] = [
    (
        "auth methods cannot create root tokens",
        "take the policy `root` from the role: a login cannot have it, and reading one secret does not need it",
    ),
    (
        "no handler for route",
        "the auth method is not mounted there: correct its …_auth_path setting, or switch it on",
    ),
    (
        "route entry not found",
        "the auth method is not mounted there: correct its …_auth_path setting, or switch it on",
    ),
];

#[derive(Deserialize)]
struct LoginAnswer {
    auth: Granted,
}

/// What a login or a renewal grants.
#[derive(Deserialize)]
pub struct Granted {
    pub client_token: Secret<String>,
    pub lease_duration: u64,
    pub renewable: bool,
}

impl Method {
    /// `POST auth/<mount>/login`.
    async fn log_in(
        &self,
        transport: &Transport,
        mount: &SecretPath,
        body: &(impl Serialize + Sync),
        secret: Option<&Secret<String>>,
    ) -> Result<Lease, VaultError> {
        let url = transport.url(std::iter::once("auth").chain(mount.segments()).chain(["login"]));
        let mut request = Request::post(url, body);
        if let Some(secret) = secret {
            request = request.holding(secret);
        }
        match transport.send(request).await {
            Ok(answer) if answer.status.is_success() => lease(answer),
            Ok(answer) => Err(self.refused(answer.said)),
            // Some methods answer with 500 what is the client's to mend.
            Err(VaultError::Status { status: 500, message, .. }) if self.cure(&message).is_some() => {
                Err(self.refused(message))
            }
            Err(error) => Err(error),
        }
    }

    fn refused(&self, said: String) -> VaultError {
        let cure = self.cure(&said).map_or_else(|| format!("{}; {}", self.otherwise, MOUNTED), str::to_owned);
        VaultError::Login { method: self.name, said, cure }
    }

    fn cure(&self, said: &str) -> Option<&'static str> {
        let lower = said.to_lowercase();
        let mut known = COMMON_CURES.iter().chain(self.cures);
        known.find(|(part, _)| lower.contains(&part.to_lowercase())).map(|(_, cure)| *cure)
    }
}

fn lease(answer: Answer) -> Result<Lease, VaultError> {
    let Some(LoginAnswer { auth }) = answer.json() else {
        return Err(VaultError::Malformed { path: answer.path, what: "auth.client_token is missing" });
    };
    let ttl = Duration::from_secs(auth.lease_duration);
    Ok(Lease::new(auth.client_token, true, ttl, auth.renewable, Instant::now()))
}
