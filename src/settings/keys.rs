//! The one table of settings: names, defaults, parsers with their ranges, and help.
//!
//! Loading, `check`, `--help`, the man page, kong.conf.example and the table of docs/settings.md all use it. The file is
//! longer than most: it is one table.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use url::Url;

use super::{
    pem::{self, TrustItem},
    reference::MAX_SECONDS,
    setting::{Content, Key, Parser, Row, Setting},
    value::{self, Audit, CiphertextFormat, InflightSize, KeyringPath, KvVersion, SecretPath},
};
use crate::{
    keyring::{KeyDerivation, KeyId},
    logging::{Level, LineFormat},
};

/// How to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Token,
    Kubernetes,
    AppRole,
    Cert,
    Jwt,
}

const METHOD: Parser<Method> = Parser::Words(&[
    ("token", Method::Token),
    ("kubernetes", Method::Kubernetes),
    ("approle", Method::AppRole),
    ("cert", Method::Cert),
    ("jwt", Method::Jwt),
    ("oauth2", Method::Jwt),
]);

/// Where an OAuth 2.0 client sends its secret (RFC 6749, 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStyle {
    /// In the body.
    Post,
    /// HTTP Basic.
    Basic,
}

const AUTH_STYLE: Parser<AuthStyle> =
    Parser::Words(&[("post", AuthStyle::Post), ("basic", AuthStyle::Basic)]);

/// Defines a static for each setting, and the list of them in the order in which people read it. A row is
/// `name: type [flags] = key, about, parser`.
macro_rules! settings {
    ($list:ident: $($name:ident: $type:ty $([$($flag:ident: $value:expr),*])? =
        $key:literal, $about:literal, $parser:expr;)*) => {
        $(pub static $name: Setting<$type> = Setting {
            key: Key { $($($flag: $value,)*)? ..Key::new($key, $about) },
            parser: $parser,
        };)*
        static $list: &[&dyn Row] = &[$(&$name),*];
    };
}

settings! { VAULT_ROWS:
    ENABLED: bool [default: Some("off"), kongs: true] = "keyring_enabled",
        "Must be `on`. `off` serves references only, if vault_hcv_host or keyring_secret_objects names a Vault for them.",
        value::BOOLEAN;
    STRATEGY: bool [default: Some("cluster"), kongs: true, rejects_empty: true] = "keyring_strategy",
        "Must be `vault`. Kong's default, cluster, keeps the keys in Kong's database, which keyringd cannot read.",
        Parser::Text { accepts: "vault", convert: |text| Some(text == "vault") };
    VAULT_HOST: Url [kongs: true] = "keyring_vault_host", "The Vault or OpenBao server.", value::BASE_URL;
    VAULT_MOUNT: SecretPath [kongs: true] = "keyring_vault_mount", "The mount of the KV secrets engine.",
        value::SECRET_PATH;
    VAULT_PATH: SecretPath [kongs: true] = "keyring_vault_path",
        "The path of the secret under the mount that holds the records of the default keyring.", value::SECRET_PATH;
    VAULT_PATHS: Vec<KeyringPath> = "keyring_vault_paths",
        "Further keyrings under the mount: the path of a secret, which gives its last segment as the name, name=path, or \
        folder/ for every secret directly below.", value::KEYRING_PATHS;
    VAULT_KV: KvVersion [default: Some("v2"), rejects_empty: true] = "keyring_vault_kv",
        "The version of the KV secrets engine.", value::KV_VERSION;
    VAULT_NAMESPACE: String = "keyring_vault_namespace", "The namespace of all requests to Vault.", value::NAMESPACE;
}

settings! { KEYRING_ROWS:
    SSL_TRUSTED_CERTIFICATE: Vec<TrustItem> [default: Some("system"), kongs: true] = "lua_ssl_trusted_certificate",
        "The certificate authorities that may sign the server's certificate.", pem::TRUSTED;
    SSL_VERIFY_DEPTH: usize [default: Some("1"), kongs: true] = "lua_ssl_verify_depth",
        "The most intermediate authorities between the server's certificate and a trusted one.", Parser::count(0, 100);
    SYNC_INTERVAL: Duration [default: Some("60")] = "keyring_sync_interval",
        "The time between two syncs with Vault, each with a jitter of 10 %.", Parser::seconds(1, 86400);
    MAX_STALE: Duration [default: Some("0")] = "keyring_max_stale",
        "The time after the last successful sync until /readyz fails; 0 = never.", Parser::seconds(0, 31_536_000);
    CACHE_PATH: PathBuf [at_start: true] = "keyring_cache_path",
        "A file for a sealed copy of the keys, for a start while Vault is away. Its folder must be the daemon's own, with mode 0700.",
        value::ABSOLUTE_PATH;
    CACHE_KEY: () [content: Content::Secret, at_start: true] = "keyring_cache_key",
        "The key of that copy: only a systemd credential, or a file on another file system, never text.", value::BASE64_KEY;
    CACHE_MAX_AGE: Duration [default: Some("604800"), at_start: true] = "keyring_cache_max_age",
        "The age from which a copy is not used; 0 = no copy, and the file is deleted at the start.", Parser::seconds(0, 31_536_000);
    CACHE_WAIT: Duration [default: Some("2"), at_start: true] = "keyring_cache_wait",
        "How long Vault may take to answer at the start before the copy is used.", Parser::seconds(0, 60);
    KEY_DERIVATION: KeyDerivation [default: Some("sha256"), rejects_empty: true] = "keyring_key_derivation",
        "The AES key from a record's key text: its SHA-256, as in Kong, or the 32 bytes of which it is the base64.",
        Parser::Words(&[("sha256", KeyDerivation::Sha256), ("raw", KeyDerivation::Raw)]);
    CIPHERTEXT_FORMAT: CiphertextFormat [default: Some("native"), rejects_empty: true] = "keyring_ciphertext_format",
        "What encrypt writes. Use transit with a single writer per key: its nonces allow 2^32 messages by all writers together.",
        Parser::Words(&[("native", CiphertextFormat::Native), ("transit", CiphertextFormat::Transit)]);
    KONG_FIELDS: bool [default: Some("off")] = "keyring_kong_fields",
        "Also read, and on request write, Kong's encrypted fields, which have no authentication tag.", value::BOOLEAN;
    NAME: String = "keyring_name", "The key name in /v1/transit/…/{name}; the last segment of the path unless set.",
        value::KEY_NAME;
    INDEX_KEY: KeyId = "keyring_index_key",
        "The record whose key makes blind indexes, by its id, unless the secret's custom_metadata names one as \
        keyringd_index_key.", value::KEY_ID;
    KMS_NAME: String = "keyring_kms_name", "The keyring that encrypts for Kubernetes; the default one unless set.",
        value::KEY_NAME;
}

settings! { REFERENCES_ROWS:
    HCV_PROTOCOL: &'static str [default: Some("http"), kongs: true, rejects_empty: true] = "vault_hcv_protocol",
        "For references: the protocol of the server. Without server and login of their own, references use the keyring's session.",
        Parser::Words(&[("http", "http"), ("https", "https")]);
    HCV_HOST: String [default: Some("127.0.0.1"), kongs: true] = "vault_hcv_host", "For references: the server.",
        value::HOST;
    HCV_PORT: usize [default: Some("8200"), kongs: true] = "vault_hcv_port", "For references: the port of the server.",
        Parser::count(1, 65535);
    HCV_MOUNT: SecretPath [kongs: true] = "vault_hcv_mount",
        "For references: the mount of the KV secrets engine; secret unless set, or keyring_vault_mount with the keyring's session.",
        value::SECRET_PATH;
    HCV_KV: KvVersion [kongs: true, rejects_empty: true] = "vault_hcv_kv",
        "For references: the version of the engine; v1 unless set, or keyring_vault_kv with the keyring's session.",
        value::KV_VERSION;
    HCV_NAMESPACE: String [kongs: true] = "vault_hcv_namespace", "For references: the namespace of all requests.",
        value::NAMESPACE;
}

settings! { SOCKET_ROWS:
    HCV_TTL: Duration [default: Some("0"), kongs: true] = "vault_hcv_ttl",
        "For references: cache TTL; 0 = never expires.", CACHE_TIME;
    HCV_NEG_TTL: Duration [kongs: true] = "vault_hcv_neg_ttl",
        "For references: cache TTL of secrets that do not exist; not cached unless set.", CACHE_TIME;
    HCV_RESURRECT_TTL: Duration [kongs: true] = "vault_hcv_resurrect_ttl",
        "For references: stale-if-error window after the TTL; unlimited if unset.", CACHE_TIME;
    HCV_DECODE_BASE64: bool [default: Some("off"), kongs: true] = "vault_hcv_decode_base64",
        "For references: decode the fields of secrets from base64.", value::BOOLEAN;
    ENV_PREFIX: String [kongs: true] = "vault_env_prefix",
        "For references to the env backend: what the name of each variable begins with.", value::ENV_PREFIX;
    ENV_DECODE_BASE64: bool [default: Some("off"), kongs: true] = "vault_env_decode_base64",
        "For references to the env backend: decode the variables from base64.", value::BOOLEAN;
    HCV_PREFIXES: Vec<String> = "keyring_hcv_prefixes",
        "For references: other names of the backend hcv, such as the prefix of a Vault entity in Kong.",
        value::PREFIXES;
    SECRET_OBJECTS: () [content: Content::Secret] = "keyring_secret_objects",
        "For references: APISIX's objects by ID, and further Vault entities of Kong by name, with kind hcv or as exported.",
        Parser::Text {
            accepts: r#"JSON such as {"1": {"uri": "https://vault.example.com:8200", "prefix": "kv/apisix", "token": "$ENV://NAME"}}, or a file of JSON or YAML"#,
            convert: |_| Some(()),
        };
    SOCKET_PATH: PathBuf [default: Some("/run/keyringd/keyringd.sock"), at_start: true] = "keyring_socket_path",
        "The Unix socket that applications connect to.", value::SOCKET_PATH;
    SOCKET_MODE: u32 [default: Some("0660"), at_start: true] = "keyring_socket_mode",
        "The mode of the socket. Write permission allows a user to connect.", value::MODE;
    SOCKET_GROUP: String [at_start: true] = "keyring_socket_group", "The group of the socket; the daemon's own unless set.",
        Parser::text("a group that exists on this machine, by name or number");
    ACCESS: String [rejects_empty: true] = "keyring_access",
        "Permissions per peer, which the kernel identifies. Unless set, every peer may do all but resolve references.",
        Parser::text("a list of user:, uid:, group: or gid: entries, each with = and operations or all, \
            such as user:kong=all, group:apps=encrypt+decrypt");
    METRICS_LISTEN: SocketAddr [at_start: true] = "keyring_metrics_listen",
        "The TCP address of /metrics, /livez and /readyz, in addition to the socket.", value::LISTEN_ADDRESS;
    METRICS_TLS_CERT: () [content: Content::Pem, at_start: true] = "keyring_metrics_tls_cert",
        "The certificate of keyring_metrics_listen with its intermediates; a file is read again when it changes.",
        pem::CERTIFICATES;
    METRICS_TLS_KEY: () [content: Content::Pem, at_start: true] = "keyring_metrics_tls_key", "The private key of that certificate.",
        pem::PRIVATE_KEY;
    METRICS_TLS_CLIENT_CA: () [content: Content::Pem, at_start: true] = "keyring_metrics_tls_client_ca",
        "The authorities of client certificates, which keyring_metrics_listen then requires.", pem::CERTIFICATES;
    METRICS_PUBLIC: bool [default: Some("off"), at_start: true] = "keyring_metrics_public",
        "Allow keyring_metrics_listen to be no loopback address without TLS.", value::BOOLEAN;
    TRANSIT_MOUNTS: Vec<String> [default: Some("transit"), rejects_empty: true] = "keyring_transit_mounts",
        "The mounts below which /v1/<mount>/… serves Transit's API.", value::TRANSIT_MOUNTS;
    REQUIRE_MEMORY_LOCK: bool [default: Some("off"), at_start: true] = "keyring_require_memory_lock",
        "Refuse to start if memory cannot be locked and could be swapped out.", value::BOOLEAN;
    MAX_REQUEST_SIZE: usize [default: Some("32m")] = "keyring_max_request_size", "The largest body of one request.",
        SIZE;
    MAX_INFLIGHT_SIZE: InflightSize [default: Some("auto")] = "keyring_max_inflight_size",
        "The most memory of all requests in progress; more are answered with 429 and Retry-After. `auto` is 256m, or a \
        quarter of the process's memory limit if that is less.", value::INFLIGHT_SIZE;
    MAX_CONNECTIONS: usize [default: Some("1024")] = "keyring_max_connections",
        "The most connections at the same time; further clients wait.", Parser::count(1, 1_000_000);
    MAX_BATCH: usize [default: Some("10000")] = "keyring_max_batch", "The most items in one batch.",
        Parser::count(1, 1_000_000);
    LOG_LEVEL: Level [default: Some("notice"), kongs: true, rejects_empty: true] = "log_level",
        "The least severe messages in the log. Kong does not accept trace.", value::LOG_LEVEL;
    LOG_FORMAT: LineFormat [default: Some("text"), rejects_empty: true] = "keyring_log_format",
        "The format of the log on standard error.",
        Parser::Words(&[("text", LineFormat::Text), ("json", LineFormat::Json)]);
    AUDIT: Audit [default: Some("failures"), rejects_empty: true] = "keyring_audit",
        "Which requests are logged, with peer, operation and outcome.",
        Parser::Words(&[("off", Audit::Off), ("failures", Audit::Failures), ("all", Audit::All)]);
}

/// Defines [`LoginSettings`] and its two values. A row is `field | alias: type [flags] = about, parser`; a setting is
/// called like its field, behind the prefix.
macro_rules! login_settings {
    ($($field:ident $(| $alias:ident)?: $type:ty $([$($flag:ident: $value:expr),*])? =
        $about:literal, $parser:expr;)*) => {
        /// The settings of one login.
        #[derive(Debug)]
        pub struct LoginSettings {
            /// The start of each name.
            pub prefix: &'static str,
            $(pub $field: Setting<$type>,)*
        }

        impl LoginSettings {
            pub fn rows(&'static self) -> impl Iterator<Item = &'static dyn Row> {
                [$(&self.$field as &dyn Row),*].into_iter()
            }
        }

        pub static KEYRING_LOGIN: LoginSettings = LoginSettings {
            prefix: "keyring_vault_",
            $($field: Setting {
                key: Key {
                    $(alias: Some(concat!("keyring_vault_", stringify!($alias))),)?
                    $($($flag: $value,)*)?
                    ..Key::new(concat!("keyring_vault_", stringify!($field)), $about)
                },
                parser: $parser,
            },)*
        };

        pub static REFERENCES_LOGIN: LoginSettings = LoginSettings {
            prefix: "vault_hcv_",
            $($field: Setting {
                key: Key {
                    name: concat!("vault_hcv_", stringify!($field)),
                    $(alias: Some(concat!("vault_hcv_", stringify!($alias))),)?
                    about: concat!("For references: as keyring_vault_", stringify!($field), "."),
                    kongs: true,
                    ..KEYRING_LOGIN.$field.key
                },
                parser: $parser,
            },)*
        };
    };
}

login_settings! {
    auth_method: Method [default: Some("token"), kongs: true, rejects_empty: true] =
        "The method to log in with; oauth2 is another name for jwt.", METHOD;
    token: () [content: Content::Secret, kongs: true] = "For token: the token.", value::TOKEN;
    kube_role: String [default: Some("default"), kongs: true] = "For kubernetes: the role to log in to.",
        Parser::text("a role in Vault");
    kube_api_token_file: PathBuf [default: Some("/run/secrets/kubernetes.io/serviceaccount/token"), kongs: true] =
        "For kubernetes: the file with the service account's token, read at each login.", value::PATH;
    kube_auth_path: SecretPath [default: Some("kubernetes")] = "For kubernetes: the mount of the auth method.",
        value::SECRET_PATH;
    approle_auth_path: SecretPath [default: Some("approle")] = "For approle: the mount of the auth method.",
        value::SECRET_PATH;
    approle_role_id: String = "For approle: the role ID.", Parser::text("a role ID");
    approle_secret_id: () [content: Content::Secret] = "For approle: the secret ID, or the token that wraps it.",
        value::SECRET_ID;
    approle_secret_id_file: PathBuf = "For approle: a file with the secret ID instead, read at each login.",
        value::PATH;
    approle_response_wrapping: bool [default: Some("off")] =
        "For approle: the secret ID is response-wrapped and is unwrapped once.", value::BOOLEAN;
    cert_auth_path: SecretPath [default: Some("cert")] = "For cert: the mount of the auth method.", value::SECRET_PATH;
    cert_auth_cert: () [content: Content::Pem] =
        "The client certificate with its intermediates, for cert and for listeners that require one; a file is read at each login.", pem::CERTIFICATES;
    cert_auth_cert_key: () [content: Content::Pem] = "The private key of the certificate.", pem::PRIVATE_KEY;
    cert_auth_role_name: String = "For cert: the role to log in to; any role that matches unless set.",
        Parser::text("a role in Vault");
    jwt_auth_path: SecretPath [default: Some("jwt")] = "For jwt: the mount of the auth method.", value::SECRET_PATH;
    jwt_role | oauth2_role_name: String = "For jwt: the role to log in to; the default role of the mount unless set.",
        Parser::text("a role in Vault");
    jwt_file: PathBuf = "For jwt: a file with the JWT, read at each login.", value::PATH;
    oauth2_token_endpoint: Url = "For jwt: the OAuth 2.0 token endpoint that issues the JWT instead.",
        value::ENDPOINT_URL;
    oauth2_client_id: String = "For jwt: the client ID at that endpoint.", Parser::text("a client ID");
    oauth2_client_secret: () [content: Content::Secret] = "For jwt: the client secret at that endpoint.",
        Parser::Text { accepts: "a client secret", convert: |_| Some(()) };
    oauth2_audiences: Vec<String> = "For jwt: the audiences to request.", value::LIST;
    oauth2_scopes: Vec<String> = "For jwt: the scopes to request.", value::LIST;
    oauth2_auth_style: AuthStyle [default: Some("post"), rejects_empty: true] =
        "For jwt: where that endpoint gets the client secret: in the body, or as HTTP Basic.", AUTH_STYLE;
}

pub(super) const CACHE_TIME: Parser<Duration> = Parser::seconds(0, MAX_SECONDS);

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

/// The table of docs/settings.md.
pub fn table() -> String {
    let mut text = String::from("| key | default | accepts | meaning |\n|---|---|---|---|\n");
    for row in all() {
        let Key { name, default, about, .. } = row.key();
        let default = default.map_or_else(|| "unset".to_owned(), |default| format!("`{default}`"));
        // A browser would take <host> for a tag.
        let [accepts, about] = [row.accepts(), (*about).to_owned()].map(|text| text.replace('<', "\\<"));
        let _ = writeln!(text, "| `{name}` | {default} | {accepts} | {about} |");
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
