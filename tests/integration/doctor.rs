//! `keyringd doctor` on good and on broken configurations, and that its policy is enough.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Daemon, Fault, OpenBao, Proxy, daemon::run_for, success};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// The output when a step fails.
fn failed_output(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn every_step_succeeds_and_the_printed_policy_suffices() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    server.put_record("second", KEY);
    let message = success(&run_for(&server, "doctor", &[]));
    for line in [
        "ok    dns       127.0.0.1 is 127.0.0.1",
        "ok    clock     this machine's clock and Vault's agree",
        "ok    seal      unsealed, active, version ",
        "ok    login     the configured token is used as it is",
        "ok    policy    secret/metadata/keyring: root",
        "ok    record    version 1: first",
        "ok    keyring   2 held, second is active",
        "ok    versions  Vault keeps 10: room for 8 more",
        "is free; keyringd will create it with mode 0660",
    ] {
        assert!(message.contains(line), "{line}\nin\n{message}");
    }

    let policy = message.split("must allow:\n\n").nth(1).unwrap();
    server.api("PUT", "sys/policies/acl/least", &json!({ "policy": policy }));
    let request = json!({ "policies": ["least"], "no_default_policy": true, "period": "6s" });
    let token = server.api("POST", "auth/token/create", &request).at("/auth/client_token");
    let with_token = [("KONG_KEYRING_VAULT_TOKEN", token.as_str())];
    assert!(!success(&run_for(&server, "doctor", &with_token)).contains("warn"));
    let daemon = Daemon::start(&server, &with_token);
    crate::support::wait_for("renewals", || {
        (daemon.metric("keyringd_token_renewals_total{outcome=\"success\"}") > 1).then_some(())
    });
    let beyond = server.api_with(&token, "GET", "secret/data/other", &Value::Null);
    assert_eq!(beyond.status, 403, "and it is no more than that");
}

#[test]
fn programs_get_findings_as_json() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let good: Value = serde_json::from_str(&success(&run_for(&server, "doctor --json", &[]))).unwrap();
    let findings = good["findings"].as_array().unwrap();
    let login = json!({ "step": "login", "state": "ok", "message": "the configured token is used as it is" });
    assert!(findings.contains(&login), "{good}");
    assert!(findings.iter().any(|finding| finding["state"] == "warning"), "a root token: {good}");
    assert!(good["policy"].as_str().unwrap().contains("secret/metadata/keyring"), "{good}");

    let wrong = [("KONG_KEYRING_VAULT_TOKEN", "hvs.wrong")];
    let failed = failed_output(&run_for(&server, "doctor --json", &wrong));
    assert!(!failed.contains("hvs.wrong"), "{failed}");
    let failed: Value = serde_json::from_str(&failed).unwrap();
    let last = failed["findings"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["step"], &last["state"]), (&json!("login"), &json!("failed")), "{failed}");
}

#[test]
fn each_fault_fails_its_own_step() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let denied = server.token_for(&json!({ "policies": ["default"] }));
    for (setting, value, line) in [
        (
            "KONG_KEYRING_VAULT_HOST",
            "http://no-such-host.invalid:8200",
            "FAIL  dns       cannot resolve no-such-host.invalid",
        ),
        ("KONG_KEYRING_VAULT_HOST", "http://127.0.0.1:1", "FAIL  tcp       cannot connect to 127.0.0.1:1"),
        (
            "KONG_KEYRING_VAULT_HOST",
            &server.address().replace("http", "https"),
            "FAIL  tls       cannot trust https",
        ),
        (
            "KONG_KEYRING_VAULT_TOKEN",
            "unknown",
            "FAIL  login     Vault does not know the token, or it has expired",
        ),
        (
            "KONG_KEYRING_VAULT_TOKEN",
            &denied,
            "FAIL  policy    secret/metadata/keyring: deny: give the token's policy `read` on it",
        ),
        ("KONG_KEYRING_VAULT_PATH", "nothing", "FAIL  secret    there is nothing at"),
        (
            "KONG_KEYRING_SOCKET_PATH",
            "/no/such/folder/s",
            "FAIL  socket    keyring_socket_path: the folder /no/such/folder does not exist",
        ),
    ] {
        let message = failed_output(&run_for(&server, "doctor", &[(setting, value)]));
        assert!(message.contains(line), "{line}\nin\n{message}");
        assert!(message.contains("capabilities = [\"read\"]"), "the policy is there all the same: {message}");
    }
    let sealed = OpenBao::durable();
    sealed.seal();
    assert!(failed_output(&run_for(&sealed, "doctor", &[])).contains("FAIL  seal      Vault is sealed"));
    let misconfigured = run_for(&server, "doctor", &[("KONG_KEYRING_VAULT_HOST", "nonsense")]);
    assert_eq!(misconfigured.status.code(), Some(78));
}

#[test]
fn a_rejected_record_is_a_warning() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    server.put(&json!({ "id": "no key" }));
    let message = success(&run_for(&server, "doctor", &[]));
    assert!(message.contains("warn  record    version 2: record ignored"), "{message}");
    assert!(message.contains("ok    keyring   1 held, first is active"), "{message}");
}

#[test]
fn a_wrapped_secret_id_is_checked_and_not_unwrapped() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    server.enable("approle");
    server.api("POST", "auth/approle/role/app", &json!({ "token_policies": ["keyring"] }));
    let role_id = server.role_id("app");
    let stream = std::net::TcpStream::connect(server.address().trim_start_matches("http://")).unwrap();
    let headers = [("x-vault-token", server.token()), ("x-vault-wrap-ttl", "60s")];
    let path = "/v1/auth/approle/role/app/secret-id";
    let wrapped =
        crate::support::http::exchange(stream, "POST", path, &headers, b"{}").unwrap().at("/wrap_info/token");
    let settings = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role_id.as_str()),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", wrapped.as_str()),
        ("KONG_KEYRING_VAULT_APPROLE_RESPONSE_WRAPPING", "on"),
    ];
    for _ in 0..2 {
        assert!(success(&run_for(&server, "doctor", &settings)).contains("is valid; it was not unwrapped"));
    }
    let daemon = Daemon::start(&server, &settings);
    assert_eq!(daemon.active(), "first");
}

#[test]
fn a_secret_id_that_works_once_is_left_to_the_daemon() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    server.enable("approle");
    let role = json!({ "token_policies": ["keyring"], "secret_id_num_uses": 1 });
    server.api("POST", "auth/approle/role/app", &role);
    let role_id = server.role_id("app");
    let secret_id = server.secret_id("app");
    let settings = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role_id.as_str()),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", secret_id.as_str()),
    ];
    for _ in 0..2 {
        let report = success(&run_for(&server, "doctor", &settings));
        assert!(report.contains("warn  login     the secret ID was not used"), "{report}");
        assert!(report.contains("`keyringd doctor --login` uses it once"), "{report}");
    }
    let daemon = Daemon::start(&server, &settings);
    assert_eq!(daemon.active(), "first");
    // The daemon shows that the secret ID was good.
    let socket = daemon.socket().display().to_string();
    let beside = [settings.as_slice(), &[("KONG_KEYRING_SOCKET_PATH", socket.as_str())]].concat();
    let report = success(&run_for(&server, "doctor", &beside));
    assert!(report.contains("ok    login     the running daemon is logged in"), "{report}");
    // On request it is used, and it is used up.
    let failed = run_for(&server, "doctor --login", &settings);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
}

#[test]
fn a_token_from_a_login_is_revoked() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    server.enable("approle");
    server.api("POST", "auth/approle/role/app", &json!({ "token_policies": ["keyring"] }));
    let role_id = server.role_id("app");
    let secret_id = server.secret_id("app");
    let before = server.tokens();
    let settings = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role_id.as_str()),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", secret_id.as_str()),
    ];
    assert!(success(&run_for(&server, "doctor --login", &settings)).contains("logged in by approle"));
    assert_eq!(server.tokens(), before);
}

#[test]
fn it_works_in_a_namespace() {
    let server = OpenBao::durable();
    server.api("POST", "sys/namespaces/team", &json!({}));
    server.api("POST", "team/sys/mounts/secret", &json!({ "type": "kv", "options": { "version": "2" } }));
    let data = json!({ "data": { "id": "of-the-team", "key": KEY } });
    crate::support::wait_for("the KV engine", || {
        let written = server.try_api("POST", "team/secret/data/keyring", &data)?;
        (written.status == 200).then_some(())
    });
    let message = success(&run_for(&server, "doctor", &[("KONG_KEYRING_VAULT_NAMESPACE", "team")]));
    assert!(
        message.contains("ok    seal      unsealed") && message.contains("of-the-team is active"),
        "{message}"
    );
}

#[test]
fn a_clock_that_differs_is_a_warning() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let proxy = Proxy::before(&server.address());
    let health = server.api("GET", "sys/health", &Value::Null).text();
    let date = "date: Sat, 01 Jan 2000 00:00:00 GMT\r\n".to_owned();
    proxy.set("/v1/sys/health", Fault::Answer(200, date, health));
    let message = success(&run_for(&server, "doctor", &[("KONG_KEYRING_VAULT_HOST", &proxy.address())]));
    assert!(message.contains("warn  clock     this machine's clock and Vault's differ by"), "{message}");
}

#[test]
fn low_headroom_is_a_warning() {
    let server = OpenBao::shared();
    for n in 1..=9 {
        server.put_record(&format!("v{n}"), &format!("{n}{KEY}"));
    }
    let message = success(&run_for(&server, "doctor", &[]));
    assert!(
        message.contains("warn  versions  after 1 more versions Vault destroys the oldest of 10"),
        "{message}"
    );
}

#[test]
fn a_socket_for_everybody_is_a_warning_unless_an_access_list_decides() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let open = [("KONG_KEYRING_SOCKET_MODE", "0666"), ("KONG_KEYRING_ACCESS", "uid:0=all")];
    let warning = "keyring_socket_mode lets every user of this machine encrypt and decrypt";
    assert!(success(&run_for(&server, "doctor", &open[..1])).contains(warning));
    assert!(!success(&run_for(&server, "doctor", &open)).contains(warning));
}
