//! The environment: `KONG_*` variables, and those that settings refer to. The one door to `std::env` in the program.
//!
//! A daemon does not leave secrets in its environment: it moves each such variable into memory, and `KEYRINGD_ENV_<NAME>`
//! says where NAME is. Whoever reads variables reads them here, and cannot tell those that were moved from the others.
//! Who moves them is `hardening`.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
};

use super::{Entry, Found, Origin, Source, Value};
use crate::{
    secret::Secret,
    settings::{
        credential::Credential,
        keys::{self, VARIABLE_PREFIX},
        pem,
        reference::{is_of_either_notation, is_reference},
        resolve::Variable,
    },
};

/// The `KONG_*` variables of this process, and the files that `KONG_*_FILE` variables name.
pub struct Environment;

/// Before a variable's name: where it was moved to. A prefix keeps different names different, and Kong has none such.
const MOVED: &str = "KEYRINGD_ENV_";

/// What a moved variable's place begins with. Anything else under such a name is not of our making.
const PLACE: &str = "/proc/self/fd/";

/// A variable of this process that holds a secret.
#[derive(Debug)]
pub struct SecretVariable {
    pub name: String,
    /// The variable that says where it was moved to.
    pub moved: String,
    pub value: Secret<String>,
}

/// A variable's text, or the place that it was moved to.
enum Held {
    Here(OsString),
    Moved(PathBuf),
}

impl Source for Environment {
    fn read(&self) -> Found {
        variables(all())
    }

    fn variable(&self, name: &str) -> Variable {
        all().find(|(known, _)| known == name).map(|(_, held)| held.text()).transpose()
    }
}

/// The variables of this process that still stand in its environment and hold a secret: those of secret settings, and
/// those that settings refer to.
pub fn secret_variables(referred: &BTreeSet<String>) -> Vec<SecretVariable> {
    secrets_among(all(), referred)
}

/// The variables of this process whose whole value is a reference, in either notation: names and references.
pub fn references() -> Vec<(String, String)> {
    references_among(all())
}

fn references_among(all: impl Iterator<Item = (OsString, Held)>) -> Vec<(String, String)> {
    let reference = |(name, held): (OsString, Held)| match held {
        Held::Here(text) => {
            let (name, text) = (name.into_string().ok()?, text.into_string().ok()?);
            is_of_either_notation(&text).then_some((name, text))
        }
        Held::Moved(_) => None,
    };
    all.filter_map(reference).collect()
}

/// Where systemd put this service's credentials.
pub fn credentials_directory() -> Option<PathBuf> {
    path_in("CREDENTIALS_DIRECTORY")
}

/// The folder for a user's own runtime files, if this session has one (XDG Base Directory Specification).
pub fn user_runtime_dir() -> Option<PathBuf> {
    path_in("XDG_RUNTIME_DIR").filter(|path| path.is_absolute())
}

fn path_in(name: &str) -> Option<PathBuf> {
    let (_, held) = all().find(|(known, _)| known == name)?;
    held.text().ok().map(|text| PathBuf::from(text.expose()))
}

/// Every variable of this process, where it stands or where it was moved to.
#[expect(clippy::disallowed_methods, reason = "this is the one door to the environment")]
fn all() -> impl Iterator<Item = (OsString, Held)> {
    with_the_moved(std::env::vars_os())
}

/// A variable that stands there wins over one of its name that was moved: somebody set it later.
fn with_the_moved(all: impl Iterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (OsString, Held)> {
    let held = |(name, value): (OsString, OsString)| match moved_name(&name, &value) {
        Some(name) => (name, Held::Moved(PathBuf::from(value))),
        None => (name, Held::Here(value)),
    };
    let (here, moved): (Vec<_>, Vec<_>) = all.map(held).partition(|(_, held)| matches!(held, Held::Here(_)));
    let names: BTreeSet<_> = here.iter().map(|(name, _)| name.clone()).collect();
    here.into_iter().chain(moved.into_iter().filter(move |(name, _)| !names.contains(name)))
}

fn moved_name(name: &OsStr, value: &OsStr) -> Option<OsString> {
    let number = value.as_bytes().strip_prefix(PLACE.as_bytes())?;
    let name = name.as_bytes().strip_prefix(MOVED.as_bytes()).filter(|name| !name.is_empty())?;
    number.iter().all(u8::is_ascii_digit).then(|| OsString::from_vec(name.to_vec()))
}

impl Held {
    fn text(self) -> Result<Secret<String>, String> {
        let bytes = match self {
            Self::Here(text) => text.into_vec(),
            Self::Moved(place) => std::fs::read(place)
                .map_err(|error| format!("cannot be read from where keyringd moved it: {error}"))?,
        };
        String::from_utf8(bytes).map(Secret::new).map_err(|_| "is not UTF-8 text".to_owned())
    }
}

fn secrets_among(
    all: impl Iterator<Item = (OsString, Held)>,
    referred: &BTreeSet<String>,
) -> Vec<SecretVariable> {
    let secret = |(name, held): (OsString, Held)| {
        let name = name.into_string().ok()?;
        let key = name.strip_prefix(VARIABLE_PREFIX).and_then(|key| keys::find(&key.to_ascii_lowercase()));
        let of_a_secret = key.filter(|key| key.secret);
        if of_a_secret.is_none() && !referred.contains(&name) || matches!(held, Held::Moved(_)) {
            return None;
        }
        let value = held.text().ok().filter(|value| !value.expose().is_empty())?;
        let is_none = of_a_secret.is_some_and(|key| is_no_secret(key, value.expose()));
        (!is_none).then(|| SecretVariable { moved: format!("{MOVED}{name}"), name, value })
    };
    all.filter_map(secret).collect()
}

/// A reference is no secret, and what it refers to is moved by itself. Nor is the path of a private key: whoever reads it
/// reads the file.
fn is_no_secret(key: &keys::Key, value: &str) -> bool {
    let pems = [
        keys::VAULT_CERT_AUTH_CERT.name,
        keys::VAULT_CERT_AUTH_CERT_KEY.name,
        keys::HCV_CERT_AUTH_CERT.name,
        keys::HCV_CERT_AUTH_CERT_KEY.name,
    ];
    is_reference(value) || (pems.contains(&key.name) && pem::is_path(value))
}

/// Variables are taken verbatim. Those that cannot be ours are not even looked at: Kong's others may hold secrets too.
fn variables(all: impl Iterator<Item = (OsString, Held)>) -> Found {
    let mut found = Found::default();
    for (name, held) in all {
        let Some(key) = name.to_str().and_then(|name| name.strip_prefix(VARIABLE_PREFIX)) else {
            continue;
        };
        let key = key.to_ascii_lowercase();
        let origin = Origin::Variable(format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase()));
        // A key whose own name ends in `_file` is that key.
        let of_file = key.strip_suffix("_file").filter(|_| keys::find(&key).is_none()).and_then(keys::find);
        if of_file.is_none() && !key.starts_with("keyring_") && keys::find(&key).is_none() {
            continue;
        }
        let value = held.text().and_then(|text| match of_file {
            None => Ok(Some((key, Value::Text(text)))),
            Some(of) => Ok(file(of, text.expose())?.map(|value| (of.name.to_owned(), value))),
        });
        match value {
            Ok(Some((key, value))) => found.entries.push(Entry { key, value, origin }),
            Ok(None) => {}
            Err(why) => found.mistakes.push((origin, why)),
        }
    }
    found
}

/// What the file of a `KONG_<KEY>_FILE` variable gives: a secret is read when it is used, anything else now.
fn file(of: &keys::Key, path: &str) -> Result<Option<Value>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    if is_reference(path) {
        let variable = of.variable();
        return Err(format!(
            "names a file, and a reference is none: it may stand in the file, or in {variable}"
        ));
    }
    if of.secret {
        return Ok(Some(Value::File(PathBuf::from(path))));
    }
    let text = Credential::file(path).read_with_references().map_err(|error| error.to_string())?;
    Ok(Some(Value::Text(text)))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::AsRawFd as _};

    use super::*;

    fn environment<'a>(all: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = (OsString, Held)> + use<'a> {
        with_the_moved(all.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    /// The entries as `key=text` or `key<file`.
    fn shown(found: &Found) -> Vec<String> {
        let one = |entry: &Entry| match &entry.value {
            Value::Text(text) => format!("{}={}", entry.key, text.expose()),
            Value::File(path) => format!("{}<{}", entry.key, path.display()),
            Value::Unresolved => entry.key.clone(),
        };
        found.entries.iter().map(one).collect()
    }

    #[test]
    fn only_variables_that_can_be_ours_are_taken() {
        let all = [
            ("KONG_KEYRING_NAME", "a#b"),
            ("KONG_PG_PASSWORD", "planted"),
            ("KONG_PG_PASSWORD_FILE", "/planted"),
            ("HOME", "x"),
            ("KONG_LOG_LEVEL", "warn"),
        ];
        let found = variables(environment(&all));
        assert_eq!(shown(&found), ["keyring_name=a#b", "log_level=warn"]);
        assert_eq!(found.entries[0].origin.to_string(), "KONG_KEYRING_NAME");
    }

    #[test]
    fn a_file_variable_gives_the_file_of_a_secret_and_the_text_of_anything_else() {
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
        assert_eq!(shown(&found), expected);
        assert_eq!(found.mistakes[0].0.to_string(), "KONG_KEYRING_VAULT_MOUNT_FILE");
        assert!(found.mistakes[1].1.contains("or in KONG_KEYRING_VAULT_PATH"), "{:?}", found.mistakes[1]);
    }

    #[test]
    fn variables_that_are_references_are_found_in_both_notations() {
        let all = [
            ("A", "{vault://hcv/a/b}"),
            ("B", "$secret://vault/1/a/b"),
            ("C", "$env://X"),
            ("D", "see {vault://hcv/a/b}"),
            ("E", "{vault://hcv/a/b"),
            ("HOME", "/root"),
        ];
        let names: Vec<_> = references_among(environment(&all)).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["A", "B", "C"]);
    }

    #[test]
    fn secrets_in_variables_are_told_from_paths_references_and_what_is_no_secret() {
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
    fn a_moved_variable_reads_as_if_it_stood_there_each_time_and_loses_to_one_that_does() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b" moved\n").unwrap();
        let place = format!("{PLACE}{}", file.as_raw_fd());
        let all = [
            ("KEYRINGD_ENV_KONG_KEYRING_NAME", place.as_str()),
            ("KEYRINGD_ENV_KONG_KEYRING_VAULT_PATH", &place),
            ("KONG_KEYRING_VAULT_PATH", "stands there"),
            ("KEYRINGD_ENV_KONG_KEYRING_VAULT_MOUNT", "/etc/passwd"),
            ("KEYRINGD_ENV_KONG_KEYRING_VAULT_TOKEN", "/proc/self/fd/999999"),
        ];
        for _ in 0..2 {
            let found = variables(environment(&all));
            assert_eq!(shown(&found), ["keyring_vault_path=stands there", "keyring_name= moved\n"]);
            let (origin, why) = &found.mistakes[0];
            assert_eq!(origin.to_string(), "KONG_KEYRING_VAULT_TOKEN");
            assert!(why.starts_with("cannot be read from where keyringd moved it"), "{why}");
        }
    }
}
