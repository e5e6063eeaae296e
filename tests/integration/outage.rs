//! Vault unreachable, sealed, back again: applications keep working, and the daemon recovers by itself.

use crate::support::{Daemon, Fault, OpenBao, Proxy, wait_for};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

#[test]
fn encrypt_and_decrypt_work_without_vault_and_sync_resumes_with_it() {
    let mut server = OpenBao::durable();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_SYNC_INTERVAL", "1")]);
    let sealed = daemon.encrypt("before");
    server.stop();
    wait_for("a sync to fail", || daemon.log().contains("cannot reach http").then_some(()));
    for _ in 0..100 {
        assert_eq!(daemon.opened(&sealed), "before");
        assert_eq!(daemon.opened(&daemon.encrypt("meanwhile")), "meanwhile");
    }
    assert_eq!(daemon.get("/readyz").status, 200);
    assert!(daemon.get("/status").at("/sync/last_error").contains("cannot reach http"));

    server.start();
    server.put_record("second", &KEY.to_lowercase());
    wait_for("the second key to be active", || (daemon.active() == "second").then_some(()));
    assert_eq!(daemon.get("/status").at("/sync/last_error"), "null");
    assert_eq!(daemon.opened(&sealed), "before");
}

#[test]
fn a_daemon_started_before_vault_becomes_ready() {
    let mut server = OpenBao::durable();
    server.put_record("first", KEY);
    server.stop();
    let daemon = Daemon::start_unready(&server, &[]);
    for path in ["/v1/transit/encrypt/keyring", "/v1/transit/decrypt/keyring"] {
        let answer = daemon.request("POST", path, br#"{"plaintext": "YQ=="}"#);
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
        assert!(answer.at("/errors/0").starts_with("no keys yet"), "{answer:?}");
    }
    wait_for("the first sync to fail", || daemon.log().contains("cannot reach http").then_some(()));
    let ready = daemon.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("cannot reach http"), "{}", ready.text());
    assert_eq!((daemon.get("/livez").status, daemon.get("/keyring/active").status), (200, 503));
    assert_eq!(daemon.get("/keyring").text(), r#"{"ids":[]}"#);

    server.start();
    daemon.wait_until_ready();
    assert_eq!(daemon.opened(&daemon.encrypt("at last")), "at last");
}

#[test]
fn a_sealed_vault_is_reported_and_the_keys_held_stay_in_use() {
    let server = OpenBao::durable();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[]);
    server.api("PUT", "sys/seal", &serde_json::Value::Null);
    let answer = daemon.request("POST", "/keyring/vault/sync", b"");
    assert_eq!(answer.status, 500);
    assert!(answer.at("/error").contains("is sealed or not initialised"), "{answer:?}");
    assert_eq!(daemon.opened(&daemon.encrypt("still")), "still");
}

#[test]
fn the_keyring_serves_through_a_change_of_leader() {
    let mut leader = OpenBao::durable();
    leader.put_record("first", KEY);
    let named = OpenBao::joining(&leader);
    let third = OpenBao::joining(&leader);
    let daemon = Daemon::start(&named, &[("KONG_KEYRING_SYNC_INTERVAL", "1")]);
    let sealed = daemon.encrypt("before");
    leader.stop();
    let record = serde_json::json!({ "data": { "id": "second", "key": KEY } });
    wait_for("a new leader that accepts a record", || {
        assert_eq!(daemon.opened(&sealed), "before");
        let written = third.try_api("POST", "secret/data/keyring", &record)?;
        (written.status == 200).then_some(())
    });
    wait_for("the second key to be active", || {
        assert_eq!(daemon.opened(&sealed), "before");
        (daemon.active() == "second").then_some(())
    });
}

#[test]
fn after_max_stale_the_daemon_is_not_ready_and_still_serves() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let proxy = Proxy::before(&server.address());
    let settings = [
        ("KONG_KEYRING_VAULT_HOST", proxy.address()),
        ("KONG_KEYRING_MAX_STALE", "2".to_owned()),
        ("KONG_KEYRING_SYNC_INTERVAL", "1".to_owned()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let daemon = Daemon::start(&server, &settings);
    proxy.set("/", Fault::status(500));
    let ready =
        wait_for("it to be stale", || Some(daemon.get("/readyz")).filter(|ready| ready.status == 503));
    let reason = ready.text();
    assert!(reason.contains("keyring_max_stale") && reason.contains("answered 500"), "{reason}");
    assert_eq!(daemon.opened(&daemon.encrypt("still")), "still");
    proxy.set("/", Fault::None);
    daemon.wait_until_ready();
}
