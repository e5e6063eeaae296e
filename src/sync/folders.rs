//! The folders whose secrets are keyrings, and the list of all keyrings that the settings and the folders give.
//!
//! A secret leaves only if its folder still lists others and Vault has no metadata of it: an error or an empty folder takes
//! no keyring away.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::read::Turns;
use crate::{
    clock,
    keyring::is_name,
    settings::{self, KeyringPath, KvSecret, KvVersion, SecretPath},
    vault::{Client, Kv, VaultError, kv::Purpose},
};

/// The limit on the secrets of one folder: each takes a request per interval.
const MAX_SECRETS: usize = 1000;

/// How many warnings are kept: a folder may hold anything.
const MAX_WARNINGS: usize = 20;

/// A keyring that there should be.
pub(super) struct Wanted {
    pub(super) name: Arc<str>,
    pub(super) secret: KvSecret,
}

#[derive(Debug, Default)]
pub(super) struct Folders {
    all: Vec<Folder>,
    /// Secrets that give no keyring.
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
struct Folder {
    secret: KvSecret,
    /// The names of its secrets; `None` before the first listing, unless a sealed copy has some.
    names: Option<Vec<String>>,
    is_listed: bool,
    error: Option<FolderError>,
}

/// Why the last listing of a folder failed.
#[derive(Clone, Debug)]
pub(super) struct FolderError {
    message: String,
    pub(super) retry_after: Option<Duration>,
    /// [`VaultError::is_away`]
    pub(super) is_away: bool,
}

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a folder of keyrings cannot be listed: {}", self.message)
    }
}

/// What one listing gave.
pub(super) struct Listed {
    folder: KvSecret,
    names: Result<Vec<String>, VaultError>,
}

impl Folders {
    /// The folders of these settings, with what is known of them so far.
    pub(super) fn with_settings(&self, settings: &settings::Keyring) -> Self {
        let folder = |path: &SecretPath| {
            let secret = settings.secret.at(path.clone());
            let known = self.all.iter().find(|folder| folder.secret == secret).cloned();
            known.unwrap_or(Folder { secret, names: None, is_listed: false, error: None })
        };
        let paths = settings.further.iter().filter_map(|item| match item {
            KeyringPath::Folder(path) => Some(path),
            KeyringPath::Secret { .. } => None,
        });
        Self { all: paths.map(folder).collect(), warnings: Vec::new() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Each folder, and the names that it gave last.
    pub(super) fn known(&self) -> Vec<(KvSecret, Vec<String>)> {
        self.all
            .iter()
            .map(|folder| (folder.secret.clone(), folder.names.clone().unwrap_or_default()))
            .collect()
    }

    pub(super) fn update(&mut self, listed: Vec<Listed>) {
        for Listed { folder: secret, names } in listed {
            let Some(folder) = self.all.iter_mut().find(|folder| folder.secret == secret) else { continue };
            let error = match names {
                Ok(names) => {
                    (folder.names, folder.is_listed) = (Some(names), true);
                    None
                }
                Err(error) => {
                    let (message, retry_after) = (error.to_string(), error.retry_after());
                    if folder.error.as_ref().is_none_or(|before| before.message != message) {
                        tracing::warn!(folder = %secret.path, error = %message, "a folder of keyrings cannot be listed");
                    }
                    Some(FolderError { message, retry_after, is_away: error.is_away() })
                }
            };
            folder.error = error;
        }
    }

    /// All keyrings: the default one, the others of the settings, and those of the folders.
    pub(super) fn wanted(&mut self, settings: &settings::Keyring) -> Vec<Wanted> {
        let mut wanted =
            vec![Wanted { name: settings.name.as_str().into(), secret: settings.secret.clone() }];
        for item in &settings.further {
            if let KeyringPath::Secret { name, path } = item {
                wanted.push(Wanted { name: name.as_str().into(), secret: settings.secret.at(path.clone()) });
            }
        }
        let mut names: HashSet<_> = wanted.iter().map(|one| Arc::clone(&one.name)).collect();
        let mut secrets: HashSet<_> = wanted.iter().map(|one| one.secret.clone()).collect();
        let mut warnings = Vec::new();
        for folder in &self.all {
            for name in folder.names.iter().flatten() {
                let secret = child(&folder.secret, name);
                if secrets.contains(&secret) {
                    continue;
                }
                let path = &folder.secret.path;
                if !is_name(name) {
                    warnings.push(format!("{path}/ holds {name:?}, which cannot be the name of a keyring"));
                } else if !names.insert(name.as_str().into()) {
                    warnings.push(format!("{path}/{name} is not served: another keyring has this name"));
                } else {
                    secrets.insert(secret.clone());
                    wanted.push(Wanted { name: name.as_str().into(), secret });
                }
            }
        }
        warnings.truncate(MAX_WARNINGS);
        for warning in warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.warnings = warnings;
        wanted
    }

    /// Why there may be keyrings that are not known: a folder was not listed yet.
    pub(super) fn incomplete(&self) -> Option<String> {
        let folder = self.all.iter().find(|folder| !folder.is_listed)?;
        Some(match &folder.error {
            Some(error) => {
                format!("the keyrings of {}/ are not known yet: {}", folder.secret.path, error.message)
            }
            None => format!(
                "the keyrings of {}/ are not known yet: the first listing is under way",
                folder.secret.path
            ),
        })
    }

    /// Of the last listings, the failure whose server asks for the longest wait; `None` if all succeeded.
    pub(super) fn failure(&self) -> Option<&FolderError> {
        self.all.iter().filter_map(|folder| folder.error.as_ref()).max_by_key(|error| error.retry_after)
    }

    /// Whether Vault refused a listing, or gave one.
    pub(super) fn is_answered(&self) -> bool {
        let is_refused = |error: &FolderError| !error.is_away;
        self.all.iter().any(|folder| folder.is_listed || folder.error.as_ref().is_some_and(is_refused))
    }

    /// Whether the first listing of a folder failed since Vault is away.
    pub(super) fn is_away(&self) -> bool {
        let is_away =
            |folder: &Folder| !folder.is_listed && folder.error.as_ref().is_some_and(|error| error.is_away);
        self.all.iter().any(is_away)
    }

    /// Takes the names of secrets from a sealed copy, which has their paths, for the folders that could not be listed yet.
    pub(super) fn adopt(&mut self, paths: &[&str]) {
        let is_waiting = |folder: &&mut Folder| {
            !folder.is_listed && folder.error.as_ref().is_none_or(|error| error.is_away)
        };
        for folder in self.all.iter_mut().filter(is_waiting) {
            let start = format!("{}/", folder.secret.path);
            let names = paths.iter().filter_map(|path| path.strip_prefix(&start));
            folder.names = Some(names.filter(|name| !name.contains('/')).map(str::to_owned).collect());
        }
    }

    pub(super) fn describe(&self) -> Value {
        let folders: Vec<_> = self
            .all
            .iter()
            .map(|folder| {
                json!({
                    "path": format!("{}/", folder.secret.path),
                    "secrets": folder.names.as_ref().map(Vec::len),
                    "last_error": folder.error.as_ref().map(|error| &error.message),
                })
            })
            .collect();
        json!({ "folders": folders, "warnings": self.warnings })
    }
}

/// All keyrings as the folders are now, the default one first, and what hinders others.
pub async fn all_keyrings(
    client: &Client,
    settings: &settings::Keyring,
) -> (Vec<(Arc<str>, KvSecret)>, Vec<String>) {
    let (mut folders, turns) = (Folders::default().with_settings(settings), Turns::default());
    let known = folders.known();
    folders.update(join_all(known.into_iter().map(|(folder, _)| list(client, &turns, folder, &[]))).await);
    let wanted = folders.wanted(settings);
    let mut problems = folders.warnings;
    problems.extend(folders.all.iter().filter_map(|folder| {
        let error = folder.error.as_ref()?;
        Some(format!("the folder {}/ cannot be listed: {}", folder.secret.path, error.message))
    }));
    (wanted.into_iter().map(|one| (one.name, one.secret)).collect(), problems)
}

/// Lists a folder of which these names are `known`.
pub(super) async fn list(client: &Client, turns: &Turns, folder: KvSecret, known: &[String]) -> Listed {
    let names = names(client, turns, &folder, known).await;
    Listed { folder, names }
}

async fn names(
    client: &Client,
    turns: &Turns,
    folder: &KvSecret,
    known: &[String],
) -> Result<Vec<String>, VaultError> {
    let mut names = turns.take(Kv::new(client, folder, Purpose::Keyring).list_folder()).await?;
    if names.is_empty() {
        return Ok(known.to_vec());
    }
    if names.len() > MAX_SECRETS {
        let path = folder.path.to_string();
        return Err(VaultError::Malformed { path, what: "it holds more than 1000 secrets" });
    }
    let gone: Vec<_> = known.iter().filter(|name| !names.contains(name)).cloned().collect();
    for name in gone {
        let secret = child(folder, &name);
        let kv = Kv::new(client, &secret, Purpose::Keyring);
        let found = match folder.kv {
            KvVersion::V1 => turns.take(kv.read(None)).await.map(drop),
            KvVersion::V2 => turns.take(kv.list(clock::wall())).await.map(drop),
        };
        if !found.is_err_and(|error| error.is_missing()) {
            names.push(name);
        }
    }
    Ok(names)
}

fn child(folder: &KvSecret, name: &str) -> KvSecret {
    let segments = folder.path.segments().chain([name]).map(str::to_owned).collect();
    folder.at(SecretPath(segments))
}
