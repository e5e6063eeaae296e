//! KMS v2 after a restore, a copy or a moved mount, and when a key is gone: what opens, and what operators see.
//!
//! The plain calls are in `kms`.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{
    Daemon, Fault, OpenBao, Proxy,
    kms::{INVALID_ARGUMENT, Kms, NOT_FOUND, UNAVAILABLE},
    success, wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const OTHER_KEY: &str = "another key of thirty-two characters";

fn hash_of(key_id: &str) -> String {
    format!("sha256:{}", hex_simd::encode_to_string(Sha256::digest(key_id), hex_simd::AsciiCase::Lower))
}

#[test]
fn what_was_sealed_before_the_secret_moved_still_opens_and_is_counted() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    server.put_record("second", OTHER_KEY);
    let daemon = Daemon::start(&server, &[]);
    let kms = Kms::connect(&daemon.socket());
    let sealed = kms.encrypt(b"a data key").unwrap();
    let again = kms.encrypt(b"another data key").unwrap();
    drop(daemon);

    // The same records under another mount, path and version, as after a restore by hand.
    server.api("POST", "sys/mounts/moved", &json!({ "type": "kv", "options": { "version": "2" } }));
    wait_for("the KV engine", || {
        let data = json!({ "data": { "id": "second", "key": OTHER_KEY } });
        let written = server.try_api("POST", "moved/data/elsewhere", &data)?;
        (written.status == 200).then_some(())
    });
    let moved = [
        ("KONG_KEYRING_VAULT_MOUNT", "moved"),
        ("KONG_KEYRING_VAULT_PATH", "elsewhere"),
        ("KONG_KEYRING_AUDIT", "all"),
    ];
    let daemon = Daemon::start(&server, &moved);
    let kms = Kms::connect(&daemon.socket());
    assert_ne!(kms.status().unwrap().key_id, sealed.key_id);
    assert_eq!(kms.decrypt(&sealed.ciphertext, &sealed.key_id).unwrap(), b"a data key");
    assert_eq!(kms.decrypt(&again.ciphertext, &again.key_id).unwrap(), b"another data key");

    // The key_id is authenticated: under another one nothing opens, known or not.
    let current = kms.status().unwrap().key_id;
    assert_eq!(kms.decrypt(&sealed.ciphertext, &current).unwrap_err().code, INVALID_ARGUMENT);
    let unknown = format!("kr1.{}", BASE64_URL_SAFE_NO_PAD.encode([7; 32]));
    assert_eq!(kms.decrypt(&sealed.ciphertext, &unknown).unwrap_err().code, NOT_FOUND);

    assert_eq!(daemon.metric("keyringd_kms_moved_key_decrypts_total"), 2);
    assert_eq!(daemon.get("/status").at("/kms/moved_key_decrypts"), "2");
    let log = daemon.log();
    let hash = hash_of(&sealed.key_id);
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&hash) && line.contains("WARN")).collect();
    assert_eq!(lines.len(), 1, "one warning for one key_id: {log}");
    assert!(lines[0].contains("store every object again"), "{}", lines[0]);
}

#[test]
fn a_missing_key_is_named_by_hash_in_the_error_the_audit_and_the_metrics() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    server.put_record("second", OTHER_KEY);
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_AUDIT", "all")]);
    let kms = Kms::connect(&daemon.socket());
    kms.status().unwrap();
    let sealed = kms.encrypt(b"a data key").unwrap();
    let hash = hash_of(&sealed.key_id);

    server.versions("destroy", &[2]);
    daemon.sync();
    let removed = wait_for("the warning", || {
        daemon.log().lines().find(|line| line.contains("WARN") && line.contains(&hash)).map(str::to_owned)
    });
    assert!(removed.contains("second") && removed.contains("version 2"), "{removed}");

    let refused = kms.decrypt(&sealed.ciphertext, &sealed.key_id).unwrap_err();
    assert_eq!(refused.code, NOT_FOUND);
    assert!(refused.message.contains(&hash), "{refused:?}");
    let count = |outcome: &str| {
        daemon.metric(&format!("keyringd_requests_total{{operation=\"kms_decrypt\",outcome=\"{outcome}\"}}"))
    };
    wait_for("the count", || (count("missing_key") == 1).then_some(()));
    assert_eq!(count("invalid"), 0);
    let audit = daemon.log();
    let line = audit.lines().find(|line| line.contains("kms_decrypt") && line.contains("missing_key"));
    assert!(line.is_some_and(|line| line.contains(&hash)), "{audit}");
    let metrics = daemon.get("/metrics").text();
    assert!(
        metrics.contains(&format!("keyringd_kms_missing_key_total{{key_id_hash=\"{hash}\"}} 1")),
        "{metrics}"
    );
    // Callers choose key_ids, so the number of series has a bound.
    for n in 0..100 {
        kms.decrypt(&sealed.ciphertext, &format!("kr1.guess-{n}")).unwrap_err();
    }
    let metrics = daemon.get("/metrics").text();
    assert!(metrics.matches("keyringd_kms_missing_key_total{").count() <= 17, "{metrics}");
}

#[test]
fn a_reload_that_takes_a_key_away_names_its_version_and_hash() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    server.api("POST", "secret/data/elsewhere", &json!({ "data": { "id": "second", "key": OTHER_KEY } }));
    let login = format!("keyring_vault_auth_method = token\nkeyring_vault_token = {}", server.token());
    let daemon = Daemon::from_conf(&server.address(), &login);
    daemon.wait_until_ready();
    let hash = daemon.get("/status").at("/kms/keys/0/key_id_hash");
    daemon.write_conf(&server.address(), &format!("{login}\nkeyring_vault_path = elsewhere"));
    daemon.reload("success");
    let warned = wait_for("the warning", || {
        daemon.log().lines().find(|line| line.contains("WARN") && line.contains(&hash)).map(str::to_owned)
    });
    assert!(warned.contains("version 1 of first left the keyring"), "{warned}");
}

#[test]
fn status_lists_the_key_id_hash_of_every_version() {
    let server = OpenBao::shared();
    for (id, key) in [("a", KEY), ("b", OTHER_KEY), ("a", KEY)] {
        server.put_record(id, key);
    }
    let daemon = Daemon::start(&server, &[]);
    let kms = Kms::connect(&daemon.socket());
    let status = daemon.get("/status").json();
    let rows = status.pointer("/kms/keys").and_then(Value::as_array).unwrap();
    let shown: Vec<_> = rows.iter().map(|row| format!("{} {}", row["id"], row["version"])).collect();
    assert_eq!(shown, [r#""a" 3"#, r#""b" 2"#, r#""a" 1"#]);
    let hashes: std::collections::BTreeSet<_> =
        rows.iter().map(|row| row["key_id_hash"].to_string()).collect();
    assert_eq!(hashes.len(), 3, "each version has a key_id of its own");
    assert_eq!(rows[0]["key_id_hash"], json!(hash_of(&kms.status().unwrap().key_id)));
    let printed = success(&daemon.command(&["status"], b""));
    for row in rows {
        assert!(printed.contains(row["key_id_hash"].as_str().unwrap()), "{printed}");
    }
}

#[test]
fn an_unknown_key_id_is_unavailable_while_vault_cannot_be_asked() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let proxy = Proxy::before(&server.address());
    let address = proxy.address();
    let more = [("KONG_KEYRING_VAULT_HOST", address.as_str()), ("KONG_KEYRING_SYNC_INTERVAL", "1")];
    let daemon = Daemon::start(&server, &more);
    let kms = Kms::connect(&daemon.socket());
    let sealed = kms.encrypt(b"a data key").unwrap();
    proxy.set("/", Fault::status(500));
    wait_for("a sync to fail", || daemon.log().contains("sync failed").then_some(()));
    let refused = kms.decrypt(&sealed.ciphertext[..20], "kr1.of-another-host").unwrap_err();
    assert_eq!(refused.code, UNAVAILABLE, "{refused:?}");
    assert!(refused.message.contains("answered 500"), "{refused:?}");
    assert_eq!(kms.decrypt(&sealed.ciphertext, &sealed.key_id).unwrap(), b"a data key");
}

#[test]
fn healthz_fails_only_when_the_calls_would() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let proxy = Proxy::before(&server.address());
    let address = proxy.address();
    let more = [
        ("KONG_KEYRING_VAULT_HOST", address.as_str()),
        ("KONG_KEYRING_SYNC_INTERVAL", "1"),
        ("KONG_KEYRING_MAX_STALE", "2"),
    ];
    let daemon = Daemon::start(&server, &more);
    let kms = Kms::connect(&daemon.socket());
    proxy.set("/", Fault::status(500));
    wait_for("the keyring to be stale", || (daemon.get("/readyz").status == 503).then_some(()));
    assert_eq!(kms.status().unwrap().healthz, "ok");
    let sealed = kms.encrypt(b"a data key").unwrap();
    assert_eq!(kms.decrypt(&sealed.ciphertext, &sealed.key_id).unwrap(), b"a data key");
}
