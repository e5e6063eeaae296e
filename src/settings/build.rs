//! The typed settings, built from the single values: each value is read, and values that contradict each other are mistakes.
//!
//! How one value is read is in `reader` and the rows of `keys`. Parts with files of their own are `server`, `engines` and
//! `access`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    access::{self, AccessList, Accounts},
    engines::{self, ReferenceSettings},
    keys,
    reader::Reader,
    server::{self, IN_THE_CLEAR, Server},
    setting::Setting,
    source::accounts::SystemAccounts,
    value::{Audit, CiphertextFormat, KvVersion, LogFormat, LogLevel, SecretPath},
};
use crate::keyring::KeyDerivation;

/// All settings of the daemon, checked.
#[derive(Debug)]
pub struct Settings {
    pub server: Server,
    pub keyring: Keyring,
    pub references: ReferenceSettings,
    pub socket: Socket,
    pub log: Log,
    /// Refuse to start if memory cannot be locked.
    pub require_memory_lock: bool,
}

/// A secret in a KV secrets engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KvSecret {
    pub mount: SecretPath,
    pub path: SecretPath,
    pub kv: KvVersion,
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
    pub metrics_listen: Option<SocketAddr>,
    pub limits: Limits,
    pub audit: Audit,
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
    pub level: LogLevel,
    pub format: LogFormat,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_size: keys::MAX_REQUEST_SIZE.default_value(),
            inflight_size: keys::MAX_INFLIGHT_SIZE.default_value(),
            connections: keys::MAX_CONNECTIONS.default_value(),
            batch: keys::MAX_BATCH.default_value(),
        }
    }
}

pub(super) fn settings(reader: &mut Reader) -> Option<Settings> {
    reader.must_be(&keys::ENABLED, "on");
    reader.must_be(&keys::STRATEGY, "vault");
    let server = server::read(reader);
    let keyring = keyring(reader);
    let references = engines::read(reader);
    let socket = socket(reader);
    let require_memory_lock = reader.required(&keys::REQUIRE_MEMORY_LOCK);
    let level = reader.required(&keys::LOG_LEVEL);
    let format = reader.required(&keys::LOG_FORMAT);
    let settings = Settings {
        server: server?,
        keyring: keyring?,
        references: references?,
        socket: socket?,
        log: Log { level: level?, format: format? },
        require_memory_lock: require_memory_lock?,
    };
    warn(reader, &settings);
    Some(settings)
}

fn keyring(reader: &mut Reader) -> Option<Keyring> {
    let mount = reader.required(&keys::VAULT_MOUNT);
    let path = reader.required(&keys::VAULT_PATH);
    let kv = reader.required(&keys::VAULT_KV);
    let name = reader.optional(&keys::NAME).or_else(|| name_from(reader, path.as_ref()?));
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
    let path = reader.required(&keys::SOCKET_PATH);
    let mode = reader.required(&keys::SOCKET_MODE);
    let group = reader.optional_checked(&keys::SOCKET_GROUP, |group| group_id(&group));
    let access = reader.optional_checked(&keys::ACCESS, |list| access::access(&list, &SystemAccounts));
    let metrics_listen = reader.optional(&keys::METRICS_LISTEN);
    let limits = limits(reader);
    let audit = reader.required(&keys::AUDIT);
    Some(Socket { path: path?, mode: mode?, group, access, metrics_listen, limits: limits?, audit: audit? })
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
    let (request_size, inflight_size) = (request_size?, inflight_size?);
    if inflight_size < request_size {
        let message = "is less than keyring_max_request_size: the largest request could not be handled";
        reader.mistake(&keys::MAX_INFLIGHT_SIZE.key, message);
    }
    Some(Limits { request_size, inflight_size, connections: connections?, batch: batch? })
}

fn warn(reader: &mut Reader, settings: &Settings) {
    if settings.keyring.max_stale.is_some_and(|stale| stale <= settings.keyring.sync_interval) {
        let message =
            "is not longer than keyring_sync_interval: /readyz would fail between two successful syncs";
        reader.warn(&keys::MAX_STALE.key, message);
    }
    server::warn(reader, &keys::VAULT_HOST.key, &settings.server);
    let references = &settings.references;
    if let Some(server) = &references.hcv.server {
        server::warn(reader, &keys::HCV_PROTOCOL.key, server);
    }
    let mut servers = references.objects.values().filter_map(|engine| engine.server.as_ref());
    if servers.any(Server::sends_in_the_clear) {
        reader.warn(&keys::SECRET_OBJECTS.key, IN_THE_CLEAR);
    }
}
