//! Settings: from kong.conf and `KONG_*` variables to one typed value that cannot hold nonsense.
//!
//! [`source`] lists what each place holds, [`conf`] reads kong.conf's grammar, [`keys`] is the one table of keys, `merge`
//! says which value won, [`resolve`] what a [reference](mod@reference) in it stands for, and `reader` reads it by a parser
//! of [`value`]. In `whole` they add up, with every mistake in one report; [`auth`] and [`secrets`] are parts of that. Here
//! is what they add up to.

pub mod access;
pub mod auth;
pub mod conf;
pub mod credential;
pub mod keys;
mod merge;
pub mod pem;
mod reader;
pub mod reference;
mod report;
pub mod resolve;
pub mod secrets;
mod shown;
pub mod source;
pub mod value;
mod whole;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use rustls::pki_types::CertificateDer;
use url::Url;

use crate::keyring::KeyDerivation;
pub use access::AccessList;
pub use auth::Auth;
use reader::Reader;
pub use report::{Effective, Loaded, Note};
pub use secrets::Secrets;
use source::{Origin, Source};

/// Everything the daemon needs to know, checked.
#[derive(Debug)]
pub struct Settings {
    pub server: Server,
    pub keyring: Keyring,
    pub secrets: Secrets,
    pub socket: Socket,
    pub log: Log,
    /// Whether to refuse to start where memory cannot be locked.
    pub require_memory_lock: bool,
}

/// A Vault server, and how to log in to it. Two equal values need one session.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    pub host: Url,
    pub namespace: Option<String>,
    pub auth: Auth,
    pub tls: Tls,
    pub names: SettingNames,
}

/// How the server proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub trusted: TrustedCertificates,
    /// The most intermediate authorities between the server's certificate and a trusted one.
    pub verify_depth: usize,
}

/// The settings that a session's messages name: the keyring's, those of references, or the object of APISIX's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettingNames {
    pub host: &'static str,
    pub token: &'static str,
    /// The start of every other setting of the login: `keyring_vault_` or `vault_hcv_`.
    pub prefix: &'static str,
}

/// A secret in a KV secrets engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KvSecret {
    pub mount: SecretPath,
    pub path: SecretPath,
    pub kv: KvVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KvVersion {
    V1,
    V2,
}

/// A path in Vault, segment by segment: none empty, `.` or `..`, none with control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretPath(pub Vec<String>);

/// Who may vouch for the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedCertificates {
    pub system: bool,
    pub certificates: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
pub struct Keyring {
    /// The secret that holds the records.
    pub secret: KvSecret,
    /// The key name in Transit's paths.
    pub name: String,
    pub derivation: KeyDerivation,
    pub ciphertext_format: CiphertextFormat,
    /// Whether Kong's own fields are read, and written on request.
    pub kong_fields: bool,
    pub sync_interval: Duration,
    /// How long after the last good sync the daemon is not ready any more; `None` for never.
    pub max_stale: Option<Duration>,
}

#[derive(Debug)]
pub struct Socket {
    pub path: PathBuf,
    pub mode: u32,
    pub group: Option<u32>,
    /// `None` leaves it to the socket's mode and group.
    pub access: Option<AccessList>,
    pub metrics_listen: Option<SocketAddr>,
    pub limits: Limits,
    pub audit: Audit,
}

/// What encrypt writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CiphertextFormat {
    Native,
    Transit,
}

/// Which requests get a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    Off,
    Failures,
    All,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one request's body.
    pub request_size: usize,
    /// Bytes of all requests being handled.
    pub inflight_size: usize,
    pub connections: usize,
    /// Items of one batch.
    pub batch: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Loads the settings from `sources`, the weakest first.
pub fn load(sources: &[Box<dyn Source>]) -> Loaded {
    let mut reader = Reader::new(sources);
    let settings = whole::read_settings(&mut reader);
    if let Some(settings) = &settings {
        whole::warn_of(&mut reader, settings);
    }
    let effective = keys::ALL.iter().map(|key| reader.effective(key)).collect();
    let mistakes = reader.mistakes;
    // Without a mistake every value is there; the match says it for the compiler.
    let settings = match settings {
        Some(settings) if mistakes.is_empty() => Ok(settings),
        _ => Err(mistakes),
    };
    Loaded { settings, warnings: reader.warnings, effective, referred: reader.referred }
}

/// The socket's path alone, for commands that talk to a running daemon and need nothing else to be right.
///
/// # Errors
/// The mistakes, when the path is set to something that is none or a file cannot be read.
pub fn socket_path(sources: &[Box<dyn Source>]) -> Result<PathBuf, Vec<Note>> {
    let mut reader = Reader::new(sources);
    let unreadable = |note: &Note| matches!(note.origin, Origin::WholeFile(_));
    let path = reader.required(&keys::SOCKET_PATH, value::path);
    reader.mistakes.retain(|note| unreadable(note) || note.key.as_deref() == Some(keys::SOCKET_PATH.name));
    path.filter(|_| reader.mistakes.is_empty()).ok_or(reader.mistakes)
}

impl Server {
    /// Plain http to anything but this machine.
    pub fn sends_in_the_clear(&self) -> bool {
        let loopback = match self.host.host() {
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        self.host.scheme() == "http" && !loopback
    }
}

impl SettingNames {
    /// The session's setting of this ending, such as `kube_role`. An object of APISIX's has one setting for all.
    pub fn setting(&self, ending: &str) -> String {
        if self.prefix == self.host { self.host.to_owned() } else { format!("{}{ending}", self.prefix) }
    }
}

impl SecretPath {
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl std::fmt::Display for SecretPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

impl std::fmt::Display for KvVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use source::{Entry, Found};

    /// A source that holds `key = value` pairs, as variables.
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
    fn nothing_set_names_every_key_that_is_missing() {
        let loaded = load(&[]);
        let said = mistakes(&loaded).join("\n");
        for key in &ENOUGH {
            assert!(said.contains(key.0), "{} in {said}", key.0);
        }
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_where_it_is() {
        let loaded = load_with(&[
            ("keyring_enabled", "yes"),
            ("keyring_vault_host", "vault.example.com"),
            ("keyring_vault_mount", "../sys"),
            ("keyring_sync_interval", "0"),
            ("keyring_socket_mode", "rw"),
            ("log_level", "loud"),
            ("keyring_sync_intervall", "60"),
        ]);
        let said = mistakes(&loaded);
        assert_eq!(said.len(), 7, "{said:#?}");
        for start in [
            "KONG_KEYRING_ENABLED: keyring_enabled: expected on or off or true or false, and it is \"yes\"",
            "KONG_KEYRING_SYNC_INTERVAL: keyring_sync_interval: expected whole seconds from 1 to 86400, and it is \"0\"",
            "KONG_KEYRING_SYNC_INTERVALL: keyring_sync_intervall: no such setting; did you mean keyring_sync_interval?",
        ] {
            assert!(said.iter().any(|line| line == start), "{start} in {said:#?}");
        }
    }

    #[test]
    fn another_strategy_or_a_keyring_switched_off_is_refused_and_says_why() {
        let said = mistakes(&load_with(&[("keyring_enabled", "off"), ("keyring_strategy", "cluster")]));
        assert_eq!(said.len(), 2);
        assert!(
            said[0].contains("must be on: set it in kong.conf or as KONG_KEYRING_ENABLED"),
            "{}",
            said[0]
        );
        assert!(
            said[1].contains("must be vault: set it in kong.conf or as KONG_KEYRING_STRATEGY"),
            "{}",
            said[1]
        );
    }

    #[test]
    fn no_mistake_and_no_debug_output_quotes_a_secret() {
        let loaded = load_with(&[
            ("keyring_vault_token", "planted\nplanted"),
            ("keyring_vault_host", "http://u:planted@h"),
        ]);
        assert_eq!(mistakes(&loaded).len(), 2);
        let printed = format!("{loaded:?} {:?} {:?}", mistakes(&loaded), load_with(&[]));
        assert!(!printed.contains("planted"), "{printed}");
    }

    #[test]
    fn an_empty_variable_unsets_its_key() {
        let loaded = load_with(&[("keyring_sync_interval", ""), ("keyring_vault_token", "")]);
        assert_eq!(
            loaded.effective.iter().find(|e| e.key.name == "keyring_sync_interval").unwrap().value.as_deref(),
            Some("60")
        );
        assert!(mistakes(&loaded)[0].contains("keyring_vault_token: is required"), "{:?}", mistakes(&loaded));
    }

    #[test]
    fn an_empty_word_is_a_mistake() {
        let said = mistakes(&load_with(&[("log_level", ""), ("keyring_vault_kv", "")]));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said.iter().all(|line| line.contains("is set to nothing")), "{said:?}");
    }

    #[test]
    fn plain_http_to_another_machine_is_a_warning() {
        let warned = |host| !load_with(&[("keyring_vault_host", host)]).warnings.is_empty();
        assert!(warned("http://vault.example.com:8200"));
        assert!(warned("http://10.0.0.1:8200"));
        for fine in [
            "https://vault.example.com:8200",
            "http://127.0.0.1:8200",
            "http://[::1]:8200",
            "http://localhost:8200",
        ] {
            assert!(!warned(fine), "{fine}");
        }
    }

    #[test]
    fn the_name_comes_from_the_path_unless_it_cannot() {
        let name = |more: &[_]| load_with(more).settings.map(|settings| settings.keyring.name);
        assert_eq!(name(&[("keyring_vault_path", "team/apps")]).unwrap(), "apps");
        assert_eq!(name(&[("keyring_name", "mine")]).unwrap(), "mine");
        let said = mistakes(&load_with(&[("keyring_vault_path", "team/my apps")]));
        assert!(
            said[0].starts_with("keyring_name is required: the path's last segment, \"my apps\","),
            "{said:?}"
        );
    }

    #[test]
    fn later_lines_and_variables_win_and_files_are_named_with_their_line() {
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
                format!("{}: keyring_name: stands twice: this line wins over line 1", at(2)),
                format!("{}: log_level: the quotes are part of the value, to Kong as well", at(4)),
                format!("{}: log_level: stands twice: this line wins over line 3", at(4)),
                format!(
                    "{}: keyring_blob_path: belongs to Kong's cluster strategy and is not used here",
                    at(6)
                ),
            ]
        );
        let settings = loaded.settings.unwrap();
        assert_eq!((settings.keyring.name.as_str(), settings.log.level), ("two", LogLevel::Debug));
    }
}
