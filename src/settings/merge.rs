//! Merging the sources: which value of each setting wins, with references resolved.
//!
//! Done once per load, with the notes about sources. `reader` parses the values.

use std::collections::{BTreeSet, HashMap};

use super::{
    keys,
    reference::{is_reference, is_unfinished},
    report::Note,
    resolve::{EnvReference, Unresolved, Variable},
    setting::{Key, Row},
    source::{
        Entry, Origin, Source, Value,
        credential::{Credential, PathOrigin},
    },
    value,
};
use crate::secret::Secret;

/// The winning values by setting, and the notes.
#[derive(Default)]
pub(super) struct Merged {
    pub values: HashMap<&'static str, Entry>,
    pub mistakes: Vec<Note>,
    pub warnings: Vec<Note>,
    /// The variables that references name, including those in overridden values.
    pub referred: BTreeSet<String>,
}

/// The content of the variable in the first source that has it.
pub(super) fn variable(sources: &[Box<dyn Source>], name: &str) -> Variable {
    sources.iter().find_map(|source| source.variable(name).transpose()).transpose()
}

impl Merged {
    /// Merges the sources, the weakest first.
    pub(super) fn from_sources(sources: &[Box<dyn Source>]) -> Self {
        let mut merged = Self::default();
        for source in sources {
            let found = source.read();
            let note = |(origin, message)| Note { origin, key: None, message };
            merged.mistakes.extend(found.mistakes.into_iter().map(note));
            merged.warnings.extend(found.warnings.into_iter().map(note));
            for entry in found.entries {
                merged.add(entry);
            }
        }
        for key in keys::all().map(Row::key) {
            if let Some(entry) = merged.values.remove(key.name) {
                let entry = merged.with_reference_resolved(key, entry, sources);
                merged.values.insert(key.name, entry);
            }
        }
        merged
    }

    /// The file of a secret holds the value of its setting, so it may hold a reference too.
    fn with_reference_resolved(
        &mut self,
        key: &'static Key,
        entry: Entry,
        sources: &[Box<dyn Source>],
    ) -> Entry {
        let content = match &entry.value {
            Value::File(path) => Credential::file(path, PathOrigin::Setting).read_with_references().ok(),
            _ => None,
        };
        let text = match (&entry.value, &content) {
            (Value::Text(text), _) | (_, Some(text)) if is_reference(text.expose()) => text.expose(),
            _ => return entry,
        };
        let at = entry.origin.clone();
        match self.resolve(text, sources) {
            Ok((text, variable)) => {
                let origin = Origin::Reference { at: Box::new(at), variable };
                Entry { value: Value::Text(text), origin, ..entry }
            }
            Err(why) => {
                let key = Some(key.name.to_owned());
                self.mistakes.push(Note { origin: at, key, message: why.to_string() });
                Entry { value: Value::Unresolved, ..entry }
            }
        }
    }

    fn resolve(
        &mut self,
        text: &str,
        sources: &[Box<dyn Source>],
    ) -> Result<(Secret<String>, String), Unresolved> {
        let reference = EnvReference::parse(text)?;
        self.referred.insert(reference.variable.clone());
        let value = reference.value(variable(sources, &reference.variable))?;
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
                self.warn(entry.origin.clone(), key.name, warning);
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
                self.warn(entry.origin.clone(), key.name, message);
            }
            (.., Value::Text(_), Value::Text(_)) => {}
            (.., Value::Text(text), Value::File(_)) if text.expose().is_empty() => {}
            (.., Value::File(_), Value::Text(text)) if text.expose().is_empty() => return false,
            _ if key.is_secret() => {
                let message = format!("is also set by {origin}: set the secret once, as text or as a file");
                let key = Some(key.name.to_owned());
                self.mistakes.push(Note { origin: entry.origin.clone(), key, message });
            }
            _ => {}
        }
        true
    }

    /// Most of a kong.conf is not for keyringd. Only a name that looks like one of its settings is a mistake.
    fn note_unknown(&mut self, entry: Entry) {
        if keys::CLUSTER_STRATEGY.contains(&entry.key.as_str()) {
            self.warn(entry.origin, &entry.key, "is a setting of Kong's cluster strategy and has no effect");
        } else if entry.key.starts_with("keyring_") {
            let distance = |name: &&str| strsim::damerau_levenshtein(name, &entry.key);
            let nearest = keys::all().map(|row| row.key().name).min_by_key(distance).unwrap_or_default();
            let message = format!("no such setting; did you mean {nearest}?");
            self.mistakes.push(Note { origin: entry.origin, key: Some(entry.key), message });
        }
    }

    fn warn(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        self.warnings.push(Note { origin, key: Some(key.to_owned()), message: message.into() });
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
