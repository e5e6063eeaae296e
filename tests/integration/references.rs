//! References to other secrets, in Kong's notation and APISIX's, against a real OpenBao: by `vault get`, by the socket and
//! by `exec`; and what happens when secrets change, go, or cannot be read.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::{self, Signal};
use serde_json::{Value, json};

use crate::support::{
    Daemon, Fault, OpenBao, Proxy,
    certificates::{Authority, self_signed},
    daemon::{PROGRAM, run},
    http::Answer,
    jwt::Issuer,
    passed_as_root,
    process::Running,
    success, wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// The variable of `keyring_access` that lets this very user do everything.
pub(crate) fn everything() -> String {
    format!("uid:{}=all", nix::unistd::geteuid())
}

/// A daemon whose keyring is on `server`, and which resolves references for us, with these settings.
fn resolving(server: &OpenBao, more: &[(&str, &str)]) -> Daemon {
    server.put_record("first", KEY);
    let access = everything();
    Daemon::start(server, &[&[("KONG_KEYRING_ACCESS", access.as_str())], more].concat())
}

pub(crate) fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap()
}

/// A token that may read this and nothing else.
fn token_reading(server: &OpenBao, name: &str, path: &str) -> String {
    allow_reading(server, name, path);
    let made = server.api("POST", "auth/token/create", &json!({ "policies": [name] }));
    made.at("/auth/client_token")
}

fn allow_reading(server: &OpenBao, name: &str, path: &str) {
    let policy = format!("path \"{path}\" {{ capabilities = [\"read\"] }}");
    server.api("PUT", &format!("sys/policies/acl/{name}"), &json!({ "policy": policy }));
}

fn mount(server: &OpenBao, path: &str, version: &str) {
    let engine = json!({ "type": "kv", "options": { "version": version } });
    server.api("POST", &format!("sys/mounts/{path}"), &engine);
}

pub(crate) fn asked(daemon: &Daemon, reference: &str) -> Answer {
    daemon.post("/v1/resolve", &json!({ "reference": reference }))
}

/// A command under `exec`, with these variables.
fn exec(daemon: &Daemon, options: &[&str], script: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .arg("exec")
        .arg("--socket")
        .arg(daemon.socket())
        .args(options)
        .args(["--", "/bin/sh", "-c", script]);
    command.env_clear().env("PATH", "/usr/bin:/bin").envs(variables.iter().copied());
    command
}

/// The three ways to the value of a reference.
#[track_caller]
fn has_value(daemon: &Daemon, reference: &str, value: &str) {
    let got = daemon.command(&["vault", "get", reference], b"");
    assert_eq!(success(&got), format!("{value}\n"), "{reference} by vault get");
    let answer = asked(daemon, reference);
    assert_eq!((answer.status, &answer.json()["data"]), (200, &json!({ "value": value })), "{reference}");
    let variables = [("SECRET", reference), ("OTHER", "as it was")];
    let output = exec(daemon, &[], "printf '%s|%s' \"$SECRET\" \"$OTHER\"", &variables).output().unwrap();
    assert_eq!(success(&output), format!("{value}|as it was"), "{reference} by exec");
}

#[test]
fn kongs_vault_entity_with_a_token_and_kv_v2() {
    let server = OpenBao::dev();
    server.api("POST", "secret/data/customer/acme", &json!({ "data": { "name": "ACME Inc." } }));
    let token = token_reading(&server, "acme", "secret/data/customer/*");
    let daemon = resolving(
        &server,
        &[
            ("KONG_VAULT_HCV_PROTOCOL", "http"),
            ("KONG_VAULT_HCV_HOST", "127.0.0.1"),
            ("KONG_VAULT_HCV_PORT", port(&server.address())),
            ("KONG_VAULT_HCV_MOUNT", "secret"),
            ("KONG_VAULT_HCV_KV", "v2"),
            ("KONG_VAULT_HCV_TOKEN", &token),
            ("KONG_KEYRING_HCV_PREFIXES", "hashicorp-vault"),
        ],
    );
    has_value(&daemon, "{vault://hashicorp-vault/customer/acme/name}", "ACME Inc.");
    has_value(&daemon, "{vault://hcv/customer/acme/name#1}", "ACME Inc.");
    has_value(&daemon, "{vault://hcv/customer/acme/}", r#"{"name":"ACME Inc."}"#);
    let short = daemon.command(&["vault", "get", "hashicorp-vault/customer/acme/name"], b"");
    assert_eq!(success(&short), "ACME Inc.\n");

    // An older version is there by its number alone.
    server.api("POST", "secret/data/customer/acme", &json!({ "data": { "name": "ACME Ltd." } }));
    has_value(&daemon, "{vault://hcv/customer/acme/name#1}", "ACME Inc.");
    has_value(&daemon, "{vault://hcv/customer/acme/name#2}", "ACME Ltd.");
    // What this session may not read stays unread, though the keyring's could.
    server.api("POST", "secret/data/other", &json!({ "data": { "name": "planted" } }));
    let denied = asked(&daemon, "{vault://hcv/other/name}");
    assert_eq!(denied.status, 503);
    assert!(denied.text().contains("give its policy the capability `read`"), "{denied:?}");
}

#[test]
fn kongs_vault_entity_with_a_certificate_and_kv_v1() {
    let served = self_signed(&["127.0.0.1"]);
    let clients = Authority::new("The clients' authority");
    let client = clients.issue(&["a.client"], |_| ());
    let (server, tls_port) = OpenBao::dev_with_tls(&served.certificate, &served.key);
    mount(&server, "kong", "1");
    server.api("POST", "kong/headers/request", &json!({ "header": "x-kong:test" }));
    allow_reading(&server, "kong", "kong/*");
    server.enable("cert");
    let role = json!({ "certificate": clients.pem(), "token_policies": ["kong"] });
    server.api("POST", "auth/cert/certs/test", &role);
    let path = |path: &Path| path.display().to_string();
    let daemon = resolving(
        &server,
        &[
            ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", &path(&served.certificate)),
            ("KONG_VAULT_HCV_PROTOCOL", "https"),
            ("KONG_VAULT_HCV_PORT", &tls_port.to_string()),
            ("KONG_VAULT_HCV_MOUNT", "kong"),
            ("KONG_VAULT_HCV_KV", "v1"),
            ("KONG_VAULT_HCV_AUTH_METHOD", "cert"),
            ("KONG_VAULT_HCV_CERT_AUTH_ROLE_NAME", "test"),
            ("KONG_VAULT_HCV_CERT_AUTH_CERT", &path(&client.certificate)),
            ("KONG_VAULT_HCV_CERT_AUTH_CERT_KEY", &path(&client.key)),
            ("KONG_KEYRING_HCV_PREFIXES", "hashicorp-vault"),
        ],
    );
    has_value(&daemon, "{vault://hashicorp-vault/headers/request/header}", "x-kong:test");
    let versioned = asked(&daemon, "{vault://hcv/headers/request/header#1}");
    assert_eq!(versioned.status, 400);
    assert!(versioned.text().contains("the engine is of version 1"), "{versioned:?}");
}

#[test]
fn kongs_vault_entity_with_oauth2() {
    let server = OpenBao::dev();
    server.api("POST", "secret/data/password", &json!({ "data": { "pass": "my-p@ss #1" } }));
    allow_reading(&server, "password", "secret/data/password");
    server.enable("jwt");
    let issuer = Arc::new(Issuer::new());
    let jwks = issuer.jwks().to_string();
    let keys = Proxy::playing(move |_, _| (200, jwks.clone()));
    server.api("POST", "auth/jwt/config", &json!({ "jwks_url": format!("{}/jwks", keys.address()) }));
    let role = json!({ "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
        "bound_subject": "kong", "token_policies": ["password"] });
    server.api("POST", "auth/jwt/role/demo", &role);
    let endpoint = Proxy::playing(move |_, body| {
        let form: std::collections::HashMap<_, _> = url::form_urlencoded::parse(body).into_owned().collect();
        if form["client_secret"] != "s3cret" {
            return (401, json!({ "error": "invalid_client" }).to_string());
        }
        let jwt = issuer.sign(&Issuer::claims("kong", &form["audience"], 0));
        (200, json!({ "access_token": jwt, "token_type": "Bearer", "expires_in": 3600 }).to_string())
    });
    let address = server.address();
    let token_endpoint = format!("{}/token", endpoint.address());
    let settings = |secret| {
        [
            ("KONG_VAULT_HCV_PORT", port(&address)),
            ("KONG_VAULT_HCV_KV", "v2"),
            ("KONG_VAULT_HCV_AUTH_METHOD", "oauth2"),
            ("KONG_VAULT_HCV_OAUTH2_ROLE_NAME", "demo"),
            ("KONG_VAULT_HCV_OAUTH2_TOKEN_ENDPOINT", token_endpoint.as_str()),
            ("KONG_VAULT_HCV_OAUTH2_CLIENT_ID", "kong"),
            ("KONG_VAULT_HCV_OAUTH2_CLIENT_SECRET", secret),
            ("KONG_VAULT_HCV_OAUTH2_AUDIENCES", "vault"),
        ]
    };
    let mut daemon = resolving(&server, &settings("s3cret"));
    let tokens = server.tokens();
    has_value(&daemon, "{vault://hcv/password/pass}", "my-p@ss #1");
    assert_eq!(server.tokens(), tokens + 1, "one login serves all");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().code(), Some(0));
    assert_eq!(server.tokens(), tokens, "and its token is revoked at the end");

    let refused = asked(&resolving(&server, &settings("planted")), "{vault://hcv/password/pass}");
    assert_eq!(refused.status, 503);
    let message = refused.text();
    assert!(
        message.contains("check vault_hcv_oauth2_client_id") && !message.contains("planted"),
        "{message}"
    );
}

#[test]
fn an_engine_with_its_own_auth_method_renews_and_logs_in_again() {
    let server = OpenBao::dev();
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "by approle" } }));
    allow_reading(&server, "a", "secret/data/a");
    server.enable("approle");
    // Tokens that live for seconds: the session has to renew them, and to log in again.
    let role = json!({ "token_policies": ["a"], "token_ttl": "2s", "token_max_ttl": "4s" });
    server.api("POST", "auth/approle/role/app", &role);
    let role_id = server.role_id("app");
    let secret_id = server.secret_id("app");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret-id");
    fs::write(&path, secret_id).unwrap();
    let daemon = resolving(
        &server,
        &[
            ("KONG_VAULT_HCV_PORT", port(&server.address())),
            ("KONG_VAULT_HCV_KV", "v2"),
            ("KONG_VAULT_HCV_AUTH_METHOD", "approle"),
            ("KONG_VAULT_HCV_APPROLE_ROLE_ID", &role_id),
            ("KONG_VAULT_HCV_APPROLE_SECRET_ID_FILE", path.to_str().unwrap()),
            ("KONG_VAULT_HCV_TTL", "1"),
        ],
    );
    has_value(&daemon, "{vault://hcv/a/b}", "by approle");
    let logins = || daemon.log().matches("logged in to Vault method=\"approle\"").count();
    wait_for("two further logins", || {
        assert_eq!(asked(&daemon, "{vault://hcv/a/b}").status, 200);
        (logins() >= 3).then_some(())
    });
    assert!(!daemon.log().contains("refresh of a referenced secret failed"), "{}", daemon.log());
}

#[test]
fn apisixs_tls_pair_by_kv_v1_and_v2() {
    if passed_as_root() {
        return;
    }
    let server = OpenBao::dev();
    let pair = self_signed(&["test.com"]);
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let (certificate, key) = (text(&pair.certificate), text(&pair.key));
    assert!(certificate.lines().count() > 3 && certificate.ends_with('\n'));
    let fields = json!({ "test.com.crt": certificate, "test.com.key": key });
    mount(&server, "kv", "1");
    server.api("POST", "kv/apisix/ssl", &fields);
    mount(&server, "team/kv", "2");
    wait_for("the KV engine", || {
        let written = server.try_api("POST", "team/kv/data/apisix/ssl", &json!({ "data": fields }))?;
        (written.status == 200).then_some(())
    });
    let token = token_reading(&server, "apisix", "kv/apisix/*");
    let objects = json!({
        "1": { "uri": server.address(), "prefix": "kv/apisix", "token": "$ENV://APISIX_TOKEN" },
        "own": { "prefix": "team/kv/apisix", "mount": "team/kv", "kv": "v2" },
    });
    let daemon = resolving(
        &server,
        &[("KONG_KEYRING_SECRET_OBJECTS", &objects.to_string()), ("APISIX_TOKEN", &token)],
    );
    for id in ["1", "own"] {
        has_value(&daemon, &format!("$secret://vault/{id}/ssl/test.com.crt"), &certificate);
        has_value(&daemon, &format!("$SECRET://vault/{id}/ssl/test.com.key"), &key);
    }
    let environment = fs::read(format!("/proc/{}/environ", daemon.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains(&token), "the token left the environment");
    for reference in ["$env://APISIX_TOKEN", "{vault://env/apisix-token}"] {
        let answer = asked(&daemon, reference);
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("is reserved for the daemon"), "{answer:?}");
    }
}

#[test]
fn an_engine_without_its_own_settings_uses_the_keyrings_session() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    server.api("POST", "secret/data/customer/acme", &json!({ "data": { "name": "ACME Inc." } }));
    let proxy = Proxy::before(&server.address());
    let access = everything();
    let daemon = Daemon::start(
        &server,
        &[("KONG_KEYRING_ACCESS", access.as_str()), ("KONG_KEYRING_VAULT_HOST", &proxy.address())],
    );
    has_value(&daemon, "{vault://hcv/customer/acme/name}", "ACME Inc.");
    has_value(&daemon, "{vault://hcv/customer/acme/name?ttl=60}", "ACME Inc.");
    let seen = proxy.seen();
    let of = |path: &str| seen.iter().filter(|request| request.contains(path)).count();
    assert_eq!((of("customer"), of("lookup-self")), (1, 1), "{seen:?}");
}

#[test]
fn the_socket_and_the_command_report_each_error() {
    let server = OpenBao::shared();
    server.api("POST", "secret/data/a", &json!({ "data": { "n": 1, "o": { "planted": 1 }, "t": "text" } }));
    let daemon = resolving(&server, &[("PLAIN", "a variable"), ("OBJECT", r#"{"field": "in it"}"#)]);
    for (reference, status, message) in [
        ("planted", 400, "the text is not a well-formed reference: it must begin with {vault://"),
        ("{vault://hcv}", 400, "it has no path"),
        ("{vault://hcv/a/t#one}", 400, "the version after # must be"),
        ("{vault://other/a/t}", 400, "names the unknown backend or prefix other"),
        ("$secret://vault/7/a/t", 400, "names the ID 7, which keyring_secret_objects does not have"),
        ("$secret://aws/7/a/t", 400, "the secret manager after $secret:// must be vault"),
        ("{vault://hcv/a/../b/t}", 400, "is not a path in Vault"),
        ("{vault://hcv/nowhere/t}", 404, "{vault://hcv/nowhere/t} names no existing secret"),
        ("{vault://hcv/a/t#9}", 404, "names no existing secret"),
        ("{vault://hcv/a/x}", 404, "names a secret that has no field \"x\""),
        ("{vault://hcv/a/n}", 400, "which is a number: a value must be text"),
        ("{vault://hcv/a/o}", 400, "which is an object: a value must be text"),
        ("{vault://env/not-there}", 404, "the variable NOT_THERE, which is not set"),
        ("{vault://env/object/other}", 404, "whose JSON has no such field"),
        ("{vault://env/kong-keyring-vault-token}", 400, "is reserved for the daemon"),
        ("$ENV://KONG_KEYRING_VAULT_TOKEN", 400, "is reserved for the daemon"),
    ] {
        let answer = asked(&daemon, reference);
        let text = answer.at("/errors/0");
        assert_eq!((answer.status, text.contains(message)), (status, true), "{reference}: {text}");
        assert!(!text.contains("planted") && !text.contains(server.token()), "{reference}: {text}");
    }
    for (reference, value) in [
        ("{vault://env/plain}", "a variable"),
        ("$ENV://PLAIN", "a variable"),
        ("$env://OBJECT/field", "in it"),
    ] {
        assert_eq!(asked(&daemon, reference).at("/data/value"), value);
    }
    let wrong = daemon.command(&["vault", "get", "hcv/a/x"], b"");
    assert_eq!((wrong.status.code(), wrong.stdout.as_slice()), (Some(1), b"".as_slice()));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("has no field \"x\""));

    // The command's own variables are its own business, with no daemon at all.
    let here = [("MY_TOKEN", "planted"), ("PATH", "/usr/bin:/bin"), ("A", "$ENV://MY_TOKEN")];
    let local = run(&["vault", "get", "{vault://env/my-token}"], &here, b"");
    assert_eq!(success(&local), "planted\n");
    let local = run(&["exec", "--", "/bin/sh", "-c", "echo $A"], &here, b"");
    assert_eq!(success(&local), "planted\n");
}

#[test]
fn a_batch_has_a_result_for_each() {
    let server = OpenBao::shared();
    server.api("POST", "secret/data/a", &json!({ "data": { "one": "1", "two": "line\nbreak" } }));
    let daemon = resolving(&server, &[]);
    let batch = |names: &[&str]| {
        let items: Vec<_> =
            names.iter().map(|name| json!({ "reference": format!("{{vault://hcv/a/{name}}}") })).collect();
        daemon.post("/v1/resolve", &json!({ "batch_input": items }))
    };
    let all = batch(&["one", "two"]);
    let values = json!({ "batch_results": [{ "value": "1" }, { "value": "line\nbreak" }] });
    assert_eq!((all.status, &all.json()["data"]), (200, &values));
    let some = batch(&["one", "three"]);
    assert_eq!((some.status, some.at("/data/batch_results/0/value")), (400, "1".to_owned()));
    assert!(some.at("/data/batch_results/1/error").contains("no field \"three\""));
    assert_eq!(batch(&["one"; 101]).status, 400);
    for wrong in
        ["", "[]", "{}", r#"{"reference": 1}"#, r#"{"batch_input": []}"#, r#"{"reference": "a", "x": 1}"#]
    {
        assert_eq!(daemon.request("POST", "/v1/resolve", wrong.as_bytes()).status, 400, "{wrong}");
    }
}

#[test]
fn resolving_needs_the_permission_and_the_audit_names_the_reference() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "planted-value" } }));
    let uid = nix::unistd::geteuid();
    let all_else = format!("uid:{uid}=encrypt+decrypt+status+sync+metrics+datakey+kms");
    for access in [[].as_slice(), &[("KONG_KEYRING_ACCESS", all_else.as_str())]] {
        let daemon = Daemon::start(&server, access);
        let refused = asked(&daemon, "{vault://hcv/a/b}");
        assert_eq!(refused.status, 403);
        assert!(refused.text().contains(&format!("uid:{uid}=secrets")), "{refused:?}");
        assert_eq!(daemon.get("/status").status, 200);
    }
    let granted = format!("uid:{uid}=secrets+status");
    let settings = [
        ("KONG_KEYRING_ACCESS", granted.as_str()),
        ("KONG_KEYRING_AUDIT", "all"),
        ("KONG_LOG_LEVEL", "trace"),
    ];
    let daemon = Daemon::start(&server, &settings);
    assert_eq!(asked(&daemon, "{vault://hcv/a/b}").at("/data/value"), "planted-value");
    assert_eq!(asked(&daemon, "planted-in-the-wrong-place").status, 400);
    assert_eq!(daemon.get("/keyring").status, 200);
    let log =
        wait_for("the audit", || Some(daemon.log()).filter(|log| log.contains("operation=\"resolve\"")));
    assert!(log.contains("references=\"{vault://hcv/a/b}\""), "{log}");
    assert!(!log.contains("planted"), "{log}");
    assert!(!daemon.command(&["encrypt"], b"x").status.success());
}

#[test]
fn a_rotated_secret_is_refreshed_within_its_ttl_and_a_deleted_one_is_dropped() {
    let server = OpenBao::shared();
    let put = |value: &str| server.api("POST", "secret/data/a", &json!({ "data": { "b": value } }));
    put("old");
    let daemon = resolving(&server, &[]);
    let (short, for_good) = ("{vault://hcv/a/b?ttl=1}", "{vault://hcv/a/b}");
    assert_eq!(asked(&daemon, short).at("/data/value"), "old");
    put("new");
    wait_for("the new value", || (asked(&daemon, short).at("/data/value") == "new").then_some(()));
    server.api("DELETE", "secret/data/a", &Value::Null);
    wait_for("its end", || (asked(&daemon, short).status == 404).then_some(()));
    assert_eq!(asked(&daemon, for_good).status, 404, "there is one copy of it for all");
}

#[test]
fn a_used_secret_is_refreshed_in_the_background_by_one_read() {
    let server = OpenBao::dev();
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "value" } }));
    let proxy = Proxy::before(&server.address());
    let daemon = resolving(&server, &[("KONG_KEYRING_VAULT_HOST", &proxy.address())]);
    let reads = || proxy.seen().iter().filter(|request| request.contains("secret/data/a")).count();
    assert_eq!(asked(&daemon, "{vault://hcv/a/b?ttl=2}").status, 200);
    wait_for("two reads in the background", || (reads() >= 3).then_some(()));
    // Without a TTL there is no further read, and concurrent requests cause one read.
    proxy.set("/v1/secret/data/c", Fault::Latency(Duration::from_millis(300)));
    server.api("POST", "secret/data/c", &json!({ "data": { "b": "value" } }));
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(asked(&daemon, "{vault://hcv/c/b}").at("/data/value"), "value"));
        }
    });
    let of_c = proxy.seen().iter().filter(|request| request.contains("secret/data/c")).count();
    assert_eq!(of_c, 1);
}

#[test]
fn while_vault_is_unreachable_a_stale_value_is_served_for_resurrect_ttl() {
    let mut server = OpenBao::durable();
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "value" } }));
    let daemon = resolving(&server, &[]);
    let (long, short) =
        ("{vault://hcv/a/b?ttl=1&resurrect_ttl=3600}", "{vault://hcv/a/b?ttl=1&resurrect_ttl=3}");
    assert_eq!(asked(&daemon, long).status, 200);
    server.stop();
    let stale = wait_for("the value to be stale", || {
        let answer = asked(&daemon, short);
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        (answer.status == 503).then_some(answer)
    });
    assert!(stale.text().contains("cannot be read"), "{stale:?}");
    let answer = asked(&daemon, long);
    assert_eq!(answer.at("/data/value"), "value");
    assert!(answer.at("/data/stale_seconds").parse::<u64>().unwrap() >= 2, "{answer:?}");
    assert!(daemon.log().contains("serving the cached value for its resurrect_ttl"), "{}", daemon.log());
    let got = daemon.command(&["vault", "get", long], b"");
    assert_eq!(success(&got), "value\n");
    assert!(String::from_utf8_lossy(&got.stderr).contains("refresh failed"));

    server.start();
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "after" } }));
    wait_for("the new value", || (asked(&daemon, long).at("/data/value") == "after").then_some(()));
    wait_for("it to be fresh", || {
        let answer = asked(&daemon, short);
        (answer.status == 200 && answer.json().pointer("/data/stale_seconds").is_none()).then_some(())
    });
}

#[test]
fn an_absence_is_cached_for_neg_ttl() {
    let server = OpenBao::dev();
    let proxy = Proxy::before(&server.address());
    let daemon =
        resolving(&server, &[("KONG_KEYRING_VAULT_HOST", &proxy.address()), ("KONG_VAULT_HCV_NEG_TTL", "2")]);
    let reads = || proxy.seen().iter().filter(|request| request.contains("secret/data/a")).count();
    for _ in 0..10 {
        assert_eq!(asked(&daemon, "{vault://hcv/a/b?neg_ttl=3600}").status, 404);
    }
    assert_eq!(reads(), 1);
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "value" } }));
    assert_eq!(asked(&daemon, "{vault://hcv/a/b?neg_ttl=3600}").status, 404);
    wait_for("the setting's time to be over", || {
        (asked(&daemon, "{vault://hcv/a/b}").status == 200).then_some(())
    });
    assert!(reads() >= 2);
}

#[test]
fn a_reload_applies_the_settings_and_refreshes_every_secret() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    mount(&server, "kong", "1");
    server.api("POST", "kong/a", &json!({ "b": "aMOpbGxv" }));
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "in secret" } }));
    let lines = |more: &str| {
        format!("keyring_vault_token = {}\nkeyring_access = {}\n{more}", server.token(), everything())
    };
    let daemon = Daemon::from_conf(&server.address(), &lines(""));
    daemon.wait_until_ready();
    assert_eq!(asked(&daemon, "{vault://hcv/a/b}").at("/data/value"), "in secret");
    let hcv = format!(
        "vault_hcv_port = {}\nvault_hcv_token = {}\nvault_hcv_mount = kong\nvault_hcv_decode_base64 = on",
        port(&server.address()),
        server.token()
    );
    daemon.write_conf(&server.address(), &lines(&hcv));
    daemon.reload("success");
    assert_eq!(asked(&daemon, "{vault://hcv/a/b}").at("/data/value"), "héllo");
    server.api("POST", "kong/a", &json!({ "b": "bmV3" }));
    assert_eq!(
        asked(&daemon, "{vault://hcv/a/b}").at("/data/value"),
        "héllo",
        "without a TTL it does not expire"
    );
    daemon.reload("success");
    assert_eq!(asked(&daemon, "{vault://hcv/a/b}").at("/data/value"), "new");
    daemon.write_conf(
        &server.address(),
        &lines("vault_hcv_kv = v3\nkeyring_secret_objects = {\"1\": {\"uri\": 1}}"),
    );
    daemon.reload("failure");
    assert!(daemon.log().contains("vault_hcv_kv: expected v1 or v2"), "{}", daemon.log());
    assert!(daemon.log().contains("keyring_secret_objects: object \"1\": `uri` must be text"));
    assert_eq!(asked(&daemon, "{vault://hcv/a/b}").at("/data/value"), "new");
}

#[test]
fn a_slow_sync_delays_no_reference() {
    let server = OpenBao::dev();
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "value" } }));
    let proxy = Proxy::before(&server.address());
    let daemon = resolving(&server, &[("KONG_KEYRING_VAULT_HOST", &proxy.address())]);
    let lists = || proxy.seen().iter().filter(|request| request.contains("metadata")).count();
    let before = lists();
    proxy.set("/v1/secret/metadata", Fault::Latency(Duration::from_secs(8)));
    daemon.signal(Signal::SIGUSR1);
    wait_for("the sync to begin", || (lists() > before).then_some(()));
    let start = Instant::now();
    let got = daemon.command(&["vault", "get", "{vault://hcv/a/b}"], b"");
    assert_eq!(success(&got), "value\n");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn slow_references_delay_no_decrypt_under_a_new_key() {
    let server = OpenBao::dev();
    let proxy = Proxy::before(&server.address());
    let daemon = resolving(&server, &[("KONG_KEYRING_VAULT_HOST", &proxy.address())]);
    server.put_record("second", &KEY.to_lowercase());
    let sealed = Daemon::start(&server, &[]).encrypt("under the new key");
    proxy.set("/v1/secret/data/slow", Fault::Latency(Duration::from_secs(5)));
    std::thread::scope(|scope| {
        for number in 0..10 {
            let daemon = &daemon;
            scope.spawn(move || {
                assert_eq!(asked(daemon, &format!("{{vault://hcv/slow{number}/b}}")).status, 404);
            });
        }
        wait_for("a slow read", || {
            proxy.seen().iter().any(|request| request.contains("/slow")).then_some(())
        });
        assert_eq!(daemon.opened(&sealed), "under the new key");
    });
}

#[test]
fn exec_passes_signals_and_the_exit_code_through() {
    let server = OpenBao::shared();
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "value" } }));
    let daemon = resolving(&server, &[]);
    let secret = [("SECRET", "{vault://hcv/a/b}")];
    let ends = |output: &Output| output.status.code();
    for options in [[].as_slice(), &["--on-change", "restart"], &["--on-change", "signal:HUP"]] {
        assert_eq!(
            ends(&exec(&daemon, options, "exit 7", &secret).output().unwrap()),
            Some(7),
            "{options:?}"
        );
        let marker = daemon.folder().join("marker");
        let _ = fs::remove_file(&marker);
        let script = format!(
            "trap 'echo $SECRET > {0}; exit 5' USR1; echo started > {0}; while :; do sleep 0.05; done",
            marker.display()
        );
        let mut running = Running::start(exec(&daemon, options, &script, &secret));
        let holds = |text: &str| {
            fs::read_to_string(&marker).is_ok_and(|message| message.trim() == text).then_some(())
        };
        wait_for("the command", || holds("started"));
        signal::kill(running.pid(), Signal::SIGUSR1).unwrap();
        assert_eq!(running.0.wait().unwrap().code(), Some(5), "{options:?}");
        assert_eq!(holds("value"), Some(()));
    }
    // What cannot be resolved starts nothing.
    let marker = daemon.folder().join("never");
    let script = format!("touch {}", marker.display());
    let failed = exec(&daemon, &[], &script, &[("SECRET", "{vault://hcv/nowhere/b}")]).output().unwrap();
    assert_eq!((ends(&failed), marker.exists()), (Some(1), false));
    let unknown =
        Command::new(PROGRAM).args(["exec", "--", "/no/such/program"]).env_clear().output().unwrap();
    assert_eq!(ends(&unknown), Some(127));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("cannot start /no/such/program"));
}

#[test]
fn exec_restarts_or_signals_a_command_when_a_secret_changes() {
    let server = OpenBao::shared();
    let put = |value: &str| server.api("POST", "secret/data/a", &json!({ "data": { "b": value } }));
    put("one");
    let daemon = resolving(&server, &[]);
    let secret = [("SECRET", "{vault://hcv/a/b?ttl=1}")];
    let file = |name: &str| daemon.folder().join(name);
    let holds = |name: &str, text: &str| {
        fs::read_to_string(file(name)).is_ok_and(|message| message.trim() == text).then_some(())
    };
    let script = format!("echo $SECRET > {}; exec sleep 600", file("restarted").display());
    let restarted = Running::start(exec(&daemon, &["--on-change", "restart"], &script, &secret));
    let script = format!(
        "trap 'echo signalled > {0}' HUP; echo started > {0}; while :; do sleep 0.05; done",
        file("signalled").display()
    );
    let _signalled = Running::start(exec(&daemon, &["--on-change", "signal:HUP"], &script, &secret));
    wait_for("the first", || holds("restarted", "one"));
    wait_for("the second", || holds("signalled", "started"));
    put("two");
    wait_for("the restart", || holds("restarted", "two"));
    wait_for("the signal", || holds("signalled", "signalled"));

    // It ends with its command, also after a restart.
    let mut restarted = restarted;
    signal::kill(restarted.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(restarted.0.wait().unwrap().code(), Some(128 + 15));
}
