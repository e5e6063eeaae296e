//! The one table of keys: names, defaults, what is accepted, what it is for.
//!
//! Loading, `check`, `--help`, the man page, kong.conf.example and the README's table all come from here. How a value is
//! read is in `value`, what the values add up to in `whole`. The file is longer than most: it is one table.

use std::fmt::Write as _;

/// A setting, as kong.conf names it.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub default: Option<&'static str>,
    /// What is accepted, for people.
    pub accepts: &'static str,
    /// One sentence, for people.
    pub about: &'static str,
    /// Another name for the same key.
    pub alias: Option<&'static str>,
    /// One of some words: set to nothing is a mistake, and not the default.
    pub word: bool,
    pub secret: bool,
    /// Kong reads this key too, by its own rules.
    pub kongs: bool,
}

impl Key {
    const fn new(
        name: &'static str,
        default: Option<&'static str>,
        accepts: &'static str,
        about: &'static str,
    ) -> Self {
        Self { name, default, accepts, about, alias: None, word: false, secret: false, kongs: false }
    }

    const fn kong(mut self) -> Self {
        self.kongs = true;
        self
    }

    const fn alias(mut self, alias: &'static str) -> Self {
        self.alias = Some(alias);
        self
    }

    const fn word(mut self) -> Self {
        self.word = true;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// The variable that sets this key.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_ascii_uppercase())
    }
}

pub const VARIABLE_PREFIX: &str = "KONG_";

/// Defines a constant for each key and `ALL` of them, so that code names a key by a path the compiler knows.
macro_rules! keys {
    ($($constant:ident = $key:expr;)*) => {
        $(pub static $constant: Key = $key;)*
        /// Every key, in the order in which people read them.
        pub static ALL: &[&Key] = &[$(&$constant),*];
    };
}

keys! {
    ENABLED = Key::new("keyring_enabled", Some("off"), "on or off",
        "keyringd does not serve a keyring that Kong's settings switch off.").kong();
    STRATEGY = Key::new("keyring_strategy", Some("cluster"), "vault",
        "Kong's own default, cluster, keeps the keys in Kong's database, where keyringd has no part.").kong().word();
    VAULT_HOST = Key::new("keyring_vault_host", None, "<scheme>://<host>:<port>",
        "The Vault or OpenBao server.").kong();
    VAULT_MOUNT = Key::new("keyring_vault_mount", None, "a path",
        "Where the KV secrets engine is mounted.").kong();
    VAULT_PATH = Key::new("keyring_vault_path", None, "a path",
        "The secret under the mount that holds the keyring's records.").kong();
    VAULT_KV = Key::new("keyring_vault_kv", Some("v2"), "v1 or v2",
        "The version of the KV secrets engine.").word();
    VAULT_NAMESPACE = Key::new("keyring_vault_namespace", None, "a namespace",
        "The namespace of everything that is asked of Vault.");
    VAULT_AUTH_METHOD = Key::new("keyring_vault_auth_method", Some("token"),
        "token, kubernetes, approle, cert, jwt, or oauth2, which is jwt", "How to log in.").kong().word();
    VAULT_TOKEN = Key::new("keyring_vault_token", None, "a token",
        "For token: the token.").kong().secret();
    VAULT_KUBE_ROLE = Key::new("keyring_vault_kube_role", Some("default"), "a role of Vault's",
        "For kubernetes: the role to log in to.").kong();
    VAULT_KUBE_API_TOKEN_FILE = Key::new("keyring_vault_kube_api_token_file",
        Some("/run/secrets/kubernetes.io/serviceaccount/token"), "a path",
        "For kubernetes: the service account's token, read at each login.").kong();
    VAULT_KUBE_AUTH_PATH = Key::new("keyring_vault_kube_auth_path", Some("kubernetes"), "a path",
        "For kubernetes: where the auth method is mounted.");
    VAULT_APPROLE_AUTH_PATH = Key::new("keyring_vault_approle_auth_path", Some("approle"), "a path",
        "For approle: where the auth method is mounted.");
    VAULT_APPROLE_ROLE_ID = Key::new("keyring_vault_approle_role_id", None, "a role ID",
        "For approle: the role's ID.");
    VAULT_APPROLE_SECRET_ID = Key::new("keyring_vault_approle_secret_id", None, "a secret ID",
        "For approle: the secret ID, or the token that it is wrapped in.").secret();
    VAULT_APPROLE_SECRET_ID_FILE = Key::new("keyring_vault_approle_secret_id_file", None, "a path",
        "For approle: a file that holds it instead, read at each login.");
    VAULT_APPROLE_RESPONSE_WRAPPING = Key::new("keyring_vault_approle_response_wrapping", Some("off"), "on or off",
        "For approle: the secret ID is response-wrapped, to be opened once.");
    VAULT_CERT_AUTH_PATH = Key::new("keyring_vault_cert_auth_path", Some("cert"), "a path",
        "For cert: where the auth method is mounted.");
    VAULT_CERT_AUTH_CERT = Key::new("keyring_vault_cert_auth_cert", None, "a path, PEM text, or base64 of PEM",
        "For cert: the client certificate, with its intermediates; a file is read at each login.").secret();
    VAULT_CERT_AUTH_CERT_KEY = Key::new("keyring_vault_cert_auth_cert_key", None, "a path, PEM text, or base64 of PEM",
        "For cert: its private key.").secret();
    VAULT_CERT_AUTH_ROLE_NAME = Key::new("keyring_vault_cert_auth_role_name", None, "a role of Vault's",
        "For cert: the role to log in to; any that fits unless set.");
    VAULT_JWT_AUTH_PATH = Key::new("keyring_vault_jwt_auth_path", Some("jwt"), "a path",
        "For jwt: where the auth method is mounted.");
    VAULT_JWT_ROLE = Key::new("keyring_vault_jwt_role", None, "a role of Vault's",
        "For jwt: the role to log in to; the method's default unless set.").alias("keyring_vault_oauth2_role_name");
    VAULT_JWT_FILE = Key::new("keyring_vault_jwt_file", None, "a path",
        "For jwt: a file that holds the JWT, read at each login.");
    VAULT_OAUTH2_TOKEN_ENDPOINT = Key::new("keyring_vault_oauth2_token_endpoint", None, "a URL",
        "For jwt: the endpoint that grants the JWT to a client instead.");
    VAULT_OAUTH2_CLIENT_ID = Key::new("keyring_vault_oauth2_client_id", None, "a client ID",
        "For jwt: the client's ID at that endpoint.");
    VAULT_OAUTH2_CLIENT_SECRET = Key::new("keyring_vault_oauth2_client_secret", None, "a client secret",
        "For jwt: the client's secret at that endpoint.").secret();
    VAULT_OAUTH2_AUDIENCES = Key::new("keyring_vault_oauth2_audiences", None, "a list",
        "For jwt: the audiences to ask for.");
    SSL_TRUSTED_CERTIFICATE = Key::new("lua_ssl_trusted_certificate", Some("system"),
        "a list of system, a path, PEM text, or base64 of PEM",
        "The certificate authorities that may vouch for the server.").kong();
    SSL_VERIFY_DEPTH = Key::new("lua_ssl_verify_depth", Some("1"), "0 to 100",
        "How many intermediate authorities may stand between the server's certificate and one of those.").kong();
    SYNC_INTERVAL = Key::new("keyring_sync_interval", Some("60"), "seconds, 1 to 86400",
        "How often Vault is asked for changes, give or take a tenth.");
    MAX_STALE = Key::new("keyring_max_stale", Some("0"), "seconds, 0 to 31536000",
        "How long after the last good sync /readyz fails; 0 for never.");
    KEY_DERIVATION = Key::new("keyring_key_derivation", Some("sha256"), "sha256 or raw",
        "The AES key from a record's key text: its SHA-256, as in Kong, or the 32 bytes it is the base64 of.").word();
    CIPHERTEXT_FORMAT = Key::new("keyring_ciphertext_format", Some("native"), "native or transit",
        "What encrypt writes. transit is for a single writer a key: its nonces allow 2^32 messages by everybody together.").word();
    KONG_FIELDS = Key::new("keyring_kong_fields", Some("off"), "on or off",
        "Also read, and on request write, Kong's own encrypted fields, which nothing authenticates.");
    NAME = Key::new("keyring_name", None, "letters, digits and _ . -",
        "The key name in /v1/transit/…/{name}; the last segment of the path unless set.");
    HCV_PROTOCOL = Key::new("vault_hcv_protocol", Some("http"), "http or https",
        "For references: how the server is spoken to. Without any of these settings the keyring's own session serves.").kong().word();
    HCV_HOST = Key::new("vault_hcv_host", Some("127.0.0.1"), "a host name or an address",
        "For references: the server.").kong();
    HCV_PORT = Key::new("vault_hcv_port", Some("8200"), "1 to 65535",
        "For references: its port.").kong();
    HCV_MOUNT = Key::new("vault_hcv_mount", None, "a path",
        "For references: where the KV secrets engine is mounted; secret unless set, or keyring_vault_mount where the keyring's session serves.").kong();
    HCV_KV = Key::new("vault_hcv_kv", None, "v1 or v2",
        "For references: its version; v1 unless set, or keyring_vault_kv where the keyring's session serves.").kong().word();
    HCV_NAMESPACE = Key::new("vault_hcv_namespace", None, "a namespace",
        "For references: the namespace of everything that is asked.").kong();
    HCV_AUTH_METHOD = Key::new("vault_hcv_auth_method", Some("token"),
        "token, kubernetes, approle, cert, jwt, or oauth2, which is jwt", "For references: how to log in.").kong().word();
    HCV_TOKEN = Key::new("vault_hcv_token", None, "a token", "As keyring_vault_token.").kong().secret();
    HCV_KUBE_ROLE = Key::new("vault_hcv_kube_role", Some("default"), "a role of Vault's",
        "As keyring_vault_kube_role.").kong();
    HCV_KUBE_API_TOKEN_FILE = Key::new("vault_hcv_kube_api_token_file",
        Some("/run/secrets/kubernetes.io/serviceaccount/token"), "a path",
        "As keyring_vault_kube_api_token_file.").kong();
    HCV_KUBE_AUTH_PATH = Key::new("vault_hcv_kube_auth_path", Some("kubernetes"), "a path",
        "As keyring_vault_kube_auth_path.").kong();
    HCV_APPROLE_AUTH_PATH = Key::new("vault_hcv_approle_auth_path", Some("approle"), "a path",
        "As keyring_vault_approle_auth_path.").kong();
    HCV_APPROLE_ROLE_ID = Key::new("vault_hcv_approle_role_id", None, "a role ID",
        "As keyring_vault_approle_role_id.").kong();
    HCV_APPROLE_SECRET_ID = Key::new("vault_hcv_approle_secret_id", None, "a secret ID",
        "As keyring_vault_approle_secret_id.").kong().secret();
    HCV_APPROLE_SECRET_ID_FILE = Key::new("vault_hcv_approle_secret_id_file", None, "a path",
        "As keyring_vault_approle_secret_id_file.").kong();
    HCV_APPROLE_RESPONSE_WRAPPING = Key::new("vault_hcv_approle_response_wrapping", Some("off"), "on or off",
        "As keyring_vault_approle_response_wrapping.").kong();
    HCV_CERT_AUTH_PATH = Key::new("vault_hcv_cert_auth_path", Some("cert"), "a path",
        "As keyring_vault_cert_auth_path.").kong();
    HCV_CERT_AUTH_CERT = Key::new("vault_hcv_cert_auth_cert", None, "a path, PEM text, or base64 of PEM",
        "As keyring_vault_cert_auth_cert.").kong().secret();
    HCV_CERT_AUTH_CERT_KEY = Key::new("vault_hcv_cert_auth_cert_key", None, "a path, PEM text, or base64 of PEM",
        "As keyring_vault_cert_auth_cert_key.").kong().secret();
    HCV_CERT_AUTH_ROLE_NAME = Key::new("vault_hcv_cert_auth_role_name", None, "a role of Vault's",
        "As keyring_vault_cert_auth_role_name.").kong();
    HCV_JWT_AUTH_PATH = Key::new("vault_hcv_jwt_auth_path", Some("jwt"), "a path",
        "As keyring_vault_jwt_auth_path.").kong();
    HCV_JWT_ROLE = Key::new("vault_hcv_jwt_role", None, "a role of Vault's",
        "As keyring_vault_jwt_role.").alias("vault_hcv_oauth2_role_name").kong();
    HCV_JWT_FILE = Key::new("vault_hcv_jwt_file", None, "a path", "As keyring_vault_jwt_file.").kong();
    HCV_OAUTH2_TOKEN_ENDPOINT = Key::new("vault_hcv_oauth2_token_endpoint", None, "a URL",
        "As keyring_vault_oauth2_token_endpoint.").kong();
    HCV_OAUTH2_CLIENT_ID = Key::new("vault_hcv_oauth2_client_id", None, "a client ID",
        "As keyring_vault_oauth2_client_id.").kong();
    HCV_OAUTH2_CLIENT_SECRET = Key::new("vault_hcv_oauth2_client_secret", None, "a client secret",
        "As keyring_vault_oauth2_client_secret.").kong().secret();
    HCV_OAUTH2_AUDIENCES = Key::new("vault_hcv_oauth2_audiences", None, "a list",
        "As keyring_vault_oauth2_audiences.").kong();
    HCV_TTL = Key::new("vault_hcv_ttl", Some("0"), "seconds",
        "For references: how long a secret is kept before it is read anew; 0 for good.").kong();
    HCV_NEG_TTL = Key::new("vault_hcv_neg_ttl", None, "seconds",
        "For references: how long it is remembered that there is no such secret; not at all unless set.").kong();
    HCV_RESURRECT_TTL = Key::new("vault_hcv_resurrect_ttl", None, "seconds",
        "For references: how long beyond its ttl a secret serves while it cannot be read; without an end unless set.").kong();
    HCV_DECODE_BASE64 = Key::new("vault_hcv_decode_base64", Some("off"), "on or off",
        "For references: the fields of secrets are the base64 of what they stand for.").kong();
    HCV_PREFIXES = Key::new("keyring_hcv_prefixes", None, "a list of names",
        "For references: further names for hcv, such as the prefix of a Vault entity of Kong's.");
    SECRET_OBJECTS = Key::new("keyring_secret_objects", None, "JSON: an object of APISIX's by each ID",
        "For references of APISIX's: what each ID stands for.").secret();
    SOCKET_PATH = Key::new("keyring_socket_path", Some("/run/keyringd/keyringd.sock"), "a path",
        "The Unix socket that applications connect to.");
    SOCKET_MODE = Key::new("keyring_socket_mode", Some("0660"), "an octal mode, 0000 to 0777",
        "The socket's mode. Who can write to it can connect.");
    SOCKET_GROUP = Key::new("keyring_socket_group", None, "a group, by name or number",
        "The socket's group; the daemon's own unless set.");
    ACCESS = Key::new("keyring_access", None,
        "a list of user:, uid:, group: or gid: entries, each with = and operations or all",
        "Who may do what, by what the kernel says of the peer; unless set, whoever can connect may do all but resolve references.").word();
    METRICS_LISTEN = Key::new("keyring_metrics_listen", None, "a loopback address:port",
        "Where /metrics, /livez and /readyz are served beside the socket.");
    REQUIRE_MEMORY_LOCK = Key::new("keyring_require_memory_lock", Some("off"), "on or off",
        "Refuse to start where memory cannot be locked, and might be written to the swap.");
    MAX_REQUEST_SIZE = Key::new("keyring_max_request_size", Some("32m"), "bytes, or with k, m, g; 1k to 1g",
        "The largest body of one request.");
    MAX_INFLIGHT_SIZE = Key::new("keyring_max_inflight_size", Some("256m"), "bytes, or with k, m, g; 1k to 1g",
        "The most bytes of requests being handled at once; past it clients are asked to try again.");
    MAX_CONNECTIONS = Key::new("keyring_max_connections", Some("1024"), "1 to 1000000",
        "How many clients may be connected at once; further ones wait.");
    MAX_BATCH = Key::new("keyring_max_batch", Some("10000"), "1 to 1000000",
        "The most items in one batch.");
    LOG_LEVEL = Key::new("log_level", Some("notice"), "debug, info, notice, warn, error, crit, alert, emerg, or trace",
        "The least severe messages that are logged. Kong does not know trace.").kong().word();
    LOG_FORMAT = Key::new("keyring_log_format", Some("text"), "text or json",
        "The form of the log, on standard error.").word();
    AUDIT = Key::new("keyring_audit", Some("failures"), "off, failures, or all",
        "Which requests get a line in the log: who asked for what, and how it went.").word();
}

/// Keys of Kong's cluster strategy, which a kong.conf may hold and which say nothing to keyringd.
pub static CLUSTER_STRATEGY: &[&str] = &[
    "keyring_blob_path",
    "keyring_encrypt_license",
    "keyring_private_key",
    "keyring_public_key",
    "keyring_recovery_public_key",
];

pub fn find(name: &str) -> Option<&'static Key> {
    ALL.iter().copied().find(|key| key.name == name || key.alias == Some(name))
}

/// The text of kong.conf.example.
pub fn example() -> String {
    let mut text = String::from(
        "# The settings of keyringd, in the grammar of kong.conf.\n\
         # A line that is commented out shows the default, or says what is accepted. Every key can also be set by the\n\
         # variable KONG_<KEY>, which wins. A # inside a value is written \\#. The value {vault://env/NAME} stands for that\n\
         # of the variable NAME, and {vault://env/NAME/FIELD} for a text field of the JSON object in it.\n",
    );
    for key in ALL {
        let value = match (key.name, key.default) {
            ("keyring_enabled", _) => "keyring_enabled = on".to_owned(),
            ("keyring_strategy", _) => "keyring_strategy = vault".to_owned(),
            ("keyring_vault_host", _) => "keyring_vault_host = https://vault.example.com:8200".to_owned(),
            ("keyring_vault_mount", _) => "keyring_vault_mount = secret".to_owned(),
            ("keyring_vault_path", _) => "keyring_vault_path = keyring".to_owned(),
            (name, default) => {
                format!("#{name} ={}{}", if default.is_some() { " " } else { "" }, default.unwrap_or(""))
            }
        };
        let _ = write!(text, "\n# {}\n# Accepts {}.\n{value}\n", key.about, key.accepts);
    }
    text
}

/// The settings table of the README, in Markdown.
pub fn table() -> String {
    let mut text = String::from("| key | default | accepts | meaning |\n|---|---|---|---|\n");
    for key in ALL {
        let default = key.default.map_or_else(|| "unset".to_owned(), |default| format!("`{default}`"));
        let _ = writeln!(text, "| `{}` | {default} | {} | {} |", key.name, key.accepts, key.about);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_written_as_kong_writes_them() {
        let mut names: Vec<_> = ALL.iter().map(|key| key.name).collect();
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn the_example_is_this_table() {
        expect_test::expect_file!["../../kong.conf.example"].assert_eq(&example());
    }
}
