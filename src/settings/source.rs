//! Where settings come from: a kong.conf, systemd credentials, the environment. The one door to `std::env` here.
//!
//! A source lists what it holds, with the origin of each value; what wins and what is right is for `settings` to say.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    conf::Conf,
    credential::Credential,
    keys::{self, VARIABLE_PREFIX},
    pem,
};
use crate::secret::Secret;

/// One place that settings are read from.
pub trait Source {
    fn read(&self) -> Found;
}

/// What a source holds. Later entries win over earlier ones.
#[derive(Debug, Default)]
pub struct Found {
    pub entries: Vec<Entry>,
    pub mistakes: Vec<(Origin, String)>,
    pub warnings: Vec<(Origin, String)>,
}

#[derive(Debug)]
pub struct Entry {
    pub key: String,
    pub value: Value,
    pub origin: Origin,
}

/// A value as it stands, or the file that holds it.
#[derive(Debug)]
pub enum Value {
    Text(Secret<String>),
    File(PathBuf),
}

/// Where a value came from, as people look for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File { path: PathBuf, line: usize },
    WholeFile(PathBuf),
    Variable(String),
    Credential(String),
    Default,
}

/// A kong.conf.
pub struct File(pub PathBuf);

/// Files named like the secret keys in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), `LoadCredential=`).
pub struct Credentials;

/// The `KONG_*` variables of this process, and the files that `KONG_*_FILE` variables name.
pub struct Environment;

/// The files that are read when none is named: the first that exists.
const DEFAULT_FILES: [&str; 2] = ["/etc/kong/kong.conf", "/etc/kong.conf"];

/// The sources of a run, the weakest first: the file that was named, else a default one if there is one; the variables.
pub fn of_this_process(file: Option<&Path>) -> Vec<Box<dyn Source>> {
    let default = || DEFAULT_FILES.iter().map(Path::new).find(|path| path.exists());
    let file = file.or_else(default).map(|path| Box::new(File(path.to_owned())) as Box<dyn Source>);
    file.into_iter().chain([Box::new(Credentials) as Box<dyn Source>, Box::new(Environment)]).collect()
}

/// The folder for a user's own runtime files, if this session has one (XDG Base Directory Specification).
#[expect(clippy::disallowed_methods, reason = "this is the one door to the environment")]
pub fn user_runtime_dir() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// A variable of this process that holds a secret itself.
#[derive(Debug)]
pub struct SecretVariable {
    pub name: String,
    /// The variable that names a file with the secret instead.
    pub file_variable: String,
    pub value: Secret<String>,
}

/// The variables of this process that hold secrets themselves.
#[expect(clippy::disallowed_methods, reason = "this is the one door to the environment")]
pub fn secret_variables() -> Vec<SecretVariable> {
    secrets_among(std::env::vars_os())
}

fn secrets_among<N, V>(all: impl Iterator<Item = (N, V)>) -> Vec<SecretVariable>
where
    N: AsRef<std::ffi::OsStr>,
    V: Into<std::ffi::OsString>,
{
    let pems = [keys::VAULT_CERT_AUTH_CERT.name, keys::VAULT_CERT_AUTH_CERT_KEY.name];
    let entries = variables(all).entries.into_iter().filter_map(|entry| {
        let key = keys::find(&entry.key).filter(|key| key.secret)?;
        let Value::Text(value) = entry.value else { return None };
        // The path of a private key is no secret; whoever reads it reads the file.
        let path = pems.contains(&key.name) && pem::is_path(value.expose());
        let name = entry.origin.to_string();
        let variable = SecretVariable { file_variable: format!("{name}_FILE"), name, value };
        (!path && !variable.value.expose().is_empty()).then_some(variable)
    });
    entries.collect()
}

impl Source for File {
    fn read(&self) -> Found {
        let text = match std::fs::read(&self.0) {
            Ok(bytes) => zeroize::Zeroizing::new(bytes),
            Err(error) => return self.refused(format!("cannot be read: {error}")),
        };
        let Ok(text) = str::from_utf8(&text) else {
            return self.refused("is not UTF-8 text".to_owned());
        };
        let conf = Conf::parse(text);
        let at = |line| Origin::File { path: self.0.clone(), line };
        let said = |notes: Vec<(usize, &str)>| {
            notes.into_iter().map(|(line, message)| (at(line), message.to_owned())).collect()
        };
        let entries = conf.entries.into_iter();
        Found {
            entries: entries
                .map(|entry| Entry {
                    key: entry.key,
                    value: Value::Text(entry.value),
                    origin: at(entry.line),
                })
                .collect(),
            mistakes: said(conf.mistakes),
            warnings: said(conf.warnings),
        }
    }
}

impl File {
    fn refused(&self, why: String) -> Found {
        Found { mistakes: vec![(Origin::WholeFile(self.0.clone()), why)], ..Found::default() }
    }
}

impl Source for Credentials {
    #[expect(clippy::disallowed_methods, reason = "this is the one door to the environment")]
    fn read(&self) -> Found {
        std::env::var_os("CREDENTIALS_DIRECTORY")
            .map_or_else(Found::default, |folder| credentials(Path::new(&folder)))
    }
}

fn credentials(folder: &Path) -> Found {
    let secret = keys::ALL.iter().filter(|key| key.secret);
    let there = secret.map(|key| (key.name, folder.join(key.name))).filter(|(_, path)| path.exists());
    let entry = |(name, path): (&str, PathBuf)| Entry {
        key: name.to_owned(),
        value: Value::File(path),
        origin: Origin::Credential(name.to_owned()),
    };
    Found { entries: there.map(entry).collect(), ..Found::default() }
}

impl Source for Environment {
    #[expect(clippy::disallowed_methods, reason = "this is the one door to the environment")]
    fn read(&self) -> Found {
        variables(std::env::vars_os())
    }
}

/// Variables are taken verbatim. Those that cannot be ours are not even looked at: Kong's others may hold secrets too.
fn variables<N, V>(all: impl Iterator<Item = (N, V)>) -> Found
where
    N: AsRef<std::ffi::OsStr>,
    V: Into<std::ffi::OsString>,
{
    let mut found = Found::default();
    for (name, value) in all {
        let Some(key) = name.as_ref().to_str().and_then(|name| name.strip_prefix(VARIABLE_PREFIX)) else {
            continue;
        };
        let key = key.to_ascii_lowercase();
        let origin = Origin::Variable(format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase()));
        // A key whose own name ends in `_file` is that key.
        let of_file = key.strip_suffix("_file").filter(|_| keys::find(&key).is_none()).and_then(keys::find);
        if of_file.is_none() && !key.starts_with("keyring_") && keys::find(&key).is_none() {
            continue;
        }
        let Ok(value) = value.into().into_string() else {
            found.mistakes.push((origin, "is not UTF-8 text".to_owned()));
            continue;
        };
        let (key, value) = match of_file {
            None => (key, Value::Text(Secret::new(value))),
            Some(_) if value.is_empty() => continue,
            Some(of) if of.secret => (of.name.to_owned(), Value::File(PathBuf::from(value))),
            Some(of) => match Credential::File(PathBuf::from(value)).read() {
                Ok(text) => (of.name.to_owned(), Value::Text(text)),
                Err(error) => {
                    found.mistakes.push((origin, error.to_string()));
                    continue;
                }
            },
        };
        found.entries.push(Entry { key, value, origin });
    }
    found
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::WholeFile(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries as `key=text` or `key<file`.
    fn shown(found: &Found) -> Vec<String> {
        let one = |entry: &Entry| match &entry.value {
            Value::Text(text) => format!("{}={}", entry.key, text.expose()),
            Value::File(path) => format!("{}<{}", entry.key, path.display()),
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
        let found = variables(all.into_iter());
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
        ];
        let found = variables(all.into_iter());
        let expected = [
            format!("keyring_vault_token<{path}"),
            "keyring_name=from-a-file".to_owned(),
            format!("keyring_vault_approle_secret_id_file={path}"),
        ];
        assert_eq!(shown(&found), expected);
        assert_eq!(found.mistakes[0].0.to_string(), "KONG_KEYRING_VAULT_MOUNT_FILE");
    }

    #[test]
    fn secrets_in_variables_are_told_from_paths_and_from_what_is_no_secret() {
        let all = [
            ("KONG_KEYRING_VAULT_TOKEN", "s.token"),
            ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", "/etc/key.pem"),
            ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", ""),
            ("KONG_KEYRING_VAULT_OAUTH2_CLIENT_SECRET_FILE", "/run/secret"),
            ("KONG_KEYRING_NAME", "n"),
        ];
        let found = secrets_among(all.into_iter());
        let found: Vec<_> = found.iter().map(|one| (one.name.as_str(), one.file_variable.as_str())).collect();
        assert_eq!(found, [("KONG_KEYRING_VAULT_TOKEN", "KONG_KEYRING_VAULT_TOKEN_FILE")]);
    }

    #[test]
    fn credentials_are_files_named_like_secret_keys() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["keyring_vault_token", "keyring_name", "something_else"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = credentials(folder.path());
        assert_eq!(
            shown(&found),
            [format!("keyring_vault_token<{}", folder.path().join("keyring_vault_token").display())]
        );
        assert_eq!(found.entries[0].origin.to_string(), "credential keyring_vault_token");
    }

    #[test]
    fn a_file_that_is_not_there_is_a_mistake_that_names_it() {
        let found = File("/no/such/kong.conf".into()).read();
        assert_eq!(found.mistakes[0].0.to_string(), "/no/such/kong.conf");
        assert!(found.mistakes[0].1.starts_with("cannot be read: "));
    }
}
