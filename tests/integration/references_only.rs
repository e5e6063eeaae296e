//! A daemon without a keyring, which serves references only; and `keyringd dev` with its settings.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    references::{everything, port},
    support::{Daemon, OpenBao, daemon::run, kms::Kms, success, wait_for},
    systemd::Notifications,
};

/// What only a daemon with a keyring does.
const NO_KEYRING: &str = "no keyring is configured: this daemon serves references only";

/// Kong's Vault entity for this server, and the right to resolve.
fn settings<'a>(address: &'a str, token: &'a str, access: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("KONG_VAULT_HCV_HOST", "127.0.0.1"),
        ("KONG_VAULT_HCV_PORT", port(address)),
        ("KONG_VAULT_HCV_KV", "v2"),
        ("KONG_VAULT_HCV_TOKEN", token),
        ("KONG_KEYRING_ACCESS", access),
    ]
}

#[test]
fn without_a_keyring_references_are_served_and_systemd_gets_ready_after_the_first_login() {
    let mut server = OpenBao::durable();
    server.api("POST", "secret/data/customer/acme", &json!({ "data": { "name": "ACME Inc." } }));
    let (address, token, access) = (server.address(), server.token().to_owned(), everything());
    server.stop();
    let notified = Notifications::new();
    let path = notified.path();
    let settings = [settings(&address, &token, &access), vec![("NOTIFY_SOCKET", path.as_str())]].concat();
    let mut daemon = Daemon::start_with(&settings);
    let waiting = notified.up_to("STATUS=no login yet: ");
    assert!(waiting.iter().all(|message| !message.starts_with("READY")), "{waiting:?}");
    let unready = daemon.get("/readyz");
    assert_eq!(unready.status, 503);
    assert!(unready.text().starts_with("not logged in: "), "{}", unready.text());
    assert_eq!(daemon.get("/livez").status, 200);
    daemon.signal(Signal::SIGHUP); // not what makes it ready
    server.start();
    let started = notified.up_to("READY=1");
    assert!(started.iter().all(|message| !message.starts_with("RELOADING")), "{started:?}");

    daemon.wait_until_ready();
    let resolved = daemon.post("/v1/resolve", &json!({ "reference": "{vault://hcv/customer/acme/name}" }));
    assert_eq!(resolved.at("/data/value"), "ACME Inc.");
    let status = daemon.get("/status").json();
    assert_eq!(
        (&status["ready"], &status["name"], &status["sync"]),
        (&json!(true), &json!(null), &json!(null))
    );
    assert_eq!(status["source"]["sessions"][0]["name"], "vault_hcv");
    let socket = daemon.socket().display().to_string();
    let printed = success(&run(&["status", "--socket", &socket], &[], b""));
    assert!(printed.starts_with("state:        ready, serving references only\n"), "{printed}");
    assert!(
        printed.contains("session:      vault_hcv  logged in by token; the token never expires\n"),
        "{printed}"
    );
    assert_eq!(daemon.metric("keyringd_keys{state=\"active\"}"), 0);

    daemon.signal(Signal::SIGTERM);
    notified.up_to("STOPPING=1");
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn what_needs_a_keyring_says_that_none_is_configured() {
    let server = OpenBao::dev();
    let (address, access) = (server.address(), everything());
    let daemon = Daemon::start_with(&settings(&address, server.token(), &access));
    for (method, path) in [
        ("POST", "/v1/transit/encrypt/keyring"),
        ("POST", "/v1/transit/decrypt/any-name"),
        ("POST", "/v1/transit/rewrap/keyring"),
        ("POST", "/v1/transit/datakey/plaintext/keyring"),
        ("POST", "/v1/transit/hmac/keyring"),
        ("POST", "/v1/transit/verify/keyring"),
        ("POST", "/v1/transit/random"),
        ("POST", "/v1/sys/tools/hash"),
        ("GET", "/v1/transit/keys/keyring"),
        ("LIST", "/v1/transit/keys"),
        ("GET", "/v1/sys/health"),
        ("GET", "/v1/sys/seal-status"),
        ("GET", "/v1/sys/internal/ui/mounts/transit"),
        ("GET", "/keyring"),
        ("GET", "/keyring/active"),
        ("POST", "/keyring/vault/sync"),
    ] {
        let body = if method == "POST" && !path.starts_with("/keyring") { "{}" } else { "" };
        let refused = daemon.request(method, path, body.as_bytes());
        assert_eq!(refused.status, 404, "{method} {path}: {}", refused.text());
        assert!(refused.text().contains(NO_KEYRING), "{method} {path}: {}", refused.text());
    }
    let kms = Kms::connect(&daemon.socket());
    for refused in
        [kms.status().map(|_| ()), kms.encrypt(b"x").map(|_| ()), kms.decrypt(b"x", "kr1.x").map(|_| ())]
    {
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.code, refused.message.starts_with(NO_KEYRING)),
            (12, true),
            "{}",
            refused.message
        );
    }
    let socket = daemon.socket().display().to_string();
    for command in ["encrypt", "sync"] {
        let failed = run(&[command, "--socket", &socket], &[], b"x");
        let message = String::from_utf8_lossy(&failed.stderr);
        assert_eq!(failed.status.code(), Some(1), "{message}");
        assert!(message.contains("keyring_enabled = on"), "{command}: {message}");
    }
    // The doctor goes the way of these sessions alone.
    let settings = settings(&address, server.token(), &access);
    let doctor =
        run(&["doctor"], &[settings.as_slice(), &[("KONG_KEYRING_SOCKET_PATH", &socket)]].concat(), b"");
    let printed = success(&doctor);
    assert!(printed.contains("login     vault_hcv: ") && !printed.contains("keyring_vault"), "{printed}");
}

#[test]
fn a_reload_changes_the_vault_of_references_but_not_whether_there_is_a_keyring() {
    let servers = [OpenBao::dev(), OpenBao::dev()];
    for (server, value) in servers.iter().zip(["first", "second"]) {
        server.api("POST", "secret/data/a", &json!({ "data": { "b": value } }));
    }
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("kong.conf");
    let socket = folder.path().join("keyringd.sock");
    let write = |server: &OpenBao, more: &str| {
        let lines = format!(
            "vault_hcv_host = 127.0.0.1\nvault_hcv_port = {}\nvault_hcv_kv = v2\nvault_hcv_token = {}\n\
             keyring_access = {}\nkeyring_socket_path = {}\n{more}",
            port(&server.address()),
            server.token(),
            everything(),
            socket.display()
        );
        std::fs::write(&conf, lines).unwrap();
    };
    write(&servers[0], "");
    let daemon = Daemon::start_from_file(&conf, folder);
    let resolve = || daemon.post("/v1/resolve", &json!({ "reference": "{vault://hcv/a/b?ttl=1}" }));
    assert_eq!(resolve().at("/data/value"), "first");
    write(&servers[1], "");
    daemon.reload("success");
    wait_for("the other Vault", || (resolve().at("/data/value") == "second").then_some(()));
    let keyring = format!(
        "keyring_enabled = on\nkeyring_strategy = vault\nkeyring_vault_host = {}\nkeyring_vault_mount = secret\n\
         keyring_vault_path = keyring\nkeyring_vault_token = {}\n",
        servers[1].address(),
        servers[1].token()
    );
    write(&servers[1], &keyring);
    daemon.reload("failure");
    let mistakes = daemon.get("/status").json()["source"]["reload_mistakes"].to_string();
    assert!(mistakes.contains("keyring_enabled takes effect at the next start"), "{mistakes}");
}

#[test]
fn dev_honours_its_name_its_permissions_and_references() {
    let server = OpenBao::dev();
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "value" } }));
    let (address, access) = (server.address(), everything());
    let settings = settings(&address, server.token(), &access);
    let daemon = Daemon::dev_with(&[settings.as_slice(), &[("KONG_KEYRING_NAME", "apps")]].concat());
    wait_for("the welcome", || daemon.out().contains("/v1/transit/encrypt/apps").then_some(()));
    let sealed = daemon.post("/v1/transit/encrypt/apps", &json!({ "plaintext": "YQ==" }));
    assert_eq!(sealed.status, 200, "{sealed:?}");
    let reference = json!({ "reference": "{vault://hcv/a/b}" });
    assert_eq!(daemon.post("/v1/resolve", &reference).at("/data/value"), "value");

    // Without them it says what to set.
    let plain = Daemon::dev();
    let refused = plain.post("/v1/resolve", &reference);
    let us = nix::unistd::geteuid();
    assert_eq!(refused.status, 403);
    let entry = format!("uid:{us}=secrets (as a variable, KONG_KEYRING_ACCESS)");
    assert!(refused.text().contains(&entry), "{}", refused.text());
    let nowhere = Daemon::dev_with(&[("KONG_KEYRING_ACCESS", &access)]);
    let refused = nowhere.post("/v1/resolve", &reference);
    assert!(refused.text().contains("set vault_hcv_host and vault_hcv_token"), "{}", refused.text());
    let limited = Daemon::dev_with(&[("KONG_KEYRING_ACCESS", &format!("uid:{us}=status"))]);
    assert_eq!(limited.post("/v1/transit/encrypt/keyring", &json!({ "plaintext": "YQ==" })).status, 403);
    // A mistake is one of a setting, as for the daemon.
    let wrong = run(&["dev", "--socket", "/nonexistent/k.sock"], &[("KONG_KEYRING_ACCESS", "all")], b"");
    assert_eq!(wrong.status.code(), Some(78), "{wrong:?}");
}

#[test]
fn without_an_access_list_the_start_and_the_status_say_that_nobody_may_resolve() {
    let server = OpenBao::dev();
    let (address, token) = (server.address(), server.token().to_owned());
    let mut settings = settings(&address, &token, "");
    settings.retain(|(name, _)| *name != "KONG_KEYRING_ACCESS");
    let daemon = Daemon::start_with(&settings);
    daemon.wait_until_ready();
    assert!(daemon.log().contains("access=\"none, references need keyring_access\""), "{}", daemon.log());
    assert_eq!(daemon.post("/v1/resolve", &json!({ "reference": "{vault://hcv/a/b}" })).status, 403);
    let printed = success(&daemon.command(&["status"], b""));
    assert!(printed.contains("keyringd.sock, for nobody: references need keyring_access\n"), "{printed}");
}
