//! What the single values add up to: each is read by its key, what one says of another is checked, and doubts are told.
//!
//! How one value is read is in `reader` and `value`; the types that come of it are in `settings`.

use super::{
    Auth, CiphertextFormat, Keyring, KvSecret, KvVersion, Limits, Log, SecretPath, Server, SettingNames,
    Settings, Socket, Tls, access, auth, keys, pem, reader::Reader, secrets, value,
};

pub fn read_settings(reader: &mut Reader) -> Option<Settings> {
    reader.must_be(&keys::ENABLED, "on", |text| value::boolean(text).map(|on| on.then_some(())));
    reader.must_be(&keys::STRATEGY, "vault", |text| Ok((text == "vault").then_some(())));
    let server = read_server(reader);
    let secret = read_secret(reader);
    let secrets = secrets::read(reader);
    let path = reader.optional(&keys::VAULT_PATH, value::secret_path);
    let name = reader.optional(&keys::NAME, value::key_name).or_else(|| name_from(reader, path.as_ref()?));
    let derivation = reader.required(&keys::KEY_DERIVATION, value::key_derivation);
    let ciphertext_format = reader.required(&keys::CIPHERTEXT_FORMAT, value::ciphertext_format);
    let kong_fields = reader.required(&keys::KONG_FIELDS, value::boolean);
    if (ciphertext_format, kong_fields) == (Some(CiphertextFormat::Transit), Some(true)) {
        let message = "cannot be on with keyring_ciphertext_format = transit: both use the record's key and the same \
                       cipher, so that a Transit ciphertext without its tag would pass for a field of Kong's";
        reader.mistake(&keys::KONG_FIELDS, message);
    }
    let sync_interval = reader.required(&keys::SYNC_INTERVAL, |text| value::seconds(text, 1..=86400));
    let max_stale = reader.required(&keys::MAX_STALE, |text| value::seconds(text, 0..=31_536_000));
    if let (Some(CiphertextFormat::Transit), Some(KvSecret { kv: KvVersion::V1, .. })) =
        (ciphertext_format, &secret)
    {
        let message = "must be native on version 1 of the KV engine: Transit's ciphertexts name a version of the key, and \
                       there are none";
        reader.mistake(&keys::CIPHERTEXT_FORMAT, message);
    }
    let socket = read_socket(reader);
    let require_memory_lock = reader.required(&keys::REQUIRE_MEMORY_LOCK, value::boolean);
    let level = reader.required(&keys::LOG_LEVEL, value::log_level);
    let format = reader.required(&keys::LOG_FORMAT, value::log_format);
    Some(Settings {
        server: server?,
        keyring: Keyring {
            secret: secret?,
            name: name?,
            derivation: derivation?,
            ciphertext_format: ciphertext_format?,
            kong_fields: kong_fields?,
            sync_interval: sync_interval?,
            max_stale: Some(max_stale?).filter(|stale| !stale.is_zero()),
        },
        secrets: secrets?,
        socket: socket?,
        log: Log { level: level?, format: format? },
        require_memory_lock: require_memory_lock?,
    })
}

fn read_secret(reader: &mut Reader) -> Option<KvSecret> {
    let mount = reader.required(&keys::VAULT_MOUNT, value::secret_path);
    let path = reader.required(&keys::VAULT_PATH, value::secret_path);
    let kv = reader.required(&keys::VAULT_KV, value::kv_version);
    Some(KvSecret { mount: mount?, path: path?, kv: kv? })
}

fn read_server(reader: &mut Reader) -> Option<Server> {
    let host = reader.required(&keys::VAULT_HOST, value::base_url);
    let namespace = reader.optional(&keys::VAULT_NAMESPACE, value::namespace);
    let auth = auth::read(reader, &auth::KEYRING);
    let trusted = reader.required(&keys::SSL_TRUSTED_CERTIFICATE, pem::trusted_certificates);
    let depth = reader.required(&keys::SSL_VERIFY_DEPTH, |text| value::number(text, 0..=100));
    Some(Server {
        host: host?,
        namespace,
        auth: auth?,
        tls: Tls { trusted: trusted?, verify_depth: usize::try_from(depth?).ok()? },
        names: SettingNames {
            host: keys::VAULT_HOST.name,
            token: keys::VAULT_TOKEN.name,
            prefix: "keyring_vault_",
        },
    })
}

fn read_socket(reader: &mut Reader) -> Option<Socket> {
    let path = reader.required(&keys::SOCKET_PATH, value::path);
    let mode = reader.required(&keys::SOCKET_MODE, value::mode);
    let group = reader.optional(&keys::SOCKET_GROUP, value::group);
    let access = reader.optional(&keys::ACCESS, access::access);
    let metrics_listen = reader.optional(&keys::METRICS_LISTEN, value::loopback_address);
    let limits = read_limits(reader);
    let audit = reader.required(&keys::AUDIT, value::audit);
    Some(Socket { path: path?, mode: mode?, group, access, metrics_listen, limits: limits?, audit: audit? })
}

fn read_limits(reader: &mut Reader) -> Option<Limits> {
    let request_size = reader.required(&keys::MAX_REQUEST_SIZE, value::size);
    let inflight_size = reader.required(&keys::MAX_INFLIGHT_SIZE, value::size);
    let connections = reader.required(&keys::MAX_CONNECTIONS, |text| value::number(text, 1..=1_000_000));
    let batch = reader.required(&keys::MAX_BATCH, |text| value::number(text, 1..=1_000_000));
    let (request_size, inflight_size) = (request_size?, inflight_size?);
    if inflight_size < request_size {
        let message = "is less than keyring_max_request_size: one request alone could not be handled";
        reader.mistake(&keys::MAX_INFLIGHT_SIZE, message.to_owned());
    }
    Some(Limits {
        request_size,
        inflight_size,
        connections: usize::try_from(connections?).ok()?,
        batch: usize::try_from(batch?).ok()?,
    })
}

/// The key name that the path gives when none is set.
fn name_from(reader: &mut Reader, path: &SecretPath) -> Option<String> {
    if reader.is_set(&keys::NAME) {
        return None;
    }
    let last = path.0.last()?;
    match value::key_name(last) {
        Ok(name) => Some(name),
        Err(expected) => {
            let quoted = reader.quoted(&keys::VAULT_PATH, last);
            let last =
                quoted.map_or_else(|| "last segment".to_owned(), |last| format!("last segment, {last},"));
            let message = format!("is required: the path's {last} is not {expected}");
            reader.mistake(&keys::NAME, message);
            None
        }
    }
}

pub fn warn_of(reader: &mut Reader, settings: &Settings) {
    if settings.keyring.max_stale.is_some_and(|stale| stale <= settings.keyring.sync_interval) {
        let message = "is not longer than keyring_sync_interval: /readyz would fail between two good syncs";
        reader.warn_of(&keys::MAX_STALE, message);
    }
    warn_of_server(reader, &keys::VAULT_HOST, &settings.server);
    if let Some(server) = &settings.secrets.hcv.server {
        warn_of_server(reader, &keys::HCV_PROTOCOL, server);
    }
    if settings
        .secrets
        .objects
        .values()
        .filter_map(|engine| engine.server.as_ref())
        .any(Server::sends_in_the_clear)
    {
        reader.warn_of(&keys::SECRET_OBJECTS, IN_THE_CLEAR);
    }
}

const IN_THE_CLEAR: &str =
    "plain http to another machine: the token and the keys cross the network unencrypted; use https";

fn warn_of_server(reader: &mut Reader, key: &'static keys::Key, server: &Server) {
    if server.sends_in_the_clear() {
        reader.warn_of(key, IN_THE_CLEAR);
    }
    if matches!(server.auth, Auth::Cert(_)) && server.host.scheme() == "http" {
        reader.warn_of(key, "the auth method cert needs https: over http no certificate is shown");
    }
}
