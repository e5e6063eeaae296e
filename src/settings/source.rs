//! The sources of settings: a kong.conf, systemd credentials, the environment. All file and system access of `settings` is
//! here and below.
//!
//! A source lists its content with the origin of each value. `merge` decides which value wins. Only [`environment`]
//! reads `std::env`.

pub(crate) mod accounts;
pub(crate) mod credential;
pub(crate) mod environment;
mod found;

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{conf::Conf, keys, setting::Row};
pub(crate) use environment::Environment;
pub use found::{Entry, Found, Origin, Source, Value};

/// A kong.conf.
pub struct File(pub PathBuf);

/// Files named like the secret settings in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), `LoadCredential=`).
struct Credentials;

/// The files that are read when none is named: the first that exists.
pub(crate) const DEFAULT_FILES: [&str; 2] = ["/etc/kong/kong.conf", "/etc/kong.conf"];

/// The sources of this process, the weakest first: the named or default file, credentials, the environment.
pub(crate) fn of_this_process(file: Option<&Path>) -> Vec<Box<dyn Source>> {
    let default = || DEFAULT_FILES.iter().map(Path::new).find(|path| path.exists());
    let file = file.or_else(default).map(|path| Box::new(File(path.to_owned())) as Box<dyn Source>);
    file.into_iter().chain([Box::new(Credentials) as Box<dyn Source>, Box::new(Environment)]).collect()
}

/// The text of a file that is not secret, such as one with certificates.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

impl Source for File {
    fn read(&self) -> Found {
        let text = match std::fs::read(&self.0) {
            Ok(bytes) => zeroize::Zeroizing::new(bytes),
            Err(error) => return self.unreadable(format!("cannot be read: {error}")),
        };
        let Ok(text) = str::from_utf8(&text) else {
            return self.unreadable("is not UTF-8 text".to_owned());
        };
        let conf = Conf::parse(text);
        let at = |line| Origin::File { path: self.0.clone(), line };
        let notes = |notes: Vec<(usize, &str)>| {
            notes.into_iter().map(|(line, message)| (at(line), message.to_owned())).collect()
        };
        let entries = conf.lines.into_iter();
        Found {
            entries: entries
                .map(|line| Entry { key: line.key, value: Value::Text(line.value), origin: at(line.number) })
                .collect(),
            mistakes: notes(conf.mistakes),
            warnings: notes(conf.warnings),
        }
    }
}

impl File {
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
    };
    Found { entries: files.map(entry).collect(), ..Found::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_files_named_like_secret_settings() {
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
    fn a_missing_file_is_a_mistake_that_names_it() {
        let found = File("/no/such/kong.conf".into()).read();
        assert_eq!(found.mistakes[0].0.to_string(), "/no/such/kong.conf");
        assert!(found.mistakes[0].1.starts_with("cannot be read: "));
    }
}
