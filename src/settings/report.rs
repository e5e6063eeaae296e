//! What people are told of the settings: each value with its origin, each mistake and warning with its place.

use std::collections::BTreeSet;

use super::{Settings, keys::Key, source::Origin};

/// The outcome of loading: settings or mistakes, and what people are shown either way.
#[derive(Debug)]
pub struct Loaded {
    /// `Err` holds every mistake there is, not just the first.
    pub settings: Result<Settings, Vec<Note>>,
    pub warnings: Vec<Note>,
    pub effective: Vec<Effective>,
    /// The variables that references name, which hold secrets for all we know.
    pub referred: BTreeSet<String>,
}

/// A mistake or a warning, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub origin: Origin,
    pub key: Option<String>,
    pub message: String,
}

/// The value that a key has in the end. `None` is unset, or secret and set.
#[derive(Debug)]
pub struct Effective {
    pub key: &'static Key,
    pub value: Option<String>,
    /// The key's value always is, or this one came by a reference.
    pub secret: bool,
    pub origin: Origin,
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
