//! Which key each ciphertext names, counted: whether a version may be destroyed.

use std::{collections::BTreeMap, fmt, fmt::Write as _};

use serde_json::Value;

/// The key that a ciphertext names, by what its format has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Label {
    /// `kr1:<id>:…`, and `$ke$1$-<id>-…` of Kong.
    Id(String),
    /// A field of Kong's, which a rewrap always changes.
    Kong(String),
    /// `vault:v<version>:…`
    Version(u64),
}

/// Counts by key; `None` is what is no ciphertext.
#[derive(Debug, Default)]
pub(super) struct Census(BTreeMap<Option<Label>, u64>);

impl Label {
    /// `None` if the text is no ciphertext.
    pub(super) fn of(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("kr1:") {
            return rest.split_once(':').map(|(id, _)| Self::Id(id.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("$ke$1$-") {
            let (id, _) = rest.split_once("-$").or_else(|| rest.rsplit_once('-'))?;
            return Some(Self::Kong(id.to_owned()));
        }
        let (version, _) = text.strip_prefix("vault:v")?.split_once(':')?;
        version.parse().ok().map(Self::Version)
    }

    /// Whether it means this key.
    fn is_of(&self, id: &str, version: u64) -> bool {
        match self {
            Self::Id(named) | Self::Kong(named) => named == id,
            Self::Version(named) => *named == version,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => f.write_str(id),
            Self::Kong(id) => write!(f, "{id} (Kong)"),
            Self::Version(version) => write!(f, "version {version}"),
        }
    }
}

impl Census {
    pub(super) fn count(&mut self, label: Option<Label>) {
        *self.0.entry(label).or_default() += 1;
    }

    pub(super) fn of(&self, label: &Label) -> u64 {
        self.0.get(&Some(label.clone())).copied().unwrap_or(0)
    }

    /// A line per key.
    pub(super) fn lines(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (label, count)| {
            let name = label.as_ref().map_or_else(|| "no ciphertext".to_owned(), ToString::to_string);
            let _ = writeln!(text, "{count:>9}  {name}");
            text
        })
    }

    /// A line per key of the daemon, including those that nothing names, and what is of no key of it.
    pub(super) fn table(&self, status: Option<&Value>) -> String {
        let keys = status.and_then(|status| status.pointer("/keyring/keys")?.as_array());
        let Some(keys) = keys else { return self.lines() };
        let (mut text, mut rest) = (String::new(), self.0.clone());
        for key in keys {
            let field = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or_default();
            let (id, version) = (field("id"), key["version"].as_u64().unwrap_or(0));
            let is_of = |label: &Option<Label>| label.as_ref().is_some_and(|label| label.is_of(id, version));
            let count: u64 = rest.iter().filter(|(label, _)| is_of(label)).map(|(_, count)| count).sum();
            rest.retain(|label, _| !is_of(label));
            let _ = writeln!(text, "{count:>9}  {id}  version {version}  {}", field("state"));
        }
        for (label, count) in &rest {
            let name = label.as_ref().map_or_else(
                || "no ciphertext".to_owned(),
                |label| format!("{label}: the daemon has no such key"),
            );
            let _ = writeln!(text, "{count:>9}  {name}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_format_names_its_key() {
        for (text, label) in [
            ("kr1:2026-11:AAAA", Some(Label::Id("2026-11".to_owned()))),
            ("vault:v12:AAAA", Some(Label::Version(12))),
            ("$ke$1$-8zgITLQh-$0b-$abcd", Some(Label::Kong("8zgITLQh".to_owned()))),
            ("vault:vx:AAAA", None),
            ("hello", None),
            ("kr1:", None),
        ] {
            assert_eq!(Label::of(text), label, "{text}");
        }
    }

    #[test]
    fn a_table_has_every_key_of_the_daemon_and_the_unknown_ones() {
        let mut census = Census::default();
        for text in ["kr1:a:x", "vault:v1:x", "kr1:gone:x", "?"] {
            census.count(Label::of(text));
        }
        let status = json!({ "keyring": { "keys": [
            { "id": "b", "version": 2, "state": "active" }, { "id": "a", "version": 1, "state": "live" },
        ] } });
        let lines: Vec<_> = census.table(Some(&status)).lines().map(|line| line.trim().to_owned()).collect();
        assert_eq!(
            lines,
            [
                "0  b  version 2  active",
                "2  a  version 1  live",
                "1  no ciphertext",
                "1  gone: the daemon has no such key"
            ]
        );
    }
}
