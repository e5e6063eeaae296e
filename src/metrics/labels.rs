//! The label values of outcomes. Nothing else becomes a label: no ID, path or error text.

use enum_map::Enum;

pub(super) type Labels<const N: usize> = [(&'static str, &'static str); N];

/// How an action of the daemon's own ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum Outcome {
    Success,
    Failure,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum)]
pub enum RequestOutcome {
    Success,
    /// Some items of a batch failed.
    Partial,
    /// A bad request, or a ciphertext that does not open.
    Invalid,
    /// The peer lacks a permission.
    Denied,
    /// Too large, too slow, or over a limit.
    Limited,
    /// No keys yet.
    Unavailable,
    /// A failure of the daemon or of Vault.
    Failed,
    /// The client disconnected before the response.
    Aborted,
}

impl Outcome {
    pub const fn from_result<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Success } else { Self::Failure }
    }

    pub(super) const fn labels(self) -> Labels<1> {
        match self {
            Self::Success => [("outcome", "success")],
            Self::Failure => [("outcome", "failure")],
        }
    }
}

impl RequestOutcome {
    /// From a status, and from how many items of a batch failed.
    pub const fn from_status(status: u16, items: usize, failed_items: usize) -> Self {
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
