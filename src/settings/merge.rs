//! Merging the sources: which value wins for each key, and what a reference in it stands for.
//!
//! Done once for a load, with the notes that concern sources and not what values mean. Asking for a key's value with the
//! parser of its kind is in `reader`.

use std::collections::{BTreeSet, HashMap};

use super::{
    Note,
    credential::Credential,
    keys::{self, Key},
    reference::{is_reference, is_unfinished},
    resolve::{Named, Unresolved, Variable},
    source::{Entry, Origin, Source, Value},
    value,
};
use crate::secret::Secret;

/// The values that won, by key, and the notes taken on the way.
#[derive(Default)]
pub struct Merged {
    pub values: HashMap<&'static str, Entry>,
    pub mistakes: Vec<Note>,
    pub warnings: Vec<Note>,
    /// The variables that references name, also those in values that others won over.
    pub referred: BTreeSet<String>,
}

impl Merged {
    /// Merges the sources, the weakest first.
    pub fn of(sources: &[Box<dyn Source>]) -> Self {
        let mut merged = Self::default();
        for source in sources {
            let found = source.read();
            let note = |(origin, message)| Note { origin, key: None, message };
            merged.mistakes.extend(found.mistakes.into_iter().map(note));
            merged.warnings.extend(found.warnings.into_iter().map(note));
            for entry in found.entries {
                merged.take(entry);
            }
        }
        for key in keys::ALL {
            if let Some(entry) = merged.values.remove(key.name) {
                let entry = merged.resolved(key, entry, sources);
                merged.values.insert(key.name, entry);
            }
        }
        merged
    }

    /// An entry with what it refers to in the place of the reference. A secret's file holds the value of its setting, so it
    /// may hold a reference too.
    fn resolved(&mut self, key: &'static Key, entry: Entry, sources: &[Box<dyn Source>]) -> Entry {
        let held = match &entry.value {
            Value::File(path) => Credential::file(path).read_with_references().ok(),
            _ => None,
        };
        let text = match (&entry.value, &held) {
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
                self.mistakes.push(Note {
                    origin: at,
                    key: Some(key.name.to_owned()),
                    message: why.to_string(),
                });
                Entry { value: Value::Unresolved, ..entry }
            }
        }
    }

    fn resolve(
        &mut self,
        text: &str,
        sources: &[Box<dyn Source>],
    ) -> Result<(Secret<String>, String), Unresolved> {
        let named = Named::by(text)?;
        self.referred.insert(named.variable.clone());
        let held: Variable =
            sources.iter().find_map(|source| source.variable(&named.variable).transpose()).transpose();
        named.value(held).map(|text| (text, named.variable))
    }

    fn take(&mut self, entry: Entry) {
        let Some(key) = keys::find(&entry.key) else {
            self.foreign(entry);
            return;
        };
        if let Value::Text(text) = &entry.value {
            self.referred.extend(Named::by(text.expose()).ok().map(|named| named.variable));
            for doubt in doubts(key, &entry.origin, text.expose()) {
                self.warn(entry.origin.clone(), key.name, doubt);
            }
        }
        if self.wins(key, &entry) {
            self.values.insert(key.name, entry);
        }
    }

    /// Whether an entry takes the place of the one before it, with what there is to say of that.
    fn wins(&mut self, key: &'static Key, entry: &Entry) -> bool {
        let Some(before) = self.values.get(key.name) else { return true };
        let origin = before.origin.clone();
        match (&origin, &entry.origin, &before.value, &entry.value) {
            (Origin::File { path, line }, Origin::File { path: again, .. }, ..) if again == path => {
                let message = format!("stands twice: this line wins over line {line}");
                self.warn(entry.origin.clone(), key.name, message);
            }
            (.., Value::Text(_), Value::Text(_)) => {}
            (.., Value::Text(text), Value::File(_)) if text.expose().is_empty() => {}
            (.., Value::File(_), Value::Text(text)) if text.expose().is_empty() => return false,
            _ if key.secret => {
                let message =
                    format!("is set here and by {origin}: give the secret once, inline or as one file");
                let note = Note { origin: entry.origin.clone(), key: Some(key.name.to_owned()), message };
                self.mistakes.push(note);
            }
            _ => {}
        }
        true
    }

    /// A key that is not ours: nothing to say unless it looks like one of ours.
    fn foreign(&mut self, entry: Entry) {
        if keys::CLUSTER_STRATEGY.contains(&entry.key.as_str()) {
            let message = "belongs to Kong's cluster strategy and is not used here";
            self.warn(entry.origin, &entry.key, message);
        } else if entry.key.starts_with("keyring_") {
            let close = |key: &&&Key| strsim::damerau_levenshtein(key.name, &entry.key);
            let nearest = keys::ALL.iter().min_by_key(close).map_or("", |key| key.name);
            let message = format!("no such setting; did you mean {nearest}?");
            self.mistakes.push(Note { origin: entry.origin, key: Some(entry.key), message });
        }
    }

    fn warn(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        self.warnings.push(Note { origin, key: Some(key.to_owned()), message: message.into() });
    }
}

/// What looks as if it were meant otherwise than it is taken.
fn doubts(key: &Key, origin: &Origin, text: &str) -> impl Iterator<Item = &'static str> + use<> {
    let of_kong = key.kongs && matches!(origin, Origin::File { .. });
    let unfinished = "begins like a reference and does not end with }, so it is taken as it stands; in a kong.conf, a # \
                      is written \\#";
    [
        is_unfinished(text).then_some(unfinished),
        value::quoted(text).filter(|_| of_kong),
        value::number_to_kong(text).filter(|_| of_kong),
    ]
    .into_iter()
    .flatten()
}
