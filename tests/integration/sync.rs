//! The keyring follows Vault: rotation, removal, bad records, both engines, and at what cost.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Daemon, Fault, OpenBao, Proxy, success, wait_for};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

fn warnings(daemon: &Daemon) -> String {
    daemon.get("/status").at("/sync/warnings")
}

#[test]
fn a_new_version_is_active_at_once_on_sync_and_old_ciphertexts_still_open() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[]);
    let old = daemon.encrypt("hello");
    assert_eq!(daemon.decrypt(&old).at("/data/needs_rewrap"), "false");

    server.put_record("second", "another key text");
    daemon.sync();
    assert_eq!(daemon.keyring(), "second of first second");
    let answer = daemon.decrypt(&old);
    assert_eq!((answer.at("/data/needs_rewrap"), answer.at("/data/key_id")), ("true".into(), "first".into()));
    assert_eq!(daemon.opened(&old), "hello");
    let new = daemon.encrypt("hello");
    assert!(new.starts_with("kr1:second:"), "{new}");
    assert_eq!(daemon.decrypt(&new).at("/data/key_version"), "2");
}

#[test]
fn a_new_version_is_active_within_one_interval() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_SYNC_INTERVAL", "1")]);
    server.put_record("second", KEY.to_lowercase().as_str());
    wait_for("the second key to be active", || (daemon.active() == "second").then_some(()));
}

#[test]
fn sigusr1_syncs() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[]);
    server.put_record("second", KEY);
    daemon.signal(Signal::SIGUSR1);
    wait_for("the second key to be active", || (daemon.active() == "second").then_some(()));
}

#[test]
fn a_destroyed_key_is_removed_and_after_a_deletion_the_newest_live_one_is_active() {
    let server = OpenBao::shared();
    for id in ["a", "b", "c"] {
        server.put_record(id, &format!("{id}{KEY}"));
    }
    let daemon = Daemon::start(&server, &[]);
    let sealed = daemon.encrypt("under c");
    assert_eq!(daemon.keyring(), "c of a b c");

    server.versions("destroy", &[1]);
    daemon.sync();
    assert_eq!(daemon.keyring(), "c of b c");

    server.versions("delete", &[3]);
    daemon.sync();
    assert_eq!(daemon.keyring(), "b of b");
    let refused = daemon.decrypt(&sealed);
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains(r#"key \"c\" is not in the keyring"#), "{}", refused.text());

    server.versions("undelete", &[3]);
    daemon.sync();
    assert_eq!(daemon.keyring(), "c of b c");
    assert_eq!(daemon.opened(&sealed), "under c");
}

#[test]
fn deleting_every_version_keeps_the_keyring_and_is_a_warning() {
    let server = OpenBao::shared();
    server.put_record("a", KEY);
    server.put_record("b", &KEY.to_lowercase());
    let daemon = Daemon::start(&server, &[]);
    let sealed = daemon.encrypt("kept");
    server.versions("delete", &[1, 2]);
    daemon.sync();
    assert_eq!(daemon.keyring(), "b of a b");
    assert_eq!(daemon.opened(&sealed), "kept");
    assert!(
        warnings(&daemon).contains("every version of the secret is deleted or destroyed"),
        "{}",
        warnings(&daemon)
    );
    assert!(daemon.log().contains("every version of the secret is deleted or destroyed"), "{}", daemon.log());

    server.put_record("c", "a new key text");
    daemon.sync();
    assert_eq!(daemon.keyring(), "c of c");
}

#[test]
fn removing_the_secret_altogether_keeps_the_keyring() {
    let server = OpenBao::shared();
    server.put_record("a", KEY);
    let daemon = Daemon::start(&server, &[]);
    server.api("DELETE", "secret/metadata/keyring", &Value::Null);
    let answer = daemon.request("POST", "/keyring/vault/sync", b"");
    assert_eq!(answer.status, 500);
    assert!(
        answer.at("/error").starts_with("there is nothing at /v1/secret/metadata/keyring in Vault"),
        "{answer:?}"
    );
    assert_eq!(daemon.keyring(), "a of a");

    server.put_record("b", "written again, as version 1");
    daemon.sync();
    assert_eq!(daemon.keyring(), "b of a b", "the older version 1 is another one, and stays as retired");
}

#[test]
fn a_bad_record_is_rejected_by_itself_and_reported_without_its_content() {
    let server = OpenBao::shared();
    server.put_record("good", KEY);
    let daemon = Daemon::start(&server, &[]);
    server.put(&json!({ "id": "no-key", "ky": "planted-in-a-bad-record" }));
    server.put_record("good", "planted-as-another-key-under-one-id");
    server.put_record("last", KEY);
    server.put(&json!({ "id": 5, "key": ["planted-in-a-bad-record"] }));
    daemon.sync();
    assert_eq!(daemon.keyring(), "last of good last");
    let status = daemon.get("/status");
    let rejected = status.at("/sync/rejected");
    assert!(
        rejected.contains("`key` is missing") && rejected.contains("`id` must be a string, found a number"),
        "{rejected}"
    );
    assert!(rejected.contains("version 1 already holds a different key with this id"), "{rejected}");
    assert!(
        rejected.contains("compare the fingerprints that `keyringd status` shows on each host"),
        "{rejected}"
    );
    assert!(!status.text().contains("planted") && !daemon.log().contains("planted"));
}

#[test]
fn hosts_that_hold_other_keys_of_one_id_differ_in_the_fingerprint() {
    let server = OpenBao::shared();
    server.put_record("one", KEY);
    let first = Daemon::start(&server, &[]);
    let fingerprint = |daemon: &Daemon| {
        let printed = success(&daemon.command(&["status"], b""));
        let line = printed.lines().find(|line| line.starts_with("key:") && line.contains("  one  "));
        let (_, fingerprint) = line.unwrap().split_once("  fingerprint ").unwrap();
        assert!(fingerprint.len() == 6 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()), "{printed}");
        fingerprint.to_owned()
    };
    let same = Daemon::start(&server, &[]);
    assert_eq!(fingerprint(&first), fingerprint(&same));
    // The version that both read is gone, and a host that starts now reads another key of this ID.
    server.put_record("one", "another key text");
    server.versions("destroy", &[1]);
    let other = Daemon::start(&server, &[]);
    assert_ne!(fingerprint(&first), fingerprint(&other));
}

#[test]
fn a_pruned_version_stays_and_a_warning_comes_before() {
    let server = OpenBao::shared();
    server.put_record("v1", KEY);
    let daemon = Daemon::start(&server, &[]);
    let old = daemon.encrypt("sealed long ago");
    for n in 2..=8 {
        server.put_record(&format!("v{n}"), &format!("{n}{KEY}"));
    }
    daemon.sync();
    assert_eq!(daemon.get("/status").at("/sync/headroom"), "2");
    assert!(warnings(&daemon).contains("after 2 more it destroys the oldest"), "{}", warnings(&daemon));
    for n in 9..=11 {
        server.put_record(&format!("v{n}"), &format!("{n}{KEY}"));
    }
    daemon.sync();
    assert_eq!(daemon.opened(&old), "sealed long ago");
    let status = daemon.get("/status").json();
    let oldest = status["keyring"]["keys"].as_array().unwrap().last().unwrap();
    assert_eq!((oldest["id"].as_str(), oldest["state"].as_str()), (Some("v1"), Some("retired")));
}

#[test]
fn kv_v1_holds_one_record_or_a_whole_keyring() {
    let server = OpenBao::shared();
    server.api("POST", "sys/mounts/kong", &json!({ "type": "kv", "options": { "version": "1" } }));
    let write = |record: &Value| server.api("POST", "kong/keyring", record);
    write(&json!({ "id": "one", "key": KEY }));
    let daemon =
        Daemon::start(&server, &[("KONG_KEYRING_VAULT_KV", "v1"), ("KONG_KEYRING_VAULT_MOUNT", "kong")]);
    let old = daemon.encrypt("under one");
    assert_eq!(daemon.decrypt(&old).at("/data/key_version"), "1");

    write(&json!({ "id": "two", "key": "another key text" }));
    daemon.sync();
    assert_eq!(daemon.keyring(), "two of one two");
    assert_eq!(daemon.opened(&old), "under one");

    write(&json!({ "active": "three", "keys": { "two": "another key text", "three": "a third" } }));
    daemon.sync();
    assert_eq!(daemon.keyring(), "three of three two");
}

#[test]
fn kv_v2_takes_the_map_form_too() {
    let server = OpenBao::shared();
    server.put(&json!({ "active": "b", "keys": { "a": KEY, "b": KEY.to_lowercase() } }));
    let daemon = Daemon::start(&server, &[]);
    assert_eq!(daemon.keyring(), "b of a b");
}

#[test]
fn only_new_versions_are_fetched_and_a_steady_state_costs_one_request() {
    let server = OpenBao::dev_with_audit();
    for id in ["a", "b", "c"] {
        server.put_record(id, &format!("{id}{KEY}"));
    }
    let written = server.requests_for("secret/data/");
    let daemon = Daemon::start(&server, &[]);
    let fetched = || server.requests_for("secret/data/") - written;
    assert_eq!((server.requests_for("secret/metadata/"), fetched()), (1, 3));
    for _ in 0..5 {
        daemon.sync();
    }
    assert_eq!((server.requests_for("secret/metadata/"), fetched()), (6, 3));
    server.put_record("d", KEY);
    daemon.sync();
    assert_eq!((server.requests_for("secret/metadata/"), fetched()), (7, 3 + 1 + 1), "one write, one read");
}

#[test]
fn a_decrypt_under_a_key_that_another_daemon_has_already_waits_for_one_sync() {
    let server = OpenBao::dev_with_audit();
    server.put_record("first", KEY);
    let (one, other) = (Daemon::start(&server, &[]), Daemon::start(&server, &[]));
    server.put_record("second", &KEY.to_lowercase());
    other.sync();
    let sealed = other.encrypt("ahead of you");
    assert_eq!(one.opened(&sealed), "ahead of you");

    let before = server.requests_for("secret/metadata/");
    for _ in 0..20 {
        assert_eq!(one.decrypt("kr1:unknown:AAAA").status, 400);
    }
    assert_eq!(server.requests_for("secret/metadata/"), before, "at most one such sync every 5 s");
}

#[test]
fn a_flood_of_unknown_keys_on_a_silent_vault_delays_no_operator() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let proxy = Proxy::before(&server.address());
    let daemon = Daemon::start_unready(&server, &[("KONG_KEYRING_VAULT_HOST", &proxy.address())]);
    daemon.wait_until_ready();
    proxy.set("/", Fault::Silence);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| assert_eq!(daemon.decrypt("kr1:unknown:AAAA").status, 503));
        }
    });
    let asked = std::time::Instant::now();
    let answer = daemon.request("POST", "/keyring/vault/sync", b"");
    assert_eq!(answer.status, 500);
    assert!(
        asked.elapsed() < std::time::Duration::from_secs(25),
        "the one under way, and its own: {:?}",
        asked.elapsed()
    );
}

#[test]
fn requested_syncs_that_fail_do_not_delay_the_next_one() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let proxy = Proxy::before(&server.address());
    let more = [("KONG_KEYRING_VAULT_HOST", proxy.address()), ("KONG_KEYRING_SYNC_INTERVAL", "2".to_owned())];
    let daemon =
        Daemon::start_unready(&server, &more.each_ref().map(|(name, value)| (*name, value.as_str())));
    daemon.wait_until_ready();
    proxy.set("/", Fault::status(500));
    for _ in 0..4 {
        assert_eq!(daemon.request("POST", "/keyring/vault/sync", b"").status, 500);
    }
    proxy.set("/", Fault::None);
    server.put_record("second", KEY);
    let back = std::time::Instant::now();
    wait_for("the second key to be active", || (daemon.active() == "second").then_some(()));
    assert!(back.elapsed() < std::time::Duration::from_secs(12), "{:?}", back.elapsed());
}

#[test]
fn a_version_that_is_removed_during_a_read_is_left_out_by_itself() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    server.put_record("second", KEY);
    server.versions("delete", &[1]);
    let proxy = Proxy::before(&server.address());
    // Vault's clock is ahead: version 1 is deleted there already, and here it is not yet.
    let listed = server.api("GET", "secret/metadata/keyring", &Value::Null).text();
    let year = &listed[listed.find("deletion_time\":\"2").unwrap() + 16..][..4].to_owned();
    let ahead = listed.replace(&format!("deletion_time\":\"{year}"), "deletion_time\":\"2999");
    proxy.set("/v1/secret/metadata", Fault::Answer(200, String::new(), ahead));
    let daemon = Daemon::start_unready(&server, &[("KONG_KEYRING_VAULT_HOST", &proxy.address())]);
    daemon.wait_until_ready();
    assert_eq!(daemon.keyring(), "second of second");
}

#[test]
fn a_token_in_the_body_serves_one_sync() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start_unready(&server, &[("KONG_KEYRING_VAULT_TOKEN", "not-the-token")]);
    wait_for("the first sync to fail", || daemon.log().contains("sync failed").then_some(()));
    let refused = daemon.request("POST", "/keyring/vault/sync", br#"{"token": "nor-this"}"#);
    assert_eq!(refused.status, 500);
    assert!(refused.at("/error").contains("Vault denies reading"), "{refused:?}");
    assert_eq!(daemon.get("/readyz").status, 503);

    // The next token is for the next second.
    let body = json!({ "token": server.token() });
    wait_for("the next token to be tried", || {
        let answer = daemon.post("/keyring/vault/sync", &body);
        (answer.status != 429).then(|| assert_eq!(answer.status, 204, "{answer:?}"))
    });
    assert_eq!(daemon.active(), "first");

    server.put_record("second", KEY);
    let form = format!("token={}", server.token());
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let answer = crate::support::http::exchange(
        daemon.connect(),
        "POST",
        "/keyring/vault/sync",
        &headers,
        form.as_bytes(),
    );
    assert_eq!(answer.unwrap().status, 204);
    assert_eq!(daemon.active(), "second");
}

#[test]
fn the_server_sees_exactly_the_configured_path() {
    let server = OpenBao::shared();
    let path = "team/k%2e%2e?x#y;z*+é &";
    let encoded = "team/k%252e%252e%3Fx%23y;z*+%C3%A9%20&";
    let data = json!({ "data": { "id": "odd", "key": KEY } });
    server.api("POST", &format!("secret/data/{encoded}"), &data);
    let daemon =
        Daemon::start(&server, &[("KONG_KEYRING_VAULT_PATH", path), ("KONG_KEYRING_NAME", "keyring")]);
    assert_eq!(daemon.active(), "odd");
}
