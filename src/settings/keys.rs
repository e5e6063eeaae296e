//! The one table of settings: names, defaults, parsers with their ranges, and help.
//!
//! Loading, `check`, `--help`, the man page, kong.conf.example and the README's table all use it. The settings of the
//! login are in `login`; what the values add up to is in `build`. The file is longer than most: it is one table.

mod login;

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use url::Url;

use super::{
    pem::{self, TrustItem},
    setting::{Content, Key, Parser, Row, Setting},
    value::{self, Audit, CiphertextFormat, KvVersion, LogFormat, LogLevel, SecretPath},
};
use crate::keyring::KeyDerivation;
pub use login::{KEYRING_LOGIN, LoginSettings, Method, REFERENCES_LOGIN};

/// Defines a static for each setting, and the list of them in the order in which people read it.
macro_rules! settings {
    ($list:ident: $($name:ident: $type:ty = $row:expr;)*) => {
        $(pub static $name: Setting<$type> = $row;)*
        static $list: &[&dyn Row] = &[$(&$name),*];
    };
}

settings! { VAULT_ROWS:
    ENABLED: bool = Setting::new("keyring_enabled", "Must be `on`.", value::BOOLEAN).default("off").kong();
    STRATEGY: bool = Setting::new("keyring_strategy",
        "Must be `vault`. Kong's default, cluster, keeps the keys in Kong's database, which keyringd cannot read.",
        Parser::Text { accepts: "vault", convert: |text| Some(text == "vault") })
        .default("cluster").kong().reject_empty();
    VAULT_HOST: Url = Setting::new("keyring_vault_host", "The Vault or OpenBao server.", value::BASE_URL).kong();
    VAULT_MOUNT: SecretPath = Setting::new("keyring_vault_mount", "The mount of the KV secrets engine.",
        value::SECRET_PATH).kong();
    VAULT_PATH: SecretPath = Setting::new("keyring_vault_path",
        "The path of the secret under the mount that holds the keyring's records.", value::SECRET_PATH).kong();
    VAULT_KV: KvVersion = Setting::new("keyring_vault_kv", "The version of the KV secrets engine.",
        value::KV_VERSION).default("v2").reject_empty();
    VAULT_NAMESPACE: String = Setting::new("keyring_vault_namespace", "The namespace of all requests to Vault.",
        value::NAMESPACE);
}

settings! { KEYRING_ROWS:
    SSL_TRUSTED_CERTIFICATE: Vec<TrustItem> = Setting::new("lua_ssl_trusted_certificate",
        "The certificate authorities that may sign the server's certificate.", pem::TRUSTED)
        .default("system").kong();
    SSL_VERIFY_DEPTH: usize = Setting::new("lua_ssl_verify_depth",
        "The most intermediate authorities between the server's certificate and a trusted one.",
        Parser::count(0, 100)).default("1").kong();
    SYNC_INTERVAL: Duration = Setting::new("keyring_sync_interval",
        "The time between two syncs with Vault, each with a jitter of 10 %.", Parser::seconds(1, 86400))
        .default("60");
    MAX_STALE: Duration = Setting::new("keyring_max_stale",
        "The time after the last successful sync until /readyz fails; 0 = never.", Parser::seconds(0, 31_536_000))
        .default("0");
    KEY_DERIVATION: KeyDerivation = Setting::new("keyring_key_derivation",
        "The AES key from a record's key text: its SHA-256, as in Kong, or the 32 bytes of which it is the base64.",
        value::KEY_DERIVATION).default("sha256").reject_empty();
    CIPHERTEXT_FORMAT: CiphertextFormat = Setting::new("keyring_ciphertext_format",
        "What encrypt writes. Use transit with a single writer per key: its nonces allow 2^32 messages by all writers together.",
        value::CIPHERTEXT_FORMAT).default("native").reject_empty();
    KONG_FIELDS: bool = Setting::new("keyring_kong_fields",
        "Also read, and on request write, Kong's encrypted fields, which have no authentication tag.",
        value::BOOLEAN).default("off");
    NAME: String = Setting::new("keyring_name",
        "The key name in /v1/transit/…/{name}; the last segment of the path unless set.", value::KEY_NAME);
}

settings! { REFERENCES_ROWS:
    HCV_PROTOCOL: &'static str = Setting::new("vault_hcv_protocol",
        "For references: the protocol of the server. Without server and login of their own, references use the keyring's session.",
        Parser::Words(&[("http", "http"), ("https", "https")])).default("http").kong().reject_empty();
    HCV_HOST: String = Setting::new("vault_hcv_host", "For references: the server.", value::HOST)
        .default("127.0.0.1").kong();
    HCV_PORT: usize = Setting::new("vault_hcv_port", "For references: the port of the server.", Parser::count(1, 65535))
        .default("8200").kong();
    HCV_MOUNT: SecretPath = Setting::new("vault_hcv_mount",
        "For references: the mount of the KV secrets engine; secret unless set, or keyring_vault_mount with the keyring's session.",
        value::SECRET_PATH).kong();
    HCV_KV: KvVersion = Setting::new("vault_hcv_kv",
        "For references: the version of the engine; v1 unless set, or keyring_vault_kv with the keyring's session.",
        value::KV_VERSION).kong().reject_empty();
    HCV_NAMESPACE: String = Setting::new("vault_hcv_namespace", "For references: the namespace of all requests.",
        value::NAMESPACE).kong();
}

settings! { SOCKET_ROWS:
    HCV_TTL: Duration = Setting::new("vault_hcv_ttl", "For references: cache TTL; 0 = never expires.",
        CACHE_TIME).default("0").kong();
    HCV_NEG_TTL: Duration = Setting::new("vault_hcv_neg_ttl",
        "For references: cache TTL of secrets that do not exist; not cached unless set.", CACHE_TIME).kong();
    HCV_RESURRECT_TTL: Duration = Setting::new("vault_hcv_resurrect_ttl",
        "For references: stale-if-error window after the TTL; unlimited if unset.", CACHE_TIME).kong();
    HCV_DECODE_BASE64: bool = Setting::new("vault_hcv_decode_base64",
        "For references: decode the fields of secrets from base64.", value::BOOLEAN).default("off").kong();
    HCV_PREFIXES: Vec<String> = Setting::new("keyring_hcv_prefixes",
        "For references: other names of the backend hcv, such as the prefix of a Vault entity in Kong.",
        value::PREFIXES);
    SECRET_OBJECTS: () = Setting::new("keyring_secret_objects",
        "For APISIX references: the object of each ID. namespace, mount, kv, ttl, neg_ttl and resurrect_ttl are further fields.",
        Parser::Text {
            accepts: r#"JSON such as {"1": {"uri": "https://vault.example.com:8200", "prefix": "kv/apisix", "token": "$ENV://NAME"}}"#,
            convert: |_| Some(()),
        }).content(Content::Secret);
    SOCKET_PATH: PathBuf = Setting::new("keyring_socket_path", "The Unix socket that applications connect to.",
        value::PATH).default("/run/keyringd/keyringd.sock");
    SOCKET_MODE: u32 = Setting::new("keyring_socket_mode",
        "The mode of the socket. Write permission allows a user to connect.", value::MODE).default("0660");
    SOCKET_GROUP: String = Setting::new("keyring_socket_group", "The group of the socket; the daemon's own unless set.",
        Parser::text("a group that exists on this machine, by name or number"));
    ACCESS: String = Setting::new("keyring_access",
        "Permissions per peer, which the kernel identifies. Unless set, every peer may do all but resolve references.",
        Parser::text("a list of user:, uid:, group: or gid: entries, each with = and operations or all, \
            such as user:kong=all, group:apps=encrypt+decrypt")).reject_empty();
    METRICS_LISTEN: SocketAddr = Setting::new("keyring_metrics_listen",
        "The TCP address of /metrics, /livez and /readyz, in addition to the socket.", value::LOOPBACK_ADDRESS);
    REQUIRE_MEMORY_LOCK: bool = Setting::new("keyring_require_memory_lock",
        "Refuse to start if memory cannot be locked and could be swapped out.", value::BOOLEAN).default("off");
    MAX_REQUEST_SIZE: usize = Setting::new("keyring_max_request_size", "The largest body of one request.",
        SIZE).default("32m");
    MAX_INFLIGHT_SIZE: usize = Setting::new("keyring_max_inflight_size",
        "The most bytes of all requests in progress; more are answered with 429 and Retry-After.", SIZE).default("256m");
    MAX_CONNECTIONS: usize = Setting::new("keyring_max_connections",
        "The most connections at the same time; further clients wait.", Parser::count(1, 1_000_000)).default("1024");
    MAX_BATCH: usize = Setting::new("keyring_max_batch", "The most items in one batch.",
        Parser::count(1, 1_000_000)).default("10000");
    LOG_LEVEL: LogLevel = Setting::new("log_level",
        "The least severe messages in the log. Kong does not accept trace.", value::LOG_LEVEL)
        .default("notice").kong().reject_empty();
    LOG_FORMAT: LogFormat = Setting::new("keyring_log_format", "The format of the log on standard error.",
        value::LOG_FORMAT).default("text").reject_empty();
    AUDIT: Audit = Setting::new("keyring_audit",
        "Which requests are logged, with peer, operation and outcome.", value::AUDIT)
        .default("failures").reject_empty();
}

/// Up to about three years.
pub(super) const CACHE_TIME: Parser<Duration> = Parser::seconds(0, 100_000_000);

const SIZE: Parser<usize> = Parser::size(1 << 10, 1 << 30);

/// Settings of Kong's cluster strategy, which a kong.conf may have and keyringd does not use.
pub(super) static CLUSTER_STRATEGY: &[&str] = &[
    "keyring_blob_path",
    "keyring_encrypt_license",
    "keyring_private_key",
    "keyring_public_key",
    "keyring_recovery_public_key",
];

/// Every setting, in the order in which people read them.
pub fn all() -> impl Iterator<Item = &'static dyn Row> {
    let rows = |rows: &'static [&'static dyn Row]| rows.iter().copied();
    rows(VAULT_ROWS)
        .chain(KEYRING_LOGIN.rows())
        .chain(rows(KEYRING_ROWS))
        .chain(rows(REFERENCES_ROWS))
        .chain(REFERENCES_LOGIN.rows())
        .chain(rows(SOCKET_ROWS))
}

pub(super) fn find(name: &str) -> Option<&'static Key> {
    all().map(Row::key).find(|key| key.name == name || key.alias == Some(name))
}

/// The text of kong.conf.example.
pub fn example() -> String {
    let mut text = String::from(
        "# The settings of keyringd, in the grammar of kong.conf.\n\
         # A line that is commented out shows the default, or has no value where there is none. The variable KONG_<KEY>\n\
         # overrides a line. Write a # inside a value as \\#. {vault://env/NAME} is replaced by the variable NAME, and\n\
         # {vault://env/NAME/FIELD} by a text field of the JSON object in that variable.\n",
    );
    for row in all() {
        let Key { name, default, about, .. } = row.key();
        let line = EXAMPLES.iter().find(|(setting, _)| setting == name).map_or_else(
            || format!("#{}", format!("{name} = {}", default.unwrap_or_default()).trim_end()),
            |(name, value)| format!("{name} = {value}"),
        );
        let _ = write!(text, "\n# {about}\n# Accepts {}.\n{line}\n", row.accepts());
    }
    text
}

/// The settings that the example sets, since they have no default that works.
const EXAMPLES: [(&str, &str); 5] = [
    ("keyring_enabled", "on"),
    ("keyring_strategy", "vault"),
    ("keyring_vault_host", "https://vault.example.com:8200"),
    ("keyring_vault_mount", "secret"),
    ("keyring_vault_path", "keyring"),
];

/// The settings table of the README, in Markdown.
pub fn table() -> String {
    let mut text = String::from("| key | default | accepts | meaning |\n|---|---|---|---|\n");
    for row in all() {
        let Key { name, default, about, .. } = row.key();
        let default = default.map_or_else(|| "unset".to_owned(), |default| format!("`{default}`"));
        let _ = writeln!(text, "| `{name}` | {default} | {} | {about} |", row.accepts());
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_unique_and_written_as_kong_writes_them() {
        let mut names: Vec<_> = all().map(|row| row.key().name).collect();
        let count = names.len();
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(names.iter().all(|name| name.bytes().all(is_plain)));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_default_is_accepted_by_its_own_parser() {
        for row in all() {
            let Key { name, default, .. } = row.key();
            assert!(default.is_none_or(|text| row.is_valid(text)), "{name}");
        }
    }

    #[test]
    fn the_example_is_this_table() {
        expect_test::expect_file!["../../kong.conf.example"].assert_eq(&example());
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            for row in all() {
                row.is_valid(&text);
            }
        }
    }
}
