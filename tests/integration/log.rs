//! The log at debug: our own steps, each call to Vault under the request that caused it, nothing of libraries, and no secret.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    references::{asked, everything},
    support::{Daemon, OpenBao, Proxy, wait_for},
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// The lines of the log, as JSON.
fn lines(daemon: &Daemon) -> Vec<Value> {
    daemon.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The calls to Vault since the line at `from`, each as its request and what it asked.
fn calls(daemon: &Daemon, from: usize) -> Vec<(Option<u64>, String)> {
    let is_call = |line: &&Value| line["message"] == "Vault call";
    let call = |line: &Value| {
        assert!(line["milliseconds"].is_u64() && line["status"].is_u64(), "{line}");
        let asked = [&line["method"], &line["path"]].map(|text| text.as_str().unwrap()).join(" ");
        (line["request"].as_u64(), asked)
    };
    lines(daemon)[from..].iter().filter(is_call).map(call).collect()
}

#[test]
fn at_debug_each_call_to_vault_has_its_request_and_there_is_no_line_of_a_library_and_no_secret() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "planted-value" } }));
    server.enable("approle");
    let role = json!({ "token_policies": ["keyring", "reader"], "token_ttl": "1h" });
    let policy = "path \"secret/*\" { capabilities = [\"read\"] }";
    server.api("PUT", "sys/policies/acl/reader", &json!({ "policy": policy }));
    server.api("POST", "auth/approle/role/app", &role);
    let role_id = server.role_id("app");
    let secret_id = server.secret_id("app");
    let proxy = Proxy::before(&server.address());
    let daemon = Daemon::start(
        &server,
        &[
            ("KONG_KEYRING_VAULT_HOST", &proxy.address()),
            ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
            ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", &role_id),
            ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", &secret_id),
            ("KONG_KEYRING_ACCESS", &everything()),
            ("KONG_LOG_LEVEL", "debug"),
            ("KONG_KEYRING_LOG_FORMAT", "json"),
        ],
    );
    let at_start = calls(&daemon, 0);
    for asked in
        ["POST /v1/auth/approle/login", "GET /v1/secret/metadata/keyring", "GET /v1/secret/data/keyring"]
    {
        assert!(at_start.contains(&(None, asked.to_owned())), "{asked} in {at_start:?}");
    }

    // A sync, a ciphertext under an unknown key, and a reference: each has the calls that it caused.
    let ended = || lines(&daemon).iter().filter(|line| line["message"] == "request ended").count();
    let caused = |cause: &dyn Fn()| {
        let (from, before) = (lines(&daemon).len(), ended());
        cause();
        wait_for("the end of the request", || (ended() > before).then_some(()));
        calls(&daemon, from)
    };
    let by_sync = caused(&|| daemon.sync());
    let server_side = || server.api("PUT", "sys/leases/revoke-prefix/auth/approle", &json!({}));
    server_side();
    let by_sync_and_login = caused(&|| daemon.sync());
    let by_reference = caused(&|| {
        assert_eq!(asked(&daemon, "{vault://hcv/a/b}").at("/data/value"), "planted-value");
    });
    let has = |calls: &[(Option<u64>, String)], asked: &str| calls.iter().any(|(_, one)| one == asked);
    assert!(has(&by_sync, "GET /v1/secret/metadata/keyring"), "{by_sync:?}");
    assert!(has(&by_sync_and_login, "POST /v1/auth/approle/login"), "{by_sync_and_login:?}");
    assert!(has(&by_reference, "GET /v1/secret/data/a"), "{by_reference:?}");
    let mut numbers = BTreeSet::new();
    for calls in [&by_sync, &by_sync_and_login, &by_reference] {
        // The session revokes the token that a login replaced, for no request.
        let caused = calls.iter().filter(|(_, asked)| !asked.ends_with("revoke-self"));
        let ids: BTreeSet<_> = caused.map(|(id, _)| id.expect("a request")).collect();
        assert_eq!(ids.len(), 1, "{calls:?}");
        assert!(numbers.insert(ids), "another request");
    }

    // Every request that Vault got is a line.
    let all = calls(&daemon, 0);
    for seen in proxy.seen() {
        let seen = seen.split('?').next().unwrap();
        assert!(has(&all, seen), "{seen} in {all:?}");
    }
    for line in lines(&daemon) {
        let target = line["target"].as_str().unwrap();
        assert!(target.starts_with("keyringd") || target == "audit", "{line}");
    }
    let log = daemon.log();
    for secret in [KEY, &secret_id, server.token(), "planted-value", "hvs."] {
        assert!(!log.contains(secret), "{secret}");
    }
}
