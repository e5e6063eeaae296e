//! Vault, or OpenBao: what is asked of it, and what its answers mean.
//!
//! [`session`] sends requests with the token, [`kv`] knows the KV secrets engine, [`tls`] whom to believe. An error says
//! what an operator can do about it and holds nothing secret. When to ask is for `sync` to say.

pub mod kv;
pub mod session;
pub mod tls;

use std::time::Duration;

pub use kv::Kv;
pub use session::Session;

/// Why Vault gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("cannot reach Vault at {host}: {cause}")]
    Unreachable { host: String, cause: String },
    #[error("Vault at {host} did not answer within {} s", session::REQUEST_TIMEOUT.as_secs())]
    Timeout { host: String },
    #[error("cannot trust Vault at {host}: {cause}")]
    Untrusted { host: String, cause: String },
    #[error(
        "Vault at {host} redirects to {to} (status {status}), and the token must not follow: \
         name that server in keyring_vault_host"
    )]
    Redirect { host: String, status: u16, to: String },
    #[error(
        "Vault denies reading {path}: the token is bad or expired, or its policy lacks `read` on that path"
    )]
    Denied { path: String },
    #[error("there is nothing at {path} in Vault: {hint}")]
    NotFound { path: String, hint: String },
    #[error("Vault at {host} is sealed or not initialised: unseal it; the keys held go on serving")]
    Sealed { host: String },
    #[error("Vault answered {status} to {path}{message}")]
    Status { path: String, status: u16, message: String, retry_after: Option<Duration> },
    #[error("Vault's answer to {path} is larger than {} MiB", session::MAX_BODY >> 20)]
    TooLarge { path: String },
    #[error("Vault's answer to {path} is not what the KV API gives: {what}")]
    Malformed { path: String, what: &'static str },
}

impl VaultError {
    /// How long the server asked to be left alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
