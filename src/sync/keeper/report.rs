//! What the status says of the sealed copy: when it was written, and why it was not used or not written.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use serde_json::{Value, json};

use super::super::warnings::rfc3339;
use crate::clock;

#[derive(Debug)]
pub struct CopyReport {
    path: PathBuf,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    /// When the file that is there was written, as far as it is known.
    written: Option<SystemTime>,
    /// Why the copy could not be used at the start. The next write replaces it.
    unusable: Option<String>,
    /// Why the last write failed.
    failure: Option<String>,
}

impl CopyReport {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, facts: Mutex::default() }
    }

    pub(super) fn opened(&self, written: SystemTime) {
        self.facts().written = Some(written);
    }

    pub(super) fn unusable(&self, reason: String) {
        self.facts().unusable = Some(reason);
    }

    pub(super) fn wrote(&self, at: SystemTime) {
        *self.facts() = Facts { written: Some(at), unusable: None, failure: None };
    }

    /// Whether this failure is another than the last one.
    pub(super) fn failed(&self, failure: &str) -> bool {
        let before = self.facts().failure.replace(failure.to_owned());
        before.is_none_or(|before| before != failure)
    }

    pub fn describe(&self) -> Value {
        let Facts { written, unusable, failure } = &*self.facts();
        json!({
            "path": self.path.display().to_string(),
            "written": written.map(rfc3339),
            "seconds_since_written": written.map(|at| clock::wall().duration_since(at).unwrap_or_default().as_secs()),
            "unusable": unusable,
            "write_failure": failure,
        })
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
