//! Reading the settings: which source's value wins, with references resolved, and then each value by its parser.
//!
//! Mistakes are collected, so that all of them are reported together. What the values add up to is in `settings`. The file
//! is longer than most: every step adds to the same notes.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
};

use super::{
    keys, pem,
    reference::{is_reference, is_unfinished},
    report::{Effective, Note, quoted, redacted},
    resolve::{EnvReference, Unresolved, Variable},
    setting::{Content, Key, Parser, Row, Setting},
    source::{
        Entry, Origin, Source, Value,
        credential::{Credential, PathOrigin},
    },
    value,
};
use crate::secret::Secret;

/// The winning values by setting, and the notes so far.
pub(super) struct Reader<'a> {
    sources: &'a [Box<dyn Source>],
    values: HashMap<&'static str, Entry>,
    pub mistakes: Vec<Note>,
    pub warnings: Vec<Note>,
    /// The environment variables that references name, including those in overridden values.
    pub referred: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    /// Merges the sources, the weakest first.
    pub(super) fn new(sources: &'a [Box<dyn Source>]) -> Self {
        let (values, mistakes, warnings, referred) = Default::default();
        let mut reader = Self { sources, values, mistakes, warnings, referred };
        for source in sources {
            let found = source.read();
            let note = |(origin, message)| Note { origin, key: None, message };
            reader.mistakes.extend(found.mistakes.into_iter().map(note));
            reader.warnings.extend(found.warnings.into_iter().map(note));
            for entry in found.entries {
                reader.add(entry);
            }
        }
        for key in keys::all().map(Row::key) {
            if let Some(entry) = reader.values.remove(key.name) {
                let entry = reader.with_reference_resolved(key, entry);
                reader.values.insert(key.name, entry);
            }
        }
        reader
    }

    /// The file of a secret holds the value of its setting, so it may hold a reference too.
    fn with_reference_resolved(&mut self, key: &'static Key, entry: Entry) -> Entry {
        let content = match &entry.value {
            Value::File(path) => Credential::file(path, PathOrigin::Setting).read_with_references().ok(),
            _ => None,
        };
        let text = match (&entry.value, &content) {
            (Value::Text(text), _) | (_, Some(text)) if is_reference(text.expose()) => text.expose(),
            _ => return entry,
        };
        let at = entry.origin.clone();
        match self.resolve(text) {
            Ok((text, variable)) => {
                let origin = Origin::Reference { at: Box::new(at), variable };
                Entry { value: Value::Text(text), origin, ..entry }
            }
            Err(why) => {
                self.mistakes.push(Note::at(at, key.name, why.to_string()));
                Entry { value: Value::Unresolved, ..entry }
            }
        }
    }

    fn resolve(&mut self, text: &str) -> Result<(Secret<String>, String), Unresolved> {
        let reference = EnvReference::parse(text)?;
        let value = reference.value(self.variable(&reference.variable))?;
        Ok((value, reference.variable))
    }

    fn add(&mut self, entry: Entry) {
        let Some(key) = keys::find(&entry.key) else {
            self.note_unknown(entry);
            return;
        };
        if let Value::Text(text) = &entry.value {
            self.referred.extend(EnvReference::parse(text.expose()).ok().map(|reference| reference.variable));
            for warning in warnings(key, &entry.origin, text.expose()) {
                self.warnings.push(Note::at(entry.origin.clone(), key.name, warning));
            }
        }
        if self.wins(key, &entry) {
            self.values.insert(key.name, entry);
        }
    }

    /// Whether an entry overrides the one before it. Notes duplicates.
    fn wins(&mut self, key: &'static Key, entry: &Entry) -> bool {
        let Some(before) = self.values.get(key.name) else { return true };
        let origin = before.origin.clone();
        match (&origin, &entry.origin, &before.value, &entry.value) {
            (Origin::File { path, line }, Origin::File { path: again, line: now }, ..) if again == path => {
                let message = format!("set twice; line {now} overrides line {line}");
                self.warnings.push(Note::at(entry.origin.clone(), key.name, message));
            }
            (.., Value::Text(_), Value::Text(_)) => {}
            (.., Value::Text(text), Value::File(_)) if text.expose().is_empty() => {}
            (.., Value::File(_), Value::Text(text)) if text.expose().is_empty() => return false,
            _ if key.is_secret() => {
                let message = format!("is also set by {origin}: set the secret once, as text or as a file");
                self.mistakes.push(Note::at(entry.origin.clone(), key.name, message));
            }
            _ => {}
        }
        true
    }

    /// Most of a kong.conf is not for keyringd. Only a name that looks like one of its settings is a mistake.
    fn note_unknown(&mut self, entry: Entry) {
        if keys::CLUSTER_STRATEGY.contains(&entry.key.as_str()) {
            let message = "is a setting of Kong's cluster strategy and has no effect";
            self.warnings.push(Note::at(entry.origin, &entry.key, message));
        } else if entry.key.starts_with("keyring_") {
            let distance = |name: &&str| strsim::damerau_levenshtein(name, &entry.key);
            let nearest = keys::all().map(|row| row.key().name).min_by_key(distance).unwrap_or_default();
            let message = format!("no such setting; did you mean {nearest}?");
            self.mistakes.push(Note::at(entry.origin, &entry.key, message));
        }
    }

    /// The content of the variable in the first source that has it.
    pub(super) fn variable(&mut self, name: &str) -> Variable {
        self.referred.insert(name.to_owned());
        self.sources.iter().find_map(|source| source.variable(name).transpose()).transpose()
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

    fn origin(&self, key: &'static Key) -> Origin {
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
            None => String::new(),
        };
        let found = self.quoted(key, text).map_or_else(String::new, |quoted| format!(", found {quoted}"));
        self.mistake(key, format!("expected {}{found}{detail}", parser.accepts()));
        None
    }

    /// A secret: text, or a file that is read at each use. A PEM setting may hold the path of the file.
    pub(super) fn credential(&mut self, setting: &'static Setting<()>) -> Option<Credential> {
        let Setting { key, parser } = setting;
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
        match credential.read().map(|text| parser.parse(text.expose())) {
            Ok(Some(())) => {
                if credential.is_world_readable() {
                    self.warn(key, "every user of this machine can read the file: remove that permission");
                }
                return Some(credential);
            }
            Ok(None) => self.mistake(key, format!("expected a file with {}", parser.accepts())),
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

    pub(super) fn effective(&self, key: &'static Key) -> Effective {
        let secret = self.is_confidential(key);
        let value = self.text(key).filter(|_| !secret).map(redacted);
        let origin = self.given(key).map_or(Origin::Default, |entry| entry.origin.clone());
        Effective { key, value, secret, origin }
    }
}

/// Warnings about a value that probably means something else than it does.
fn warnings(key: &Key, origin: &Origin, text: &str) -> impl Iterator<Item = &'static str> + use<> {
    let is_read_by_kong = key.kongs && matches!(origin, Origin::File { .. });
    let unfinished = "begins like a reference but does not end with }, so it is used as text; write # as \\# in a kong.conf";
    [
        is_unfinished(text).then_some(unfinished),
        value::quotes_warning(text).filter(|_| is_read_by_kong),
        value::number_warning(text).filter(|_| is_read_by_kong),
    ]
    .into_iter()
    .flatten()
}
