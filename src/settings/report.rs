//! What people see of the settings: each value with its origin, each mistake and warning, and how values are quoted.
//!
//! Secrets are never shown; `reader` decides which values are secret. Other values are redacted if they look like a key or
//! a password in the wrong place.

use super::{pem, setting::Key, source::Origin};

/// A mistake or a warning, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub origin: Origin,
    pub key: Option<String>,
    pub message: String,
}

/// The value of a setting after all sources and the default. `None` if it is unset, or secret.
#[derive(Debug)]
pub struct Effective {
    pub key: &'static Key,
    pub value: Option<String>,
    /// The setting is secret, or this value came from a reference.
    pub secret: bool,
    pub origin: Origin,
}

impl Note {
    /// A note about one setting.
    pub(super) fn at(origin: Origin, key: &str, message: impl Into<String>) -> Self {
        Self { origin, key: Some(key.to_owned()), message: message.into() }
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.origin, &self.key) {
            (Origin::Default, Some(key)) => write!(f, "{key} {}", self.message),
            (origin, Some(key)) => write!(f, "{origin}: {key}: {}", self.message),
            (origin, None) => write!(f, "{origin}: {}", self.message),
        }
    }
}

/// A longer value that is neither a path nor a URL may be a key in base64.
const LONGEST_SHOWN: usize = 64;

const LONGEST_QUOTED: usize = 60;

/// A value in quotes, for a message: one line, shortened.
pub(super) fn quoted(text: &str) -> String {
    let text = &redacted(text);
    let short: String = text.chars().take(LONGEST_QUOTED).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{text:?}") }
}

/// A value without a password in a URL, and without PEM or base64, which may be a key.
pub(super) fn redacted(text: &str) -> String {
    let is_shown = |item: &str| item.len() <= LONGEST_SHOWN || item.contains("://") || pem::is_path(item);
    if text.contains("-----BEGIN") || !text.split(',').all(|item| is_shown(item.trim())) {
        return "[text, not shown]".to_owned();
    }
    match text.split_once("://") {
        Some((scheme, rest)) if rest.contains('@') => {
            let host = rest.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://[redacted]@{host}")
        }
        _ => text.to_owned(),
    }
}
