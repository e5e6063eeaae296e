//! SIGHUP: settings that change while applications go on, and bad ones that change nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::support::{Daemon, OpenBao, Proxy, success, wait_for};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

fn token(server: &OpenBao) -> String {
    format!("keyring_vault_token = {}", server.token())
}

#[test]
fn a_hundred_reloads_under_load_lose_no_request() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let lines = token(&server);
    let daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(daemon.opened(&daemon.encrypt("under load")), "under load");
                    served.fetch_add(2, Ordering::Relaxed);
                }
            });
        }
        for turn in 0..100 {
            let level = if turn % 2 == 0 { "info" } else { "warn" };
            let more = format!("{lines}\nlog_level = {level}\nkeyring_max_connections = {}", 100 + turn);
            daemon.write_conf(&server.address(), &more);
            daemon.reload("success");
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(daemon.metric("keyringd_reloads_total{outcome=\"success\"}"), 100);
    assert!(served.load(Ordering::Relaxed) > 100);
    assert_eq!(daemon.active(), "first");
}

#[test]
fn bad_settings_change_nothing_and_are_told_with_every_mistake() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let lines = token(&server);
    let daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();
    daemon.write_conf("nonsense", &format!("{lines}\nlog_level = loud\nkeyring_nmae = x"));
    daemon.reload("failure");
    let mistakes = daemon.get("/status").at("/source/reload_mistakes");
    for key in ["keyring_vault_host", "log_level", "did you mean keyring_name?"] {
        assert!(mistakes.contains(key) && daemon.log().contains(key), "{key} in {mistakes}");
    }
    assert!(success(&daemon.command(&["status"], b"")).contains("not reloaded: "));
    server.put_record("second", KEY);
    wait_for("the sync to go on", || (daemon.active() == "second").then_some(()));

    daemon.write_conf(&server.address(), &lines);
    daemon.reload("success");
    assert_eq!(daemon.get("/status").at("/source/reload_mistakes"), "[]");
}

#[test]
fn the_server_the_token_the_path_the_name_and_the_limits_change_while_it_runs() {
    let (one, other) = (OpenBao::dev(), OpenBao::dev());
    one.put_record("of-one", KEY);
    let data = json!({ "data": { "id": "of-the-other", "key": KEY } });
    other.api("POST", "secret/data/team/keys", &data);
    let token = other.token_for(&json!({ "policies": ["root"] }));
    let daemon = Daemon::from_conf(&one.address(), &self::token(&one));
    daemon.wait_until_ready();
    let sealed = daemon.encrypt("before");

    let proxy = Proxy::before(&other.address());
    let lines = format!(
        "keyring_vault_token = {token}\nkeyring_vault_path = team/keys\nkeyring_name = apps\nkeyring_max_request_size = 1k"
    );
    daemon.write_conf(&proxy.address(), &lines);
    daemon.reload("success");
    wait_for("the other server's key", || (daemon.keyring() == "of-the-other of of-the-other").then_some(()));
    assert!(
        proxy.seen().iter().any(|request| request == "GET /v1/secret/metadata/team/keys"),
        "{:?}",
        proxy.seen()
    );
    assert_eq!(daemon.decrypt(&sealed).status, 404, "the name has changed");
    let encrypt =
        |len: usize| daemon.post("/v1/transit/encrypt/apps", &json!({ "plaintext": "A".repeat(len) })).status;
    assert_eq!((encrypt(400), encrypt(4000)), (200, 413));
    assert_eq!(daemon.get("/status").at("/source/path"), "team/keys");
}

#[test]
fn a_secret_without_keys_leaves_the_current_keyring() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let lines = token(&server);
    let daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();
    daemon.write_conf(
        &server.address(),
        &format!("{lines}\nkeyring_vault_path = nothing/there\nkeyring_name = keyring"),
    );
    daemon.reload("success");
    wait_for("the sync to fail", || daemon.log().contains("there is nothing at").then_some(()));
    assert_eq!(daemon.opened(&daemon.encrypt("still")), "still");
}

#[test]
fn settings_that_need_a_restart_are_reported() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let lines = token(&server);
    let daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();
    daemon.write_conf(&server.address(), &format!("{lines}\nkeyring_socket_mode = 0600"));
    daemon.reload("success");
    assert!(daemon.log().contains("restart keyringd"), "{}", daemon.log());
    assert_eq!(daemon.get("/readyz").status, 200);
}
