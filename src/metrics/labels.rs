//! What is told apart: outcomes, what a request asked for, and what became of it. A label has these words and no others.

use super::Labels;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

/// What a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Encrypt,
    Decrypt,
    Rewrap,
    DataKey,
    Status,
    Sync,
    Resolve,
    Metrics,
    Health,
    KmsStatus,
    KmsEncrypt,
    KmsDecrypt,
    /// No path that is served.
    Other,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answered {
    Success,
    /// Some items of a batch failed.
    Partial,
    /// A bad request, or a ciphertext that does not open.
    Invalid,
    /// The peer may not.
    Denied,
    /// Too large, too slow, or too much at once.
    Limited,
    /// No keys yet.
    Unavailable,
    /// The daemon's own failure, or Vault's.
    Failed,
    /// The client went away before its answer was there.
    Aborted,
}

impl Outcome {
    pub const fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Success } else { Self::Failure }
    }

    pub const fn label(self) -> Labels<1> {
        match self {
            Self::Success => [("outcome", "success")],
            Self::Failure => [("outcome", "failure")],
        }
    }
}

impl Operation {
    pub const ALL: [Self; 13] = [
        Self::Encrypt,
        Self::Decrypt,
        Self::Rewrap,
        Self::DataKey,
        Self::Status,
        Self::Sync,
        Self::Resolve,
        Self::Metrics,
        Self::Health,
        Self::KmsStatus,
        Self::KmsEncrypt,
        Self::KmsDecrypt,
        Self::Other,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Rewrap => "rewrap",
            Self::DataKey => "datakey",
            Self::Status => "status",
            Self::Sync => "sync",
            Self::Resolve => "resolve",
            Self::Metrics => "metrics",
            Self::Health => "health",
            Self::KmsStatus => "kms_status",
            Self::KmsEncrypt => "kms_encrypt",
            Self::KmsDecrypt => "kms_decrypt",
            Self::Other => "other",
        }
    }
}

impl Answered {
    pub const ALL: [Self; 8] = [
        Self::Success,
        Self::Partial,
        Self::Invalid,
        Self::Denied,
        Self::Limited,
        Self::Unavailable,
        Self::Failed,
        Self::Aborted,
    ];

    /// What a status says of a request of which some items failed, or none, or all.
    pub const fn of(status: u16, items: usize, failed_items: usize) -> Self {
        match status {
            _ if failed_items > 0 && failed_items < items => Self::Partial,
            _ if failed_items > 0 => Self::Invalid,
            403 => Self::Denied,
            408 | 413 | 429 => Self::Limited,
            400..=499 => Self::Invalid,
            503 => Self::Unavailable,
            500..=599 => Self::Failed,
            _ => Self::Success,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Partial => "partial",
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}
