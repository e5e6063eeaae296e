//! Reading values by key: which one won, and every note taken on the way.
//!
//! The sources are merged here once; then each key is asked for with the parser of its kind. A mistake is noted and the
//! reading goes on, so that all of them are reported together. What the values add up to is in `settings`.

use std::collections::HashMap;

use super::{
    Effective, Note,
    credential::Credential,
    keys::{self, Key},
    pem,
    source::{Entry, Origin, Source, Value},
    value,
};
use crate::secret::Secret;

/// The values that won, and the notes taken on the way.
pub struct Reader {
    values: HashMap<&'static str, Entry>,
    pub mistakes: Vec<Note>,
    pub warnings: Vec<Note>,
}

impl Reader {
    /// Merges the sources, the weakest first.
    pub fn new(sources: &[Box<dyn Source>]) -> Self {
        let mut reader = Self { values: HashMap::new(), mistakes: Vec::new(), warnings: Vec::new() };
        for source in sources {
            let found = source.read();
            let note = |(origin, message)| Note { origin, key: None, message };
            reader.mistakes.extend(found.mistakes.into_iter().map(note));
            reader.warnings.extend(found.warnings.into_iter().map(note));
            for entry in found.entries {
                reader.take(entry);
            }
        }
        reader
    }

    fn take(&mut self, entry: Entry) {
        let Some(key) = keys::find(&entry.key) else {
            self.foreign(entry);
            return;
        };
        if let (true, Origin::File { .. }, Value::Text(text)) = (key.kongs, &entry.origin, &entry.value) {
            let doubts = [value::quoted(text.expose()), value::number_to_kong(text.expose())];
            for doubt in doubts.into_iter().flatten() {
                self.warn(entry.origin.clone(), key.name, doubt);
            }
        }
        if let Some(before) = self.values.get(key.name) {
            let origin = before.origin.clone();
            match (&origin, &entry.origin, &before.value, &entry.value) {
                (Origin::File { path, line }, Origin::File { path: again, .. }, ..) if again == path => {
                    let message = format!("stands twice: this line wins over line {line}");
                    self.warn(entry.origin.clone(), key.name, message);
                }
                (.., Value::Text(_), Value::Text(_)) => {}
                (.., Value::Text(text), Value::File(_)) if text.expose().is_empty() => {}
                (.., Value::File(_), Value::Text(text)) if text.expose().is_empty() => return,
                _ if key.secret => {
                    let message =
                        format!("is set here and by {origin}: give the secret once, inline or as one file");
                    let note = Note { origin: entry.origin.clone(), key: Some(key.name.to_owned()), message };
                    self.mistakes.push(note);
                }
                _ => {}
            }
        }
        self.values.insert(key.name, entry);
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

    /// A warning about the value that a key has.
    pub fn warn_of(&mut self, key: &'static Key, message: impl Into<String>) {
        self.warn(self.origin(key), key.name, message);
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
            Value::File(_) => None,
        });
        set.filter(|text| !text.is_empty()).or(key.default)
    }

    pub fn is_set(&self, key: &'static Key) -> bool {
        self.text(key).is_some()
            || matches!(self.values.get(key.name), Some(Entry { value: Value::File(_), .. }))
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
        let text = self.text(key)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(expected) => {
                let shown =
                    if key.secret { String::new() } else { format!(", and it is {}", shortened(text)) };
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
            let credential = Credential::File(path.clone());
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
        self.checked_file(key, Credential::File(path), check)
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
            Value::File(_) => true,
        });
        let value = self.text(key).filter(|_| !key.secret).map(presentable);
        Effective { key, value, origin: set.map_or(Origin::Default, |entry| entry.origin.clone()) }
    }
}

/// What people read is shorter, unless it is a path or a URL; what is longer may be a key in base64.
const LONGEST_SHOWN: usize = 64;

/// A value as it is quoted in a message: on one line, and not longer than people read.
pub fn shortened(text: &str) -> String {
    let text = &presentable(text);
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{text:?}") }
}

/// A value as it may be shown: without a password that somebody put into a URL, and without PEM, which may hold a key
/// that somebody put into the wrong place.
fn presentable(text: &str) -> String {
    let shown = |item: &str| item.len() <= LONGEST_SHOWN || item.contains("://") || pem::is_path(item);
    if text.contains("-----BEGIN") || !text.split(',').all(|item| shown(item.trim())) {
        return "[text, not shown]".to_owned();
    }
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}[redacted]{}", &text[..scheme + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}
