//! A test over the whole table: a setting says that it takes effect at the start exactly if a reload does not apply it.

use base64::prelude::{BASE64_STANDARD, Engine as _};

use crate::settings::{
    Settings, Socket, keys, load,
    setting::Row,
    source::{Pairs, Source},
};

type Lines = Vec<(&'static str, &'static str)>;

/// The parts of the settings that a reload leaves, and those that it applies.
fn parts(lines: &Lines) -> (String, String) {
    let source: Box<dyn Source> = Box::new(Pairs { settings: lines.clone(), variables: &[] });
    let settings = load(&[source]).settings.unwrap_or_else(|mistakes| panic!("{lines:?}: {mistakes:?}"));
    let Settings { keyrings, references, socket, cache, log, require_memory_lock } = settings;
    let Socket { path, mode, group, access, metrics, limits, audit, transit_mounts } = socket;
    let at_start = format!("{:?}", (path, mode, group, metrics, cache, require_memory_lock));
    (at_start, format!("{:?}", (keyrings, references, access, limits, audit, transit_mounts, log)))
}

/// Settings that make this one matter.
fn context(name: &'static str, [certificate, key]: [&'static str; 2], cache_key: &'static str) -> Lines {
    let mut lines = vec![
        ("keyring_enabled", "on"),
        ("keyring_strategy", "vault"),
        ("keyring_vault_host", "http://127.0.0.1:8200"),
        ("keyring_vault_mount", "secret"),
        ("keyring_vault_path", "keyring"),
        ("keyring_vault_paths", "other"),
        ("keyring_metrics_listen", "127.0.0.1:9187"),
        ("keyring_cache_path", "/var/lib/keyringd/a/copy"),
        ("keyring_cache_key", cache_key),
    ];
    let file = cache_key.trim_start_matches("file:");
    let login = |prefix: &str, field: &str| -> &'static str { format!("{prefix}{field}").leak() };
    let prefix = if name.starts_with("vault_hcv_") { "vault_hcv_" } else { "keyring_vault_" };
    let mut with = |field: &str, value: &'static str| lines.push((login(prefix, field), value));
    if name.ends_with("_auth_method") {
        with("token", "planted");
        with("cert_auth_cert", certificate);
        with("cert_auth_cert_key", key);
    } else if name.contains("_approle_") {
        with("auth_method", "approle");
        with("approle_role_id", "role");
        if name.ends_with("_file") {
            with("approle_secret_id_file", file);
        } else {
            with("approle_secret_id", "secret-id");
        }
    } else if name.contains("_kube_") {
        with("auth_method", "kubernetes");
        with("kube_api_token_file", file);
    } else if name.contains("_cert_auth_") {
        with("auth_method", "cert");
        with("cert_auth_cert", certificate);
        with("cert_auth_cert_key", key);
    } else if name.contains("_oauth2_") || name.contains("_jwt_") {
        with("auth_method", "jwt");
        if name.ends_with("_jwt_file") {
            with("jwt_file", file);
        } else {
            with("oauth2_token_endpoint", "https://issuer.example.com/token");
            with("oauth2_client_id", "id");
            with("oauth2_client_secret", "planted");
        }
    } else {
        with("token", "planted");
    }
    if prefix == "vault_hcv_" {
        lines.push(("keyring_vault_token", "planted"));
    }
    if name.starts_with("keyring_metrics_tls_") {
        lines.extend([("keyring_metrics_tls_cert", certificate), ("keyring_metrics_tls_key", key)]);
    }
    lines
}

/// Another value than the default, and than that of the context.
fn another(name: &str, [certificate, key]: [&'static str; 2], cache_key: &'static str) -> &'static str {
    match name.trim_start_matches("keyring_vault_").trim_start_matches("vault_hcv_") {
        "keyring_enabled" => "off",
        "keyring_strategy" => "cluster",
        "host" if name.starts_with("vault_") => "vault.example.com",
        "host" => "https://vault.example.com",
        "port" => "8300",
        "protocol" => "https",
        "auth_method" => "cert",
        "paths" => "further",
        "kv" if name.starts_with("vault_") => "v2",
        "kv" => "v1",
        "keyring_cache_key" | "token" | "approle_secret_id" | "oauth2_client_secret" => cache_key,
        "keyring_socket_group"
        | "keyring_max_connections"
        | "keyring_max_batch"
        | "ttl"
        | "neg_ttl"
        | "resurrect_ttl" => "77",
        "approle_response_wrapping"
        | "decode_base64"
        | "keyring_kong_fields"
        | "vault_env_decode_base64"
        | "keyring_require_memory_lock" => "on",
        "oauth2_token_endpoint" => "https://other.example.com/token",
        "oauth2_auth_style" => "basic",
        "kube_api_token_file" | "approle_secret_id_file" | "jwt_file" => {
            cache_key.trim_start_matches("file:")
        }
        "lua_ssl_trusted_certificate"
        | "cert_auth_cert"
        | "keyring_metrics_tls_cert"
        | "keyring_metrics_tls_client_ca" => certificate,
        "cert_auth_cert_key" | "keyring_metrics_tls_key" => key,
        "lua_ssl_verify_depth" | "keyring_cache_wait" => "7",
        "keyring_cache_path" => "/var/lib/keyringd/b/copy",
        "keyring_sync_interval" | "keyring_max_stale" | "keyring_cache_max_age" => "999",
        "keyring_key_derivation" => "raw",
        "keyring_ciphertext_format" => "transit",
        "keyring_kms_name" => "other",
        "keyring_secret_objects" => {
            r#"{"1": {"uri": "http://127.0.0.1:1", "prefix": "kv", "token": "planted"}}"#
        }
        "keyring_socket_path" => "/run/other.sock",
        "keyring_socket_mode" => "0600",
        "keyring_access" => "uid:0=all",
        "keyring_metrics_listen" => "127.0.0.1:9188",
        "keyring_max_request_size" | "keyring_max_inflight_size" => "64m",
        "log_level" => "debug",
        "keyring_log_format" => "json",
        "keyring_audit" => "all",
        "keyring_transit_mounts" => "seal",
        _ => "different",
    }
}

/// Settings that decide whether there is a keyring, which a reload refuses to change, and one that permits an address.
const OTHERS: [&str; 3] = ["keyring_enabled", "keyring_strategy", "keyring_metrics_public"];

#[test]
fn a_setting_takes_effect_at_the_start_exactly_if_the_table_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let write = |name: &str, content: &str| -> &'static str {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string().leak()
    };
    // The same pair in other files: a certificate must belong to its key.
    let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let [pem, other_pem] =
        [["c1", "k1"], ["c2", "k2"]].map(|[c, k]| [write(c, &certificate), write(k, &key)]);
    let files = [1, 2].map(|byte| {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        std::fs::write(file.path(), BASE64_STANDARD.encode([byte; 32])).unwrap();
        let line: &str = format!("file:{}", file.path().display()).leak();
        (file, line)
    });
    let [(_, cache_key), (_, other_cache_key)] = &files;
    for key in keys::all().map(Row::key).filter(|key| !OTHERS.contains(&key.name)) {
        let before = context(key.name, pem, cache_key);
        let mut after = before.clone();
        after.retain(|(name, _)| *name != key.name);
        after.push((key.name, another(key.name, other_pem, other_cache_key)));
        let ((left, applied), (left_after, applied_after)) = (parts(&before), parts(&after));
        assert_eq!(left != left_after, key.at_start, "{}: {left} {left_after}", key.name);
        assert!(key.at_start || applied != applied_after, "{} is not read", key.name);
    }
}

#[test]
fn the_docs_list_what_needs_a_restart() {
    let page = include_str!("../../../docs/behaviour.md");
    let list = page.split("need a restart:").nth(1).unwrap().split('\n').take(5).collect::<String>();
    for key in keys::all().map(Row::key) {
        let named = list.contains(&format!("`{}`", key.name));
        assert_eq!(named, key.at_start || key.name == "keyring_enabled", "{} in {list}", key.name);
    }
}
