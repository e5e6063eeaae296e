//! The environment: `KONG_*` variables, and those that settings refer to. Only this file reads `std::env`.
//!
//! A daemon does not keep secrets in its environment. `hardening` moves each such variable into memory, and
//! `KEYRINGD_ENV_<NAME>` names the place: a pipe, which is read once. Readers here get moved and other variables alike.
//! The file is longer than most: it has all that reads a variable.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use super::{
    Entry, Found, Origin, Source, Value,
    credential::{Credential, PathOrigin},
};
use crate::{
    secret::Secret,
    settings::{
        conf::{Spelling, trim},
        keys, pem,
        reference::{is_any_reference, is_reference},
        resolve::Variable,
        setting::{Content, Key, VARIABLE_PREFIX},
        spelling,
    },
};

/// The `KONG_*` variables of this process, and the files that `KONG_*_FILE` variables name.
pub(crate) struct Environment;

/// The prefix of variables that name the place of a moved variable. Kong uses no such prefix.
const MOVED: &str = "KEYRINGD_ENV_";

/// The start of every such place.
const PLACE: &str = "/proc/self/fd/";

/// What moved variables held, by their place. A reload reads it here.
static READ: Mutex<BTreeMap<PathBuf, Secret<String>>> = Mutex::new(BTreeMap::new());

/// A variable of this process that holds a secret.
#[derive(Debug)]
pub(crate) struct SecretVariable {
    pub name: String,
    /// The variable that names its new place.
    pub moved: String,
    pub value: Secret<String>,
}

/// The content of a variable, or the place that it was moved to.
enum VariableContent {
    Inline(OsString),
    Moved(PathBuf),
}

impl Source for Environment {
    fn read(&self) -> Found {
        variables(all())
    }

    fn variable(&self, name: &str) -> Variable {
        all().find(|(known, _)| known == name).map(|(_, content)| content.text()).transpose()
    }
}

/// The variables that are still in the environment of this process and hold a secret: those of secret settings, and
/// those that settings refer to.
pub(crate) fn secret_variables(referred: &BTreeSet<String>) -> Vec<SecretVariable> {
    secrets_among(all(), referred)
}

/// Names and values of the variables whose whole value is a reference, in either notation. Secret settings of keyringd are
/// not for others.
pub(crate) fn references() -> Vec<(String, String)> {
    references_among(all())
}

fn references_among(all: impl Iterator<Item = (OsString, VariableContent)>) -> Vec<(String, String)> {
    let reference = |(name, content): (OsString, VariableContent)| match content {
        VariableContent::Inline(text) => {
            let (name, text) = (name.into_string().ok()?, text.into_string().ok()?);
            let text = trim(&text);
            (is_any_reference(text) && secret_key(&name).is_none()).then(|| (name, text.to_owned()))
        }
        VariableContent::Moved(_) => None,
    };
    all.filter_map(reference).collect()
}

/// The working folder of this process.
pub(super) fn current_dir() -> Option<PathBuf> {
    std::env::current_dir().ok()
}

/// The folder of this service's systemd credentials.
pub(crate) fn credentials_directory() -> Option<PathBuf> {
    path_in("CREDENTIALS_DIRECTORY")
}

/// The folders that systemd keeps for this service.
pub(super) fn state_directories() -> Vec<PathBuf> {
    let folders = path_in("STATE_DIRECTORY").unwrap_or_default().into_os_string();
    std::env::split_paths(&folders).filter(|folder| folder.is_absolute()).collect()
}

/// The folder for a user's own runtime files, if this session has one (XDG Base Directory Specification).
pub(crate) fn user_runtime_dir() -> Option<PathBuf> {
    path_in("XDG_RUNTIME_DIR").filter(|path| path.is_absolute())
}

/// An operator's token for Vault, and the variable that holds it: as `bao`, whose own variable comes first.
pub(crate) fn operator_token() -> Option<(Secret<String>, &'static str)> {
    ["BAO_TOKEN", "VAULT_TOKEN"].into_iter().find_map(|name| {
        let (_, content) = all().find(|(known, _)| known == name)?;
        let text = content.text().ok().filter(|text| !text.expose().is_empty())?;
        Some((text, name))
    })
}

/// The file in which `bao login` and `vault login` keep a token, if it exists.
pub(crate) fn token_helper_file() -> Option<PathBuf> {
    path_in("HOME").map(|home| home.join(".vault-token")).filter(|path| path.exists())
}

/// Where a folder in memory may be made, the most private first.
pub(crate) fn runtime_dirs() -> Vec<PathBuf> {
    let named = [path_in("RUNTIME_DIRECTORY"), user_runtime_dir()];
    named.into_iter().flatten().chain(["/run".into(), "/dev/shm".into()]).collect()
}

fn path_in(name: &str) -> Option<PathBuf> {
    let (_, content) = all().find(|(known, _)| known == name)?;
    content.text().ok().map(|text| PathBuf::from(text.expose()))
}

/// Every variable of this process, including moved ones.
#[expect(clippy::disallowed_methods, reason = "only this function reads the environment")]
fn all() -> impl Iterator<Item = (OsString, VariableContent)> {
    with_the_moved(std::env::vars_os())
}

/// A variable in the environment overrides a moved one of the same name, because it was set later.
fn with_the_moved(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, VariableContent)> {
    let content = |(name, value): (OsString, OsString)| match moved_name(&name, &value) {
        Some(name) => (name, VariableContent::Moved(PathBuf::from(value))),
        None => (name, VariableContent::Inline(value)),
    };
    let (here, moved): (Vec<_>, Vec<_>) =
        all.map(content).partition(|(_, content)| matches!(content, VariableContent::Inline(_)));
    let names: BTreeSet<_> = here.iter().map(|(name, _)| name.clone()).collect();
    here.into_iter().chain(moved.into_iter().filter(move |(name, _)| !names.contains(name)))
}

fn moved_name(name: &OsStr, value: &OsStr) -> Option<OsString> {
    let number = value.as_bytes().strip_prefix(PLACE.as_bytes())?;
    let name = name.as_bytes().strip_prefix(MOVED.as_bytes()).filter(|name| !name.is_empty())?;
    number.iter().all(u8::is_ascii_digit).then(|| OsString::from_vec(name.to_vec()))
}

impl VariableContent {
    fn text(self) -> Result<Secret<String>, String> {
        match self {
            Self::Inline(text) => secret_text(text.into_vec()),
            Self::Moved(place) => {
                let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
                let text = match read.entry(place) {
                    btree_map::Entry::Occupied(read) => read.into_mut(),
                    btree_map::Entry::Vacant(unread) => {
                        let bytes = std::fs::read(unread.key()).map_err(|error| {
                            format!("cannot be read from the place to which keyringd moved it: {error}")
                        })?;
                        unread.insert(secret_text(bytes)?)
                    }
                };
                let copy = Secret::new(text.expose().clone());
                drop(read);
                Ok(copy)
            }
        }
    }
}

fn secret_text(bytes: Vec<u8>) -> Result<Secret<String>, String> {
    String::from_utf8(bytes).map(Secret::new).map_err(|_| "is not UTF-8 text".to_owned())
}

fn secrets_among(
    all: impl Iterator<Item = (OsString, VariableContent)>,
    referred: &BTreeSet<String>,
) -> Vec<SecretVariable> {
    let secret = |(name, content): (OsString, VariableContent)| {
        let name = name.into_string().ok()?;
        let of_a_secret = secret_key(&name);
        if of_a_secret.is_none() && !referred.contains(&name) || matches!(content, VariableContent::Moved(_))
        {
            return None;
        }
        let value = content.text().ok().filter(|value| !trim(value.expose()).is_empty())?;
        let is_public = of_a_secret.is_some_and(|key| is_reference_or_path(key, trim(value.expose())));
        (!is_public).then(|| SecretVariable { moved: format!("{MOVED}{name}"), name, value })
    };
    all.filter_map(secret).collect()
}

/// The setting that a variable sets, by value or by file.
pub(in crate::settings) fn setting(variable: &str) -> Option<&'static Key> {
    let key = variable.strip_prefix(VARIABLE_PREFIX)?.to_ascii_lowercase();
    keys::find(&key).or_else(|| keys::find(key.strip_suffix("_file")?))
}

/// The secret setting that a variable sets.
fn secret_key(variable: &str) -> Option<&'static Key> {
    let key = variable.strip_prefix(VARIABLE_PREFIX)?;
    keys::find(&key.to_ascii_lowercase()).filter(|key| key.is_secret())
}

/// A reference is not secret, and the variable that it names is moved separately. The path of a PEM file is not secret.
fn is_reference_or_path(key: &Key, value: &str) -> bool {
    is_reference(value) || (key.content == Content::Pem && pem::is_path(value))
}

/// Values are trimmed, as in Kong. Those of its other variables are not read, since they may hold secrets.
fn variables(all: impl Iterator<Item = (OsString, VariableContent)>) -> Found {
    let mut found = Found::default();
    for (name, content) in all {
        let Ok(name) = name.into_string() else { continue };
        let upper = name.to_ascii_uppercase();
        let Some(key) = upper.strip_prefix(VARIABLE_PREFIX).map(str::to_ascii_lowercase) else { continue };
        // The name of a setting may itself end with `_file`.
        let of_file = key.strip_suffix("_file").filter(|_| keys::find(&key).is_none()).and_then(keys::find);
        let is_known = of_file.is_some() || keys::find(&key).is_some();
        let origin = Origin::Variable(name);
        if origin.to_string() != upper {
            if is_known {
                let message = format!("is not read, because Kong reads capitals only: use {upper}");
                found.warnings.push((origin, message));
            }
            continue;
        }
        if !is_known && !key.starts_with("keyring_") && spelling::nearly(&key).is_none() {
            continue;
        }
        let value = match of_file {
            _ if !is_known => Ok(Some((key, Value::Unresolved))),
            None => content.text().map(|text| Some((key, Value::Text(trimmed(&text))))),
            Some(of) => content
                .text()
                .and_then(|text| file(of, trim(text.expose())))
                .map(|value| value.map(|value| (of.name.to_owned(), value))),
        };
        match value {
            Ok(Some((key, value))) => {
                found.entries.push(Entry { key, value, origin, spelling: Spelling::default() });
            }
            Ok(None) => {}
            Err(why) => found.mistakes.push((origin, why)),
        }
    }
    found
}

/// Names and values as the environment, for tests.
#[cfg(test)]
pub(in crate::settings) struct Variables(pub Vec<(String, String)>);

#[cfg(test)]
impl Source for Variables {
    fn read(&self) -> Found {
        variables(with_the_moved(self.0.iter().map(|(name, value)| (name.into(), value.into()))))
    }
}

fn trimmed(text: &Secret<String>) -> Secret<String> {
    Secret::new(trim(text.expose()).to_owned())
}

/// The value that a `KONG_<KEY>_FILE` variable names. The file of a secret is read at each use, others now.
fn file(of: &Key, path: &str) -> Result<Option<Value>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    if is_reference(path) {
        let variable = of.variable();
        return Err(format!(
            "must be the path of a file: put the reference into the file, or into {variable}"
        ));
    }
    if of.is_secret() {
        return Ok(Some(Value::File(PathBuf::from(path))));
    }
    let text = Credential::file(path, PathOrigin::Setting)
        .read_with_references()
        .map_err(|error| error.to_string())?;
    Ok(Some(Value::Text(text)))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::AsRawFd as _};

    use super::*;

    fn environment<'a>(
        all: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = (OsString, VariableContent)> + use<'a> {
        with_the_moved(all.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    /// The entries as `key=text` or `key<file`.
    fn listed(found: &Found) -> Vec<String> {
        let one = |entry: &Entry| match &entry.value {
            Value::Text(text) => format!("{}={}", entry.key, text.expose()),
            Value::File(path) => format!("{}<{}", entry.key, path.display()),
            Value::Unresolved | Value::NotText => entry.key.clone(),
        };
        found.entries.iter().map(one).collect()
    }

    #[test]
    fn only_variables_of_known_settings_are_read() {
        let all = [
            ("KONG_KEYRING_NAME", "a#b"),
            ("KONG_PG_PASSWORD", "planted"),
            ("KONG_PG_PASSWORD_FILE", "/planted"),
            ("HOME", "x"),
            ("KONG_LOG_LEVEL", "warn"),
        ];
        let found = variables(environment(&all));
        assert_eq!(listed(&found), ["keyring_name=a#b", "log_level=warn"]);
        assert_eq!(found.entries[0].origin.to_string(), "KONG_KEYRING_NAME");
    }

    #[test]
    fn a_file_variable_gives_the_path_of_a_secret_and_the_text_of_any_other_setting() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-a-file\n").unwrap();
        let path = file.path().to_str().unwrap();
        let all = [
            ("KONG_KEYRING_VAULT_TOKEN_FILE", path),
            ("KONG_KEYRING_NAME_FILE", path),
            ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID_FILE", path),
            ("KONG_KEYRING_VAULT_MOUNT_FILE", "/no/such/file"),
            ("KONG_KEYRING_SOCKET_GROUP_FILE", ""),
            ("KONG_KEYRING_VAULT_PATH_FILE", "{vault://env/path}"),
        ];
        let found = variables(environment(&all));
        let expected = [
            format!("keyring_vault_token<{path}"),
            "keyring_name=from-a-file".to_owned(),
            format!("keyring_vault_approle_secret_id_file={path}"),
        ];
        assert_eq!(listed(&found), expected);
        assert_eq!(found.mistakes[0].0.to_string(), "KONG_KEYRING_VAULT_MOUNT_FILE");
        assert!(found.mistakes[1].1.contains("or into KONG_KEYRING_VAULT_PATH"), "{:?}", found.mistakes[1]);
    }

    #[test]
    fn variables_that_are_references_are_found_in_both_notations() {
        let all = [
            ("A", "{vault://hcv/a/b}"),
            ("B", "$secret://vault/1/a/b"),
            ("C", "$env://X"),
            ("D", "see {vault://hcv/a/b}"),
            ("E", "{vault://hcv/a/b"),
            ("KONG_KEYRING_VAULT_TOKEN", "{vault://env/token}"),
            ("HOME", "/root"),
        ];
        let names: Vec<_> = references_among(environment(&all)).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["A", "B", "C"]);
    }

    #[test]
    fn secret_variables_do_not_include_paths_and_references() {
        let all = [
            ("KONG_KEYRING_VAULT_TOKEN", "s.token"),
            ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", "{vault://env/certificate}"),
            ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", "/etc/key.pem"),
            ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", ""),
            ("KONG_KEYRING_VAULT_OAUTH2_CLIENT_SECRET_FILE", "/run/secret"),
            ("KONG_KEYRING_NAME", "n"),
            ("CERTIFICATE", "referred to"),
            ("OTHER", "not referred to"),
            ("KEYRINGD_ENV_MOVED", "/proc/self/fd/0"),
        ];
        let referred = ["CERTIFICATE", "MOVED", "NOT_SET"].map(str::to_owned).into();
        let found = secrets_among(environment(&all), &referred);
        let found: Vec<_> = found.iter().map(|one| (one.name.as_str(), one.moved.as_str())).collect();
        let expected = [
            ("KONG_KEYRING_VAULT_TOKEN", "KEYRINGD_ENV_KONG_KEYRING_VAULT_TOKEN"),
            ("CERTIFICATE", "KEYRINGD_ENV_CERTIFICATE"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_moved_variable_is_kept_once_it_was_read_and_overridden_by_one_in_the_environment() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b" moved\n").unwrap();
        drop(writer);
        let place = format!("{PLACE}{}", reader.as_raw_fd());
        let all = [
            ("KEYRINGD_ENV_KONG_KEYRING_NAME", place.as_str()),
            ("KEYRINGD_ENV_KONG_KEYRING_VAULT_PATH", &place),
            ("KONG_KEYRING_VAULT_PATH", "in the environment"),
            ("KEYRINGD_ENV_KONG_KEYRING_VAULT_MOUNT", "/etc/passwd"),
            ("KEYRINGD_ENV_KONG_KEYRING_VAULT_TOKEN", "/proc/self/fd/999999"),
        ];
        for _ in 0..2 {
            let found = variables(environment(&all));
            assert_eq!(listed(&found), ["keyring_vault_path=in the environment", "keyring_name=moved"]);
            let (origin, why) = &found.mistakes[0];
            assert_eq!(origin.to_string(), "KONG_KEYRING_VAULT_TOKEN");
            assert!(why.starts_with("cannot be read from the place"), "{why}");
        }
    }
}
