//! Every auth method, against a real OpenBao with that method enabled, from a kong.conf alone: login, renewal, re-login.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Daemon, Fault, OpenBao, Proxy,
    certificates::{Authority, self_signed},
    jwt::Issuer,
    wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// What a role grants: tokens that live for seconds, and cannot be renewed for long.
fn short_lived(more: &Value) -> Value {
    let mut role = json!({ "token_policies": ["keyring"], "token_ttl": "2s", "token_max_ttl": "4s" });
    role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    role
}

fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[track_caller]
fn works(daemon: &Daemon) {
    assert_eq!(daemon.opened(&daemon.encrypt("hello")), "hello");
}

/// A new key in Vault becomes active by itself, and no crypto request fails meanwhile.
#[track_caller]
fn follows(server: &OpenBao, daemon: &Daemon, id: &str) {
    let record = json!({ "data": { "id": id, "key": format!("{id}{KEY}") } });
    wait_for("OpenBao to take the new key", || {
        works(daemon);
        let written = server.try_api("POST", "secret/data/keyring", &record)?;
        (written.status == 200).then_some(())
    });
    wait_for("the new key to be active", || {
        works(daemon);
        (daemon.active() == id).then_some(())
    });
}

/// For every method: tokens expire, OpenBao is restarted, sealed and unsealed, and the daemon recovers by itself.
fn survives_faults(server: &mut OpenBao, daemon: &mut Daemon) {
    daemon.wait_until_ready();
    wait_for("two further logins", || {
        works(daemon);
        (daemon.metric("keyringd_logins_total{outcome=\"success\"}") >= 3).then_some(())
    });
    assert!(daemon.metric("keyringd_token_renewals_total{outcome=\"success\"}") > 0);
    follows(server, daemon, "after-expiry");

    server.stop();
    let failures = || daemon.metric("keyringd_syncs_total{outcome=\"failure\"}");
    let before = failures();
    wait_for("a sync to fail", || {
        works(daemon);
        (failures() > before).then_some(())
    });
    server.start();
    follows(server, daemon, "after-restart");

    server.seal();
    let before = failures();
    wait_for("the seal to be noticed", || {
        works(daemon);
        (failures() > before).then_some(())
    });
    assert!(daemon.get("/status").at("/sync/last_error").contains("sealed"));
    server.unseal();
    follows(server, daemon, "after-unseal");

    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
}

#[test]
fn kubernetes() {
    let mut server = OpenBao::durable();
    server.put_record("first", KEY);
    server.enable("kubernetes");
    let issuer = Issuer::new();
    let mut claims = Issuer::claims("system:serviceaccount:apps:web", "vault", 0);
    claims["aud"] = json!(["vault"]);
    claims["kubernetes.io"] =
        json!({ "namespace": "apps", "serviceaccount": { "name": "web", "uid": "u-1" } });
    let jwts = Arc::new(Mutex::new(vec![issuer.sign(&claims)]));
    let known = Arc::clone(&jwts);
    let cluster = Proxy::playing(move |request, body| {
        assert_eq!(request, "POST /apis/authentication.k8s.io/v1/tokenreviews");
        let review: Value = serde_json::from_slice(body).unwrap();
        let good = known.lock().unwrap().iter().any(|jwt| review["spec"]["token"] == jwt.as_str());
        let user = json!({ "username": "system:serviceaccount:apps:web", "uid": "u-1", "groups": ["system:serviceaccounts"] });
        let status = json!({ "authenticated": good, "user": user, "audiences": review["spec"]["audiences"] });
        (
            201,
            json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status })
                .to_string(),
        )
    });
    let authority = Authority::new("The cluster's authority");
    let config = json!({ "kubernetes_host": cluster.address(), "kubernetes_ca_cert": authority.pem(), "disable_local_ca_jwt": true, "token_reviewer_jwt": jwts.lock().unwrap()[0] });
    server.api("POST", "auth/kubernetes/config", &config);
    let bound =
        json!({ "bound_service_account_names": ["web"], "bound_service_account_namespaces": ["apps"] });
    server.api("POST", "auth/kubernetes/role/app", &short_lived(&bound));

    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "token", &jwts.lock().unwrap()[0]);
    let lines = format!(
        "keyring_vault_auth_method = kubernetes\nkeyring_vault_kube_role = app\nkeyring_vault_kube_api_token_file = {path}"
    );
    let mut daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();

    // Kubernetes renews the file, and the old token becomes invalid.
    claims["exp"] = json!(claims["exp"].as_i64().unwrap() + 1);
    let renewed = issuer.sign(&claims);
    fs::write(&path, format!("{renewed}\n")).unwrap();
    *jwts.lock().unwrap() = vec![renewed];
    survives_faults(&mut server, &mut daemon);
}

fn with_approle(server: &OpenBao) -> String {
    server.put_record("first", KEY);
    server.enable("approle");
    server.api("POST", "auth/approle/role/app", &short_lived(&json!({})));
    server.role_id("app")
}

pub(crate) fn new_secret_id(server: &OpenBao) -> String {
    server.secret_id("app")
}

/// The settings for a wrapped secret ID in a file.
fn by_wrapped_secret_id(role_id: &str, path: &str) -> String {
    format!(
        "keyring_vault_auth_method = approle\nkeyring_vault_approle_role_id = {role_id}\n\
         keyring_vault_approle_response_wrapping = on\nkeyring_vault_approle_secret_id_file = {path}"
    )
}

/// A token in which a secret ID of the role is wrapped.
pub(crate) fn wrapped(server: &OpenBao, path: &str) -> String {
    let headers = [("x-vault-token", server.token()), ("x-vault-wrap-ttl", "60s")];
    let stream = std::net::TcpStream::connect(server.address().trim_start_matches("http://")).unwrap();
    let answer =
        crate::support::http::exchange(stream, "POST", &format!("/v1/{path}"), &headers, br#"{"a": "b"}"#);
    answer.unwrap().at("/wrap_info/token")
}

#[test]
fn approle_with_a_secret_id_inline_or_in_a_file() {
    let mut server = OpenBao::durable();
    let role_id = with_approle(&server);
    let lines = format!("keyring_vault_auth_method = approle\nkeyring_vault_approle_role_id = {role_id}\n");
    let inline = Daemon::from_conf(
        &server.address(),
        &format!("{lines}keyring_vault_approle_secret_id = {}", new_secret_id(&server)),
    );
    inline.wait_until_ready();
    works(&inline);

    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "secret-id", &new_secret_id(&server));
    let mut daemon = Daemon::from_conf(
        &server.address(),
        &format!("{lines}keyring_vault_approle_secret_id_file = {path}"),
    );
    survives_faults(&mut server, &mut daemon);
}

#[test]
fn a_wrapped_secret_id_is_unwrapped_once_and_remembered() {
    let mut server = OpenBao::durable();
    let role_id = with_approle(&server);
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "wrapped", &wrapped(&server, "auth/approle/role/app/secret-id"));
    let lines = by_wrapped_secret_id(&role_id, &path);
    let mut daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();
    assert_eq!(daemon.metric("keyringd_unwraps_total{outcome=\"success\"}"), 1);
    survives_faults(&mut server, &mut daemon);
    assert!(!daemon.log().contains("security_event"), "{}", daemon.log());
}

#[test]
fn an_unwrapped_secret_id_is_used_when_its_file_is_gone_or_invalid() {
    let server = OpenBao::durable();
    let role_id = with_approle(&server);
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "wrapped", &wrapped(&server, "auth/approle/role/app/secret-id"));
    let lines = by_wrapped_secret_id(&role_id, &path);
    let daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();
    let logins = || daemon.metric("keyringd_logins_total{outcome=\"success\"}");
    fs::remove_file(&path).unwrap();
    wait_for("logins without the file", || (logins() >= 3).then_some(()));
    fs::write(&path, wrapped(&server, "sys/wrapping/wrap")).unwrap();
    let before = logins();
    wait_for("logins in spite of a bad one", || (logins() >= before + 2).then_some(()));
    assert_eq!(
        daemon.metric("keyringd_unwraps_total{outcome=\"failure\"}"),
        1,
        "one alarm, and not one a login"
    );
    follows(&server, &daemon, "and-it-syncs");
}

#[test]
fn a_wrapping_token_whose_unwrapping_gets_no_response_is_not_sent_again() {
    let server = OpenBao::durable();
    let role_id = with_approle(&server);
    let folder = tempfile::tempdir().unwrap();
    for fault in [Fault::Cut, Fault::status(412), Fault::status(429)] {
        let proxy = Proxy::before(&server.address());
        proxy.set("/v1/sys/wrapping/unwrap", fault);
        let path = file(&folder, "wrapped", &wrapped(&server, "auth/approle/role/app/secret-id"));
        let lines = by_wrapped_secret_id(&role_id, &path);
        let daemon = Daemon::from_conf(&proxy.address(), &lines);
        wait_for("further attempts", || (daemon.log().matches("sync failed").count() >= 3).then_some(()));
        assert_eq!(proxy.seen().iter().filter(|request| request.contains("unwrap")).count(), 1);
        assert_eq!(daemon.metric("keyringd_unwraps_total{outcome=\"failure\"}"), 1);
    }
}

#[test]
fn a_stolen_or_planted_wrapping_token_raises_an_alarm_and_is_not_retried() {
    let server = OpenBao::durable();
    let role_id = with_approle(&server);
    let opened = wrapped(&server, "auth/approle/role/app/secret-id");
    let stolen = server.api_with(&opened, "POST", "sys/wrapping/unwrap", &json!({}));
    assert_eq!(stolen.status, 200);
    let planted = wrapped(&server, "sys/wrapping/wrap");
    let folder = tempfile::tempdir().unwrap();
    for (token, why) in
        [(opened, "does not know it any more"), (planted, "the role's secret-id endpoint did not create it")]
    {
        let proxy = Proxy::before(&server.address());
        let path = file(&folder, "wrapped", &token);
        let lines = by_wrapped_secret_id(&role_id, &path);
        let daemon = Daemon::from_conf(&proxy.address(), &lines);
        wait_for("the alarm", || daemon.log().contains("security_event").then_some(()));
        assert!(daemon.log().contains(why) && !daemon.log().contains(&token), "{}", daemon.log());
        wait_for("the metric", || {
            (daemon.metric("keyringd_unwraps_total{outcome=\"failure\"}") > 0).then_some(())
        });
        assert!(!proxy.seen().iter().any(|request| request.contains("unwrap")), "{:?}", proxy.seen());

        // A new one in the file is all that it takes.
        fs::write(&path, wrapped(&server, "auth/approle/role/app/secret-id")).unwrap();
        daemon.wait_until_ready();
        let unwraps = proxy.seen().iter().filter(|request| request.contains("unwrap")).count();
        assert_eq!(unwraps, 1);
    }
}

#[test]
fn cert_over_tls_with_a_private_authority_and_a_certificate_that_is_renewed() {
    let served = self_signed(&["127.0.0.1"]);
    let clients = Authority::new("The clients' authority");
    let first = clients.issue(&["first.client"], |_| ());
    let (mut server, port) = OpenBao::durable_with_tls(&served.certificate, &served.key);
    server.put_record("first", KEY);
    server.enable("cert");
    server.api("POST", "auth/cert/certs/app", &short_lived(&json!({ "certificate": clients.pem() })));

    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &Path, name: &str| file(&folder, name, &fs::read_to_string(from).unwrap());
    let (certificate, key) = (copy(&first.certificate, "client.pem"), copy(&first.key, "client.key"));
    let lines = format!(
        "lua_ssl_trusted_certificate = {}\nkeyring_vault_auth_method = cert\nkeyring_vault_cert_auth_role_name = app\n\
         keyring_vault_cert_auth_cert = {certificate}\nkeyring_vault_cert_auth_cert_key = {key}",
        served.certificate.display()
    );
    let mut daemon = Daemon::from_conf(&format!("https://127.0.0.1:{port}"), &lines);
    survives_faults(&mut server, &mut daemon);

    // With tokens that live long, only a changed certificate leads to a new login.
    server.api(
        "POST",
        "auth/cert/certs/app",
        &json!({ "certificate": clients.pem(), "token_policies": ["keyring"], "token_ttl": "1h", "token_max_ttl": "2h" }),
    );
    let daemon = Daemon::from_conf(&format!("https://127.0.0.1:{port}"), &lines);
    daemon.wait_until_ready();
    let logins = || daemon.metric("keyringd_logins_total{outcome=\"success\"}");
    assert_eq!(logins(), 1);
    let second = clients.issue(&["second.client"], |_| ());
    // The pair changes in two steps; in between the current token is used.
    copy(&second.certificate, "client.pem");
    wait_for("the mismatch to be noticed", || daemon.log().contains("do not belong together").then_some(()));
    works(&daemon);
    copy(&second.key, "client.key");
    wait_for("the new login", || (logins() == 2).then_some(()));

    // After a refused certificate the current token is renewed further.
    let role = json!({ "certificate": clients.pem(), "token_policies": ["keyring"], "token_period": "3s" });
    server.api("POST", "auth/cert/certs/app", &role);
    let daemon = Daemon::from_conf(&format!("https://127.0.0.1:{port}"), &lines);
    daemon.wait_until_ready();
    let stranger = Authority::new("Strangers").issue(&["a.stranger"], |_| ());
    copy(&stranger.certificate, "client.pem");
    copy(&stranger.key, "client.key");
    wait_for("the refusal", || {
        daemon.log().contains("login with the changed credential failed").then_some(())
    });
    let renewals = || daemon.metric("keyringd_token_renewals_total{outcome=\"success\"}");
    let before = renewals();
    wait_for("renewals", || (renewals() >= before + 3).then_some(()));
    follows(&server, &daemon, "under-the-old-session");
}

#[test]
fn cert_as_text_and_as_base64() {
    let served = self_signed(&["127.0.0.1"]);
    let clients = Authority::new("The clients' authority");
    let client = clients.issue(&["a.client"], |_| ());
    let (server, port) = OpenBao::dev_with_tls(&served.certificate, &served.key);
    server.put_record("first", KEY);
    server.enable("cert");
    server.api("POST", "auth/cert/certs/app", &short_lived(&json!({ "certificate": clients.pem() })));
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let base64 = |path: &Path| base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE, text(path));
    for form in [&text as &dyn Fn(&Path) -> String, &base64] {
        let daemon = Daemon::start(
            &server,
            &[
                ("KONG_KEYRING_VAULT_HOST", &format!("https://127.0.0.1:{port}")),
                ("KONG_KEYRING_VAULT_TOKEN", ""),
                ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", &form(&served.certificate)),
                ("KONG_KEYRING_VAULT_AUTH_METHOD", "cert"),
                ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", &form(&client.certificate)),
                ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", &form(&client.key)),
            ],
        );
        works(&daemon);
    }
}

/// An issuer whose keys OpenBao fetches, and a role for `web`.
fn with_jwt(server: &OpenBao) -> (Arc<Issuer>, Proxy) {
    server.put_record("first", KEY);
    server.enable("jwt");
    let issuer = Arc::new(Issuer::new());
    let jwks = issuer.jwks().to_string();
    let keys = Proxy::playing(move |_, _| (200, jwks.clone()));
    server.api("POST", "auth/jwt/config", &json!({ "jwks_url": format!("{}/jwks", keys.address()) }));
    let bound = json!({ "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": "web" });
    server.api("POST", "auth/jwt/role/app", &short_lived(&bound));
    (issuer, keys)
}

#[test]
fn oauth2_by_the_client_credentials_grant() {
    let mut server = OpenBao::durable();
    let (issuer, _keys) = with_jwt(&server);
    let signer = Arc::clone(&issuer);
    let endpoint = Proxy::playing(move |request, body| {
        assert_eq!(request, "POST /oauth2/token");
        let form: std::collections::HashMap<_, _> = url::form_urlencoded::parse(body).into_owned().collect();
        let granted = form["grant_type"] == "client_credentials"
            && form["client_id"] == "web"
            && form["client_secret"] == "s3cret&=";
        if !granted {
            return (401, json!({ "error": "invalid_client" }).to_string());
        }
        let jwt = signer.sign(&Issuer::claims("web", &form["audience"], 0));
        (200, json!({ "access_token": jwt, "token_type": "Bearer", "expires_in": 3600 }).to_string())
    });
    let lines = |secret: &str| {
        format!(
            "keyring_vault_auth_method = oauth2\nkeyring_vault_oauth2_role_name = app\n\
             keyring_vault_oauth2_token_endpoint = {}/oauth2/token\nkeyring_vault_oauth2_client_id = web\n\
             keyring_vault_oauth2_client_secret = {secret}\nkeyring_vault_oauth2_audiences = vault",
            endpoint.address()
        )
    };
    let refused = Daemon::from_conf(&server.address(), &lines("planted-secret"));
    let message = wait_for("the refusal", || Some(refused.log()).filter(|log| log.contains("answered 401")));
    assert!(
        message.contains("check keyring_vault_oauth2_client_id") && !message.contains("planted"),
        "{message}"
    );
    for (fault, part) in [
        (
            Fault::Answer(302, "location: http://elsewhere/\r\n".to_owned(), String::new()),
            "set keyring_vault_oauth2_token_endpoint to that server",
        ),
        (Fault::Answer(503, String::new(), String::new()), "keyring_vault_oauth2_token_endpoint: http"),
        (
            Fault::Answer(400, String::new(), "planted-in-a-page".to_owned()),
            "keyring_vault_oauth2_token_endpoint answered 400: check",
        ),
        (
            Fault::Answer(200, String::new(), "{}".to_owned()),
            "keyring_vault_oauth2_token_endpoint gave no access_token",
        ),
    ] {
        endpoint.set("/", fault);
        let refused = Daemon::from_conf(&server.address(), &lines("s3cret&="));
        let message =
            wait_for("the refusal", || Some(refused.log()).filter(|log| log.contains("sync failed")));
        assert!(
            message.contains(part) && !message.contains("keyring_vault_host") && !message.contains("planted"),
            "{message}"
        );
    }
    endpoint.reset();
    let mut daemon = Daemon::from_conf(&server.address(), &lines("s3cret&="));
    survives_faults(&mut server, &mut daemon);
}

#[test]
fn jwt_from_a_file() {
    let mut server = OpenBao::durable();
    let (issuer, _keys) = with_jwt(&server);
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "jwt", &issuer.sign(&Issuer::claims("web", "vault", 0)));
    let lines = format!(
        "keyring_vault_auth_method = jwt\nkeyring_vault_jwt_role = app\nkeyring_vault_jwt_file = {path}"
    );
    let mut daemon = Daemon::from_conf(&server.address(), &lines);
    survives_faults(&mut server, &mut daemon);
}

#[test]
fn a_configured_token_is_looked_up_renewed_and_never_revoked() {
    let server = OpenBao::durable();
    server.put_record("first", KEY);
    let token = server.token_for(&json!({ "policies": ["keyring"], "period": "6s" }));
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "token", &token);
    let variables = [
        ("KONG_KEYRING_VAULT_TOKEN", ""),
        ("KONG_KEYRING_VAULT_TOKEN_FILE", path.as_str()),
        ("KONG_KEYRING_SYNC_INTERVAL", "1"),
    ];
    let mut daemon = Daemon::start(&server, &variables);
    wait_for("renewals beyond its first life", || {
        works(&daemon);
        (daemon.metric("keyringd_token_renewals_total{outcome=\"success\"}") >= 4).then_some(())
    });
    follows(&server, &daemon, "after-renewals");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().code(), Some(0));
    assert_eq!(
        server.api_with(&token, "GET", "auth/token/lookup-self", &Value::Null).status,
        200,
        "it still works"
    );
}

#[test]
fn an_expired_token_is_reported_and_a_new_one_in_its_file_is_used() {
    let server = OpenBao::durable();
    server.put_record("first", KEY);
    let folder = tempfile::tempdir().unwrap();
    let short = server.token_for(&json!({ "policies": ["keyring"], "ttl": "8s", "renewable": false }));
    let path = file(&folder, "token", &short);
    let variables = [
        ("KONG_KEYRING_VAULT_TOKEN", ""),
        ("KONG_KEYRING_VAULT_TOKEN_FILE", path.as_str()),
        ("KONG_KEYRING_SYNC_INTERVAL", "1"),
    ];
    let daemon = Daemon::start(&server, &variables);
    wait_for("the end of the token to be noticed", || {
        works(&daemon);
        daemon.log().contains("set a valid token in keyring_vault_token").then_some(())
    });
    fs::write(&path, server.token_for(&json!({ "policies": ["keyring"] }))).unwrap();
    follows(&server, &daemon, "after-a-new-token");
}

#[test]
fn a_token_from_a_login_is_revoked_at_shutdown() {
    let server = OpenBao::durable();
    let role_id = with_approle(&server);
    server.api(
        "POST",
        "auth/approle/role/app",
        &json!({ "token_policies": ["keyring"], "token_ttl": "1h", "token_max_ttl": "2h" }),
    );
    let before = server.tokens();
    let lines = format!(
        "keyring_vault_auth_method = approle\nkeyring_vault_approle_role_id = {role_id}\nkeyring_vault_approle_secret_id = {}",
        new_secret_id(&server)
    );
    let mut daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();
    assert_eq!(server.tokens(), before + 1);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().code(), Some(0));
    assert_eq!(server.tokens(), before);
}

#[test]
fn a_login_in_progress_at_the_stop_leaves_no_token_behind() {
    let server = OpenBao::durable();
    let role_id = with_approle(&server);
    let role = json!({ "token_policies": ["keyring"], "token_ttl": "1h", "token_max_ttl": "2h" });
    server.api("POST", "auth/approle/role/app", &role);
    let before = server.tokens();
    let proxy = Proxy::before(&server.address());
    proxy.set("/v1/auth/approle/login", Fault::Latency(std::time::Duration::from_millis(700)));
    let lines = format!(
        "keyring_vault_auth_method = approle\nkeyring_vault_approle_role_id = {role_id}\nkeyring_vault_approle_secret_id = {}",
        new_secret_id(&server)
    );
    let mut daemon = Daemon::from_conf(&proxy.address(), &lines);
    wait_for("the login to be sent", || {
        proxy.seen().iter().any(|request| request.contains("/login")).then_some(())
    });
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().code(), Some(0));
    assert_eq!(server.tokens(), before);
    assert!(proxy.seen().iter().any(|request| request.contains("revoke-self")), "{:?}", proxy.seen());
}

#[test]
fn a_replaced_token_is_revoked() {
    let server = OpenBao::durable();
    let role_id = with_approle(&server);
    // Not renewable: each is replaced at nine tenths of its life, and would be left behind for the last tenth.
    let role = json!({ "token_policies": ["keyring"], "token_ttl": "5s", "token_max_ttl": "5s" });
    server.api("POST", "auth/approle/role/app", &role);
    let proxy = Proxy::before(&server.address());
    let lines = format!(
        "keyring_vault_auth_method = approle\nkeyring_vault_approle_role_id = {role_id}\nkeyring_vault_approle_secret_id = {}",
        new_secret_id(&server)
    );
    let daemon = Daemon::from_conf(&proxy.address(), &lines);
    wait_for("a second login", || {
        (daemon.metric("keyringd_logins_total{outcome=\"success\"}") >= 2).then_some(())
    });
    wait_for("the first token's end", || {
        proxy.seen().iter().any(|request| request.contains("revoke-self")).then_some(())
    });
}

#[test]
fn namespaces() {
    let server = OpenBao::durable();
    server.api("POST", "sys/namespaces/team", &json!({}));
    let within = |method: &str, path: &str, body: &Value| server.api(method, &format!("team/{path}"), body);
    within("POST", "sys/mounts/secret", &json!({ "type": "kv", "options": { "version": "2" } }));
    let data = json!({ "data": { "id": "in-the-namespace", "key": KEY } });
    wait_for("the KV engine", || {
        let written = server.try_api("POST", "team/secret/data/keyring", &data)?;
        (written.status == 200).then_some(())
    });
    let policy = "path \"secret/metadata/keyring\" { capabilities = [\"read\"] }\npath \"secret/data/keyring\" { capabilities = [\"read\"] }";
    within("PUT", "sys/policies/acl/keyring", &json!({ "policy": policy }));
    within("POST", "sys/auth/approle", &json!({ "type": "approle" }));
    within("POST", "auth/approle/role/app", &short_lived(&json!({})));
    let role_id = within("GET", "auth/approle/role/app/role-id", &Value::Null).at("/data/role_id");
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "wrapped", &wrapped(&server, "team/auth/approle/role/app/secret-id"));
    let lines = format!(
        "keyring_vault_namespace = team\nkeyring_vault_auth_method = approle\nkeyring_vault_approle_role_id = {role_id}\n\
         keyring_vault_approle_response_wrapping = on\nkeyring_vault_approle_secret_id_file = {path}"
    );
    let daemon = Daemon::from_conf(&server.address(), &lines);
    daemon.wait_until_ready();
    assert_eq!(daemon.active(), "in-the-namespace");
}
