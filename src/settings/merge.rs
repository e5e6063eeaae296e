//! Merging the sources: which value of each setting wins, with references resolved.
//!
//! Done once per load, with the notes about sources. `reader` parses the values. The file is longer than most: every step
//! adds to the same notes.

use std::collections::{BTreeSet, HashMap};

use super::{
    conf::{KeyForm, trim},
    keys,
    reference::{is_reference, is_unfinished},
    report::Note,
    resolve::{EnvBackend, EnvReference, Unresolved, Variable},
    setting::{Key, Row, VARIABLE_PREFIX},
    source::{
        Entry, Origin, Source, Value,
        credential::{Credential, PathOrigin},
    },
    spelling, value,
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
    /// The settings of the env backend.
    pub env: EnvBackend,
    /// The references in values that other values override.
    overridden: Vec<String>,
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
        let is_of_env =
            |key: &&Key| [keys::ENV_PREFIX.key.name, keys::ENV_DECODE_BASE64.key.name].contains(&key.name);
        let (of_env, others): (Vec<_>, Vec<_>) = keys::all().map(Row::key).partition(is_of_env);
        merged.resolve_all(&of_env, sources);
        merged.env = EnvBackend {
            prefix: merged.text(&keys::ENV_PREFIX.key).unwrap_or_default().to_owned(),
            decode_base64: merged
                .text(&keys::ENV_DECODE_BASE64.key)
                .and_then(|text| value::BOOLEAN.parse(text))
                == Some(true),
        };
        merged.resolve_all(&others, sources);
        let overridden =
            merged.overridden.iter().filter_map(|text| EnvReference::parse(text, &merged.env).ok());
        merged.referred.extend(overridden.map(|reference| reference.variable));
        merged
    }

    fn text(&self, key: &Key) -> Option<&str> {
        match &self.values.get(key.name)?.value {
            Value::Text(text) => Some(text.expose()),
            _ => None,
        }
    }

    fn resolve_all(&mut self, keys: &[&'static Key], sources: &[Box<dyn Source>]) {
        for key in keys {
            if let Some(entry) = self.values.remove(key.name) {
                let entry = self.with_reference_resolved(key, entry, sources);
                self.values.insert(key.name, entry);
            }
        }
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
            (Value::Text(text), _) | (_, Some(text)) => text.expose(),
            _ => return entry,
        };
        let at = entry.origin.clone();
        let resolved = if is_reference(text) {
            self.resolve(text, sources)
        } else if key.name == keys::SSL_TRUSTED_CERTIFICATE.key.name
            && value::list(text).iter().any(|item| is_reference(item))
        {
            self.resolve_items(text, sources)
        } else {
            return entry;
        };
        match resolved {
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
        let reference = EnvReference::parse(text, &self.env)?;
        self.referred.insert(reference.variable.clone());
        let value = reference.value(variable(sources, &reference.variable))?;
        Ok((Secret::new(trim(value.expose()).to_owned()), reference.variable))
    }

    /// A list, with the items that are references resolved. The last variable is its origin.
    fn resolve_items(
        &mut self,
        text: &str,
        sources: &[Box<dyn Source>],
    ) -> Result<(Secret<String>, String), Unresolved> {
        let (mut items, mut last) = (Vec::new(), String::new());
        for item in value::list(text) {
            if is_reference(&item) {
                let (value, variable) = self.resolve(&item, sources)?;
                items.push(value.expose().clone());
                last = variable;
            } else {
                items.push(item);
            }
        }
        Ok((Secret::new(items.join(",")), last))
    }

    fn add(&mut self, mut entry: Entry) {
        let Some(key) = keys::find(&entry.key) else {
            self.note_unknown(entry);
            return;
        };
        match &entry.value {
            Value::Text(text) => {
                if is_reference(text.expose()) {
                    self.overridden.push(text.expose().clone());
                }
                for warning in warnings(key, &entry, text.expose()) {
                    self.warn(entry.origin.clone(), key.name, warning);
                }
            }
            Value::NotText => {
                self.mistake(entry.origin.clone(), key, "is not UTF-8 text");
                entry.value = Value::Unresolved;
            }
            Value::File(_) | Value::Unresolved => {}
        }
        if self.overrides(key, &entry) {
            self.values.insert(key.name, entry);
        }
    }

    /// Whether an entry overrides the one before it. Notes duplicates.
    fn overrides(&mut self, key: &'static Key, entry: &Entry) -> bool {
        let Some(before) = self.values.get(key.name) else { return true };
        let is_empty = |value: &Value| matches!(value, Value::Text(text) if text.expose().is_empty());
        let (was_empty, is_empty) = (is_empty(&before.value), is_empty(&entry.value));
        let is_file = |value: &Value| matches!(value, Value::File(_));
        let with_file = is_file(&before.value) || is_file(&entry.value);
        match (before.origin.clone(), &entry.origin) {
            (origin, again) if origin == *again => {}
            (Origin::File { path, line }, Origin::File { path: again, line: now }) if again == &path => {
                let message = format!("set twice; line {now} overrides line {line}");
                self.warn(entry.origin.clone(), key.name, message);
            }
            (Origin::File { .. }, Origin::Variable(_)) => {}
            // Empty variables are unset variables in many a compose file.
            (Origin::Variable(_) | Origin::Credential(_), _) if is_empty => return false,
            _ if was_empty => {}
            (origin @ Origin::Variable(_), Origin::Variable(_)) => {
                self.mistake(
                    entry.origin.clone(),
                    key,
                    format!("is also set by {origin}: use one of the two variables"),
                );
            }
            (origin, _) if key.is_secret() && with_file => {
                let message = format!("is also set by {origin}: set the secret once, as text or as a file");
                self.mistake(entry.origin.clone(), key, message);
            }
            _ => {}
        }
        true
    }

    /// Most of a kong.conf is not for keyringd. Only a name that looks like one of its settings is noted.
    fn note_unknown(&mut self, entry: Entry) {
        let Entry { key, origin, spelling, .. } = entry;
        // If the = is in the wrong place, any other key may hold a secret.
        let shown = (spelling.key == KeyForm::Plain).then(|| key.clone());
        let named = |name: &str| match &origin {
            Origin::Variable(_) => format!("{VARIABLE_PREFIX}{}", name.to_ascii_uppercase()),
            _ => name.to_owned(),
        };
        let fault = spelling::key_fault(&spelling);
        if keys::CLUSTER_STRATEGY.contains(&key.as_str()) {
            self.warn(origin, &key, "is a setting of Kong's cluster strategy and has no effect");
        } else if key.starts_with("keyring_") && !matches!(spelling.key, KeyForm::NotAscii(_)) {
            let message = match spelling.key {
                KeyForm::Other => "expected key = value, found a blank or a colon in the key".to_owned(),
                _ => format!("no such setting; did you mean {}?", named(spelling::nearest(&key))),
            };
            self.mistakes.push(Note { origin, key: shown, message });
        } else if let Some(nearest) = spelling::nearly(&key) {
            let message =
                format!("{fault}no such setting, so it has no effect; did you mean {}?", named(nearest));
            self.warnings.push(Note { origin, key: shown, message });
        }
    }

    fn mistake(&mut self, origin: Origin, key: &Key, message: impl Into<String>) {
        self.mistakes.push(Note { origin, key: Some(key.name.to_owned()), message: message.into() });
    }

    fn warn(&mut self, origin: Origin, key: &str, message: impl Into<String>) {
        self.warnings.push(Note { origin, key: Some(key.to_owned()), message: message.into() });
    }
}

/// Warnings about a value that probably means something else than it does.
fn warnings(key: &Key, entry: &Entry, text: &str) -> Vec<String> {
    let unfinished = "begins like a reference but does not end with }, so it is used as text; write # as \\# in a kong.conf";
    let is_unfinished = is_unfinished(text) && key.name != keys::SSL_TRUSTED_CERTIFICATE.key.name;
    let mut warnings = Vec::from_iter(is_unfinished.then(|| unfinished.to_owned()));
    if matches!(entry.origin, Origin::File { .. }) {
        warnings.extend(spelling::warnings(key, &entry.spelling, text));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::source::environment::Variables;

    #[test]
    fn of_two_variables_for_one_setting_neither_wins_in_any_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "b").unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let variables =
            [pair("KONG_KEYRING_NAME", "a"), pair("KONG_KEYRING_NAME_FILE", file.path().to_str().unwrap())];
        for names in [[0, 1], [1, 0]] {
            let variables = names.map(|at| variables[at].clone());
            let sources: [Box<dyn Source>; 1] = [Box::new(Variables(variables.to_vec()))];
            let found = Merged::from_sources(&sources).mistakes;
            let [Note { origin, message, .. }] = found.as_slice() else { panic!("{found:?}") };
            assert!(message.contains("use one of the two variables"), "{message}");
            assert_eq!(origin.to_string(), variables[1].0);
            assert!(message.contains(&format!("by {}:", variables[0].0)), "{message}");
        }
    }
}
