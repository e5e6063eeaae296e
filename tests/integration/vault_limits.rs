//! What a real Vault limits: the request rate, the versions that it keeps, and how long versions live.
//!
//! Faults of the network are in `session` and `outage`, the plain course of a sync in `sync`.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Daemon, Fault, OpenBao, Proxy, daemon::run_for, success, wait_for};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

fn server_with_versions(count: u64) -> OpenBao {
    let server = OpenBao::dev();
    put_versions(&server, 1, count);
    server
}

fn put_versions(server: &OpenBao, first: u64, last: u64) {
    for n in first..=last {
        server.put_record(&format!("v{n}"), &format!("{n}{KEY}"));
    }
}

/// Limits the requests per second to the KV engine.
fn limit_rate(server: &OpenBao, rate: u32) {
    server.api("POST", "sys/quotas/rate-limit/kv", &json!({ "rate": rate, "path": "secret/" }));
}

fn through(server: &OpenBao, proxy: &Proxy, more: &[(&str, &str)]) -> Daemon {
    let address = proxy.address();
    let host = [("KONG_KEYRING_VAULT_HOST", address.as_str())];
    Daemon::start_unready(server, &[host.as_slice(), more].concat())
}

/// The variable that allows this user every operation.
fn everything() -> String {
    format!("uid:{}=all", nix::unistd::geteuid())
}

fn sync_warnings(daemon: &Daemon) -> String {
    daemon.get("/status").at("/sync/warnings")
}

#[test]
fn a_sync_under_a_rate_limit_keeps_what_it_read_and_ends_within_seconds() {
    for (rate, limit) in [(10, 20), (1, 40)] {
        let server = server_with_versions(10);
        limit_rate(&server, rate);
        let started = Instant::now();
        let proxy = Proxy::before(&server.address());
        let daemon = through(&server, &proxy, &[]);
        daemon.wait_until_ready();
        let reads = proxy.seen().iter().filter(|request| request.contains("/secret/data/")).count();
        assert!(started.elapsed() < Duration::from_secs(limit), "rate {rate}: {:?}", started.elapsed());
        assert!(reads <= 30, "rate {rate}: {reads} reads of 10 versions");
        assert!(daemon.keyring().starts_with("v10 of v1 v10 v2"), "{}", daemon.keyring());
    }
}

#[test]
fn versions_are_read_sixteen_at_a_time() {
    let server = OpenBao::dev();
    server.api("POST", "secret/config", &json!({ "max_versions": 100 }));
    put_versions(&server, 1, 64);
    let proxy = Proxy::before(&server.address());
    proxy.set("/v1/secret/data", Fault::Latency(Duration::from_secs(1)));
    let started = Instant::now();
    let daemon = through(&server, &proxy, &[]);
    daemon.wait_until_ready();
    assert!(started.elapsed() < Duration::from_secs(13), "{:?}: four at a time take 16 s", started.elapsed());
    assert_eq!(daemon.get("/status").at("/sync/headroom"), "36");
}

#[test]
fn headroom_follows_the_limit_of_the_engine() {
    let server = OpenBao::dev();
    server.api("POST", "secret/config", &json!({ "max_versions": 3 }));
    put_versions(&server, 1, 2);
    let daemon = Daemon::start(&server, &[]);
    let status = daemon.get("/status");
    assert_eq!((status.at("/sync/max_versions"), status.at("/sync/headroom")), ("3".into(), "1".into()));
    assert!(sync_warnings(&daemon).contains("Vault keeps 3 versions"), "{}", sync_warnings(&daemon));
    let report = success(&run_for(&server, "doctor", &[]));
    assert!(report.contains("warn  versions") && report.contains("oldest of 3"), "{report}");

    // The limit of the secret itself comes first.
    server.api("POST", "secret/metadata/keyring", &json!({ "max_versions": 7 }));
    daemon.sync();
    assert_eq!(daemon.get("/status").at("/sync/headroom"), "5");
}

#[test]
fn without_the_right_to_read_the_engines_limit_it_is_learned_from_pruned_versions() {
    let server = OpenBao::dev();
    server.api("POST", "secret/config", &json!({ "max_versions": 3 }));
    put_versions(&server, 1, 5);
    let token = server.token_for(&json!({ "policies": ["keyring"] }));
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_VAULT_TOKEN", token.as_str())]);
    let status = daemon.get("/status");
    assert_eq!((status.at("/sync/max_versions"), status.at("/sync/headroom")), ("3".into(), "0".into()));
}

#[test]
fn keys_that_only_this_process_holds_are_counted_and_named_with_a_cure() {
    let server = server_with_versions(2);
    let daemon = Daemon::start(&server, &[]);
    put_versions(&server, 3, 12);
    daemon.sync();
    let warnings = sync_warnings(&daemon);
    let expected = "2 keys are no longer in Vault and end with this process (v1, v2)";
    assert!(warnings.contains(expected) && warnings.contains("rewrap"), "{warnings}");
    assert!(daemon.log().contains(expected), "{}", daemon.log());
    let named = |line: &str| {
        line.contains("WARN")
            && line.contains("version 1 of v1 is no longer in Vault")
            && line.contains("sha256:")
    };
    assert!(daemon.log().lines().any(named), "{}", daemon.log());
    assert_eq!(daemon.metric("keyringd_keys{state=\"retired\"}"), 2);
    let status = success(&daemon.command(&["status"], b""));
    assert!(status.contains(expected), "{status}");

    // A secret that was deleted and written again with the same records holds every key again.
    server.api("DELETE", "secret/metadata/keyring", &Value::Null);
    server.api("POST", "secret/metadata/keyring", &json!({ "max_versions": 20 }));
    put_versions(&server, 1, 12);
    daemon.sync();
    assert!(!sync_warnings(&daemon).contains("no longer in Vault"), "{}", sync_warnings(&daemon));
    assert_eq!(daemon.metric("keyringd_keys{state=\"retired\"}"), 0);
}

#[test]
fn a_vault_that_was_restored_from_an_older_snapshot_is_a_warning() {
    let server = server_with_versions(2);
    let daemon = Daemon::start(&server, &[]);
    put_versions(&server, 3, 3);
    let sealed = {
        daemon.sync();
        daemon.encrypt("under the third")
    };
    // The listing of the snapshot: the third version is not in it.
    let proxy = Proxy::before(&server.address());
    let listing = server.api("GET", "secret/metadata/keyring", &Value::Null);
    let mut older = listing.json();
    older["data"]["current_version"] = json!(2);
    older["data"]["versions"].as_object_mut().unwrap().remove("3");
    let daemon = {
        drop(daemon);
        let daemon = through(&server, &proxy, &[]);
        daemon.wait_until_ready();
        daemon
    };
    proxy.set("/v1/secret/metadata", Fault::Answer(200, String::new(), older.to_string()));
    daemon.sync();
    assert_eq!(daemon.active(), "v2");
    assert_eq!(daemon.opened(&sealed), "under the third");
    let warnings = sync_warnings(&daemon);
    assert!(warnings.contains("1 key is no longer in Vault and ends with this process (v3)"), "{warnings}");
    assert!(warnings.contains("current version went back from 3 to 2"), "{warnings}");
}

#[test]
fn a_sync_that_gets_no_answer_takes_one_timeout_for_all_who_wait() {
    let server = server_with_versions(1);
    let proxy = Proxy::before(&server.address());
    let daemon = through(&server, &proxy, &[("KONG_KEYRING_SYNC_INTERVAL", "1")]);
    daemon.wait_until_ready();
    proxy.set("/", Fault::Silence);
    let seen = proxy.seen().len();
    wait_for("a scheduled sync to be sent", || (proxy.seen().len() > seen).then_some(()));
    let asked = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(daemon.request("POST", "/keyring/vault/sync", b"").status, 500);
            });
        }
    });
    assert!(asked.elapsed() < Duration::from_secs(18), "{:?}", asked.elapsed());
}

#[test]
fn references_that_get_no_answer_take_one_timeout_for_all_who_wait() {
    let server = server_with_versions(1);
    let proxy = Proxy::before(&server.address());
    let access = everything();
    let daemon = through(&server, &proxy, &[("KONG_KEYRING_ACCESS", access.as_str())]);
    daemon.wait_until_ready();
    proxy.set("/", Fault::Silence);
    let (daemon, asked) = (&daemon, Instant::now());
    std::thread::scope(|scope| {
        for n in 0..20 {
            scope.spawn(move || {
                let reference = json!({ "reference": format!("{{vault://hcv/app{n}/password}}") });
                assert_eq!(daemon.post("/v1/resolve", &reference).status, 503);
            });
        }
    });
    assert!(asked.elapsed() < Duration::from_secs(18), "{:?}", asked.elapsed());
}

#[test]
fn an_unknown_key_is_unavailable_while_vault_cannot_be_asked() {
    let server = server_with_versions(1);
    let proxy = Proxy::before(&server.address());
    let daemon = through(&server, &proxy, &[("KONG_KEYRING_SYNC_INTERVAL", "1")]);
    daemon.wait_until_ready();
    let unknown = daemon.decrypt("kr1:of-another-host:AAAA");
    assert_eq!(unknown.status, 400, "{unknown:?}");
    proxy.set("/", Fault::status(500));
    wait_for("a sync to fail", || daemon.log().contains("sync failed").then_some(()));
    let unknown = daemon.decrypt("kr1:of-another-host:AAAA");
    assert_eq!(unknown.status, 503, "{unknown:?}");
    assert!(unknown.header("retry-after").is_some(), "{unknown:?}");
    assert!(unknown.text().contains("answered 500"), "{unknown:?}");
}

#[test]
fn the_sync_command_prints_what_the_sync_came_to() {
    let server = OpenBao::dev();
    server.put_record("a", KEY);
    server.put(&json!({ "key": KEY }));
    server.put_record("b", "short");
    let daemon = Daemon::start(&server, &[]);
    let printed = success(&daemon.command(&["sync"], b""));
    assert!(printed.contains("active b (version 3), 2 keys"), "{printed}");
    assert!(printed.contains("rejected: version 2") && printed.contains("warning: "), "{printed}");

    server.put(&json!({ "id": "c" }));
    let output = daemon.command(&["sync"], b"");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("rejected: version 4") && printed.contains("active b (version 3)"), "{printed}");
}

#[test]
fn status_reports_what_readyz_reports() {
    let server = server_with_versions(1);
    let proxy = Proxy::before(&server.address());
    let more = [("KONG_KEYRING_MAX_STALE", "2"), ("KONG_KEYRING_SYNC_INTERVAL", "1")];
    let daemon = through(&server, &proxy, &more);
    daemon.wait_until_ready();
    proxy.set("/", Fault::status(500));
    wait_for("the keyring to be stale", || (daemon.get("/readyz").status == 503).then_some(()));
    let output = daemon.command(&["status"], b"");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("keyring_max_stale"), "{printed}");
    let status = daemon.get("/status");
    assert_eq!(status.at("/ready"), "false");
    assert!(status.at("/reason").contains("keyring_max_stale"), "{}", status.text());
}

#[test]
fn another_key_under_the_same_id_names_the_cure() {
    let server = OpenBao::dev();
    server.put_record("one", KEY);
    server.put_record("one", &KEY.to_lowercase());
    let daemon = Daemon::start(&server, &[]);
    let warnings = sync_warnings(&daemon);
    assert!(warnings.contains("write the key under a new id"), "{warnings}");
    assert!(warnings.contains("hosts that start after version 1 is gone"), "{warnings}");
}

#[test]
fn a_line_break_behind_a_key_is_a_warning() {
    let server = OpenBao::dev();
    server.put_record("one", &format!("{KEY}\n"));
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_KEY_DERIVATION", "raw")]);
    let warnings = sync_warnings(&daemon);
    assert!(
        warnings.contains("version 1: the key of one ends in a line break, which is ignored"),
        "{warnings}"
    );
    drop(daemon);
    let daemon = Daemon::start(&server, &[]);
    let warnings = sync_warnings(&daemon);
    let part = "version 1: the key of one ends in a line break, which is part of the key";
    assert!(warnings.contains(part), "{warnings}");
}

#[test]
fn a_version_that_expires_is_announced_before_it_is_gone() {
    let server = OpenBao::dev();
    server.put_record("old", KEY);
    server.api("POST", "secret/metadata/keyring", &json!({ "delete_version_after": "1h" }));
    server.put_record("new", &KEY.to_lowercase());
    let daemon = Daemon::start(&server, &[]);
    let expected = "version 2 is deleted by delete_version_after";
    assert!(sync_warnings(&daemon).contains(expected), "{}", sync_warnings(&daemon));
    assert!(daemon.log().contains(expected), "{}", daemon.log());
    let left = seconds_to_deletion(&daemon);
    assert!((3000.0..=3600.0).contains(&left), "{left}");
    let report = success(&run_for(&server, "doctor", &[]));
    assert!(report.contains("warn  versions") && report.contains(expected), "{report}");
    let status = success(&daemon.command(&["status"], b""));
    assert!(status.contains(expected), "{status}");

    // The engine's own setting does the same to a secret that has none.
    let server = OpenBao::dev();
    server.api("POST", "secret/config", &json!({ "delete_version_after": "2h" }));
    server.put_record("new", KEY);
    let daemon = Daemon::start(&server, &[]);
    let left = seconds_to_deletion(&daemon);
    assert!((6600.0..=7200.0).contains(&left), "{left}");
}

fn seconds_to_deletion(daemon: &Daemon) -> f64 {
    let text = daemon.get("/metrics").text();
    let value = text.lines().find_map(|line| line.strip_prefix("keyringd_seconds_to_version_deletion "));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no such gauge in {text}"))
}

#[test]
fn failed_reloads_do_not_put_off_the_sync() {
    let server = server_with_versions(1);
    let proxy = Proxy::before(&server.address());
    proxy.set("/", Fault::status(500));
    let login = format!("keyring_vault_auth_method = token\nkeyring_vault_token = {}", server.token());
    let daemon = Daemon::from_conf(&proxy.address(), &login);
    wait_for("the first sync to fail", || daemon.log().contains("sync failed").then_some(()));
    let reloads = || daemon.metric("keyringd_reloads_total{outcome=\"success\"}");
    for _ in 0..10 {
        let before = reloads();
        daemon.signal(Signal::SIGHUP);
        wait_for("the reload", || (reloads() > before).then_some(()));
    }
    proxy.set("/", Fault::None);
    let back = Instant::now();
    daemon.wait_until_ready();
    assert!(back.elapsed() < Duration::from_secs(40), "{:?}", back.elapsed());
}

#[test]
fn a_daemon_without_keys_tries_again_soon_whatever_the_server_asks() {
    let server = server_with_versions(1);
    let proxy = Proxy::before(&server.address());
    proxy.set("/", Fault::Answer(503, "retry-after: 600\r\n".to_owned(), r#"{"errors":[]}"#.to_owned()));
    let daemon = through(&server, &proxy, &[]);
    wait_for("the first sync to fail", || daemon.log().contains("sync failed").then_some(()));
    proxy.set("/", Fault::None);
    let back = Instant::now();
    daemon.wait_until_ready();
    assert!(back.elapsed() < Duration::from_secs(40), "{:?}", back.elapsed());
}

#[test]
fn a_sync_that_an_operator_asks_for_is_sent_at_once() {
    let server = server_with_versions(1);
    let proxy = Proxy::before(&server.address());
    proxy.set("/", Fault::Answer(503, "retry-after: 600\r\n".to_owned(), r#"{"errors":[]}"#.to_owned()));
    let daemon = through(&server, &proxy, &[]);
    for _ in 0..5 {
        assert_eq!(daemon.request("POST", "/keyring/vault/sync", b"").status, 500);
    }
    proxy.set("/", Fault::None);
    daemon.sync();
    assert_eq!(daemon.get("/readyz").status, 200);
}

#[test]
fn an_answer_to_another_request_wakes_a_sync_that_waits() {
    let server = server_with_versions(1);
    server.api("POST", "secret/data/app", &json!({ "data": { "password": "of the app" } }));
    let proxy = Proxy::before(&server.address());
    let access = everything();
    let more = [("KONG_KEYRING_SYNC_INTERVAL", "600"), ("KONG_KEYRING_ACCESS", access.as_str())];
    let daemon = through(&server, &proxy, &more);
    daemon.wait_until_ready();
    proxy.set("/v1/secret/", Fault::status(500));
    for _ in 0..6 {
        assert_eq!(daemon.request("POST", "/keyring/vault/sync", b"").status, 500);
    }
    proxy.set("/v1/secret/", Fault::None);
    server.put_record("next", KEY);
    let reference = json!({ "reference": "{vault://hcv/app/password}" });
    wait_for("the reference", || {
        let answer = daemon.post("/v1/resolve", &reference);
        (answer.status == 200).then_some(())
    });
    wait_for("the next key", || (daemon.active() == "next").then_some(()));
}

#[test]
fn vault_trouble_behind_a_batch_of_references_is_unavailable() {
    let server = server_with_versions(1);
    let proxy = Proxy::before(&server.address());
    let access = everything();
    let daemon = through(&server, &proxy, &[("KONG_KEYRING_ACCESS", access.as_str())]);
    daemon.wait_until_ready();
    proxy.set("/", Fault::status(500));
    let batch = json!({ "batch_input": [
        { "reference": "{vault://hcv/app/password}" }, { "reference": "{vault://hcv/app/user}" }
    ] });
    let answer = daemon.post("/v1/resolve", &batch);
    assert_eq!(answer.status, 503, "{answer:?}");
    let name = "keyringd_requests_total{operation=\"resolve\",outcome=\"unavailable\"}";
    wait_for("the count", || (daemon.metric(name) == 1).then_some(()));
}

#[test]
fn a_mount_that_does_not_exist_is_told_from_a_record_that_does_not() {
    let server = server_with_versions(1);
    let error = |settings: &[(&str, &str)]| Daemon::start_unready(&server, settings).sync_error();
    let mount = error(&[("KONG_KEYRING_VAULT_MOUNT", "nowhere")]);
    assert!(
        mount.contains("no secrets engine is mounted at nowhere") && mount.contains("keyring_vault_mount"),
        "{mount}"
    );
    let path = error(&[("KONG_KEYRING_VAULT_PATH", "nothing")]);
    assert!(!path.contains("no secrets engine") && path.contains("keyring_vault_path"), "{path}");
    for (setting, value) in
        [("KONG_KEYRING_VAULT_PATH", "data/keyring"), ("KONG_KEYRING_VAULT_MOUNT", "secret/data")]
    {
        let said = error(&[(setting, value), ("KONG_KEYRING_NAME", "keyring")]);
        assert!(said.contains("KV v2 adds data/ itself"), "{setting}: {said}");
    }
}
