//! Where settings come from: a kong.conf, systemd credentials, the environment.
//!
//! A source lists what it holds, with the origin of each value; what wins and what is right is for `settings` to say. The
//! one door to `std::env` is in [`environment`].

pub mod environment;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{conf::Conf, keys, resolve::Variable};
use crate::secret::Secret;
pub use environment::Environment;

/// One place that settings are read from.
pub trait Source {
    fn read(&self) -> Found;

    /// What a variable holds that a setting refers to. Only the environment has variables.
    fn variable(&self, _name: &str) -> Variable {
        Ok(None)
    }
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
    /// A reference that stands for nothing; why is noted.
    Unresolved,
}

/// Where a value came from, as people look for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File {
        path: PathBuf,
        line: usize,
    },
    WholeFile(PathBuf),
    Variable(String),
    Credential(String),
    /// A reference at one place to the variable that holds the value.
    Reference {
        at: Box<Self>,
        variable: String,
    },
    Default,
}

/// A kong.conf.
pub struct File(pub PathBuf);

/// Files named like the secret keys in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), `LoadCredential=`).
pub struct Credentials;

/// The files that are read when none is named: the first that exists.
pub const DEFAULT_FILES: [&str; 2] = ["/etc/kong/kong.conf", "/etc/kong.conf"];

/// The sources of a run, the weakest first: the file that was named, else a default one if there is one; the variables.
pub fn of_this_process(file: Option<&Path>) -> Vec<Box<dyn Source>> {
    let default = || DEFAULT_FILES.iter().map(Path::new).find(|path| path.exists());
    let file = file.or_else(default).map(|path| Box::new(File(path.to_owned())) as Box<dyn Source>);
    file.into_iter().chain([Box::new(Credentials) as Box<dyn Source>, Box::new(Environment)]).collect()
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
    fn read(&self) -> Found {
        environment::credentials_directory().map_or_else(Found::default, |folder| credentials(&folder))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_files_named_like_secret_keys() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["keyring_vault_token", "keyring_name", "something_else"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = credentials(folder.path());
        let [entry] = found.entries.as_slice() else { panic!("{found:?}") };
        let path = folder.path().join("keyring_vault_token");
        assert!(matches!(&entry.value, Value::File(file) if *file == path), "{entry:?}");
        assert_eq!(entry.origin.to_string(), "credential keyring_vault_token");
    }

    #[test]
    fn a_file_that_is_not_there_is_a_mistake_that_names_it() {
        let found = File("/no/such/kong.conf".into()).read();
        assert_eq!(found.mistakes[0].0.to_string(), "/no/such/kong.conf");
        assert!(found.mistakes[0].1.starts_with("cannot be read: "));
    }
}
