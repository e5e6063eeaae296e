//! Which key each ciphertext names, counted: whether a version may be destroyed.

use std::{collections::BTreeMap, fmt, fmt::Write as _};

use serde_json::{Value, json};

/// The key that a ciphertext names, by what its format has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Label {
    /// `kr1:<id>:…`
    Id(String),
    /// `$ke$1$-<id>-<nonce>-…`, a field of Kong's, which a rewrap always changes.
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
            // From the right, because an ID may contain `-`.
            let [_, _, id] = rest.rsplitn(3, '-').collect::<Vec<_>>()[..] else { return None };
            return Some(Self::Kong(id.to_owned()));
        }
        let (version, _) = text.strip_prefix("vault:v")?.split_once(':')?;
        version.parse().ok().map(Self::Version)
    }
}

/// A key of the daemon, and how many values name it.
struct Counted<'k> {
    id: &'k str,
    version: u64,
    state: &'k str,
    count: u64,
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
    pub(super) fn table(&self, keys: &[Value]) -> String {
        if keys.is_empty() {
            return self.lines();
        }
        let (counts, rest) = self.by_key(keys);
        let mut text = String::new();
        for Counted { id, version, state, count } in counts {
            let _ = writeln!(text, "{count:>9}  {id}  version {version}  {state}");
        }
        for (label, count) in &rest.0 {
            let name = label.as_ref().map_or_else(
                || "no ciphertext".to_owned(),
                |label| format!("{label}: the daemon has no such key"),
            );
            let _ = writeln!(text, "{count:>9}  {name}");
        }
        text
    }

    /// The same as JSON.
    pub(super) fn json(&self, keys: &[Value]) -> Value {
        let (counts, rest) = self.by_key(keys);
        let of_key = |Counted { id, version, state, count }: Counted<'_>| json!({ "id": id, "version": version, "state": state, "count": count });
        let others = rest.0.iter().filter_map(|(label, count)| {
            label.as_ref().map(|label| json!({ "key": label.to_string(), "count": count }))
        });
        json!({
            "keys": counts.into_iter().map(of_key).collect::<Vec<_>>(),
            "others": others.collect::<Vec<_>>(),
            "no_ciphertext": rest.0.get(&None).copied().unwrap_or(0),
        })
    }

    /// The count of each key of the daemon, and what is of no key of it.
    fn by_key<'k>(&self, keys: &'k [Value]) -> (Vec<Counted<'k>>, Self) {
        let mut rest = self.0.clone();
        let count = |key: &'k Value| {
            let field = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or_default();
            let (id, version) = (field("id"), key["version"].as_u64().unwrap_or(0));
            let labels =
                [Label::Id(id.to_owned()), Label::Kong(id.to_owned()), Label::Version(version)].map(Some);
            let count = labels.iter().filter_map(|label| rest.remove(label)).sum();
            Counted { id, version, state: field("state"), count }
        };
        let counts = keys.iter().map(count).collect();
        (counts, Self(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_names_its_key() {
        for (text, label) in [
            ("kr1:2026-11:AAAA", Some(Label::Id("2026-11".to_owned()))),
            ("vault:v12:AAAA", Some(Label::Version(12))),
            ("$ke$1$-8zgITLQh-000102030405060708090a0b-438188bd8d", Some(Label::Kong("8zgITLQh".to_owned()))),
            ("$ke$1$-a-b-000102030405060708090a0b-438188bd8d", Some(Label::Kong("a-b".to_owned()))),
            ("$ke$1$-a-00", None),
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
        let keys = [
            json!({ "id": "b", "version": 2, "state": "active" }),
            json!({ "id": "a", "version": 1, "state": "live" }),
        ];
        let lines: Vec<_> = census.table(&keys).lines().map(|line| line.trim().to_owned()).collect();
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
