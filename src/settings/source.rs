//! Where settings come from: a kong.conf, the environment. The one door to `std::env` in the program.
//!
//! A source lists what it holds, with the origin of each value; what wins and what is right is for `settings` to say.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    conf::Conf,
    keys::{self, VARIABLE_PREFIX},
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
    pub value: Secret<String>,
    pub origin: Origin,
}

/// Where a value came from, as people look for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File { path: PathBuf, line: usize },
    WholeFile(PathBuf),
    Variable(String),
    Default,
}

/// A kong.conf.
pub struct File(pub PathBuf);

/// The `KONG_*` variables of this process.
pub struct Environment;

/// The files that are read when none is named: the first that exists.
const DEFAULT_FILES: [&str; 2] = ["/etc/kong/kong.conf", "/etc/kong.conf"];

/// The sources of a run, the weakest first: the file that was named, else a default one if there is one; the variables.
pub fn of_this_process(file: Option<&Path>) -> Vec<Box<dyn Source>> {
    let default = || DEFAULT_FILES.iter().map(Path::new).find(|path| path.exists());
    let file = file.or_else(default).map(|path| Box::new(File(path.to_owned())) as Box<dyn Source>);
    file.into_iter().chain([Box::new(Environment) as Box<dyn Source>]).collect()
}

/// The folder for a user's own runtime files, if this session has one (XDG Base Directory Specification).
#[expect(clippy::disallowed_methods, reason = "this is the one door to the environment")]
pub fn user_runtime_dir() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute())
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
                .map(|entry| Entry { key: entry.key, value: entry.value, origin: at(entry.line) })
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
        if !key.starts_with("keyring_") && keys::find(&key).is_none() {
            continue;
        }
        let origin = Origin::Variable(format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase()));
        match value.into().into_string() {
            Ok(value) => found.entries.push(Entry { key, value: Secret::new(value), origin }),
            Err(_) => found.mistakes.push((origin, "is not UTF-8 text".to_owned())),
        }
    }
    found
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::WholeFile(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Default => f.write_str("default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_that_can_be_ours_are_taken() {
        let all = [
            ("KONG_KEYRING_NAME", "a#b"),
            ("KONG_PG_PASSWORD", "planted"),
            ("HOME", "x"),
            ("KONG_LOG_LEVEL", "warn"),
        ];
        let found = variables(all.into_iter());
        let keys: Vec<_> =
            found.entries.iter().map(|e| (e.key.as_str(), e.value.expose().as_str())).collect();
        assert_eq!(keys, [("keyring_name", "a#b"), ("log_level", "warn")]);
        assert_eq!(found.entries[0].origin.to_string(), "KONG_KEYRING_NAME");
    }

    #[test]
    fn a_file_that_is_not_there_is_a_mistake_that_names_it() {
        let found = File("/no/such/kong.conf".into()).read();
        assert_eq!(found.mistakes[0].0.to_string(), "/no/such/kong.conf");
        assert!(found.mistakes[0].1.starts_with("cannot be read: "));
    }
}
