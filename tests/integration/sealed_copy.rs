//! The sealed copy: keys through a start while Vault is away, and none where Vault refuses them.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hkdf::Hkdf;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;

use crate::{
    memory::{count, memory},
    support::{Daemon, Fault, OpenBao, Proxy, daemon::run_for, kms::Kms, passed_as_root, success, wait_for},
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const CACHE_KEY: [u8; 32] = *b"cache-key-Zq8mW3xR7vL2pT9sK4nB6y";

/// A folder for the copy, and a folder of credentials with its key.
pub struct Host(TempDir);

impl Host {
    pub fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        fs::create_dir(host.credentials()).unwrap();
        host.set_key(&CACHE_KEY);
        host
    }

    fn set_key(&self, key: &[u8]) {
        let path = self.credentials().join("keyring_cache_key");
        fs::write(&path, BASE64_STANDARD.encode(key) + "\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
    }

    fn credentials(&self) -> PathBuf {
        self.0.path().join("credentials")
    }

    pub fn copy(&self) -> PathBuf {
        self.0.path().join("state/keyring.copy")
    }

    pub fn settings(&self, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let own = [
            ("KONG_KEYRING_CACHE_PATH", self.copy().display().to_string()),
            ("CREDENTIALS_DIRECTORY", self.credentials().display().to_string()),
        ];
        own.into_iter().chain(more.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect()
    }

    /// A daemon that keeps a copy.
    fn start(&self, server: &OpenBao, more: &[(&'static str, &str)]) -> Daemon {
        let settings = self.settings(more);
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Daemon::start_unready(server, &settings)
    }

    /// Has a daemon write a copy, and kills it.
    fn write_copy(&self, server: &OpenBao, more: &[(&'static str, &str)]) {
        let mut daemon = self.start(server, more);
        daemon.wait_until_ready();
        wait_for("the copy", || self.copy().exists().then_some(()));
        daemon.signal(Signal::SIGKILL);
        daemon.ended();
    }
}

/// Where the keys come from; `None` without keys.
pub fn source(daemon: &Daemon) -> Option<String> {
    let status = daemon.get("/status").json();
    status.pointer("/keyring/source")?.as_str().map(str::to_owned)
}

fn wait_for_log(daemon: &Daemon, text: &str) {
    wait_for(text, || daemon.log().contains(text).then_some(()));
}

/// The daemon has no keys, and the log says why the copy is not used.
fn assert_no_keys(daemon: &Daemon, why: &str) {
    wait_for_log(daemon, why);
    assert_eq!(daemon.get("/readyz").status, 503, "{}", daemon.log());
    assert_eq!(daemon.get("/keyring").text(), r#"{"ids":[]}"#);
}

#[test]
fn a_killed_daemon_serves_from_its_copy_within_3_s_while_vault_is_down() {
    let mut server = OpenBao::durable();
    server.put_record("first", KEY);
    server.put_record("second", &KEY.to_lowercase());
    let host = Host::new();
    let mut daemon = host.start(&server, &[]);
    daemon.wait_until_ready();
    let sealed = daemon.encrypt("before");
    let kms = Kms::connect(&daemon.socket());
    let key_id = kms.status().unwrap().key_id;
    let stored = kms.encrypt(b"seed").unwrap();
    wait_for("the copy", || host.copy().exists().then_some(()));
    let modes = [host.copy(), host.copy().parent().unwrap().to_owned()];
    assert_eq!(modes.map(|path| fs::metadata(path).unwrap().mode() & 0o777), [0o600, 0o700]);
    server.stop();
    daemon.signal(Signal::SIGKILL);
    daemon.ended();

    let started = Instant::now();
    let daemon = host.start(&server, &[]);
    wait_for("a decrypt", || (daemon.decrypt(&sealed).status == 200).then_some(()));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(daemon.opened(&sealed), "before");
    assert_eq!(daemon.keyring(), "second of first second");
    let kms = Kms::connect(&daemon.socket());
    assert_eq!(kms.status().unwrap().key_id, key_id);
    assert_eq!(kms.decrypt(&stored.ciphertext, &stored.key_id).unwrap(), b"seed");
    let status = daemon.get("/status");
    assert_eq!((status.at("/ready"), status.at("/keyring/source")), ("true".to_owned(), "copy".to_owned()));
    assert!(status.at("/sync/last_error").contains("cannot reach"), "{status:?}");
    let shown = success(&daemon.command(&["status"], b""));
    assert!(
        shown.contains("ready, from the copy of ") && shown.contains(" ago, active key second"),
        "{shown}"
    );
    assert_eq!(daemon.metric("keyringd_keys_by_source{source=\"copy\"}"), 2);
    let metrics = daemon.get("/metrics").text();
    assert!(!metrics.contains("keyringd_since_last_sync_seconds NaN"), "{metrics}");
    let served = daemon.encrypt("meanwhile");

    let old = fs::read(host.copy()).unwrap();
    server.start();
    server.put_record("third", &KEY.to_uppercase());
    daemon.sync();
    assert_eq!((source(&daemon).as_deref(), daemon.active().as_str()), (Some("vault"), "third"));
    assert_eq!(daemon.opened(&served), "meanwhile");
    wait_for("a new copy", || (fs::read(host.copy()).unwrap() != old).then_some(()));
}

#[test]
fn all_keyrings_are_in_one_copy_and_one_that_vault_refuses_is_not_used() {
    let mut server = OpenBao::durable();
    server.put_record("first", KEY);
    for (path, id) in [("cards", "card"), ("team/a", "ours"), ("team/b", "theirs")] {
        server.api("POST", &format!("secret/data/{path}"), &json!({ "data": { "id": id, "key": KEY } }));
    }
    let paths = [("KONG_KEYRING_VAULT_PATHS", "cards, team/")];
    let names = ["keyring", "cards", "a", "b"];
    let host = Host::new();
    let mut daemon = host.start(&server, &paths);
    let keys = |daemon: &Daemon, name: &str| daemon.get(&format!("/v1/transit/keys/{name}")).status;
    wait_for("all keyrings", || names.iter().all(|name| keys(&daemon, name) == 200).then_some(()));
    let sealed = names.map(|name| {
        let path = format!("/v1/transit/encrypt/{name}");
        daemon.post(&path, &json!({ "plaintext": "YQ==" })).at("/data/ciphertext")
    });
    // The second copy from now on has all of them.
    let writes = || daemon.metric("keyringd_copy_writes_total{outcome=\"success\"}");
    for id in ["second", "third"] {
        let before = writes();
        server.put_record(id, KEY);
        daemon.sync();
        wait_for("a copy", || (writes() > before).then_some(()));
    }
    server.stop();
    daemon.signal(Signal::SIGKILL);
    daemon.ended();

    let settings = [paths[0], ("KONG_KEYRING_CACHE_WAIT", "1")];
    let daemon = host.start(&server, &settings);
    wait_for("all keyrings", || names.iter().all(|name| keys(&daemon, name) == 200).then_some(()));
    for (name, sealed) in names.iter().zip(&sealed) {
        let path = format!("/v1/transit/decrypt/{name}");
        assert_eq!(
            daemon.post(&path, &json!({ "ciphertext": sealed })).at("/data/plaintext"),
            "YQ==",
            "{name}"
        );
    }
    drop(daemon);

    // Vault is back, and one keyring is denied: it has no keys, whatever the copy has.
    server.start();
    let policy = ["keyring", "team/*", "team"].map(|path| {
        format!(
            "path \"secret/data/{path}\" {{ capabilities = [\"read\"] }}\npath \"secret/metadata/{path}\" {{ \
             capabilities = [\"read\", \"list\"] }}\n"
        )
    });
    server.api("PUT", "sys/policies/acl/three", &json!({ "policy": policy.concat() }));
    let token = server.api("POST", "auth/token/create", &json!({ "policies": ["three"] }));
    let token = token.at("/auth/client_token");
    let daemon = host.start(&server, &[paths[0], ("KONG_KEYRING_VAULT_TOKEN", &token)]);
    wait_for_log(&daemon, "Vault answered and gave no keys");
    for (name, status) in [("keyring", 200), ("a", 200), ("b", 200), ("cards", 503)] {
        wait_for(name, || (keys(&daemon, name) == status).then_some(()));
    }
    assert_eq!(source(&daemon).as_deref(), Some("vault"));
}

#[test]
fn a_revoked_role_has_no_keys_after_a_restart() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    server.enable("approle");
    let role = "auth/approle/role/app";
    server.api("POST", role, &json!({ "token_policies": ["keyring"] }));
    let role_id = server.role_id("app");
    let secret_id = server.secret_id("app");
    let login = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role_id.as_str()),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", secret_id.as_str()),
    ];
    let host = Host::new();
    host.write_copy(&server, &login);
    server.api("DELETE", role, &Value::Null);
    let daemon = host.start(&server, &login);
    assert_no_keys(&daemon, "Vault answered and gave no keys: the sealed copy is not used");
    assert!(daemon.log().contains("Vault refused the login by approle"), "{}", daemon.log());
}

#[test]
fn a_refusal_that_comes_after_the_wait_takes_the_keys_away() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let proxy = Proxy::before(&server.address());
    let address = proxy.address();
    let host = Host::new();
    let settings = [("KONG_KEYRING_VAULT_HOST", address.as_str()), ("KONG_KEYRING_CACHE_WAIT", "0")];
    host.write_copy(&server, &settings);
    server.api("POST", "auth/token/revoke-self", &Value::Null);
    proxy.set("/", Fault::Latency(Duration::from_secs(2)));
    let daemon = host.start(&server, &settings);
    wait_for("the copy's keys", || (source(&daemon).as_deref() == Some("copy")).then_some(()));
    assert_no_keys(&daemon, "Vault refused the keys after the wait");
}

#[test]
fn vault_sealed_failing_or_silent_lets_the_copy_be_used_and_a_refusal_does_not() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let proxy = Proxy::before(&server.address());
    let address = proxy.address();
    let host = Host::new();
    let settings = [("KONG_KEYRING_VAULT_HOST", address.as_str()), ("KONG_KEYRING_CACHE_WAIT", "1")];
    host.write_copy(&server, &settings);
    let sealed = r#"{"errors":["Vault is sealed"]}"#.to_owned();
    for fault in [
        Fault::Answer(503, String::new(), sealed),
        Fault::status(500),
        Fault::status(502),
        Fault::Silence,
        Fault::Cut,
    ] {
        proxy.set("/", fault.clone());
        let daemon = host.start(&server, &settings);
        daemon.wait_until_ready();
        assert_eq!(
            (source(&daemon).as_deref(), daemon.active().as_str()),
            (Some("copy"), "first"),
            "{fault:?}"
        );
    }
    let login = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "jwt"),
        ("KONG_KEYRING_VAULT_OAUTH2_TOKEN_ENDPOINT", "http://127.0.0.1:1/token"),
        ("KONG_KEYRING_VAULT_OAUTH2_CLIENT_ID", "keyringd"),
        ("KONG_KEYRING_VAULT_OAUTH2_CLIENT_SECRET", "planted"),
    ];
    proxy.set("/", Fault::None);
    let daemon = host.start(&server, &[&settings[..], &login].concat());
    daemon.wait_until_ready();
    assert_eq!(source(&daemon).as_deref(), Some("copy"), "the issuer of the JWT is away");
    for status in [400, 403, 404, 429] {
        proxy.set("/", Fault::status(status));
        let daemon = host.start(&server, &settings);
        assert_no_keys(&daemon, "the sealed copy is not used");
    }
}

#[test]
fn a_copy_that_does_not_fit_is_ignored_with_a_warning_and_replaced() {
    if passed_as_root() {
        return;
    }
    let mut server = OpenBao::durable();
    server.put_record("first", KEY);
    server.api("POST", "secret/data/other", &json!({ "data": { "id": "other", "key": KEY } }));
    let host = Host::new();
    host.write_copy(&server, &[]);
    let good = fs::read(host.copy()).unwrap();
    server.stop();
    let settings = [("KONG_KEYRING_CACHE_WAIT", "0")];
    let refused = |more: &[(&'static str, &str)], why: &str| {
        let daemon = host.start(&server, &[&settings, more].concat());
        assert_no_keys(&daemon, why);
        assert!(daemon.log().contains("the next good sync replaces it"), "{}", daemon.log());
        let status = daemon.command(&["status"], b"");
        let status = String::from_utf8(status.stdout).unwrap();
        assert!(status.contains("copy unused:  ") && status.contains(why), "{status}");
        daemon
    };
    refused(&[("KONG_KEYRING_VAULT_PATH", "other")], "it was sealed under another key or for another host");
    refused(&[("KONG_KEYRING_NAME", "another")], "has no keyring another");
    refused(&[("KONG_KEYRING_KEY_DERIVATION", "raw")], "of this path and keyring_key_derivation");
    wait_for("the copy to be old", || {
        let age = fs::metadata(host.copy()).unwrap().modified().unwrap().elapsed().unwrap();
        (age > Duration::from_secs(2)).then_some(())
    });
    let synced_long_ago = refused(&[("KONG_KEYRING_CACHE_MAX_AGE", "1")], "more than keyring_cache_max_age");
    drop(synced_long_ago);
    host.set_key(&[1; 32]);
    let daemon = refused(&[], "it was sealed under another key");
    server.start();
    daemon.wait_until_ready();
    wait_for("a new copy", || (fs::read(host.copy()).unwrap() != good).then_some(()));
    server.stop();
    let daemon = host.start(&server, &settings);
    daemon.wait_until_ready();
    assert_eq!(source(&daemon).as_deref(), Some("copy"));
}

/// The lengths at each border of a field or a page of the file, and one byte before and after it.
fn borders(len: usize) -> Vec<usize> {
    const NONCE_END: usize = 4 + 24;
    let pages = (0..).map(|page| page * 4096).take_while(|at| *at < len);
    let padded = (0..).map(|page| NONCE_END + page * 4096).take_while(|at| *at < len);
    let fields = [4, NONCE_END, len - 16, len];
    let borders = fields.into_iter().chain(pages).chain(padded);
    let around = borders.flat_map(|at| [at.saturating_sub(1), at, at + 1]).filter(|at| *at < len);
    around.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

#[test]
fn a_copy_that_is_cut_or_changed_anywhere_is_ignored_and_the_daemon_goes_on() {
    let mut server = OpenBao::durable();
    let keys: serde_json::Map<_, _> =
        (0..60).map(|n| (format!("key-{n}"), json!(format!("{n}{KEY}")))).collect();
    server.put(&json!({ "active": "key-7", "keys": keys }));
    let host = Host::new();
    host.write_copy(&server, &[]);
    server.stop();
    let good = fs::read(host.copy()).unwrap();
    assert!(good.len() > 2 * 4096, "the payload has several pages: {}", good.len());
    let settings = [("KONG_KEYRING_CACHE_WAIT", "0")];
    let cut = borders(good.len()).into_iter().map(|len| (format!("cut to {len}"), good[..len].to_vec()));
    // A byte of each field, on both sides of each border, and some more.
    let flipped = borders(good.len()).into_iter().chain((0..good.len()).step_by(997)).map(|at| {
        let mut changed = good.clone();
        changed[at] ^= 1 << (at % 8);
        (format!("byte {at} flipped"), changed)
    });
    let longer = [("longer".to_owned(), [&good[..], b"\0"].concat())];
    for (what, bytes) in cut.chain(flipped).chain(longer) {
        fs::write(host.copy(), &bytes).unwrap();
        let daemon = host.start(&server, &settings);
        wait_for(&what, || daemon.log().contains("the sealed copy is not used").then_some(()));
        let log = daemon.log();
        assert!(log.contains("it is torn or was changed") && !log.contains("panic"), "{what}: {log}");
        assert_eq!((daemon.get("/readyz").status, daemon.get("/livez").status), (503, 200), "{what}");
        assert_eq!(daemon.get("/keyring").text(), r#"{"ids":[]}"#, "{what}");
    }
    fs::write(host.copy(), &good).unwrap();
    let daemon = host.start(&server, &settings);
    daemon.wait_until_ready();
    assert_eq!((source(&daemon).as_deref(), daemon.active().as_str()), (Some("copy"), "key-7"));
}

#[test]
fn a_folder_whose_listing_alone_fails_at_the_start_is_known_from_the_copy() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    server.api("POST", "secret/data/rings/a", &json!({ "data": { "id": "of-a", "key": KEY } }));
    let proxy = Proxy::before(&server.address());
    let address = proxy.address();
    let settings = [
        ("KONG_KEYRING_VAULT_HOST", address.as_str()),
        ("KONG_KEYRING_VAULT_PATHS", "rings/"),
        ("KONG_KEYRING_CACHE_WAIT", "1"),
    ];
    let host = Host::new();
    let served = |daemon: &Daemon| daemon.get("/v1/transit/keys/a").status == 200;
    let mut daemon = host.start(&server, &settings);
    wait_for("the keyring of the folder", || served(&daemon).then_some(()));
    let writes = || daemon.metric("keyringd_copy_writes_total{outcome=\"success\"}");
    let before = writes();
    server.put_record("second", &KEY.to_lowercase());
    daemon.sync();
    wait_for("a copy with both", || (writes() > before).then_some(()));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();

    proxy.set("/v1/secret/metadata/rings?", Fault::status(500));
    let daemon = host.start(&server, &settings);
    wait_for("the keyring of the folder", || served(&daemon).then_some(()));
    // On a loaded machine not within the wait: then the copy comes first.
    wait_for("the rest from Vault", || (source(&daemon).as_deref() == Some("vault")).then_some(()));
    let status = daemon.command(&["status"], b"");
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("folder:       rings/") && status.contains("answered 500"), "{status}");
    // A refusal of the listing does not use it.
    proxy.set("/v1/secret/metadata/rings?", Fault::status(403));
    let daemon = host.start(&server, &settings);
    daemon.wait_until_ready();
    wait_for("the refusal", || daemon.log().contains("a folder of keyrings cannot be listed").then_some(()));
    // The next copy is written after the decision.
    wait_for("a copy", || {
        (daemon.metric("keyringd_copy_writes_total{outcome=\"success\"}") > 0).then_some(())
    });
    assert!(!served(&daemon));
}

#[test]
fn the_age_counts_for_max_stale() {
    let mut server = OpenBao::durable();
    server.put_record("first", KEY);
    let host = Host::new();
    host.write_copy(&server, &[]);
    server.stop();
    let settings = [("KONG_KEYRING_CACHE_WAIT", "0"), ("KONG_KEYRING_MAX_STALE", "1")];
    let daemon = host.start(&server, &settings);
    wait_for("the copy's keys", || (source(&daemon).as_deref() == Some("copy")).then_some(()));
    wait_for("it to be stale", || {
        let ready = daemon.get("/readyz");
        (ready.status == 503 && ready.text().contains("keyring_max_stale")).then_some(())
    });
    assert_eq!(daemon.opened(&daemon.encrypt("still")), "still");
}

#[test]
fn a_copy_is_written_after_a_change_and_not_after_each_sync() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let host = Host::new();
    let daemon = host.start(&server, &[]);
    daemon.wait_until_ready();
    let writes = || daemon.metric("keyringd_copy_writes_total{outcome=\"success\"}");
    wait_for("the first copy", || (writes() == 1).then_some(()));
    daemon.sync();
    server.put_record("second", &KEY.to_lowercase());
    daemon.sync();
    wait_for("the second copy", || (writes() == 2).then_some(()));
    assert_eq!(daemon.active(), "second");
    drop(daemon);
    // After a quarter of the maximum age, the same keys.
    let settings = [("KONG_KEYRING_CACHE_MAX_AGE", "4"), ("KONG_KEYRING_SYNC_INTERVAL", "1")];
    let daemon = host.start(&server, &settings);
    wait_for("three copies", || {
        (daemon.metric("keyringd_copy_writes_total{outcome=\"success\"}") >= 3).then_some(())
    });
}

#[test]
fn a_copy_that_cannot_be_written_fails_no_sync() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let host = Host::new();
    let folder = host.copy().parent().unwrap().to_owned();
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = host.start(&server, &[]);
    wait_for_log(&daemon, "the sealed copy was not written");
    let at_start = "the sealed copy is not safe there, and no new one is written";
    assert!(daemon.log().contains("with mode 0755") && daemon.log().contains(at_start), "{}", daemon.log());
    daemon.wait_until_ready();
    daemon.sync();
    let status = success(&daemon.command(&["status"], b""));
    assert!(status.contains("sealed copy:  ") && status.contains(", not written yet\n"), "{status}");
    assert!(status.contains("not written: ") && status.contains("with mode 0755"), "{status}");
    assert!(daemon.metric("keyringd_copy_writes_total{outcome=\"failure\"}") >= 1);
    assert_eq!(daemon.metric("keyringd_syncs_total{outcome=\"failure\"}"), 0);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    daemon.sync();
    wait_for("the copy", || host.copy().exists().then_some(()));
    wait_for("its time", || {
        let status = success(&daemon.command(&["status"], b""));
        (status.contains("keyring.copy, written ") && !status.contains("not written")).then_some(())
    });
}

#[test]
fn switched_off_it_is_deleted_at_the_start() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let host = Host::new();
    host.write_copy(&server, &[]);
    let daemon = host.start(&server, &[("KONG_KEYRING_CACHE_MAX_AGE", "0")]);
    wait_for_log(&daemon, "is off and was deleted");
    assert!(!host.copy().exists());
    drop(daemon);
    host.write_copy(&server, &[]);
    // Without its path: where systemd keeps the state of the service.
    let state = host.copy().parent().unwrap().display().to_string();
    let daemon = Daemon::start(&server, &[("STATE_DIRECTORY", &state)]);
    assert!(!host.copy().exists(), "{}", daemon.log());
}

#[test]
fn memory_holds_neither_the_cache_key_nor_a_second_copy_of_what_is_derived_from_it() {
    if passed_as_root() {
        return;
    }
    let mut server = OpenBao::durable();
    server.put_record("first", KEY);
    let host = Host::new();
    let mut derived = [0; 32];
    Hkdf::<Sha256>::new(None, &CACHE_KEY).expand(b"keyringd krc1 cache", &mut derived).unwrap();
    let text = BASE64_STANDARD.encode(CACHE_KEY);
    let check = |daemon: &Daemon| {
        let clean = wait_for("memory without the cache key", || {
            let held = memory(daemon);
            let gone = [&CACHE_KEY[..], &CACHE_KEY[..16], text.as_bytes(), &text.as_bytes()[..24]]
                .iter()
                .all(|secret| count(&held, secret) == 0);
            gone.then_some(held)
        });
        assert_eq!(count(&clean, &derived), 1, "the derived key is in its key schedule alone");
        for planted in [KEY.as_bytes(), b"\"hmac_key\"", b"\"state\":\"live\""] {
            assert_eq!(count(&clean, planted), 0, "{}", String::from_utf8_lossy(planted));
        }
    };
    let daemon = host.start(&server, &[]);
    daemon.wait_until_ready();
    wait_for("the copy", || host.copy().exists().then_some(()));
    check(&daemon);
    drop(daemon);
    let bytes = fs::read(host.copy()).unwrap();
    let k = <Sha256 as sha2::Digest>::digest(KEY.as_bytes());
    for secret in [&k[..], BASE64_STANDARD.encode(k).as_bytes(), KEY.as_bytes(), server.token().as_bytes()] {
        assert_eq!(count(&bytes, secret), 0);
    }
    server.stop();
    let daemon = host.start(&server, &[("KONG_KEYRING_CACHE_WAIT", "0")]);
    wait_for("the copy's keys", || (source(&daemon).as_deref() == Some("copy")).then_some(()));
    check(&daemon);
    // After a reload too.
    daemon.reload("success");
    check(&daemon);
}

#[test]
fn the_key_is_a_credential_or_a_file_on_another_file_system() {
    let server = OpenBao::shared();
    let host = Host::new();
    let path = host.copy().display().to_string();
    let text = BASE64_STANDARD.encode(CACHE_KEY);
    let near = host.0.path().join("key");
    fs::write(&near, &text).unwrap();
    fs::set_permissions(&near, fs::Permissions::from_mode(0o400)).unwrap();
    let short = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    fs::write(short.path(), BASE64_STANDARD.encode([1; 16])).unwrap();
    let [near, short] = [near.as_path(), short.path()].map(|path| path.display().to_string());
    let reference = [("KONG_KEYRING_CACHE_KEY", "{vault://env/CACHE}"), ("CACHE", text.as_str())];
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[], "keyring_cache_key is required with keyring_cache_path: use a systemd credential"),
        (&[("KONG_KEYRING_CACHE_KEY", &text)], "keyring_cache_key: must not be set as text"),
        (&reference, "keyring_cache_key: must not be set as text or by a reference"),
        (
            &[("KONG_KEYRING_CACHE_KEY_FILE", &near)],
            "keyring_cache_key: is on the file system of keyring_cache_path",
        ),
        (
            &[("KONG_KEYRING_CACHE_KEY_FILE", &short)],
            "keyring_cache_key: expected a file with base64 of 32 bytes",
        ),
    ];
    for (more, message) in cases {
        let output =
            run_for(&server, "check", &[&[("KONG_KEYRING_CACHE_PATH", path.as_str())], more].concat());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(message), "{message} in {errors}");
        assert!(!errors.contains(&text) && output.status.code() == Some(78), "{errors}");
    }
    let far = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    fs::write(far.path(), &text).unwrap();
    let far = far.path().display().to_string();
    let good = [("KONG_KEYRING_CACHE_PATH", path.as_str()), ("KONG_KEYRING_CACHE_KEY_FILE", &far)];
    success(&run_for(&server, "check", &good));
    let relative = [("KONG_KEYRING_CACHE_PATH", "copy"), ("KONG_KEYRING_CACHE_KEY_FILE", &far)];
    let errors = String::from_utf8(run_for(&server, "check", &relative).stderr).unwrap();
    assert!(errors.contains("expected an absolute file path, found \"copy\""), "{errors}");
}

#[test]
fn doctor_checks_the_copy_and_prints_how_to_make_a_key() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let host = Host::new();
    let doctor = || {
        let settings = host.settings(&[]);
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        success(&run_for(&server, "doctor", &settings))
    };
    let before = doctor();
    assert!(before.contains("warn  copy      there is no sealed copy at "), "{before}");
    let command = "| systemd-creds encrypt --with-key=host+tpm2 --name=keyring_cache_key";
    assert!(!before.contains(command), "the key is there: {before}");
    assert!(!success(&run_for(&server, "doctor", &[])).contains(command), "no copy is wanted");
    let path = host.copy().display().to_string();
    let without = run_for(&server, "doctor", &[("KONG_KEYRING_CACHE_PATH", path.as_str())]);
    assert_eq!(without.status.code(), Some(78));
    assert!(String::from_utf8(without.stdout).unwrap().contains(command));
    host.write_copy(&server, &[]);
    let after = doctor();
    assert!(after.contains(" opens: 1 held of keyring, synced at "), "{after}");
    assert!(after.contains("ok    copy      its key is in the file "), "{after}");
    fs::write(host.copy(), "KRC1").unwrap();
    let torn = doctor();
    assert!(torn.contains("it is torn or was changed") && torn.contains("warn  copy"), "{torn}");
}
