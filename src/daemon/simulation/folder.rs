//! A folder of the model of Vault, whose secrets are keyrings: what an operator does to it, and what must be served of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use serde_json::json;

use super::{message::Answer, oracle::Record};
use crate::keyring::Keyrings;

/// Its path below the mount.
pub(super) const PATH: &str = "tenants";

/// The most secrets in it.
pub(super) const MOST: usize = 3;

/// The secrets of one version each, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Folder(BTreeMap<String, (SystemTime, Arc<Record>)>);

impl Folder {
    pub(super) fn add(&mut self, name: String, created: SystemTime, record: Arc<Record>) {
        if self.0.len() < MOST {
            self.0.entry(name).or_insert((created, record));
        }
    }

    pub(super) fn remove(&mut self, at: u64) {
        let name = self.0.keys().nth(usize::try_from(at).unwrap() % self.0.len().max(1)).cloned();
        name.inspect(|name| drop(self.0.remove(name)));
    }

    /// The answer to a path below an endpoint of KV v2, `metadata` or `data`, or of KV v1, which has none.
    pub(super) fn answer(&self, endpoint: Option<&str>, name: Option<&str>) -> Answer {
        let Some(name) = name else {
            if self.0.is_empty() {
                return Answer::error(404, "");
            }
            let keys: Vec<_> = self.0.keys().collect();
            return Answer::data(&json!({ "keys": keys }));
        };
        let Some((created, record)) = self.0.get(name) else { return Answer::error(404, "") };
        let created = humantime::format_rfc3339_nanos(*created).to_string();
        let version =
            json!({ "version": 1, "created_time": created, "deletion_time": "", "destroyed": false });
        Answer::data(&match endpoint {
            Some("metadata") => {
                json!({ "current_version": 1, "max_versions": 0, "versions": { "1": version } })
            }
            Some(_) => json!({ "data": record.fields, "metadata": version }),
            None => record.fields.clone(),
        })
    }

    /// What must hold at any time: a keyring of the folder holds only keys that were written under its name.
    pub(super) fn check(keyrings: &Keyrings) {
        for entry in keyrings.all().iter().skip(1) {
            for held in entry.published.keyring().iter().flat_map(|keyring| keyring.newest_first()) {
                let (id, name) = (held.key.id().as_str(), &*entry.name);
                assert!(
                    id.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')),
                    "{name} has the key {id}"
                );
            }
        }
    }

    /// What must hold after a time without troubles: the keyrings are those of the folder, each with its last key active. A
    /// folder that is empty takes no keyring away.
    pub(super) fn check_complete(&self, keyrings: &Keyrings) {
        let served = keyrings.all();
        let names: BTreeSet<_> = served.iter().skip(1).map(|entry| entry.name.to_string()).collect();
        assert!(
            self.0.is_empty() || names.iter().eq(self.0.keys()),
            "{names:?} are served, and {:?} are there",
            self.0.keys()
        );
        for (name, (_, record)) in &self.0 {
            let keyring = keyrings.get(name).and_then(|entry| entry.published.keyring());
            let keyring = keyring.unwrap_or_else(|| panic!("{name} has no keys"));
            assert!(
                keyring.active().key.same_key(record.key.as_ref().unwrap()),
                "{name} has another active key"
            );
        }
    }
}
