//! Parsing the merged values, setting by setting. Mistakes are collected, so that all of them are reported together.
//!
//! `merge` decides which value a setting has; `settings` decides what the values add up to.
//! The file is longer than most: one way to read a value for each kind of setting.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
};

use super::{
    conf::Spelling,
    keys,
    merge::{self, Merged},
    pem,
    report::{Effective, Note, quoted, redacted},
    resolve::{EnvBackend, Variable},
    setting::{Content, Key, Parser, Setting},
    source::{
        Entry, Origin, Source, Value,
        credential::{Credential, PathOrigin},
        environment,
    },
};
use crate::secret::Secret;

/// What was loaded or every mistake, and the warnings.
pub(super) type LoadedPart<T> = (Result<T, Vec<Note>>, Vec<Note>);

/// The winning values by setting, and the notes so far.
pub(super) struct Reader<'a> {
    sources: &'a [Box<dyn Source>],
    values: HashMap<&'static str, Entry>,
    pub mistakes: Vec<Note>,
    pub warnings: Vec<Note>,
    /// The environment variables that references name, including those in overridden values.
    pub referred: BTreeSet<String>,
    pub env: EnvBackend,
    /// The settings that were asked for.
    read: BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    /// Merges the sources, the weakest first.
    pub(super) fn new(sources: &'a [Box<dyn Source>]) -> Self {
        let Merged { values, mistakes, warnings, referred, env, .. } = Merged::from_sources(sources);
        Self { sources, values, mistakes, warnings, referred, env, read: BTreeSet::new() }
    }

    /// What a command read that needs a part of the settings. A setting that it did not read may have any mistake: its value
    /// may be for another user or machine.
    pub(super) fn finish<T>(self, value: Option<T>) -> LoadedPart<T> {
        let counts = |note: &Note| setting(note).is_none_or(|key| self.read.contains(key.name));
        let mistakes: Vec<_> = self.mistakes.into_iter().filter(counts).collect();
        (value.filter(|_| mistakes.is_empty()).ok_or(mistakes), self.warnings)
    }

    /// Whether a note is about a setting that was read.
    pub(super) fn has_read(&self, note: &Note) -> bool {
        setting(note).is_some_and(|key| self.read.contains(key.name))
    }

    /// The content of the variable in the first source that has it.
    pub(super) fn variable(&mut self, name: &str) -> Variable {
        self.referred.insert(name.to_owned());
        merge::variable(self.sources, name)
    }

    /// Whether a source sets the value, to more than an empty text.
    pub(super) fn is_given(&self, key: &'static Key) -> bool {
        self.given(key).is_some()
    }

    /// Whether the setting has a value: a given one or a default.
    pub(super) fn is_set(&self, key: &'static Key) -> bool {
        self.is_given(key) || key.default.is_some()
    }

    /// An empty text counts as unset, as in Kong.
    fn given(&self, key: &'static Key) -> Option<&Entry> {
        let is_empty = |entry: &Entry| matches!(&entry.value, Value::Text(text) if text.expose().is_empty());
        self.values.get(key.name).filter(|entry| !is_empty(entry))
    }

    fn text(&self, key: &'static Key) -> Option<&str> {
        match self.given(key).map(|entry| &entry.value) {
            Some(Value::Text(text)) => Some(text.expose()),
            _ => key.default,
        }
    }

    /// The text that a source sets, which may be empty.
    pub(super) fn given_text(&self, key: &'static Key) -> Option<&str> {
        match self.values.get(key.name).map(|entry| &entry.value) {
            Some(Value::Text(text)) => Some(text.expose()),
            _ => None,
        }
    }

    pub(super) fn origin(&self, key: &'static Key) -> Origin {
        self.values.get(key.name).map_or(Origin::Default, |entry| entry.origin.clone())
    }

    pub(super) fn warn(&mut self, key: &'static Key, message: impl Into<String>) {
        self.warnings.push(Note::at(self.origin(key), key.name, message));
    }

    pub(super) fn mistake(&mut self, key: &'static Key, message: impl Into<String>) {
        let note = Note::at(self.origin(key), key.name, message);
        if !self.mistakes.contains(&note) {
            self.mistakes.push(note);
        }
    }

    /// Whether a value must not be shown: it is secret, or it came from a reference.
    fn is_confidential(&self, key: &'static Key) -> bool {
        let is_referred = self.values.get(key.name).is_some_and(|entry| {
            matches!(entry.origin, Origin::Reference { .. }) || matches!(entry.value, Value::Unresolved)
        });
        key.is_secret() || is_referred
    }

    /// A value in quotes for a message, if it may be shown.
    pub(super) fn quoted(&self, key: &'static Key, text: &str) -> Option<String> {
        (!self.is_confidential(key)).then(|| quoted(text))
    }

    pub(super) fn optional<T: Clone>(&mut self, setting: &'static Setting<T>) -> Option<T> {
        self.optional_checked(setting, Ok)
    }

    pub(super) fn required<T: Clone>(&mut self, setting: &'static Setting<T>) -> Option<T> {
        let Setting { key, parser } = setting;
        self.read.insert(key.name);
        if !self.is_set(key) {
            let (variable, accepts) = (key.variable(), parser.accepts());
            self.mistake(
                key,
                format!("is required: set it in kong.conf or as {variable}; accepts {accepts}"),
            );
            return None;
        }
        self.optional(setting)
    }

    /// A value that needs a check after its parser, such as a look-up. The error completes the mistake.
    pub(super) fn optional_checked<T: Clone, U>(
        &mut self,
        setting: &'static Setting<T>,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Option<U> {
        let Setting { key, parser } = setting;
        self.read.insert(key.name);
        match self.values.get(key.name).map(|entry| &entry.value) {
            Some(Value::Text(text)) if key.rejects_empty && text.expose().is_empty() => {
                self.mistake(key, format!("is empty; accepts {}", parser.accepts()));
                return None;
            }
            Some(Value::Unresolved) => return None,
            _ => {}
        }
        let text = self.text(key)?;
        let detail = match parser.parse(text).map(check) {
            Some(Ok(value)) => return Some(value),
            Some(Err(detail)) => format!(": {detail}"),
            None => parser.fault(text).map_or_else(String::new, |fault| format!(": {fault}")),
        };
        let found = self.quoted(key, text).map_or_else(String::new, |quoted| format!(", found {quoted}"));
        self.mistake(key, format!("expected {}{found}{detail}", parser.accepts()));
        None
    }

    /// A secret: text, or a file that is read at each use. A PEM setting may hold the path of the file.
    pub(super) fn credential(&mut self, setting: &'static Setting<()>) -> Option<Credential> {
        let Setting { key, parser } = setting;
        self.read.insert(key.name);
        match self.given(key).map(|entry| &entry.value) {
            Some(Value::File(path)) => {
                let credential = Credential::file(path, PathOrigin::Setting);
                self.checked_file(key, credential, parser)
            }
            Some(Value::Text(text)) if key.content == Content::Pem && pem::is_path(text.expose()) => {
                let credential = Credential::file(text.expose(), self.path_origin(key));
                self.checked_file(key, credential, parser)
            }
            _ => {
                self.required(setting)?;
                self.text(key).map(|text| Credential::Inline(Secret::new(text.to_owned())))
            }
        }
    }

    /// A file with a secret, from the setting of its path.
    pub(super) fn credential_file(
        &mut self,
        setting: &'static Setting<PathBuf>,
        parser: &Parser<()>,
    ) -> Option<Credential> {
        let path = self.required(setting)?;
        let credential = Credential::file(path, self.path_origin(&setting.key));
        self.checked_file(&setting.key, credential, parser)
    }

    fn path_origin(&self, key: &'static Key) -> PathOrigin {
        match self.origin(key) {
            Origin::Reference { .. } => PathOrigin::Reference,
            _ => PathOrigin::Setting,
        }
    }

    fn checked_file(
        &mut self,
        key: &'static Key,
        credential: Credential,
        parser: &Parser<()>,
    ) -> Option<Credential> {
        let parse =
            |text: Secret<String>| parser.parse(text.expose()).ok_or_else(|| parser.fault(text.expose()));
        match credential.read().map(parse) {
            Ok(Ok(())) => {
                // A certificate is no secret.
                if credential.is_world_readable() && parser.accepts() != pem::CERTIFICATES.accepts() {
                    self.warn(key, "every user of this machine can read the file: remove that permission");
                }
                return Some(credential);
            }
            Ok(Err(fault)) => {
                let fault = fault.map_or_else(String::new, |fault| format!(": {fault}"));
                self.mistake(key, format!("expected a file with {}{fault}", parser.accepts()));
            }
            Err(error) => self.mistake(key, error.to_string()),
        }
        None
    }

    /// Reports a mistake unless the setting has its one supported value.
    pub(super) fn must_be(&mut self, setting: &'static Setting<bool>, supported: &str) {
        if self.optional(setting) == Some(false) {
            let Key { about, .. } = &setting.key;
            let reason = about.split_once(". ").map_or_else(String::new, |(_, reason)| format!("; {reason}"));
            let message = format!(
                "must be `{supported}`: set it in kong.conf or as {}{}",
                setting.key.variable(),
                reason.trim_end_matches('.')
            );
            self.mistake(&setting.key, message);
        }
    }

    /// What `read` makes of these values in place of those of the settings `keys`, and the mistakes in them.
    pub(super) fn with_values<T>(
        &mut self,
        keys: impl Iterator<Item = &'static Key>,
        values: Vec<(&'static Key, Secret<String>)>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> (T, Vec<Note>) {
        let keys: Vec<_> = keys.collect();
        let before: Vec<_> = keys.iter().filter_map(|key| self.values.remove_entry(key.name)).collect();
        let entry = |(key, text): (&'static Key, Secret<String>)| {
            let (value, origin, spelling) = (Value::Text(text), Origin::Default, Spelling::default());
            (key.name, Entry { key: key.name.to_owned(), value, origin, spelling })
        };
        self.values.extend(values.into_iter().map(entry));
        let mistakes = std::mem::take(&mut self.mistakes);
        let outcome = read(self);
        let found = std::mem::replace(&mut self.mistakes, mistakes);
        for key in keys {
            self.values.remove(key.name);
        }
        self.values.extend(before);
        (outcome, found)
    }

    pub(super) fn effective(&self, key: &'static Key) -> Effective {
        let secret = self.is_confidential(key);
        let value = self.text(key).filter(|_| !secret).map(redacted);
        let origin = self.given(key).map_or(Origin::Default, |entry| entry.origin.clone());
        Effective { key, value, secret, origin }
    }
}

/// The setting that a note is about, if it is a known one.
fn setting(note: &Note) -> Option<&'static Key> {
    match (&note.key, &note.origin) {
        (Some(key), _) => keys::find(key),
        (None, Origin::Variable(name)) => environment::setting(name),
        _ => None,
    }
}
