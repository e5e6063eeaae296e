//! Settings: from kong.conf and `KONG_*` variables to one typed value that cannot hold a bad combination.
//!
//! [`source`] reads a value, `conf` parses the grammar of a kong.conf, `reader` decides which value wins, resolves
//! references, and parses it with its row in the table [`keys`]. This file combines the values. All
//! but `source` is pure. The file is longer than most: it has every type of the daemon's settings.

#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, reason = "times and sizes from outside must not overflow")
)]

/// A struct of `Option`s without their `Option`. Every field is read before the first `?`, so each mistake is reported.
macro_rules! gather {
    ($type:ident { $($field:ident: $value:expr),* $(,)? }) => {{
        $(let $field = $value;)*
        Some($type { $($field: $field?),* })
    }};
}

pub mod access;
mod cache;
mod conf;
mod engines;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod keyrings;
pub mod keys;
mod merge;
mod operator;
pub(crate) mod pem;
mod reader;
pub(crate) mod reference;
mod report;
pub(crate) mod resolve;
pub(crate) mod server;
pub mod setting;
pub mod source;
mod spelling;
mod value;
#[cfg(test)]
mod vectors;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    keyring::{KeyDerivation, KeyId},
    logging::{Level, LineFormat},
    operation::Permission,
};
pub use access::AccessList;
use access::Accounts as _;
pub use cache::{Cache, SealedCopy};
pub use engines::{EngineSettings, ReferenceSettings};
pub use operator::{OperatorLogin, OperatorSettings, RoleSettings, load_operator, load_role};
use reader::{LoadedPart, Reader};
pub use report::{Effective, Note};
pub use server::{Auth, Server, SettingNames, Tls, TrustedCertificates};
use setting::Setting;
pub(crate) use source::credential;
use source::{Origin, Source, SystemAccounts, cgroup::memory_limit};
use value::InflightSize;
pub use value::{Audit, CiphertextFormat, KeyringPath, KvVersion, SecretPath};

impl KvSecret {
    /// Another secret of the engine.
    #[must_use]
    pub fn at(&self, path: SecretPath) -> Self {
        Self { mount: self.mount.clone(), path, kv: self.kv }
    }
}

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

/// The bounds of `keyring_max_inflight_size = auto`.
const MAX_AUTO_INFLIGHT: usize = 256 << 20;
const MIN_AUTO_INFLIGHT: usize = 1 << 20;

/// The memory of the program, its connections and h2's headers.
const OTHER_MEMORY: u64 = 64 << 20;

/// All settings of the daemon, checked.
#[derive(Debug)]
pub struct Settings {
    /// `None` serves references only.
    pub keyrings: Option<Keyrings>,
    pub references: ReferenceSettings,
    pub socket: Socket,
    pub cache: Cache,
    pub log: Log,
    /// Refuse to start if memory cannot be locked.
    pub require_memory_lock: bool,
}

/// The keyring, and the Vault that holds it.
#[derive(Debug)]
pub struct Keyrings {
    pub server: Server,
    pub default: Keyring,
}

/// A secret in a KV secrets engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KvSecret {
    pub mount: SecretPath,
    pub path: SecretPath,
    pub kv: KvVersion,
}

/// The keyrings, and how they are read and used.
#[derive(Debug)]
pub struct Keyring {
    /// The secret that holds the records of the default keyring.
    pub secret: KvSecret,
    /// The default keyring's name in Transit's paths.
    pub name: String,
    /// The other keyrings, under the same mount.
    pub further: Vec<KeyringPath>,
    /// The keyring that encrypts for Kubernetes; `None` for the default one.
    pub kms_name: Option<String>,
    /// The record whose key makes blind indexes.
    pub index_key: Option<KeyId>,
    pub derivation: KeyDerivation,
    pub ciphertext_format: CiphertextFormat,
    /// Whether Kong's own fields are read, and written on request.
    pub kong_fields: bool,
    pub sync_interval: Duration,
    /// The time after the last successful sync until the daemon is not ready; `None` for never.
    pub max_stale: Option<Duration>,
}

#[derive(Debug)]
pub struct Socket {
    pub path: PathBuf,
    pub mode: u32,
    pub group: Option<u32>,
    /// `None` leaves access to the socket's mode and group.
    pub access: Option<AccessList>,
    pub metrics: Option<MetricsListener>,
    pub limits: Limits,
    pub audit: Audit,
    /// The mounts below which Transit is served.
    pub transit_mounts: Vec<String>,
}

/// The TCP listener of metrics and health.
#[derive(Debug, PartialEq, Eq)]
pub struct MetricsListener {
    pub address: SocketAddr,
    pub tls: Option<Arc<MetricsTls>>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct MetricsTls {
    pub certificate: credential::Credential,
    pub key: credential::Credential,
    /// The authorities of client certificates, which are required then.
    pub client_ca: Option<credential::Credential>,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one request's body.
    pub request_size: usize,
    /// Bytes of all requests in progress.
    pub inflight_size: usize,
    pub connections: usize,
    /// Items of one batch.
    pub batch: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Log {
    pub level: Level,
    pub format: LineFormat,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_size: keys::MAX_REQUEST_SIZE.default_value(),
            inflight_size: automatic_inflight_size(memory_limit()),
            connections: keys::MAX_CONNECTIONS.default_value(),
            batch: keys::MAX_BATCH.default_value(),
        }
    }
}

/// Loads the settings from `sources`, the weakest first.
pub fn load(sources: &[Box<dyn Source>]) -> Loaded {
    let mut reader = Reader::new(sources);
    if reader.mistakes.iter().any(is_unreadable) {
        // Whatever else is missing may be in that file.
        reader.mistakes.retain(is_unreadable);
        let Reader { mistakes, referred, .. } = reader;
        return Loaded { settings: Err(mistakes), warnings: Vec::new(), effective: Vec::new(), referred };
    }
    let settings = settings(&mut reader);
    let effective = keys::all().map(|row| reader.effective(row.key())).collect();
    let Reader { mistakes, warnings, referred, .. } = reader;
    let settings = settings.filter(|_| mistakes.is_empty()).ok_or(mistakes);
    Loaded { settings, warnings, effective, referred }
}

/// What a command needs to resolve references without a daemon.
#[derive(Debug)]
pub struct ReferenceSources {
    pub references: ReferenceSettings,
    /// `None` if no engine needs it, or the settings do not name it.
    pub keyring: Option<KeyringServer>,
}

/// The session and the KV engine of the keyring, whatever its path.
#[derive(Debug)]
pub struct KeyringServer {
    pub server: Server,
    pub mount: SecretPath,
    pub kv: KvVersion,
}

/// The settings of references alone. No `keyring_*` setting is required.
pub fn load_reference_sources(sources: &[Box<dyn Source>]) -> LoadedPart<ReferenceSources> {
    let mut reader = Reader::new(sources);
    let found = reference_sources(&mut reader);
    reader.finish(found)
}

fn reference_sources(reader: &mut Reader) -> Option<ReferenceSources> {
    let references = engines::read(reader);
    let needs_keyring = references.as_ref().is_some_and(ReferenceSettings::uses_the_keyrings)
        && reader.is_given(&keys::VAULT_HOST.key);
    let keyring = needs_keyring.then(|| {
        gather!(KeyringServer {
            server: server::read_keyrings(reader),
            mount: reader.required(&keys::VAULT_MOUNT),
            kv: reader.required(&keys::VAULT_KV),
        })
    });
    Some(ReferenceSources { references: references?, keyring: keyring.flatten() })
}

/// The settings of `keyringd dev`, which needs none.
#[derive(Debug)]
pub struct DevSettings {
    pub socket: Option<PathBuf>,
    pub name: Option<String>,
    pub access: Option<AccessList>,
    pub references: ReferenceSources,
}

/// The settings of `keyringd dev`. Mistakes in others are ignored.
pub fn load_dev(sources: &[Box<dyn Source>]) -> LoadedPart<DevSettings> {
    let mut reader = Reader::new(sources);
    let settings = dev_settings(&mut reader);
    reader.finish(settings)
}

fn dev_settings(reader: &mut Reader) -> Option<DevSettings> {
    let names_socket = reader.is_given(&keys::SOCKET_PATH.key);
    gather!(DevSettings {
        // Its default needs root.
        socket: Some(reader.optional(&keys::SOCKET_PATH).filter(|_| names_socket)),
        name: Some(reader.optional(&keys::NAME)),
        access: Some(access_list(reader)),
        references: reference_sources(reader),
    })
}

/// A key name from the command line.
pub fn key_name(text: &str) -> Result<String, String> {
    let parser = &keys::NAME.parser;
    parser.parse(text).ok_or_else(|| format!("expected {}", parser.accepts()))
}

/// The socket's path alone, for commands that talk to a running daemon. Mistakes in other settings are ignored.
pub fn socket_path(sources: &[Box<dyn Source>]) -> Result<PathBuf, Vec<Note>> {
    let mut reader = Reader::new(sources);
    let path = reader.required(&keys::SOCKET_PATH);
    only(reader, path)
}

/// How the env backend of references is set, for commands that need no other setting.
///
/// # Errors
/// The mistakes, if a setting of the backend is invalid or a file cannot be read.
pub fn env_backend(sources: &[Box<dyn Source>]) -> Result<resolve::EnvBackend, Vec<Note>> {
    let mut reader = Reader::new(sources);
    let backend = engines::read_env(&mut reader);
    only(reader, backend)
}

/// What was read of a few settings, if they and the files have no mistake.
fn only<T>(mut reader: Reader, value: Option<T>) -> Result<T, Vec<Note>> {
    let mut mistakes = std::mem::take(&mut reader.mistakes);
    mistakes.retain(|note| is_unreadable(note) || reader.has_read(note));
    value.filter(|_| mistakes.is_empty()).ok_or(mistakes)
}

fn is_unreadable(note: &Note) -> bool {
    matches!(note.origin, Origin::WholeFile(_))
}

fn settings(reader: &mut Reader) -> Option<Settings> {
    let references = engines::read(reader);
    let references_only = serves_references_only(reader, references.as_ref());
    let settings = gather!(Settings {
        keyrings: if references_only { Some(None) } else { keyrings(reader).map(Some) },
        references: references,
        socket: socket(reader),
        cache: cache::read(reader),
        require_memory_lock: reader.required(&keys::REQUIRE_MEMORY_LOCK),
        log: gather!(Log {
            level: reader.required(&keys::LOG_LEVEL),
            format: reader.required(&keys::LOG_FORMAT),
        }),
    })?;
    warn(reader, &settings);
    Some(settings)
}

/// Whether the keyring is off and a Vault is named for references.
fn serves_references_only(reader: &mut Reader, references: Option<&ReferenceSettings>) -> bool {
    let is_off = reader.optional(&keys::ENABLED) == Some(false);
    // Mistakes in the reference settings are enough: those of a keyring that is off are not added.
    let is_alone = is_off && references.is_none_or(ReferenceSettings::names_a_server);
    if is_alone && reader.is_given(&keys::VAULT_PATH.key) {
        let message = "is off, so references only are served, and keyring_vault_path has no effect: set it to on for a \
                       keyring";
        reader.warn(&keys::ENABLED.key, message);
    }
    is_alone
}

fn keyrings(reader: &mut Reader) -> Option<Keyrings> {
    reader.must_be(&keys::ENABLED, "on");
    reader.must_be(&keys::STRATEGY, "vault");
    gather!(Keyrings { server: server::read_keyrings(reader), default: keyring(reader) })
}

fn keyring(reader: &mut Reader) -> Option<Keyring> {
    let mount = reader.required(&keys::VAULT_MOUNT);
    let path = reader.required(&keys::VAULT_PATH);
    let kv = reader.required(&keys::VAULT_KV);
    let name = reader.optional(&keys::NAME).or_else(|| name_from(reader, path.as_ref()?));
    let further = keyrings::further(reader, name.as_deref(), path.as_ref());
    let kms_name = keyrings::kms_name(reader, name.as_deref(), &further);
    let index_key = reader.optional(&keys::INDEX_KEY);
    let derivation = reader.required(&keys::KEY_DERIVATION);
    let ciphertext_format = reader.required(&keys::CIPHERTEXT_FORMAT);
    let kong_fields = reader.required(&keys::KONG_FIELDS);
    let sync_interval = reader.required(&keys::SYNC_INTERVAL);
    let max_stale = reader.required(&keys::MAX_STALE);
    if ciphertext_format == Some(CiphertextFormat::Transit) && kong_fields == Some(true) {
        let message = "cannot be on with keyring_ciphertext_format = transit: both use the same key and cipher, so \
                       a Transit ciphertext without its tag would be a valid Kong field";
        reader.mistake(&keys::KONG_FIELDS.key, message);
    }
    if ciphertext_format == Some(CiphertextFormat::Transit) && kv == Some(KvVersion::V1) {
        let message = "must be native with keyring_vault_kv = v1: Transit ciphertexts name a version of the key, and \
                       KV version 1 has none";
        reader.mistake(&keys::CIPHERTEXT_FORMAT.key, message);
    }
    Some(Keyring {
        secret: KvSecret { mount: mount?, path: path?, kv: kv? },
        name: name?,
        further,
        kms_name,
        index_key,
        derivation: derivation?,
        ciphertext_format: ciphertext_format?,
        kong_fields: kong_fields?,
        sync_interval: sync_interval?,
        max_stale: Some(max_stale?).filter(|stale| !stale.is_zero()),
    })
}

/// The key name from the path, if none is set.
fn name_from(reader: &mut Reader, path: &SecretPath) -> Option<String> {
    let Setting { key, parser } = &keys::NAME;
    if reader.is_set(key) {
        return None;
    }
    let last = path.0.last()?;
    let name = parser.parse(last);
    if name.is_none() {
        let quoted =
            reader.quoted(&keys::VAULT_PATH.key, last).map_or_else(String::new, |last| format!(" {last}"));
        let message =
            format!("is required: the last segment of the path{quoted} is not {}", parser.accepts());
        reader.mistake(key, message);
    }
    name
}

fn socket(reader: &mut Reader) -> Option<Socket> {
    gather!(Socket {
        path: reader.required(&keys::SOCKET_PATH),
        mode: reader.required(&keys::SOCKET_MODE),
        group: Some(reader.optional_checked(&keys::SOCKET_GROUP, |group| group_id(&group))),
        access: Some(access_list(reader)),
        metrics: Some(metrics_listener(reader)),
        limits: limits(reader),
        audit: reader.required(&keys::AUDIT),
        transit_mounts: reader.required(&keys::TRANSIT_MOUNTS),
    })
}

fn access_list(reader: &mut Reader) -> Option<AccessList> {
    let is_shown = reader.quoted(&keys::ACCESS.key, "").is_some();
    let quote: access::Quote =
        if is_shown { |text| format!(": {}", report::quoted(text)) } else { |_| String::new() };
    reader.optional_checked(&keys::ACCESS, |list| access::access(&list, &SystemAccounts, quote))
}

fn metrics_listener(reader: &mut Reader) -> Option<MetricsListener> {
    let (address, tls) = (reader.optional(&keys::METRICS_LISTEN), metrics_tls(reader));
    let is_public = reader.required(&keys::METRICS_PUBLIC)?;
    let address = address?;
    if !address.ip().is_loopback() && tls.is_none() && !is_public {
        let message = "is no loopback address, so everybody who reaches it could read the metrics: set \
                       keyring_metrics_tls_cert and keyring_metrics_tls_key, or keyring_metrics_public = on, or listen on \
                       127.0.0.1:9187";
        reader.mistake(&keys::METRICS_LISTEN.key, message);
    }
    Some(MetricsListener { address, tls: tls.map(Arc::new) })
}

fn metrics_tls(reader: &mut Reader) -> Option<MetricsTls> {
    let all = [&keys::METRICS_TLS_CERT, &keys::METRICS_TLS_KEY, &keys::METRICS_TLS_CLIENT_CA];
    if !all.iter().any(|setting| reader.is_given(&setting.key)) {
        return None;
    }
    let client_ca = reader.is_given(&keys::METRICS_TLS_CLIENT_CA.key);
    let tls = gather!(MetricsTls {
        certificate: reader.credential(&keys::METRICS_TLS_CERT),
        key: reader.credential(&keys::METRICS_TLS_KEY),
        client_ca: if client_ca {
            reader.credential(&keys::METRICS_TLS_CLIENT_CA).map(Some)
        } else {
            Some(None)
        },
    })?;
    // What cannot be read, or is no PEM, is a mistake already.
    if let (Ok(certificate), Ok(key)) = (tls.certificate.read(), tls.key.read())
        && let Err(fault) = pem::check_pair(certificate.expose(), key.expose())
    {
        let message = format!(
            "does not belong to keyring_metrics_tls_cert: {fault}; set the two that were issued together"
        );
        reader.mistake(&keys::METRICS_TLS_KEY.key, message);
        return None;
    }
    Some(tls)
}

fn group_id(group: &str) -> Result<u32, String> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    match SystemAccounts.group(group) {
        Ok(id) => id.ok_or_else(|| "no such group".to_owned()),
        Err(error) => Err(format!("the list of groups cannot be read: {error}")),
    }
}

fn limits(reader: &mut Reader) -> Option<Limits> {
    let request_size = reader.required(&keys::MAX_REQUEST_SIZE);
    let inflight_size = reader.required(&keys::MAX_INFLIGHT_SIZE);
    let connections = reader.required(&keys::MAX_CONNECTIONS);
    let batch = reader.required(&keys::MAX_BATCH);
    let (mut request_size, inflight_size) = (request_size?, inflight_size?);
    let available = memory_limit();
    let inflight_size = match inflight_size {
        InflightSize::Bytes(bytes) => {
            if bytes < request_size {
                let message =
                    "is less than keyring_max_request_size: the largest request could not be handled";
                reader.mistake(&keys::MAX_INFLIGHT_SIZE.key, message);
            }
            if let Some(available) = available.filter(|available| !fits(bytes, *available)) {
                let message = format!(
                    "does not fit into this process's memory limit of {} MiB, which a burst of requests may exceed: \
                     set `auto`, or less than half of the limit",
                    available >> 20
                );
                reader.warn(&keys::MAX_INFLIGHT_SIZE.key, message);
            }
            bytes
        }
        InflightSize::Auto => {
            let bytes = automatic_inflight_size(available);
            request_size = request_size.min(bytes);
            bytes
        }
    };
    Some(Limits { request_size, inflight_size, connections: connections?, batch: batch? })
}

/// `auto`: the most, or a quarter of the memory limit if that is less.
fn automatic_inflight_size(available: Option<u64>) -> usize {
    let quarter = available.and_then(|available| usize::try_from(available / 4).ok());
    quarter.map_or(MAX_AUTO_INFLIGHT, |quarter| quarter.clamp(MIN_AUTO_INFLIGHT, MAX_AUTO_INFLIGHT))
}

/// Whether the limit can hold these bytes in flight, with what the program and its connections take besides.
fn fits(inflight: usize, available: u64) -> bool {
    let inflight = u64::try_from(inflight).unwrap_or(u64::MAX);
    inflight.saturating_add(inflight / 8).saturating_add(OTHER_MEMORY) <= available
}

fn warn(reader: &mut Reader, settings: &Settings) {
    if let Some(Keyrings { server, default }) = &settings.keyrings {
        if default.max_stale.is_some_and(|stale| stale <= default.sync_interval) {
            let message =
                "is not longer than keyring_sync_interval: /readyz would fail between two successful syncs";
            reader.warn(&keys::MAX_STALE.key, message);
        }
        server::warn(reader, &keys::VAULT_HOST.key, &keys::KEYRING_LOGIN, server);
    }
    let names = settings.keyrings.as_ref().map(|all| (&*all.default.name, &*all.default.further));
    let may_exist =
        |name: &str| names.is_none_or(|(default, further)| keyrings::may_exist(name, default, further));
    let common_uses = match &settings.keyrings {
        Some(_) => Permission::Encrypt | Permission::Decrypt,
        None => Permission::Secrets.into(),
    };
    for warning in settings.socket.access.iter().flat_map(|access| access.warnings(common_uses, may_exist)) {
        reader.warn(&keys::ACCESS.key, warning);
    }
    let references = &settings.references;
    if let Some(server) = &references.hcv.server {
        server::warn(reader, &keys::HCV_PROTOCOL.key, &keys::REFERENCES_LOGIN, server);
    }
    let mut servers = references.objects.values().filter_map(|engine| engine.server.as_ref());
    if servers.any(Server::sends_in_the_clear) {
        reader.warn(&keys::SECRET_OBJECTS.key, server::IN_THE_CLEAR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use source::Pairs;

    const ENOUGH: [(&str, &str); 6] = [
        ("keyring_enabled", "on"),
        ("keyring_strategy", "vault"),
        ("keyring_vault_host", "http://127.0.0.1:8200"),
        ("keyring_vault_mount", "secret"),
        ("keyring_vault_path", "keyring"),
        ("keyring_vault_token", "hvs.planted"),
    ];

    fn pairs(settings: Vec<(&'static str, &'static str)>) -> Box<dyn Source> {
        Box::new(Pairs { settings, variables: &[] })
    }

    fn load_with(more: &[(&'static str, &'static str)]) -> Loaded {
        load(&[pairs([&ENOUGH, more].concat())])
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
        let Keyrings { server, default } = settings.keyrings.unwrap();
        assert_eq!(default.name, "keyring");
        assert_eq!(settings.socket.mode, 0o660);
        assert!(server.tls.trusted.system);
    }

    #[test]
    fn bytes_in_flight_follow_the_memory_limit() {
        for (limit, bytes) in
            [(None, 256), (Some(64), 16), (Some(384), 96), (Some(8 << 10), 256), (Some(1), 1)]
        {
            assert_eq!(automatic_inflight_size(limit.map(|mib: u64| mib << 20)), bytes << 20, "{limit:?}");
        }
        assert!(fits(256 << 20, 384 << 20) && !fits(300 << 20, 384 << 20) && !fits(256 << 20, 300 << 20));
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
            "KONG_KEYRING_SYNC_INTERVALL: keyring_sync_intervall: no such setting; did you mean KONG_KEYRING_SYNC_INTERVAL?",
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
    fn references_alone_need_no_keyring() {
        let of_references = [("vault_hcv_host", "127.0.0.1"), ("vault_hcv_token", "hvs.planted")];
        let loaded = load(&[pairs(of_references.to_vec())]);
        assert_eq!((mistakes(&loaded), &loaded.warnings), (Vec::new(), &Vec::new()));
        assert!(loaded.settings.unwrap().keyrings.is_none());
        let access = [of_references.as_slice(), &[("keyring_access", "uid:0=secrets+status")]].concat();
        assert_eq!(load(&[pairs(access)]).warnings, []);
        let nobody = [of_references.as_slice(), &[("keyring_access", "uid:0=status")]].concat();
        assert!(load(&[pairs(nobody)]).warnings[0].message.starts_with("no entry grants secrets"));
        // With both, it is said that the keyring is not served.
        let off = [[("keyring_enabled", "off")].as_slice(), &of_references].concat();
        let loaded = load_with(&off);
        assert!(
            loaded.warnings[0].message.starts_with("is off, so references only are served"),
            "{loaded:?}"
        );
        assert!(loaded.settings.unwrap().keyrings.is_none());
        let on = load_with(&of_references);
        assert!(on.settings.unwrap().keyrings.is_some());
        // A mistake in them is the only one.
        let found = mistakes(&load(&[pairs(vec![("vault_hcv_port", "many")])]));
        assert!(found.iter().all(|mistake| mistake.contains("vault_hcv_")), "{found:?}");
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
        let name =
            |more: &[_]| load_with(more).settings.map(|settings| settings.keyrings.unwrap().default.name);
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
            pairs(ENOUGH.to_vec()),
            pairs(vec![("log_level", "debug")]),
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
        assert_eq!(settings.log.level, Level::Debug);
        assert_eq!(settings.keyrings.unwrap().default.name, "two");
    }
}
