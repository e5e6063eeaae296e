//! The session under faults: which requests are sent, how often, and which errors are reported.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Daemon, Fault, OpenBao, Proxy,
    certificates::Authority,
    daemon::{run_for, sync_error},
    jwt::Issuer,
    success, wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

fn server() -> OpenBao {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    server
}

pub fn through(server: &OpenBao, proxy: &Proxy, more: &[(&str, &str)]) -> Daemon {
    let address = proxy.address();
    Daemon::start_unready(
        server,
        &[[("KONG_KEYRING_VAULT_HOST", address.as_str())].as_slice(), more].concat(),
    )
}

#[test]
fn an_unknown_key_causes_a_sync_every_5_s_at_most() {
    let server = server();
    let proxy = Proxy::before(&server.address());
    let daemon = through(&server, &proxy, &[]);
    daemon.wait_until_ready();
    let before = proxy.seen().len();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        assert_eq!(daemon.decrypt("kr1:unknown:AAAA").status, 400);
    }
    assert_eq!(proxy.seen().len() - before, 1);
}

#[test]
fn latency_and_a_wrong_content_type_do_no_harm() {
    let server = server();
    let proxy = Proxy::before(&server.address());
    proxy.set("/", Fault::Latency(Duration::from_millis(300)));
    proxy.set("/v1/secret/data", Fault::WrongContentType);
    let daemon = through(&server, &proxy, &[]);
    daemon.wait_until_ready();
    assert_eq!(daemon.active(), "first");
}

#[test]
fn a_missing_response_times_out_after_10_s() {
    let server = server();
    let proxy = Proxy::only(Fault::Silence);
    let started = Instant::now();
    let daemon = through(&server, &proxy, &[]);
    wait_for("the timeout", || daemon.log().contains("did not answer within 10 s").then_some(()));
    assert!(started.elapsed() < Duration::from_secs(13));
}

#[test]
fn a_request_to_a_lagging_standby_is_retried_for_a_moment() {
    let server = server();
    let proxy = Proxy::before(&server.address());
    proxy.set("/v1/secret/metadata", Fault::status(412));
    let daemon = through(&server, &proxy, &[]);
    wait_for("the second try", || {
        (proxy.seen().iter().filter(|path| path.contains("metadata")).count() > 1).then_some(())
    });
    proxy.set("/v1/secret/metadata", Fault::None);
    daemon.wait_until_ready();
    assert!(!daemon.log().contains("sync failed"), "{}", daemon.log());
}

#[test]
fn retry_after_is_honoured() {
    let server = server();
    let proxy = Proxy::before(&server.address());
    proxy.set("/v1/secret/", Fault::Answer(429, "retry-after: 4\r\n".to_owned(), String::new()));
    let daemon = through(&server, &proxy, &[]);
    let asked = || proxy.seen().iter().filter(|path| path.contains("metadata")).count();
    wait_for("the first refusal", || daemon.log().contains("answered 429").then_some(()));
    let refused = Instant::now();
    wait_for("the next try", || (asked() > 1).then_some(()));
    assert!(refused.elapsed() > Duration::from_millis(3500), "{:?}", refused.elapsed());
}

#[test]
fn a_standby_node_is_a_temporary_failure() {
    let server = server();
    let proxy = Proxy::before(&server.address());
    let daemon = through(&server, &proxy, &[("KONG_KEYRING_SYNC_INTERVAL", "1")]);
    daemon.wait_until_ready();
    for status in [472, 473, 503] {
        proxy.set("/", Fault::status(status));
        let failures = || daemon.metric("keyringd_syncs_total{outcome=\"failure\"}");
        let before = failures();
        wait_for("a sync to fail", || (failures() > before).then_some(()));
        assert_eq!(daemon.opened(&daemon.encrypt("hello")), "hello");
        proxy.set("/", Fault::None);
        server.put_record(&format!("after-{status}"), KEY);
        wait_for("syncing to go on", || (daemon.active() == format!("after-{status}")).then_some(()));
    }
}

#[test]
fn a_denied_path_and_a_bad_token_have_different_errors() {
    let server = server();
    let token = server.token_for(&json!({ "policies": ["default"] }));
    let daemon = Daemon::start_unready(&server, &[("KONG_KEYRING_VAULT_TOKEN", &token)]);
    let message = wait_for("the denial", || Some(daemon.log()).filter(|log| log.contains("sync failed")));
    assert!(
        message.contains("Vault denies reading /v1/secret/metadata/keyring, and the token is valid"),
        "{message}"
    );
    let daemon = Daemon::start_unready(&server, &[("KONG_KEYRING_VAULT_TOKEN", "s.unknown")]);
    let message = wait_for("the denial", || Some(daemon.log()).filter(|log| log.contains("sync failed")));
    assert!(
        message.contains("does not know the token, or it has expired")
            && message.contains("set a valid token in keyring_vault_token"),
        "{message}"
    );
}

#[test]
fn engines_mixed_up_name_the_setting_to_change() {
    let server = server();
    server.api("POST", "sys/mounts/kv1", &json!({ "type": "kv", "options": { "version": "1" } }));
    server.api("POST", "kv1/keyring", &json!({ "id": "a", "key": KEY }));
    let message = sync_error(&server, &[("KONG_KEYRING_VAULT_MOUNT", "kv1")]);
    assert!(message.contains("or keyring_vault_kv if the engine is version 1"), "{message}");
    let message = sync_error(&server, &[("KONG_KEYRING_VAULT_KV", "v1")]);
    assert!(message.contains("set keyring_vault_kv = v2 if the engine is version 2"), "{message}");
    let message = sync_error(&server, &[("KONG_KEYRING_VAULT_PATH", "nothing")]);
    assert!(message.contains("correct keyring_vault_mount and keyring_vault_path"), "{message}");
}

#[test]
fn every_refused_login_names_the_cure() {
    let server = server();
    server.enable("approle");
    server.api("POST", "auth/approle/role/app", &json!({ "token_policies": ["keyring"] }));
    server.api("POST", "auth/approle/role/root", &json!({ "token_policies": ["root"] }));
    let role_id = |role: &str| {
        server.api("GET", &format!("auth/approle/role/{role}/role-id"), &Value::Null).at("/data/role_id")
    };
    let secret_id = |role: &str| {
        server.api("POST", &format!("auth/approle/role/{role}/secret-id"), &json!({})).at("/data/secret_id")
    };
    let approle = |role_id: &str, secret_id: &str, mount: &str| {
        sync_error(
            &server,
            &[
                ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
                ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role_id),
                ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", secret_id),
                ("KONG_KEYRING_VAULT_APPROLE_AUTH_PATH", mount),
            ],
        )
    };
    let message = approle(&role_id("root"), &secret_id("root"), "approle");
    assert!(message.contains("remove the policy `root` from the role"), "{message}");
    let message = approle(&role_id("app"), "planted-secret-id", "approle");
    assert!(
        message.contains("the role ID or the secret ID is wrong") && !message.contains("planted"),
        "{message}"
    );
    let message = approle("unknown", &secret_id("app"), "approle");
    assert!(
        message.contains("the role ID or the secret ID is wrong")
            || message.contains("keyring_vault_approle_role_id"),
        "{message}"
    );
    let message = approle(&role_id("app"), &secret_id("app"), "elsewhere");
    assert!(
        message.contains("mounted at keyring_vault_approle_auth_path, in keyring_vault_namespace"),
        "{message}"
    );

    let issuer = Issuer::new();
    let jwks = issuer.jwks().to_string();
    let keys = Proxy::playing(move |_, _| (200, jwks.clone()));
    server.enable("jwt");
    server.api("POST", "auth/jwt/config", &json!({ "jwks_url": format!("{}/jwks", keys.address()) }));
    let bound = json!({ "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "token_policies": ["keyring"] });
    server.api("POST", "auth/jwt/role/app", &bound);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwt");
    let jwt = |token: &str, role: &str| {
        std::fs::write(&path, token).unwrap();
        let message = sync_error(
            &server,
            &[
                ("KONG_KEYRING_VAULT_AUTH_METHOD", "jwt"),
                ("KONG_KEYRING_VAULT_JWT_ROLE", role),
                ("KONG_KEYRING_VAULT_JWT_FILE", path.to_str().unwrap()),
            ],
        );
        assert!(!message.contains(token), "{message}");
        message
    };
    let claims = |audience: &str, seconds: i64| issuer.sign(&Issuer::claims("web", audience, seconds));
    let message = jwt(&claims("vault", 0), "unknown");
    assert!(
        message.contains("keyring_vault_jwt_role names a role that the auth method does not have"),
        "{message}"
    );
    let message = jwt(&claims("vault", -7200), "app");
    assert!(message.contains("the JWT has expired"), "{message}");
    let message = jwt(&claims("vault", 7200), "app");
    assert!(message.contains("the JWT is not valid yet"), "{message}");
    let message = jwt(&claims("others", 0), "app");
    assert!(message.contains("have its issuer name the role"), "{message}");
    let message = jwt(&Issuer::new().sign(&Issuer::claims("web", "vault", 0)), "app");
    assert!(message.contains("Vault cannot verify the JWT"), "{message}");
}

#[test]
fn a_refused_client_certificate_names_the_cure() {
    let served = crate::support::certificates::self_signed(&["127.0.0.1"]);
    let (server, port) = OpenBao::dev_with_tls(&served.certificate, &served.key);
    server.enable("cert");
    let (ours, theirs) = (Authority::new("Ours"), Authority::new("Theirs"));
    server.api(
        "POST",
        "auth/cert/certs/app",
        &json!({ "certificate": theirs.pem(), "token_policies": ["keyring"] }),
    );
    let client = ours.issue(&["a.client"], |_| ());
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let message = sync_error(
        &server,
        &[
            ("KONG_KEYRING_VAULT_HOST", &format!("https://127.0.0.1:{port}")),
            ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", &served.authority),
            ("KONG_KEYRING_VAULT_AUTH_METHOD", "cert"),
            ("KONG_KEYRING_VAULT_CERT_AUTH_ROLE_NAME", "app"),
            ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", &read(&client.certificate)),
            ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", &read(&client.key)),
        ],
    );
    assert!(
        message.contains("trusts another authority than the one that issued keyring_vault_cert_auth_cert"),
        "{message}"
    );
}

#[test]
fn a_refused_certificate_chain_names_the_cure() {
    let root = Authority::new("The root");
    let (upper, lower) = {
        let upper = root.below("The upper one");
        let lower = upper.below("The lower one");
        (upper, lower)
    };
    let leaf = lower.issue(&["127.0.0.1"], |_| ());
    let alone = std::fs::read_to_string(&leaf.certificate).unwrap();
    let serve = |chain: &str, depth: &str| {
        std::fs::write(&leaf.certificate, chain).unwrap();
        let (server, port) = OpenBao::dev_with_tls(&leaf.certificate, &leaf.key);
        server.put_record("first", KEY);
        let daemon = Daemon::start_unready(
            &server,
            &[
                ("KONG_KEYRING_VAULT_HOST", &format!("https://127.0.0.1:{port}")),
                ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", root.pem()),
                ("KONG_LUA_SSL_VERIFY_DEPTH", depth),
            ],
        );
        wait_for("a sync to end", || {
            let status = daemon.get("/status");
            let good = status.at("/ready") == "true";
            let failed = status.at("/sync/failures") != "0";
            (good || failed).then(|| if good { "ready".to_owned() } else { status.at("/sync/last_error") })
        })
    };
    let message = serve(&alone, "5");
    assert!(message.contains("let the server send its intermediate certificates"), "{message}");
    let whole = format!("{alone}{}{}", lower.pem(), upper.pem());
    let message = serve(&whole, "1");
    assert!(
        message.contains("more intermediate authorities than lua_ssl_verify_depth = 1 allows"),
        "{message}"
    );
    assert_eq!(serve(&whole, "2"), "ready");
    // What is sent and not needed does not count.
    let with_more = format!("{whole}{}", root.pem());
    assert_eq!(serve(&with_more, "2"), "ready");
}

#[test]
fn a_revoked_token_and_a_refused_login_are_no_session() {
    let server = server();
    server.enable("approle");
    let role = "auth/approle/role/app";
    server.api("POST", role, &json!({ "token_policies": ["keyring"], "token_ttl": "1h" }));
    let role_id = server.role_id("app");
    let secret_id = server.secret_id("app");
    let login = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role_id.as_str()),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", secret_id.as_str()),
    ];
    let daemon = Daemon::start(&server, &login);
    let session = || daemon.get("/status").at("/source/sessions/0/logged_in");
    let socket = daemon.socket().display().to_string();
    let doctor = || {
        let output =
            run_for(&server, "doctor", &[&login[..], &[("KONG_KEYRING_SOCKET_PATH", &socket)]].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(session(), "true");
    assert!(doctor().contains("the running daemon is logged in"));
    server.api("DELETE", role, &Value::Null);
    server.api("PUT", "sys/leases/revoke-prefix/auth/approle", &json!({}));
    assert_eq!(daemon.request("POST", "/keyring/vault/sync", b"").status, 500);
    assert_eq!(session(), "false");
    let metrics = daemon.get("/metrics").text();
    assert!(metrics.contains("keyringd_token_remaining_seconds 0.0"), "{metrics}");
    let status = success(&daemon.command(&["status"], b""));
    assert!(status.contains("keyring  not logged in"), "{status}");
    assert!(!doctor().contains("the running daemon is logged in"));
}

#[test]
fn a_revoked_token_of_the_settings_is_no_session() {
    let server = server();
    let token = server.token_for(&json!({ "policies": ["keyring"] }));
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_VAULT_TOKEN", &token)]);
    server.api_with(&token, "POST", "auth/token/revoke-self", &Value::Null);
    assert_eq!(daemon.request("POST", "/keyring/vault/sync", b"").status, 500);
    wait_for("the session to be none", || {
        let status = success(&daemon.command(&["status"], b""));
        status.contains("keyring  not logged in: Vault does not know the token any more").then_some(())
    });
}
