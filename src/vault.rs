//! Vault, or OpenBao: how to get in, what is asked of it, and what its answers mean.
//!
//! [`transport`] sends one request over the TLS that [`tls`] sets up; [`login`] has the auth methods; [`lease`] says when
//! a token wants renewing and [`session`] sees to it, which gives out [`access`]; [`kv`] knows the keyring's secret in the KV
//! secrets engine, [`any_secret`] all others, [`policy`] what is needed of it. An error says what an operator can do about
//! it and holds nothing secret. When to ask is for `sync` to say, and for `references`.

pub mod access;
pub mod any_secret;
pub mod backoff;
pub mod kv;
pub mod lease;
pub mod login;
pub mod policy;
pub mod session;
pub mod tls;
pub mod transport;

use std::time::Duration;

pub use access::Access;
pub use any_secret::Place;
pub use kv::Kv;
pub use session::Session;

/// Why Vault gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("cannot reach {host}: {cause}")]
    Unreachable { host: String, cause: String },
    #[error("{host} did not answer within {} s", transport::REQUEST_TIMEOUT.as_secs())]
    Timeout { host: String },
    #[error("cannot trust {host}: {cause}")]
    Untrusted { host: String, cause: String },
    #[error(
        "{host} redirects to {to} (status {status}), and the token must not follow: \
         name that server in {setting}"
    )]
    Redirect { host: String, status: u16, to: String, setting: &'static str },
    #[error(
        "Vault denies reading {path}: the token is bad or expired, or its policy lacks `read` on that path"
    )]
    Denied { path: String },
    #[error(
        "Vault denies reading {path}, and the token is good: give its policy the capability `read` on that path"
    )]
    Policy { path: String },
    #[error("Vault does not know the token, or it has expired: put a good one into {0}")]
    BadToken(&'static str),
    #[error("there is nothing at {path} in Vault: {hint}")]
    NotFound { path: String, hint: String },
    #[error("Vault at {host} is sealed or not initialised: unseal it; the keys held go on serving")]
    Sealed { host: String, retry_after: Option<Duration> },
    #[error("{host} answered {status} to {path}{message}")]
    Status { host: String, path: String, status: u16, message: String, retry_after: Option<Duration> },
    #[error("the answer to {path} is larger than {} MiB", transport::MAX_BODY >> 20)]
    TooLarge { path: String },
    #[error("the answer to {path} is not what Vault's API gives: {what}")]
    Malformed { path: String, what: &'static str },
    #[error("Vault refused the login by {method}{said}: {cure}")]
    Login { method: &'static str, said: String, cure: String },
    #[error("no login by {method}: {why}")]
    NoCredential { method: &'static str, why: String, retry_after: Option<Duration> },
    #[error("the last login did not help, and the next may be tried in {} s: {why}", wait.as_secs() + 1)]
    LoginWaits { wait: Duration, why: String },
}

impl VaultError {
    /// A login that could not even be tried.
    pub const fn no_credential(method: &'static str, why: String) -> Self {
        Self::NoCredential { method, why, retry_after: None }
    }

    /// The same for whoever else waits for this server, where it is about the server alone: it cannot be reached.
    pub fn for_others(&self) -> Option<Self> {
        match self {
            Self::Unreachable { host, cause } => {
                Some(Self::Unreachable { host: host.clone(), cause: cause.clone() })
            }
            Self::Timeout { host } => Some(Self::Timeout { host: host.clone() }),
            _ => None,
        }
    }

    /// How long to leave the server alone, if it or the login says so.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. }
            | Self::Sealed { retry_after, .. }
            | Self::NoCredential { retry_after, .. } => *retry_after,
            Self::LoginWaits { wait, .. } => Some(*wait),
            _ => None,
        }
    }
}
