//! What a source of settings gives: entries with their origin, and notes about the source itself.

use std::{fmt, path::PathBuf};

use crate::{secret::Secret, settings::resolve::Variable};

/// One place that settings are read from.
pub trait Source {
    fn read(&self) -> Found;

    /// The content of an environment variable that a setting refers to. Only the environment has variables.
    fn variable(&self, _name: &str) -> Variable {
        Ok(None)
    }
}

/// The content of a source. Later entries override earlier ones.
#[derive(Debug, Default)]
pub struct Found {
    pub entries: Vec<Entry>,
    pub mistakes: Vec<(Origin, String)>,
    pub warnings: Vec<(Origin, String)>,
}

#[derive(Debug)]
pub struct Entry {
    pub key: String,
    pub value: Value,
    pub origin: Origin,
}

/// A value, or the file that holds it.
#[derive(Debug)]
pub enum Value {
    Text(Secret<String>),
    File(PathBuf),
    /// A reference that could not be resolved. A mistake says why.
    Unresolved,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File {
        path: PathBuf,
        line: usize,
    },
    WholeFile(PathBuf),
    Variable(String),
    Credential(String),
    /// A reference at `at` to the environment variable that holds the value.
    Reference {
        at: Box<Self>,
        variable: String,
    },
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::WholeFile(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::Reference { at, variable } => write!(f, "{at} via variable {variable}"),
            Self::Default => f.write_str("default"),
        }
    }
}
