//! SIGHUP: settings that change while applications go on, and bad ones that change nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    login::{new_secret_id, wrapped},
    references::{asked, everything, port},
    support::{Daemon, OpenBao, Proxy, success, wait_for},
};

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
fn bad_settings_change_nothing_and_every_mistake_is_reported() {
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
    wait_for("the new name", || (daemon.decrypt(&sealed).status == 404).then_some(()));
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
fn a_mistaken_path_that_is_corrected_takes_no_key_away() {
    let server = OpenBao::dev();
    server.api("POST", "secret/metadata/keyring", &json!({ "max_versions": 2 }));
    server.put_record("first", KEY);
    let lines = token(&server);
    let daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();
    let sealed = daemon.encrypt("old");
    for id in ["second", "third"] {
        server.put_record(id, KEY);
        daemon.sync();
    }
    assert_eq!(daemon.opened(&sealed), "old", "a retired key decrypts until the daemon stops");
    let mistaken = ["keyring_vault_path = keyrign", "keyring_vault_path = keyrin"];
    for path in mistaken {
        let more = format!("{lines}\n{path}\nkeyring_name = keyring");
        daemon.write_conf(&server.address(), &more);
        daemon.reload("success");
        let missing = format!("/metadata/{} ", path.rsplit_once(' ').unwrap().1);
        wait_for("the sync to fail", || daemon.log().contains(missing.trim_end()).then_some(()));
    }
    daemon.write_conf(&server.address(), &format!("{lines}\nkeyring_name = keyring"));
    daemon.reload("success");
    daemon.sync();
    assert_eq!(daemon.opened(&sealed), "old");
    assert_eq!(daemon.active(), "third");
}

/// A reload by the command: its exit code, and all that it prints.
fn commanded(daemon: &Daemon) -> (Option<i32>, String) {
    let output = daemon.command(&["reload"], b"");
    let printed = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code(), printed)
}

#[test]
fn a_path_that_cannot_be_read_changes_neither_keys_nor_name_and_everyone_says_so() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let lines = token(&server);
    let daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();
    let sealed = daemon.encrypt("before");
    let mistaken = format!("{lines}\nkeyring_vault_path = team/apps");
    for _ in 0..2 {
        daemon.write_conf(&server.address(), &mistaken);
        let (code, printed) = commanded(&daemon);
        assert_eq!(code, Some(1), "{printed}");
        assert!(printed.contains("reloaded") && printed.contains("there is nothing at"), "{printed}");
        assert_eq!(daemon.opened(&sealed), "before");
        let named = daemon.post("/v1/transit/encrypt/apps", &json!({ "plaintext": "" })).status;
        assert_eq!(named, 404, "no old key under the new name");
        let status = success(&daemon.command(&["status"], b""));
        for shown in [
            "ready, with the keys of secret/keyring, active key first",
            "the settings name secret/team/apps, which was not read yet; the keys, and the name, are still those of \
             secret/keyring",
        ] {
            assert!(status.contains(shown), "{shown} in {status}");
        }
    }
    // Records of which none can be used are no keyring either.
    let put = |data: Value| server.api("POST", "secret/data/team/apps", &json!({ "data": data }));
    put(json!({ "id": "of-apps" }));
    let (code, printed) = commanded(&daemon);
    assert!(code == Some(1) && printed.contains("the sync failed"), "{printed}");
    assert_eq!(daemon.get("/status").at("/moving_from"), "secret/keyring");
    put(json!({ "id": "of-apps", "key": KEY }));
    daemon.sync();
    wait_for("the new name", || (daemon.get("/status").at("/name") == "apps").then_some(()));
    assert_eq!(daemon.decrypt(&sealed).status, 404);
    assert_eq!(daemon.get("/status").at("/moving_from"), "null");
    assert!(!success(&daemon.command(&["status"], b"")).contains("secret/keyring"));
    let (code, printed) = commanded(&daemon);
    assert!(code == Some(0) && printed.ends_with("synced with Vault\n"), "{printed}");
}

#[test]
fn a_reload_whose_login_fails_says_why() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let daemon = Daemon::from_conf(&server.address(), &token(&server));
    daemon.wait_until_ready();
    daemon.write_conf(&server.address(), "keyring_vault_token = unknown");
    let (code, printed) = commanded(&daemon);
    assert_eq!(code, Some(1), "{printed}");
    for shown in ["session keyring logs in", "login with the new settings failed", "does not know the token"]
    {
        assert!(printed.contains(shown), "{shown} in {printed}");
    }
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
    for _ in 0..2 {
        wait_for("the warning", || {
            let log = daemon.log();
            (log.contains("restart keyringd") && log.contains("keyring_socket_mode")).then_some(())
        });
        let (_, printed) = commanded(&daemon);
        assert!(
            printed.contains("keyring_socket_mode: 0660 -> 0600 (") && printed.contains("at the next start"),
            "{printed}"
        );
    }
    assert_eq!(daemon.get("/readyz").status, 200);
}

/// An OpenBao with an AppRole whose secret IDs work once, and the role's ID.
fn with_approle() -> (OpenBao, String) {
    let server = OpenBao::durable();
    server.put_record("first", KEY);
    server.enable("approle");
    let policy = "path \"secret/*\" { capabilities = [\"read\"] }";
    server.api("PUT", "sys/policies/acl/reader", &json!({ "policy": policy }));
    let role = json!({ "token_policies": ["reader"], "token_ttl": "1h", "secret_id_num_uses": 1 });
    server.api("POST", "auth/approle/role/app", &role);
    let role_id = server.role_id("app");
    (server, role_id)
}

fn by_role(prefix: &str, role_id: &str, secret_id: &str) -> String {
    format!(
        "{prefix}auth_method = approle\n{prefix}approle_role_id = {role_id}\n{prefix}approle_secret_id = {secret_id}\n"
    )
}

/// Two logins with a credential that works once: response-wrapped, and with a limit on uses.
fn one_use_logins(server: &OpenBao, folder: &TempDir, prefix: &str, role_id: &str) -> [String; 2] {
    let path = folder.path().join("wrapped");
    std::fs::write(&path, wrapped(server, "auth/approle/role/app/secret-id")).unwrap();
    let in_a_file = format!(
        "{prefix}auth_method = approle\n{prefix}approle_role_id = {role_id}\n{prefix}approle_response_wrapping = on\n\
         {prefix}approle_secret_id_file = {}\n",
        path.display()
    );
    [in_a_file, by_role(prefix, role_id, &new_secret_id(server))]
}

#[track_caller]
fn no_alarm(daemon: &Daemon) {
    assert_eq!(daemon.metric("keyringd_unwraps_total{outcome=\"failure\"}"), 0);
    assert!(!daemon.log().contains("security_event"), "{}", daemon.log());
}

fn logins(proxy: &Proxy) -> usize {
    proxy.seen().iter().filter(|request| request.ends_with("/login")).count()
}

#[track_caller]
fn mistakes(daemon: &Daemon) -> String {
    daemon.get("/status").at("/source/reload_mistakes")
}

#[track_caller]
fn follows(server: &OpenBao, daemon: &Daemon, id: &str) {
    server.put_record(id, &format!("{id}{KEY}"));
    wait_for(&format!("{id} to be active"), || (daemon.active() == id).then_some(()));
}

#[test]
fn a_reload_keeps_the_keyrings_session_if_its_settings_did_not_change() {
    let (server, role_id) = with_approle();
    let folder = tempfile::tempdir().unwrap();
    for (number, lines) in one_use_logins(&server, &folder, "keyring_vault_", &role_id).iter().enumerate() {
        let proxy = Proxy::before(&server.address());
        let daemon = Daemon::from_conf(&proxy.address(), lines);
        daemon.wait_until_ready();
        daemon.reload("success");
        follows(&server, &daemon, &format!("unchanged-{number}"));
        daemon.write_conf(&proxy.address(), &format!("{lines}keyring_sync_interval = 2\n"));
        daemon.reload("success");
        follows(&server, &daemon, &format!("interval-{number}"));
        assert_eq!(logins(&proxy), 1, "{:?}", proxy.seen());
        no_alarm(&daemon);
    }
}

#[test]
fn a_reload_keeps_the_references_session_if_its_settings_did_not_change() {
    let (server, role_id) = with_approle();
    let put = |value: &str| server.api("POST", "secret/data/a", &json!({ "data": { "b": value } }));
    let folder = tempfile::tempdir().unwrap();
    for login in one_use_logins(&server, &folder, "vault_hcv_", &role_id) {
        put("one");
        let proxy = Proxy::before(&server.address());
        let lines = format!(
            "{}\nkeyring_access = {}\nvault_hcv_port = {}\nvault_hcv_kv = v2\n{login}",
            token(&server),
            everything(),
            port(&proxy.address())
        );
        let daemon = Daemon::from_conf(&server.address(), &lines);
        daemon.wait_until_ready();
        assert_eq!(asked(&daemon, "{vault://hcv/a/b}").at("/data/value"), "one");
        put("two");
        daemon.reload("success");
        assert_eq!(asked(&daemon, "{vault://hcv/a/b}").at("/data/value"), "two");
        put("three");
        daemon.write_conf(&server.address(), &format!("{lines}keyring_sync_interval = 2\n"));
        daemon.reload("success");
        assert_eq!(asked(&daemon, "{vault://hcv/a/b}").at("/data/value"), "three");
        assert_eq!(logins(&proxy), 1, "{:?}", proxy.seen());
        assert!(daemon.log().contains("session=vault_hcv"), "{}", daemon.log());
        no_alarm(&daemon);
    }
}

#[test]
fn with_changed_login_settings_the_keyrings_session_serves_until_the_new_one_has_logged_in() {
    let (server, role_id) = with_approle();
    let proxy = Proxy::before(&server.address());
    let lines = |role_id: &str| by_role("keyring_vault_", role_id, &new_secret_id(&server));
    let daemon = Daemon::from_conf(&proxy.address(), &lines(&role_id));
    daemon.wait_until_ready();
    let tokens = server.tokens();
    for unusable in [lines("unknown"), "keyring_vault_token = unknown\n".to_owned()] {
        daemon.write_conf(&proxy.address(), &unusable);
        for id in ["after-the-first-reload", "after-the-second-reload"] {
            daemon.reload("success");
            wait_for("the failure", || {
                mistakes(&daemon).contains("the previous session stays in use").then_some(())
            });
            assert!(daemon.log().contains("the previous session stays in use"), "{}", daemon.log());
            follows(&server, &daemon, id);
        }
        assert_eq!(daemon.get("/status").at("/sync/last_error"), "null");
    }
    assert_eq!(server.tokens(), tokens, "the first session is still logged in");

    daemon.write_conf(&proxy.address(), &lines(&role_id));
    daemon.reload("success");
    wait_for("the new login", || {
        proxy.seen().iter().any(|request| request.contains("revoke-self")).then_some(())
    });
    wait_for("the end of the failure", || (mistakes(&daemon) == "[]").then_some(()));
    follows(&server, &daemon, "under-the-new-session");
    wait_for("one token", || (server.tokens() == tokens).then_some(()));
}

#[test]
fn with_changed_login_settings_the_references_session_serves_until_the_new_one_has_logged_in() {
    let (server, role_id) = with_approle();
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "one" } }));
    let lines = |role_id: &str| {
        format!(
            "{}\nkeyring_access = {}\nvault_hcv_port = {}\nvault_hcv_kv = v2\n{}",
            token(&server),
            everything(),
            port(&server.address()),
            by_role("vault_hcv_", role_id, &new_secret_id(&server))
        )
    };
    let daemon = Daemon::from_conf(&server.address(), &lines(&role_id));
    daemon.wait_until_ready();
    let reference = "{vault://hcv/a/b?ttl=1}";
    assert_eq!(asked(&daemon, reference).at("/data/value"), "one");
    daemon.write_conf(&server.address(), &lines("unknown"));
    daemon.reload("success");
    wait_for("the failure", || {
        mistakes(&daemon).contains("vault_hcv: login with the new settings").then_some(())
    });
    assert!(!mistakes(&daemon).contains("keyring_vault_"), "{}", mistakes(&daemon));
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "two" } }));
    wait_for("the new value", || (asked(&daemon, reference).at("/data/value") == "two").then_some(()));
    daemon.write_conf(&server.address(), &lines(&role_id));
    daemon.reload("success");
    wait_for("the end of the failure", || (mistakes(&daemon) == "[]").then_some(()));
    wait_for("the new login", || (daemon.log().matches("session=vault_hcv").count() >= 2).then_some(()));
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "three" } }));
    wait_for("the new value", || (asked(&daemon, reference).at("/data/value") == "three").then_some(()));
}

#[test]
fn an_unwrapped_secret_id_is_inherited_by_the_session_that_replaces_it() {
    let (server, role_id) = with_approle();
    let role = json!({ "token_policies": ["reader"], "token_ttl": "1h", "secret_id_num_uses": 0 });
    server.api("POST", "auth/approle/role/app", &role);
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::before(&server.address());
    let [lines, _] = one_use_logins(&server, &folder, "keyring_vault_", &role_id);
    let daemon = Daemon::from_conf(&proxy.address(), &lines);
    daemon.wait_until_ready();
    daemon.write_conf(&proxy.address(), &format!("{lines}lua_ssl_verify_depth = 3\n"));
    daemon.reload("success");
    wait_for("the new login", || (logins(&proxy) == 2).then_some(()));
    follows(&server, &daemon, "under-the-new-session");
    assert_eq!(daemon.metric("keyringd_unwraps_total{outcome=\"success\"}"), 1);
    no_alarm(&daemon);
}
