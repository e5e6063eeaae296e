//! Settings: from kong.conf and `KONG_*` variables to one typed value that cannot hold a bad combination.
//!
//! The way of a value: [`source`] reads it, [`conf`] parses the grammar of a kong.conf, `merge` decides which value wins
//! and resolves [references](mod@resolve), and `reader` parses it with the [`setting`] in the table [`keys`]. `build`
//! combines the values and collects every mistake. All but `source` is pure.

pub mod access;
pub(crate) mod auth;
mod build;
mod conf;
mod engines;
pub mod keys;
mod merge;
pub(crate) mod pem;
mod reader;
pub(crate) mod reference;
mod report;
pub(crate) mod resolve;
mod server;
pub mod setting;
pub mod source;
mod value;

use std::{collections::BTreeSet, path::PathBuf};

pub use access::AccessList;
pub use auth::Auth;
pub use build::{Keyring, KvSecret, Limits, Log, Settings, Socket};
pub use engines::{EngineSettings, ReferenceSettings};
use reader::Reader;
pub use report::{Effective, Note};
pub use server::{Server, SettingNames, Tls, TrustedCertificates};
pub(crate) use source::credential;
use source::{Origin, Source};
pub use value::{Audit, CiphertextFormat, KvVersion, LogFormat, LogLevel, SecretPath};

/// The outcome of loading: settings or mistakes, and what to show either way.
#[derive(Debug)]
pub struct Loaded {
    /// `Err` has every mistake.
    pub settings: Result<Settings, Vec<Note>>,
    pub warnings: Vec<Note>,
    pub effective: Vec<Effective>,
    /// The environment variables that references name. They may hold secrets.
    pub referred: BTreeSet<String>,
}

/// Loads the settings from `sources`, the weakest first.
pub fn load(sources: &[Box<dyn Source>]) -> Loaded {
    let mut reader = Reader::new(sources);
    let settings = build::settings(&mut reader);
    let effective = keys::all().map(|row| reader.effective(row.key())).collect();
    let Reader { mistakes, warnings, referred, .. } = reader;
    let settings = settings.filter(|_| mistakes.is_empty()).ok_or(mistakes);
    Loaded { settings, warnings, effective, referred }
}

/// The socket's path alone, for commands that talk to a running daemon. Mistakes in other settings are ignored.
///
/// # Errors
/// The mistakes, if the path is invalid or a file cannot be read.
pub fn socket_path(sources: &[Box<dyn Source>]) -> Result<PathBuf, Vec<Note>> {
    let mut reader = Reader::new(sources);
    let path = reader.required(&keys::SOCKET_PATH);
    let name = keys::SOCKET_PATH.key.name;
    let counts =
        |note: &Note| matches!(note.origin, Origin::WholeFile(_)) || note.key.as_deref() == Some(name);
    reader.mistakes.retain(counts);
    path.filter(|_| reader.mistakes.is_empty()).ok_or(reader.mistakes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use source::{Entry, Found};

    /// A source with `key = value` pairs, as environment variables.
    struct Map(Vec<(&'static str, &'static str)>);

    impl Source for Map {
        fn read(&self) -> Found {
            let entry = |(key, value): &(&str, &str)| Entry {
                key: (*key).to_owned(),
                value: source::Value::Text(Secret::new((*value).to_owned())),
                origin: Origin::Variable(format!("KONG_{}", key.to_uppercase())),
            };
            Found { entries: self.0.iter().map(entry).collect(), ..Found::default() }
        }
    }

    const ENOUGH: [(&str, &str); 6] = [
        ("keyring_enabled", "on"),
        ("keyring_strategy", "vault"),
        ("keyring_vault_host", "http://127.0.0.1:8200"),
        ("keyring_vault_mount", "secret"),
        ("keyring_vault_path", "keyring"),
        ("keyring_vault_token", "hvs.planted"),
    ];

    fn load_with(more: &[(&'static str, &'static str)]) -> Loaded {
        load(&[Box::new(Map([&ENOUGH, more].concat()))])
    }

    fn mistakes(loaded: &Loaded) -> Vec<String> {
        loaded
            .settings
            .as_ref()
            .err()
            .map_or_else(Vec::new, |notes| notes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn kongs_own_keys_are_enough() {
        let loaded = load_with(&[]);
        assert_eq!(mistakes(&loaded), [] as [&str; 0]);
        assert_eq!(loaded.warnings, []);
        let settings = loaded.settings.unwrap();
        assert_eq!(settings.keyring.name, "keyring");
        assert_eq!(settings.socket.mode, 0o660);
        assert!(settings.server.tls.trusted.system);
    }

    #[test]
    fn without_settings_every_required_one_is_reported() {
        let loaded = load(&[]);
        let found = mistakes(&loaded).join("\n");
        for key in &ENOUGH {
            assert!(found.contains(key.0), "{} in {found}", key.0);
        }
    }

    #[test]
    fn all_mistakes_are_reported_with_their_origin() {
        let loaded = load_with(&[
            ("keyring_enabled", "yes"),
            ("keyring_vault_host", "vault.example.com"),
            ("keyring_vault_mount", "../sys"),
            ("keyring_sync_interval", "0"),
            ("keyring_socket_mode", "rw"),
            ("log_level", "loud"),
            ("keyring_sync_intervall", "60"),
        ]);
        let found = mistakes(&loaded);
        assert_eq!(found.len(), 7, "{found:#?}");
        for start in [
            "KONG_KEYRING_ENABLED: keyring_enabled: expected on, off, true, or false, found \"yes\"",
            "KONG_KEYRING_SYNC_INTERVAL: keyring_sync_interval: expected whole seconds from 1 to 86400, found \"0\"",
            "KONG_KEYRING_SYNC_INTERVALL: keyring_sync_intervall: no such setting; did you mean keyring_sync_interval?",
        ] {
            assert!(found.iter().any(|line| line == start), "{start} in {found:#?}");
        }
    }

    #[test]
    fn a_disabled_keyring_and_another_strategy_are_mistakes() {
        let found = mistakes(&load_with(&[("keyring_enabled", "off"), ("keyring_strategy", "cluster")]));
        assert_eq!(found.len(), 2);
        assert!(
            found[0].contains("must be `on`: set it in kong.conf or as KONG_KEYRING_ENABLED"),
            "{}",
            found[0]
        );
        assert!(
            found[1].contains("must be `vault`: set it in kong.conf or as KONG_KEYRING_STRATEGY"),
            "{}",
            found[1]
        );
    }

    #[test]
    fn mistakes_and_debug_output_do_not_quote_secrets() {
        let loaded = load_with(&[
            ("keyring_vault_token", "planted\nplanted"),
            ("keyring_vault_host", "http://u:planted@h"),
        ]);
        assert_eq!(mistakes(&loaded).len(), 2);
        let printed = format!("{loaded:?} {:?} {:?}", mistakes(&loaded), load_with(&[]));
        assert!(!printed.contains("planted"), "{printed}");
    }

    #[test]
    fn an_empty_variable_means_unset() {
        let loaded = load_with(&[("keyring_sync_interval", ""), ("keyring_vault_token", "")]);
        assert_eq!(
            loaded.effective.iter().find(|e| e.key.name == "keyring_sync_interval").unwrap().value.as_deref(),
            Some("60")
        );
        assert!(mistakes(&loaded)[0].contains("keyring_vault_token: is required"), "{:?}", mistakes(&loaded));
    }

    #[test]
    fn an_empty_word_is_a_mistake() {
        let found = mistakes(&load_with(&[("log_level", ""), ("keyring_vault_kv", "")]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|line| line.contains("is empty; accepts ")), "{found:?}");
    }

    #[test]
    fn plain_http_to_another_machine_is_a_warning() {
        let warned = |host| !load_with(&[("keyring_vault_host", host)]).warnings.is_empty();
        assert!(warned("http://vault.example.com:8200"));
        assert!(warned("http://10.0.0.1:8200"));
        for good in [
            "https://vault.example.com:8200",
            "http://127.0.0.1:8200",
            "http://[::1]:8200",
            "http://localhost:8200",
        ] {
            assert!(!warned(good), "{good}");
        }
    }

    #[test]
    fn the_name_is_the_last_segment_of_the_path_if_it_is_valid() {
        let name = |more: &[_]| load_with(more).settings.map(|settings| settings.keyring.name);
        assert_eq!(name(&[("keyring_vault_path", "team/apps")]).unwrap(), "apps");
        assert_eq!(name(&[("keyring_name", "mine")]).unwrap(), "mine");
        let found = mistakes(&load_with(&[("keyring_vault_path", "team/my apps")]));
        assert!(
            found[0].starts_with("keyring_name is required: the last segment of the path \"my apps\" is not"),
            "{found:?}"
        );
    }

    #[test]
    fn later_lines_and_sources_override_earlier_ones() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "keyring_name = one\nkeyring_name = two\nlog_level = warn\nlog_level = \"warn\"\npg_host = 007\nkeyring_blob_path = /x\n").unwrap();
        let sources: [Box<dyn Source>; 3] = [
            Box::new(source::File(file.path().to_owned())),
            Box::new(Map(ENOUGH.to_vec())),
            Box::new(Map(vec![("log_level", "debug")])),
        ];
        let loaded = load(&sources);
        let at = |line| format!("{}:{line}", file.path().display());
        let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                format!("{}: keyring_name: set twice; line 2 overrides line 1", at(2)),
                format!("{}: log_level: the quotes are part of the value, in Kong as well", at(4)),
                format!("{}: log_level: set twice; line 4 overrides line 3", at(4)),
                format!(
                    "{}: keyring_blob_path: is a setting of Kong's cluster strategy and has no effect",
                    at(6)
                ),
            ]
        );
        let settings = loaded.settings.unwrap();
        assert_eq!((settings.keyring.name.as_str(), settings.log.level), ("two", LogLevel::Debug));
    }
}
