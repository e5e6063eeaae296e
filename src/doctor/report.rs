//! Findings: the outcome of each step, and how a failed step ends those that depend on it.

use serde::Serialize;

/// The outcome of one step.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub step: &'static str,
    pub state: State,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[serde(rename = "ok")]
    Good,
    Warning,
    Failed,
}

/// A step failed, which is reported. The steps after it cannot be taken.
pub(super) struct Stopped;

pub(super) type Step<T> = Result<T, Stopped>;

/// Passes findings on as they are made.
pub(super) struct Report<'a> {
    observe: Box<dyn FnMut(Finding) + Send + 'a>,
    /// The session that findings are about, if it is not the keyring's.
    subject: Option<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(observe: impl FnMut(Finding) + Send + 'a) -> Self {
        Self { observe: Box::new(observe), subject: None }
    }

    pub(super) fn set_subject(&mut self, subject: Option<String>) {
        self.subject = subject;
    }

    pub(super) fn good(&mut self, step: &'static str, message: impl Into<String>) {
        self.add(step, State::Good, message.into());
    }

    pub(super) fn warn(&mut self, step: &'static str, message: impl Into<String>) {
        self.add(step, State::Warning, message.into());
    }

    pub(super) fn failed(&mut self, step: &'static str, message: impl Into<String>) {
        self.add(step, State::Failed, message.into());
    }

    /// The result of a step, or its failure reported.
    pub(super) fn require<T, E: std::fmt::Display>(
        &mut self,
        step: &'static str,
        result: Result<T, E>,
    ) -> Step<T> {
        result.map_err(|error| {
            self.failed(step, error.to_string());
            Stopped
        })
    }

    fn add(&mut self, step: &'static str, state: State, message: String) {
        let message = match &self.subject {
            Some(subject) => format!("{subject}: {message}"),
            None => message,
        };
        (self.observe)(Finding { step, state, message });
    }
}
