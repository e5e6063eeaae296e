//! The sources of settings: a kong.conf, systemd credentials, the environment; and the accounts of this machine. All file
//! and system access of `settings` is here and below.
//!
//! A source lists its content with the origin of each value. `reader` decides which value wins.

pub(super) mod cgroup;
pub(crate) mod credential;
pub(crate) mod environment;

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{Group, User};

use super::{
    access::{Accounts, IdMap},
    conf::{Conf, Spelling},
    keys,
    resolve::Variable,
    setting::Row,
};
use crate::secret::Secret;
use credential::Credential;
pub(crate) use environment::Environment;

/// One place that settings are read from.
pub trait Source {
    fn read(&self) -> Found;

    /// The content of an environment variable that a setting refers to. Only the environment has variables.
    fn variable(&self, _name: &str) -> Variable {
        Ok(None)
    }
}

/// The content of a source. Later entries override earlier ones.
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
    pub spelling: Spelling,
}

/// A value, or the file that holds it.
#[derive(Debug)]
pub enum Value {
    Text(Secret<String>),
    File(PathBuf),
    /// Bytes that are not UTF-8.
    NotText,
    /// A value that cannot be used. A mistake says why.
    Unresolved,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File {
        path: PathBuf,
        line: usize,
    },
    WholeFile(PathBuf),
    Variable(String),
    Credential(String),
    /// A reference at `at` to the environment variable that holds the value.
    Reference {
        at: Box<Self>,
        variable: String,
    },
    Default,
}

/// A kong.conf.
pub struct File(pub PathBuf);

/// Files named like the secret settings in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), `LoadCredential=`).
struct Credentials;

/// The user and group databases, and `/proc`.
pub(crate) struct SystemAccounts;

/// The files that are read when none is named: the first that exists.
pub(crate) const DEFAULT_FILES: [&str; 2] = ["/etc/kong/kong.conf", "/etc/kong.conf"];

/// The sources of this process, the weakest first: the named or default file, credentials, the environment.
pub(crate) fn of_this_process(file: Option<&Path>) -> Vec<Box<dyn Source>> {
    let file = file_of_this_process(file).map(|path| Box::new(File(path)) as Box<dyn Source>);
    file.into_iter().chain([Box::new(Credentials) as Box<dyn Source>, Box::new(Environment)]).collect()
}

/// The environment alone, for commands that read no file unless it is named.
pub(crate) fn variables_of_this_process() -> Vec<Box<dyn Source>> {
    vec![Box::new(Environment)]
}

/// The named file, or the first default one that exists.
pub(crate) fn file_of_this_process(named: Option<&Path>) -> Option<PathBuf> {
    let default = || DEFAULT_FILES.iter().map(Path::new).find(|path| path.exists());
    named.or_else(default).map(Path::to_owned)
}

/// The content of a file that is not secret, such as one with certificates.
pub(super) fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// The folder that relative paths start from, for messages.
pub(super) fn working_folder() -> String {
    environment::current_dir()
        .map_or_else(|| "the working folder".to_owned(), |folder| folder.display().to_string())
}

/// The folders that systemd keeps for this service (systemd.exec(5), `StateDirectory=`).
pub(super) fn state_folders() -> Vec<PathBuf> {
    environment::state_directories()
}

/// Whether a secret is one of this service's systemd credentials.
pub(super) fn is_credential(secret: &Credential) -> bool {
    let folder = environment::credentials_directory();
    folder.is_some_and(|folder| secret.path().is_some_and(|path| path.starts_with(folder)))
}

/// Whether the file of a secret is on the file system of `path`, of which only the last folders may be missing.
pub(super) fn shares_filesystem(secret: &Credential, path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let of_secret = secret.path().and_then(device);
    let of_path = path.ancestors().skip(1).find_map(device);
    of_secret.is_some() && of_secret == of_path
}

impl Source for File {
    fn read(&self) -> Found {
        match fs::read(&self.0).map(zeroize::Zeroizing::new) {
            Ok(bytes) => self.content(&bytes),
            Err(error) => self.unreadable(format!("cannot be read: {error}")),
        }
    }
}

impl File {
    /// The settings in the bytes of this file.
    pub(super) fn content(&self, bytes: &[u8]) -> Found {
        let conf = match Conf::parse(bytes) {
            Ok(conf) => conf,
            Err(why) => return self.unreadable(why.to_owned()),
        };
        let at = |line| Origin::File { path: self.0.clone(), line };
        let notes = |notes: Vec<(usize, &str)>| {
            notes.into_iter().map(|(line, message)| (at(line), message.to_owned())).collect()
        };
        let entries = conf.lines.into_iter();
        Found {
            entries: entries
                .map(|line| Entry {
                    key: line.key,
                    value: line.value.map_or(Value::NotText, Value::Text),
                    origin: at(line.number),
                    spelling: line.spelling,
                })
                .collect(),
            mistakes: notes(conf.mistakes),
            warnings: notes(conf.warnings),
        }
    }

    fn unreadable(&self, why: String) -> Found {
        Found { mistakes: vec![(Origin::WholeFile(self.0.clone()), why)], ..Found::default() }
    }
}

impl Source for Credentials {
    fn read(&self) -> Found {
        environment::credentials_directory().map_or_else(Found::default, |folder| credentials(&folder))
    }
}

fn credentials(folder: &Path) -> Found {
    let secrets = keys::all().map(Row::key).filter(|key| key.is_secret());
    let files = secrets.map(|key| (key.name, folder.join(key.name))).filter(|(_, path)| path.exists());
    let entry = |(name, path): (&str, PathBuf)| Entry {
        key: name.to_owned(),
        value: Value::File(path),
        origin: Origin::Credential(name.to_owned()),
        spelling: Spelling::default(),
    };
    Found { entries: files.map(entry).collect(), ..Found::default() }
}

impl Accounts for SystemAccounts {
    fn user(&self, name: &str) -> Result<Option<u32>, String> {
        let user = User::from_name(name).map_err(|error| error.desc().to_owned())?;
        Ok(user.map(|user| user.uid.as_raw()))
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        let group = Group::from_name(name).map_err(|error| error.desc().to_owned())?;
        Ok(group.map(|group| group.gid.as_raw()))
    }

    fn id_map(&self, kind: &str) -> IdMap {
        let overflow = fs::read_to_string(format!("/proc/sys/kernel/overflow{kind}"));
        IdMap {
            lines: fs::read_to_string(format!("/proc/self/{kind}_map")).ok(),
            overflow: overflow.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65534),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::WholeFile(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::Reference { at, variable } => write!(f, "{at} via variable {variable}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A source for tests: `key = value` pairs as environment variables, with `file:` before the path of one that is a file, and the variables that a setting can refer to.
#[cfg(test)]
pub(crate) struct Pairs {
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    pub(crate) variables: &'static [(&'static str, &'static str)],
}

#[cfg(test)]
impl Source for Pairs {
    fn read(&self) -> Found {
        let entry = |(key, value): &(&str, &str)| Entry {
            key: (*key).to_owned(),
            value: match value.strip_prefix("file:") {
                Some(path) => Value::File(path.into()),
                None => Value::Text(Secret::new((*value).to_owned())),
            },
            origin: Origin::Variable(format!("KONG_{}", key.to_uppercase())),
            spelling: Spelling::default(),
        };
        Found { entries: self.settings.iter().map(entry).collect(), ..Found::default() }
    }

    fn variable(&self, name: &str) -> Variable {
        let text = self.variables.iter().find(|(known, _)| *known == name);
        Ok(text.map(|(_, text)| Secret::new((*text).to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_files_named_like_secret_settings() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["keyring_vault_token", "keyring_name", "something_else"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = credentials(folder.path());
        let [entry] = found.entries.as_slice() else { panic!("{found:?}") };
        let path = folder.path().join("keyring_vault_token");
        assert!(matches!(&entry.value, Value::File(file) if *file == path), "{entry:?}");
        assert_eq!(entry.origin.to_string(), "credential keyring_vault_token");
    }

    #[test]
    fn a_missing_file_is_a_mistake_that_names_it() {
        let found = File("/no/such/kong.conf".into()).read();
        assert_eq!(found.mistakes[0].0.to_string(), "/no/such/kong.conf");
        assert!(found.mistakes[0].1.starts_with("cannot be read: "));
    }
}
