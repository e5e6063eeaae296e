//! Logins that fail or must not be made: lockouts, bad tokens, strict roles, token endpoints, gateways in front of Vault.
//!
//! The login methods themselves are in `login`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::support::{
    Daemon, Fault, OpenBao, Proxy, Relay,
    certificates::issued,
    daemon::{check, run_for},
    jwt::Issuer,
    success, wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

struct AppRole {
    server: OpenBao,
    role_id: String,
    secret_id: String,
}

impl AppRole {
    fn new() -> Self {
        Self::with(&json!({ "token_policies": ["keyring"] }))
    }

    fn with(role: &Value) -> Self {
        let server = OpenBao::shared();
        server.put_record("first", KEY);
        server.enable("approle");
        server.api("POST", "auth/approle/role/app", role);
        let role_id = server.role_id("app");
        let secret_id = server.secret_id("app");
        Self { server, role_id, secret_id }
    }

    fn start(&self, host: &str, secret_id: (&str, &str)) -> Daemon {
        let more = [
            ("KONG_KEYRING_VAULT_HOST", host),
            ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
            ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", self.role_id.as_str()),
            secret_id,
        ];
        Daemon::start_unready(&self.server, &more)
    }
}

#[test]
fn a_wrong_secret_id_does_not_lock_the_role_for_other_daemons() {
    let role = AppRole::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret-id");
    fs::write(&path, "wrong").unwrap();
    let proxy = Proxy::before(&role.server.address());
    let file = ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID_FILE", path.to_str().unwrap());
    let wrong = role.start(&proxy.address(), file);
    wait_for("the refusal", || wrong.log().contains("sync failed").then_some(()));
    // Operators ask, settings are loaded again, and time passes: the refused credential is not sent again and again.
    let until = Instant::now() + Duration::from_secs(17);
    let mut reloads = 0;
    while Instant::now() < until {
        assert_eq!(wrong.request("POST", "/keyring/vault/sync", b"").status, 500);
        if reloads < 3 {
            wrong.reload("success");
            reloads += 1;
        }
        let step = Instant::now() + Duration::from_secs(1);
        wait_for("the clock", || (Instant::now() > step).then_some(()));
    }
    let logins = proxy.seen().iter().filter(|request| request.contains("/login")).count();
    assert!((1..=2).contains(&logins), "{logins} logins with a refused secret ID");

    let right = role.start(&role.server.address(), ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", &role.secret_id));
    right.wait_until_ready();
    // A changed file is tried at once.
    fs::write(&path, &role.secret_id).unwrap();
    let changed = Instant::now();
    wrong.wait_until_ready();
    assert!(changed.elapsed() < Duration::from_secs(15), "{:?}", changed.elapsed());
}

#[test]
fn a_locked_role_names_the_way_to_unlock_it() {
    let role = AppRole::new();
    let wrong = json!({ "role_id": role.role_id, "secret_id": "wrong" });
    let refused = wait_for("the lockout", || {
        let answer = role.server.try_api("POST", "auth/approle/login", &wrong)?;
        (answer.status == 403).then_some(answer)
    });
    assert!(refused.text().contains("permission denied"), "{refused:?}");
    let daemon =
        role.start(&role.server.address(), ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", &role.secret_id));
    let said = daemon.sync_error();
    let unlock = format!("/unlock/{}", role.role_id);
    assert!(said.contains("sys/locked-users/") && said.contains(&unlock), "{said}");
}

#[test]
fn a_token_that_vault_does_not_know_is_a_failed_login() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start_unready(&server, &[("KONG_KEYRING_VAULT_TOKEN", "wrong")]);
    let said = daemon.sync_error();
    assert!(said.contains("keyring_vault_token"), "{said}");
    assert!(!daemon.log().contains("logged in"), "{}", daemon.log());
    assert_eq!(daemon.metric("keyringd_logins_total{outcome=\"success\"}"), 0);
    assert!(daemon.metric("keyringd_logins_total{outcome=\"failure\"}") > 0);
    let metrics = daemon.get("/metrics").text();
    assert!(!metrics.contains("keyringd_token_remaining_seconds inf"), "{metrics}");

    // A token without the default policy may not look itself up, and is good all the same.
    let token = server.token_for(&json!({ "policies": ["keyring"], "no_default_policy": true }));
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_VAULT_TOKEN", &token)]);
    assert_eq!(daemon.metric("keyringd_logins_total{outcome=\"success\"}"), 1);
}

#[test]
fn doctor_tells_kinds_of_tokens_apart() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let limited = server.token_for(&json!({ "policies": ["keyring"], "num_uses": 100 }));
    let bare = server.token_for(&json!({ "policies": ["keyring"], "no_default_policy": true }));
    for (token, expected) in [
        (server.token(), "warn  login     the token is a root token"),
        (&limited, "warn  login     the token has a limited number of uses"),
        (&bare, "needs `update` on sys/capabilities-self"),
    ] {
        let report = success(&run_for(&server, "doctor", &[("KONG_KEYRING_VAULT_TOKEN", token)]));
        assert!(report.contains(expected), "{expected}\nin\n{report}");
    }
    let role = AppRole::with(&json!({ "token_policies": ["keyring"], "token_num_uses": 100 }));
    let by_approle = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", &role.role_id),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", &role.secret_id),
    ];
    let report = success(&run_for(&role.server, "doctor --login", &by_approle));
    assert!(report.contains("warn  login     the token has a limited number of uses"), "{report}");
    assert!(report.contains("ok    keyring   1 held"), "the token of a login is doctor's own: {report}");
    // What the daemon needs is left: the token still has uses.
    let looked = server.api_with(&limited, "GET", "secret/metadata/keyring", &Value::Null);
    assert_eq!(looked.status, 200);
    let policy = success(&run_for(&server, "doctor", &[]));
    assert!(!policy.contains("revoke-self"), "a configured token is never revoked: {policy}");
    assert!(policy.contains("path \"secret/config\" { capabilities = [\"read\"] }"), "{policy}");
}

#[test]
fn a_token_bound_to_other_addresses_is_a_failed_login() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    server.allow_reading();
    let bound = json!({ "token_bound_cidrs": ["10.0.0.0/8"], "allowed_policies": ["keyring"] });
    server.api("POST", "auth/token/roles/elsewhere", &bound);
    let made = server.api("POST", "auth/token/create/elsewhere", &json!({ "policies": ["keyring"] }));
    let token = made.at("/auth/client_token");
    let daemon = Daemon::start_unready(&server, &[("KONG_KEYRING_VAULT_TOKEN", &token)]);
    let said = daemon.sync_error();
    assert!(said.contains("token_bound_cidrs"), "{said}");
}

#[test]
fn a_gateway_with_a_path_prefix_works() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let port = server.address().rsplit(':').next().unwrap().parse().unwrap();
    let gateway = Relay::rewriting(port, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        text.contains(" /gw/vault/v1/").then(|| text.replace(" /gw/vault/v1/", " /v1/").into_bytes())
    });
    for host in ["/gw/vault", "/gw/vault/"] {
        let host = format!("http://127.0.0.1:{}{host}", gateway.port);
        let daemon = Daemon::start(&server, &[("KONG_KEYRING_VAULT_HOST", &host)]);
        assert_eq!(daemon.active(), "first");
    }
}

/// A server with a JWT role, an issuer, and the settings for a token endpoint.
fn with_jwt(server: &OpenBao) -> Issuer {
    let issuer = Issuer::new();
    let jwks = issuer.jwks().to_string();
    let keys = Proxy::playing(move |_, _| (200, jwks.clone()));
    server.put_record("first", KEY);
    server.enable("jwt");
    server.api("POST", "auth/jwt/config", &json!({ "jwks_url": format!("{}/jwks", keys.address()) }));
    let bound = json!({ "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "token_policies": ["keyring"] });
    server.api("POST", "auth/jwt/role/app", &bound);
    issuer
}

fn by_endpoint(server: &OpenBao, endpoint: &str, more: &[(&str, &str)]) -> Daemon {
    let settings = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "oauth2"),
        ("KONG_KEYRING_VAULT_OAUTH2_ROLE_NAME", "app"),
        ("KONG_KEYRING_VAULT_OAUTH2_TOKEN_ENDPOINT", endpoint),
        ("KONG_KEYRING_VAULT_OAUTH2_CLIENT_ID", "web:1"),
        ("KONG_KEYRING_VAULT_OAUTH2_CLIENT_SECRET", "s3cret&="),
    ];
    Daemon::start_unready(server, &[&settings[..], more].concat())
}

#[test]
fn a_token_endpoint_gets_scopes_and_the_configured_way_of_authentication() {
    let server = OpenBao::dev();
    let issuer = with_jwt(&server);
    let jwt = issuer.sign(&Issuer::claims("web", "vault", 0));
    let seen = Arc::new(Mutex::new(String::new()));
    let record = Arc::clone(&seen);
    let endpoint = Proxy::playing(move |_, body| {
        *record.lock().unwrap() = String::from_utf8_lossy(body).into_owned();
        (200, json!({ "access_token": jwt, "token_type": "Bearer" }).to_string())
    });
    let relay = Relay::to(endpoint.address().rsplit(':').next().unwrap().parse().unwrap());
    let address = format!("http://127.0.0.1:{}/token", relay.port);
    let basic = [
        ("KONG_KEYRING_VAULT_OAUTH2_AUTH_STYLE", "basic"),
        ("KONG_KEYRING_VAULT_OAUTH2_SCOPES", "vault.read, offline"),
    ];
    by_endpoint(&server, &address, &basic).wait_until_ready();
    let body = seen.lock().unwrap().clone();
    assert!(body.contains("scope=vault.read+offline") && !body.contains("client_secret"), "{body}");
    // RFC 6749, 2.3.1: both parts are form-encoded first.
    let expected = format!("basic {}", BASE64_STANDARD.encode("web%3A1:s3cret%26%3D")).to_lowercase();
    let head = String::from_utf8_lossy(&relay.client_bytes()).to_lowercase();
    assert!(head.contains(&expected), "{head}");

    by_endpoint(&server, &address, &[]).wait_until_ready();
    let body = seen.lock().unwrap().clone();
    assert!(body.contains("client_id=web%3A1") && body.contains("client_secret=s3cret%26%3D"), "{body}");
}

#[test]
fn a_token_endpoint_that_refuses_is_quoted_and_an_opaque_token_is_named() {
    let server = OpenBao::dev();
    with_jwt(&server);
    let answer = Arc::new(Mutex::new((400, Value::Null)));
    let shared = Arc::clone(&answer);
    let endpoint = Proxy::playing(move |_, _| {
        let (status, body) = shared.lock().unwrap().clone();
        (status, body.to_string())
    });
    let address = format!("{}/token", endpoint.address());
    for (status, body, expected) in [
        (
            400,
            json!({ "error": "invalid_request", "error_description": "Missing audience for client grant" }),
            "Missing audience for client grant",
        ),
        (400, json!({ "error": "invalid_request" }), "keyring_vault_oauth2_audiences is not set"),
        (401, json!({ "error": "access_denied", "error_description": "no s3cret&= here" }), "access_denied"),
        (200, json!({ "access_token": "an-opaque-token" }), "is opaque and not a JWT"),
    ] {
        *answer.lock().unwrap() = (status, body);
        let daemon = by_endpoint(&server, &address, &[]);
        let said = daemon.sync_error();
        assert!(said.contains(expected) && !said.contains("s3cret"), "{expected}: {said}");
        assert!(!daemon.log().contains("an-opaque-token"), "{}", daemon.log());
    }
}

#[test]
fn plain_http_to_a_token_endpoint_elsewhere_is_a_warning() {
    let server = OpenBao::shared();
    let more = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "oauth2"),
        ("KONG_KEYRING_VAULT_OAUTH2_ROLE_NAME", "app"),
        ("KONG_KEYRING_VAULT_OAUTH2_TOKEN_ENDPOINT", "http://idp.example.com/token"),
        ("KONG_KEYRING_VAULT_OAUTH2_CLIENT_ID", "web"),
        ("KONG_KEYRING_VAULT_OAUTH2_CLIENT_SECRET", "s3cret"),
    ];
    let report = check(&server, &more);
    let warned = |part: &str| {
        report.lines().any(|line| line.contains("keyring_vault_oauth2_token_endpoint") && line.contains(part))
    };
    assert!(warned("unencrypted"), "{report}");
}

#[test]
fn files_that_operators_cannot_or_need_not_protect_are_no_warning() {
    let server = OpenBao::shared();
    let warnings = |more: &[(&str, &str)]| {
        let report = check(&server, more);
        report.lines().filter(|line| line.contains("every user of this machine can read")).count()
    };
    let client = issued(&["a.client"], |_| ());
    for path in [&client.certificate, &client.key] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let (certificate, key) = (client.certificate.display().to_string(), client.key.display().to_string());
    let by_certificate = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "cert"),
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", certificate.as_str()),
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", key.as_str()),
    ];
    assert_eq!(warnings(&by_certificate), 1, "for the key only");

    // The kubelet swaps a projected volume as a whole, by the link ..data.
    let volume = tempfile::tempdir().unwrap();
    fs::create_dir(volume.path().join("..1")).unwrap();
    fs::write(volume.path().join("..1/token"), "a.b.c").unwrap();
    std::os::unix::fs::symlink("..1", volume.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/token", volume.path().join("token")).unwrap();
    fs::set_permissions(volume.path().join("..1/token"), fs::Permissions::from_mode(0o644)).unwrap();
    let projected = volume.path().join("token").display().to_string();
    for (method, setting) in
        [("kubernetes", "KONG_KEYRING_VAULT_KUBE_API_TOKEN_FILE"), ("jwt", "KONG_KEYRING_VAULT_JWT_FILE")]
    {
        assert_eq!(
            warnings(&[("KONG_KEYRING_VAULT_AUTH_METHOD", method), (setting, &projected)]),
            0,
            "{method}"
        );
    }
}

#[test]
fn a_wrong_protocol_names_the_setting_that_has_it() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let access = format!("uid:{}=all", nix::unistd::geteuid());
    let port = server.address().rsplit(':').next().unwrap().to_owned();
    let more = [
        ("KONG_KEYRING_ACCESS", access.as_str()),
        ("KONG_VAULT_HCV_PROTOCOL", "https"),
        ("KONG_VAULT_HCV_HOST", "127.0.0.1"),
        ("KONG_VAULT_HCV_PORT", &port),
        ("KONG_VAULT_HCV_TOKEN", server.token()),
    ];
    let daemon = Daemon::start(&server, &more);
    let answer = daemon.post("/v1/resolve", &json!({ "reference": "{vault://hcv/app/password}" }));
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text().contains("vault_hcv_protocol"), "{}", answer.text());
}

#[test]
fn a_session_of_references_is_part_of_status_metrics_and_doctor() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let access = format!("uid:{}=all", nix::unistd::geteuid());
    let port = server.address().rsplit(':').next().unwrap().to_owned();
    let more = [
        ("KONG_KEYRING_ACCESS", access.as_str()),
        ("KONG_VAULT_HCV_HOST", "127.0.0.1"),
        ("KONG_VAULT_HCV_PORT", &port),
        ("KONG_VAULT_HCV_TOKEN", "wrong"),
    ];
    let daemon = Daemon::start(&server, &more);
    let answer = daemon.post("/v1/resolve", &json!({ "reference": "{vault://hcv/app/password}" }));
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(daemon.metric("keyringd_session_logins_total{session=\"references\",outcome=\"failure\"}") > 0);
    assert_eq!(daemon.metric("keyringd_session_logins_total{session=\"keyring\",outcome=\"failure\"}"), 0);
    let status = daemon.get("/status").json();
    let sessions = status.pointer("/source/sessions").and_then(Value::as_array).unwrap();
    let shown: Vec<_> = sessions.iter().map(|one| format!("{} {}", one["name"], one["logged_in"])).collect();
    assert_eq!(shown, [r#""keyring" true"#, r#""vault_hcv" false"#]);
    assert!(sessions[1]["login_error"].to_string().contains("vault_hcv_token"), "{status}");
    let printed = success(&daemon.command(&["status"], b""));
    assert!(
        printed.lines().any(|line| line.contains("vault_hcv") && line.contains("not logged in")),
        "{printed}"
    );

    let output = run_for(&server, "doctor", &more);
    let report = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("FAIL  login     vault_hcv: "), "{report}");
    assert!(report.contains("ok    keyring   1 held"), "{report}");
}

#[test]
fn renewals_that_fail_are_logged_once() {
    let role = AppRole::with(&json!({ "token_policies": ["keyring"], "token_period": "6s" }));
    let proxy = Proxy::before(&role.server.address());
    let daemon = role.start(&proxy.address(), ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", &role.secret_id));
    daemon.wait_until_ready();
    proxy.set("/v1/auth/token/renew-self", Fault::status(500));
    proxy.set("/v1/auth/approle", Fault::status(500));
    let attempts = || proxy.seen().iter().filter(|request| request.contains("/approle/login")).count();
    wait_for("attempts to log in again", || (attempts() > 3).then_some(()));
    let log = daemon.log();
    let is_warning = |line: &&str| line.contains("WARN") && line.contains("vault::session");
    assert_eq!(log.lines().filter(is_warning).count(), 1, "{log}");
}

#[test]
fn a_renewal_or_a_login_that_succeeds_wakes_a_sync_that_waits() {
    let role = AppRole::with(&json!({ "token_policies": ["keyring"], "token_period": "20s" }));
    let proxy = Proxy::before(&role.server.address());
    let more = [
        ("KONG_KEYRING_VAULT_HOST", proxy.address()),
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle".to_owned()),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role.role_id.clone()),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", role.secret_id.clone()),
        ("KONG_KEYRING_SYNC_INTERVAL", "86400".to_owned()),
    ];
    let more = more.each_ref().map(|(name, value)| (*name, value.as_str()));
    let daemon = Daemon::start(&role.server, &more);
    proxy.set("/", Fault::status(503));
    assert_eq!(daemon.request("POST", "/keyring/vault/sync", b"").status, 500);
    role.server.put_record("second", KEY);
    proxy.set("/", Fault::None);
    wait_for("the next key", || (daemon.active() == "second").then_some(()));
}

#[test]
fn a_standby_whose_leader_is_gone_is_told_from_a_wrong_address() {
    let server = OpenBao::dev();
    let location = "location: http://127.0.0.1:1/v1/auth/token/lookup-self\r\n".to_owned();
    let proxy = Proxy::only(Fault::Answer(307, location, String::new()));
    let daemon = Daemon::start_unready(&server, &[("KONG_KEYRING_VAULT_HOST", &proxy.address())]);
    let said = daemon.sync_error();
    assert!(said.contains("standby") && said.contains("no leader"), "{said}");
}
