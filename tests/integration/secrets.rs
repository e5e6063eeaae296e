//! No secret in any output: the tests search all output, up to trace level, for planted secrets.

use std::fmt::Write as _;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Daemon, Fault, OpenBao, Proxy, daemon::run, passed_as_root, wait_for};

/// Every form in which a secret could appear.
fn forms(secret: &str) -> Vec<String> {
    let hex = secret.bytes().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    // Within a longer text, base64 is shifted by 0 to 2 bytes. Its ends depend on the neighbours.
    let shifted = (0..3).map(|shift| {
        let text = BASE64_STANDARD.encode(format!("{}{secret}", "x".repeat(shift)));
        text[4..text.len() - 4].to_owned()
    });
    [secret.to_owned(), hex.clone(), hex.to_uppercase()].into_iter().chain(shifted).collect()
}

#[track_caller]
fn assert_none_of(secrets: &[&str], output: &str) {
    for form in secrets.iter().flat_map(|secret| forms(secret)) {
        assert!(!output.contains(&form), "a secret, as {form}, in:\n{output}");
    }
}

#[test]
fn a_run_at_trace_level_prints_no_token_no_key_and_no_plaintext() {
    let server = OpenBao::dev();
    let (token, key, plaintext) =
        ("planted-token-4f1d8a", "planted-key-text-77c1e2", "planted-plaintext-0b9e55");
    server.api("POST", "auth/token/create", &json!({ "id": token, "policies": ["root"], "no_parent": true }));
    server.put_record("first", key);
    for format in ["text", "json"] {
        let mut daemon = Daemon::start(
            &server,
            &[
                ("KONG_KEYRING_VAULT_TOKEN", token),
                ("KONG_LOG_LEVEL", "trace"),
                ("KONG_KEYRING_LOG_FORMAT", format),
                ("KONG_KEYRING_SYNC_INTERVAL", "1"),
            ],
        );
        let sealed = daemon.encrypt(plaintext);
        assert_eq!(daemon.opened(&sealed), plaintext);
        let mut responses = daemon.get("/status").text();
        responses += &daemon
            .request(
                "POST",
                "/v1/transit/encrypt/keyring",
                format!("{{\"plaintext\": \"{plaintext}\"}}").as_bytes(),
            )
            .text();
        responses += &daemon
            .request("POST", "/v1/transit/encrypt/keyring", format!("{{\"{plaintext}\": 1").as_bytes())
            .text();
        responses += &daemon
            .request("POST", "/v1/transit/encrypt/keyring", format!("[\"{plaintext}\"]").as_bytes())
            .text();
        responses += &daemon.decrypt(&format!("{sealed}A")).text();
        let wrong = json!({ "token": format!("{token}-that-is-wrong") });
        responses += &daemon.post("/keyring/vault/sync", &wrong).text();
        server.put(&json!({ "id": "bad", "key": [key] }));
        server.put(&json!({ "id": "first", "key": format!("{key}-changed") }));
        daemon.sync();
        responses += &daemon.get("/status").text();
        responses += &daemon.get("/keyring").text();
        daemon.signal(Signal::SIGUSR1);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.ended().code(), Some(0));
        let log = daemon.log();
        assert!(log.contains("TRACE"), "libraries log at trace level too: {log}");
        assert_none_of(&[token, key, plaintext], &format!("{responses}{log}{}", daemon.out()));
    }
}

#[test]
fn a_response_that_repeats_the_token_is_not_quoted() {
    let token = "planted-token-a3c5d7";
    let proxy = Proxy::only(Fault::Answer(
        500,
        String::new(),
        format!(r#"{{"errors": ["x-vault-token: {token}"]}}"#),
    ));
    let address = proxy.address();
    let server = OpenBao::dev();
    let daemon = Daemon::start_unready(
        &server,
        &[("KONG_KEYRING_VAULT_HOST", &address), ("KONG_KEYRING_VAULT_TOKEN", token)],
    );
    wait_for("the answer to be reported", || daemon.log().contains("answered 500").then_some(()));
    assert_none_of(&[token], &(daemon.log() + &daemon.get("/status").text()));
}

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// The environment of a daemon, as the kernel shows it.
fn environment(daemon: &Daemon) -> String {
    let environment = std::fs::read(format!("/proc/{}/environ", daemon.pid())).unwrap();
    String::from_utf8_lossy(&environment).into_owned()
}

#[test]
fn a_secret_variable_is_removed_from_the_environment_and_still_used() {
    if passed_as_root() {
        return;
    }
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_SYNC_INTERVAL", "1")]);
    let environment = environment(&daemon);
    assert!(environment.contains("KEYRINGD_ENV_KONG_KEYRING_VAULT_TOKEN=/proc/self/fd/"), "{environment}");
    assert_none_of(&[server.token()], &environment);
    assert!(!daemon.log().contains("warning"), "{}", daemon.log());
    daemon.sync();
    assert_eq!(daemon.active(), "first");
    daemon.reload("success");
}

#[test]
fn a_secret_variable_overrides_a_kong_conf_after_it_was_removed_from_the_environment() {
    if passed_as_root() {
        return;
    }
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let variables = [("KONG_KEYRING_VAULT_TOKEN", server.token())];
    let daemon = Daemon::from_conf_with(&server.address(), "keyring_vault_token = another", &variables);
    daemon.wait_until_ready();
    assert_none_of(&[server.token()], &environment(&daemon));
}

#[test]
fn variables_that_a_kong_conf_refers_to_are_removed_from_the_environment_and_used_at_every_reload() {
    if passed_as_root() {
        return;
    }
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    server.enable("approle");
    server.allow_reading();
    server.api("POST", "auth/approle/role/app", &json!({ "token_policies": "keyring" }));
    let role_id = server.role_id("app");
    let secret_id = server.secret_id("app");
    let (other, later) = ("planted-other-51b0aa", server.token_for(&json!({ "policies": ["root"] })));
    let both = json!({ "role_id": role_id, "secret_id": secret_id, "other": other }).to_string();
    let lines = "keyring_vault_auth_method = approle\nlog_level = trace\n\
        keyring_vault_approle_role_id = {vault://env/app-role/role_id}\n\
        keyring_vault_approle_secret_id = {vault://env/app-role/secret_id?ttl=60}";
    let variables = [("APP_ROLE", both.as_str()), ("LATER", &later), ("HOME", "/root")];
    let daemon = Daemon::from_conf_with(&server.address(), lines, &variables);
    daemon.wait_until_ready();
    let environment = environment(&daemon);
    assert!(environment.contains("KEYRINGD_ENV_APP_ROLE=/proc/self/fd/"), "{environment}");
    assert!(environment.contains("HOME=/root"), "other variables are not moved: {environment}");
    assert_none_of(&[&role_id, &secret_id, other], &environment);
    for _ in 0..3 {
        daemon.reload("success");
    }
    assert_eq!(daemon.metric("keyringd_logins_total{outcome=\"success\"}"), 1, "the settings are equal");

    daemon.write_conf(&server.address(), "log_level = trace\nkeyring_vault_token = {vault://env/later}");
    daemon.reload("success");
    server.put_record("second", KEY);
    wait_for("a sync by the new token", || (daemon.active() == "second").then_some(()));
    assert!(daemon.log().contains("LATER: this secret stays"), "{}", daemon.log());

    daemon.write_conf(&server.address(), "log_level = trace\nkeyring_vault_token = {vault://env/nowhere}");
    daemon.reload("failure");
    assert!(daemon.log().contains("the variable NOWHERE, which is not set"), "{}", daemon.log());
    assert_eq!(daemon.active(), "second");
    assert_none_of(&[&role_id, &secret_id, other, &later], &(daemon.log() + &daemon.get("/status").text()));
}

#[test]
fn a_variable_with_a_reference_stays_and_the_named_variable_is_removed() {
    if passed_as_root() {
        return;
    }
    let server = OpenBao::dev();
    let (token, path) = ("planted-token-9e02c4", "planted-path-60d1f7");
    server.api("POST", "auth/token/create", &json!({ "id": token, "policies": ["root"], "no_parent": true }));
    server.api("POST", &format!("secret/data/{path}"), &json!({ "data": { "id": "first", "key": KEY } }));
    let daemon = Daemon::start(
        &server,
        &[
            ("KONG_KEYRING_VAULT_TOKEN", "{vault://env/my-token}"),
            ("KONG_KEYRING_VAULT_PATH", "{vault://env/a-path}"),
            ("KONG_KEYRING_NAME", "keyring"),
            ("KONG_LOG_LEVEL", "trace"),
            ("MY_TOKEN", token),
            ("A_PATH", path),
        ],
    );
    let shown = environment(&daemon);
    assert!(shown.contains("KONG_KEYRING_VAULT_TOKEN={vault://env/my-token}"), "{shown}");
    assert!(shown.contains("KEYRINGD_ENV_MY_TOKEN=/proc/self/fd/"), "{shown}");
    assert_none_of(&[token, path], &shown);
    for _ in 0..2 {
        daemon.reload("success");
        daemon.sync();
    }
    assert_eq!(daemon.opened(&daemon.encrypt("hello")), "hello");
    assert_none_of(&[token], &(daemon.log() + &daemon.get("/status").text()));
}

#[test]
fn a_private_key_in_any_form_and_setting_is_not_shown() {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = key.serialize_pem();
    let wrapped = BASE64_STANDARD
        .encode(&pem)
        .as_bytes()
        .chunks(76)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect::<Vec<_>>()
        .join("\n");
    let der = BASE64_STANDARD.encode(key.serialize_der());
    let planted = [&pem[40..80], &wrapped[100..140], &der[40..80]];
    for name in [
        "KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY",
        "KONG_KEYRING_VAULT_CERT_AUTH_CERT",
        "KONG_LUA_SSL_TRUSTED_CERTIFICATE",
    ] {
        for value in [pem.as_str(), &wrapped, &der, &wrapped.replace('\n', "")] {
            for arguments in [["check", "--json"].as_slice(), &["check"], &["run"]] {
                let variables = [("KONG_KEYRING_VAULT_AUTH_METHOD", "cert"), (name, value)];
                let output = run(arguments, &variables, b"");
                let output_text = String::from_utf8_lossy(&output.stdout).into_owned()
                    + &String::from_utf8_lossy(&output.stderr);
                assert!(!planted.iter().any(|part| output_text.contains(part)), "{name}: {output_text}");
            }
        }
    }
}

#[test]
fn check_shows_no_valid_or_invalid_secret() {
    let planted = "planted-in-the-settings-99";
    for arguments in [["check", "--json"].as_slice(), &["check"]] {
        for token in [planted.to_owned(), format!("{planted}\n{planted}")] {
            let host = format!("https://user:{planted}@vault:8200");
            let variables =
                [("KONG_KEYRING_VAULT_TOKEN", token.as_str()), ("KONG_KEYRING_VAULT_HOST", host.as_str())];
            let output = run(arguments, &variables, b"");
            assert_eq!(output.status.code(), Some(78));
            let output_text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output_text.contains("keyring_vault_token"), "{output_text}");
            assert_none_of(&[planted], &output_text);
        }
    }
}
