//! Reading values by key: each is asked for with the parser of its kind, and every note is taken on the way.
//!
//! A mistake is noted and the reading goes on, so that all of them are reported together. Which value a key has is in
//! `merge`, what the values add up to in `settings`, what people are shown of one in `shown`.

use std::collections::{BTreeSet, HashMap};

use super::{
    Effective, Note,
    credential::Credential,
    keys::Key,
    merge::Merged,
    resolve::Variable,
    shown::{presentable, shortened},
    source::{Entry, Origin, Source, Value},
    value,
};
use crate::secret::Secret;

/// The values that won, and the notes taken on the way.
pub struct Reader<'a> {
    sources: &'a [Box<dyn Source>],
    values: HashMap<&'static str, Entry>,
    pub mistakes: Vec<Note>,
    pub warnings: Vec<Note>,
    /// The variables that references name.
    pub referred: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    /// Merges the sources, the weakest first.
    pub fn new(sources: &'a [Box<dyn Source>]) -> Self {
        let Merged { values, mistakes, warnings, referred } = Merged::of(sources);
        Self { sources, values, mistakes, warnings, referred }
    }

    /// What a variable holds that a value refers to by its parts.
    pub fn variable(&mut self, name: &str) -> Variable {
        self.referred.insert(name.to_owned());
        let held = self.sources.iter().find_map(|source| source.variable(name).transpose());
        held.transpose()
    }

    /// Whether somebody set it, to whatever.
    pub fn is_given(&self, key: &'static Key) -> bool {
        self.values
            .get(key.name)
            .is_some_and(|entry| !matches!(&entry.value, Value::Text(text) if text.expose().is_empty()))
    }

    /// A warning about the value that a key has.
    pub fn warn_of(&mut self, key: &'static Key, message: impl Into<String>) {
        let note = Note { origin: self.origin(key), key: Some(key.name.to_owned()), message: message.into() };
        self.warnings.push(note);
    }

    pub fn mistake(&mut self, key: &'static Key, message: impl Into<String>) {
        let note = Note { origin: self.origin(key), key: Some(key.name.to_owned()), message: message.into() };
        if !self.mistakes.contains(&note) {
            self.mistakes.push(note);
        }
    }

    fn origin(&self, key: &'static Key) -> Origin {
        self.values.get(key.name).map_or(Origin::Default, |entry| entry.origin.clone())
    }

    /// The text that counts: what was set, else the default. Set to nothing is unset, as in Kong.
    fn text(&self, key: &'static Key) -> Option<&str> {
        let set = self.values.get(key.name).and_then(|entry| match &entry.value {
            Value::Text(text) => Some(text.expose().as_str()),
            Value::File(_) | Value::Unresolved => None,
        });
        set.filter(|text| !text.is_empty()).or(key.default)
    }

    pub fn is_set(&self, key: &'static Key) -> bool {
        self.text(key).is_some()
            || matches!(
                self.values.get(key.name),
                Some(Entry { value: Value::File(_) | Value::Unresolved, .. })
            )
    }

    /// Whether a value is for nobody's eyes: a secret, or one that somebody put behind a reference.
    pub fn is_confidential(&self, key: &'static Key) -> bool {
        let value = self.values.get(key.name);
        let referred = value.is_some_and(|entry| {
            matches!(entry.origin, Origin::Reference { .. }) || matches!(entry.value, Value::Unresolved)
        });
        key.secret || referred
    }

    /// A value as messages quote it, if they may.
    pub fn quoted(&self, key: &'static Key, text: &str) -> Option<String> {
        (!self.is_confidential(key)).then(|| shortened(text))
    }

    pub fn optional<T>(
        &mut self,
        key: &'static Key,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let set = self.values.get(key.name).map(|entry| &entry.value);
        if key.word && matches!(set, Some(Value::Text(text)) if text.expose().is_empty()) {
            self.mistake(key, format!("is set to nothing; {} is accepted", key.accepts));
            return None;
        }
        if matches!(set, Some(Value::Unresolved)) {
            return None;
        }
        let text = self.text(key)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(expected) => {
                let quoted = self.quoted(key, text);
                let shown = quoted.map_or_else(String::new, |quoted| format!(", and it is {quoted}"));
                let message = format!("expected {expected}{shown}");
                self.mistake(key, message);
                None
            }
        }
    }

    pub fn required<T>(
        &mut self,
        key: &'static Key,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !self.is_set(key) {
            let message = format!(
                "is required: set it in kong.conf or as {}; {} is accepted",
                key.variable(),
                key.accepts
            );
            self.mistake(key, message);
            return None;
        }
        self.optional(key, parse)
    }

    /// A secret, inline or as a file. What `check` says of it is noted; the file is read anew at each use.
    pub fn secret(
        &mut self,
        key: &'static Key,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Option<Credential> {
        if let Some(Entry { value: Value::File(path), .. }) = self.values.get(key.name) {
            let credential = Credential::file(path);
            return self.checked_file(key, credential, check);
        }
        let text = self.required(key, |text| check(text).map(|()| text.to_owned()))?;
        Some(Credential::Inline(Secret::new(text)))
    }

    /// A file that holds a secret, under a key that is its path.
    pub fn secret_file(
        &mut self,
        key: &'static Key,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Option<Credential> {
        let path = self.required(key, value::path)?;
        let by_reference = matches!(self.origin(key), Origin::Reference { .. });
        let credential =
            if by_reference { Credential::file_by_reference(path) } else { Credential::file(path) };
        self.checked_file(key, credential, check)
    }

    fn checked_file(
        &mut self,
        key: &'static Key,
        credential: Credential,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Option<Credential> {
        match credential.read().map(|text| check(text.expose())) {
            Ok(Ok(())) => {
                if credential.is_open_to_all() {
                    self.warn_of(
                        key,
                        "the file can be read by every user of this machine: take that right away",
                    );
                }
                return Some(credential);
            }
            Ok(Err(expected)) => self.mistake(key, format!("the file holds something else than {expected}")),
            Err(error) => self.mistake(key, error.to_string()),
        }
        None
    }

    /// For the two keys that have one right value: anything else is a refusal that says why.
    pub fn must_be(
        &mut self,
        key: &'static Key,
        wanted: &str,
        parse: impl FnOnce(&str) -> Result<Option<()>, String>,
    ) {
        if self.optional(key, parse) == Some(None) {
            let message =
                format!("must be {wanted}: set it in kong.conf or as {}; {}", key.variable(), key.about);
            self.mistake(key, message.trim_end_matches('.'));
        }
    }

    /// The value that a key has in the end, for people.
    pub fn effective(&self, key: &'static Key) -> Effective {
        let set = self.values.get(key.name).filter(|entry| match &entry.value {
            Value::Text(text) => !text.expose().is_empty(),
            Value::File(_) | Value::Unresolved => true,
        });
        let secret = self.is_confidential(key);
        let value = self.text(key).filter(|_| !secret).map(presentable);
        Effective { key, value, secret, origin: set.map_or(Origin::Default, |entry| entry.origin.clone()) }
    }
}
