//! Why a request to Vault failed. A message has the next step for an operator, and no secret.

use std::time::Duration;

/// How long one request may take in all.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may take to open.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The largest response body that is read. A secret of 1000 records is about 100 KiB.
pub(super) const MAX_BODY: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("cannot reach {host}: {cause}")]
    Unreachable { host: String, cause: String },
    #[error("{host} did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout { host: String },
    #[error("cannot trust {host}: {cause}")]
    Untrusted { host: String, cause: String },
    #[error(
        "{host} did not accept a connection within {} s: check the host and the port in {setting}, and firewalls",
        CONNECT_TIMEOUT.as_secs()
    )]
    ConnectTimeout { host: String, setting: String },
    #[error(
        "{host} is a standby and its cluster has no leader that answers: it redirects to {to}, which is unreachable"
    )]
    NoLeader { host: String, to: String },
    #[error(
        "{host} redirects to {to} (status {status}); keyringd follows no redirect: set {setting} to that server"
    )]
    Redirect { host: String, status: u16, to: String, setting: String },
    #[error(
        "Vault denies reading {path}: the token is invalid or expired, or its policy lacks `read` on that path"
    )]
    Denied { path: String },
    #[error(
        "Vault denies reading {path}, and the token is valid: give its policy the capability `read` on that path"
    )]
    Policy { path: String },
    #[error(
        "Vault does not know the token, or it has expired, or has no uses left, or its token_bound_cidrs exclude this \
         machine: set a valid token in {0}"
    )]
    BadToken(&'static str),
    #[error("there is nothing at {path} in Vault: {hint}")]
    NotFound { path: String, hint: &'static str },
    #[error(
        "no secrets engine is mounted at {mount} (for {path}): correct {setting}, or the namespace, or enable the engine"
    )]
    NoMount { path: String, mount: String, setting: &'static str },
    #[error("Vault at {host} is sealed or not initialised: unseal it; the keys held stay in use")]
    Sealed { host: String, retry_after: Option<Duration> },
    #[error("{host} answered {status} to {path}{message}")]
    Status { host: String, path: String, status: u16, message: String, retry_after: Option<Duration> },
    #[error("the response to {path} is larger than {} MiB", MAX_BODY >> 20)]
    TooLarge { path: String },
    #[error("the response to {path} does not match Vault's API: {what}")]
    Malformed { path: String, what: &'static str },
    #[error("Vault refused the login by {method}{message}: {cure}")]
    Login { method: &'static str, message: String, cure: String },
    #[error("cannot log in by {method}: {cause}")]
    NoCredential {
        method: &'static str,
        cause: String,
        retry_after: Option<Duration>,
        /// The server that issues the credential is away.
        is_away: bool,
    },
    #[error(
        "Vault refused this credential before; it is sent again in {} s, or at once when it changes: {cause}",
        wait.as_secs().saturating_add(1)
    )]
    RefusedBefore { wait: Duration, cause: String },
    #[error("next login attempt in {} s: {cause}", wait.as_secs().saturating_add(1))]
    LoginWaits { wait: Duration, cause: String, is_away: bool },
    #[error("the session with Vault has ended: keyringd is shutting down")]
    Stopping,
}

impl VaultError {
    /// A login that could not be tried.
    pub(super) const fn no_credential(method: &'static str, cause: String) -> Self {
        Self::NoCredential { method, cause, retry_after: None, is_away: false }
    }

    /// The same error for other requests to the server, if the server is unreachable.
    pub fn for_other_requests(&self) -> Option<Self> {
        match self {
            Self::Unreachable { host, cause } => {
                Some(Self::Unreachable { host: host.clone(), cause: cause.clone() })
            }
            Self::Timeout { host } => Some(Self::Timeout { host: host.clone() }),
            Self::ConnectTimeout { host, setting } => {
                Some(Self::ConnectTimeout { host: host.clone(), setting: setting.clone() })
            }
            _ => None,
        }
    }

    /// Whether Vault, the way to it or the login failed, so that the same request may succeed later.
    pub const fn is_outage(&self) -> bool {
        !matches!(
            self,
            Self::Denied { .. }
                | Self::Policy { .. }
                | Self::NotFound { .. }
                | Self::NoMount { .. }
                | Self::TooLarge { .. }
                | Self::Malformed { .. }
        )
    }

    /// Whether Vault, or the server that issues the credential for it, is unreachable, sealed or failing: it neither gave nor
    /// refused anything.
    pub const fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::ConnectTimeout { .. }
            | Self::NoLeader { .. }
            | Self::Sealed { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            Self::LoginWaits { is_away, .. } | Self::NoCredential { is_away, .. } => *is_away,
            _ => false,
        }
    }

    /// Whether Vault answered that the secret does not exist.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NoMount { .. })
    }

    pub const fn is_rate_limit(&self) -> bool {
        matches!(self, Self::Status { status: 429, .. })
    }

    /// The least time to the next request, if the server or the login asks for one.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. }
            | Self::Sealed { retry_after, .. }
            | Self::NoCredential { retry_after, .. } => *retry_after,
            Self::LoginWaits { wait, .. } | Self::RefusedBefore { wait, .. } => Some(*wait),
            _ => None,
        }
    }
}
