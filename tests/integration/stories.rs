//! The how-tos of Kong's and APISIX's documentation for secrets in Vault, word for word, with `bao` for `vault`: each by every
//! way that keyringd has. APISIX's, which ends in a TLS server, is in `direct`.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use serde_json::json;

use crate::support::{
    OpenBao, Proxy,
    certificates::Authority,
    daemon::PROGRAM,
    jwt::Issuer,
    passed_as_root,
    process::{Running, free_port},
    success, tool, wait_for,
};

/// Prints the value of `$REFERENCE` by `vault get`, `exec`, `exec --file`, `files`, `/v1/resolve`, and `vault get` from that
/// daemon.
const EVERY_WAY: &str = r#"
keyringd vault get "$REFERENCE"
SECRET="$REFERENCE" keyringd exec -- sh -c 'echo "$SECRET"'
keyringd exec --file "secret=$REFERENCE" -- sh -c 'cat $1; echo' sh '{files}/secret'
echo "{\"folder\": \"$PWD/service\", \"files\": {\"secret\": \"$REFERENCE\"}}" > files.json
keyringd files --config files.json & files=$!
until [ -e service/secret ]; do sleep 0.1; done
cat service/secret; echo
kill $files; wait $files
export KONG_KEYRING_SOCKET_PATH=$PWD/keyringd.sock KONG_KEYRING_ACCESS=uid:$(id -u)=all
keyringd run 2> run.log & daemon=$!
ask() { curl -sf --unix-socket keyringd.sock "$@"; }
until ask http://localhost/readyz > ready.log; do sleep 0.1; done
ask http://localhost/v1/resolve -d "{\"reference\": \"$REFERENCE\"}" | grep -o '"value":"[^"]*"'
keyringd vault get --daemon "$REFERENCE"
kill $daemon; wait $daemon
"#;

/// The same with the root token of the server, as the how-tos' preparations.
fn as_root_of(server: &OpenBao, folder: &Path, script: &str) -> std::process::Output {
    in_a_shell(folder, &[("BAO_ADDR", &server.address()), ("BAO_TOKEN", server.token())], script)
}

/// Runs a script as the how-tos print them, with the server's name in the hosts file of its own mount namespace.
fn in_a_shell(folder: &Path, variables: &[(&str, &str)], script: &str) -> std::process::Output {
    let hosts = folder.join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost host.docker.internal\n").unwrap();
    let bin = Path::new(PROGRAM).parent().unwrap().display().to_string();
    let bao = crate::support::openbao::program().parent().unwrap().display().to_string();
    let whole = format!(
        "set -euo pipefail; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT; mount --bind {} /etc/hosts; cd {}\n{script}",
        hosts.display(),
        folder.display()
    );
    let mut command = tool("unshare");
    command.args(["--mount", "timeout", "120", "/bin/bash", "-c", &whole]);
    command.env_clear().envs(variables.iter().copied());
    command
        .env("PATH", format!("{bin}:{bao}:/usr/bin:/bin"))
        .env("KONG_KEYRING_SOCKET_PATH", "/nonexistent/keyringd.sock")
        .output()
        .unwrap()
}

#[track_caller]
fn resolves_by_every_way(
    folder: &Path,
    variables: &[(&str, &str)],
    prologue: &str,
    reference: &str,
    value: &str,
) {
    let variables = [variables, &[("REFERENCE", reference)]].concat();
    let printed = success(&in_a_shell(folder, &variables, &format!("{prologue}{EVERY_WAY}")));
    let expected = format!("{value}\n{value}\n{value}\n{value}\n\"value\":\"{value}\"\n{value}\n");
    assert_eq!(printed, expected);
}

#[test]
fn a_token_and_kv_v2() {
    if passed_as_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = OpenBao::dev();
    let address = server.address();
    let written =
        as_root_of(&server, folder.path(), "bao kv put -mount=secret customer/acme name='ACME Inc.'");
    success(&written);
    let variables = [
        ("KONG_VAULT_HCV_PROTOCOL", "http"),
        ("KONG_VAULT_HCV_HOST", "127.0.0.1"),
        ("KONG_VAULT_HCV_PORT", address.rsplit(':').next().unwrap()),
        ("KONG_VAULT_HCV_MOUNT", "secret"),
        ("KONG_VAULT_HCV_KV", "v2"),
        ("KONG_VAULT_HCV_TOKEN", server.token()),
        ("KONG_KEYRING_HCV_PREFIXES", "hashicorp-vault"),
    ];
    let reference = "{vault://hashicorp-vault/customer/acme/name}";
    resolves_by_every_way(folder.path(), &variables, "", reference, "ACME Inc.");
}

/// On raft, with KV v1 at `kong`, behind a certificate that is its own authority.
#[test]
fn a_certificate_and_kv_v1() {
    if passed_as_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // CA:TRUE, as `openssl req -x509` makes it.
    let made = in_a_shell(
        here,
        &[],
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout vault.key -out vault.crt -subj /CN=vault \
         -addext 'subjectAltName=DNS:host.docker.internal' 2>/dev/null\n\
         openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout private.key -out cert.crt -subj /CN=kong 2>/dev/null",
    );
    success(&made);
    let (server, port) = OpenBao::durable_with_tls(&here.join("vault.crt"), &here.join("vault.key"));
    let written = as_root_of(
        &server,
        here,
        "bao secrets enable -path=kong -version=1 kv\n\
         bao kv put -mount=kong headers/request header=x-kong:test\n\
         printf 'path \"kong/*\" { capabilities = [\"read\"] }' | bao policy write rw-secrets -\n\
         bao auth enable cert\n\
         bao write auth/cert/certs/kong display_name=kong policies=rw-secrets certificate=@cert.crt",
    );
    success(&written);
    // PEM texts with \n of two characters, in the variables; no role name; a relative path.
    let port = port.to_string();
    let variables = [("PORT", port.as_str())];
    let script = "to_line() { awk 'NF {sub(/\\r/, \"\"); printf \"%s\\\\n\",$0;}' \"$1\"; }\n\
         export KONG_LUA_SSL_TRUSTED_CERTIFICATE=./vault.crt\n\
         export KONG_VAULT_HCV_PROTOCOL=https KONG_VAULT_HCV_HOST=host.docker.internal KONG_VAULT_HCV_PORT=$PORT\n\
         export KONG_VAULT_HCV_MOUNT=kong KONG_VAULT_HCV_KV=v1 KONG_VAULT_HCV_AUTH_METHOD=cert\n\
         export KONG_VAULT_HCV_CERT_AUTH_CERT=\"$(to_line cert.crt)\"\n\
         export KONG_VAULT_HCV_CERT_AUTH_CERT_KEY=\"$(to_line private.key)\"\n\
         export KONG_KEYRING_HCV_PREFIXES=hashicorp-vault\n";
    let reference = "{vault://hashicorp-vault/headers/request/header}";
    resolves_by_every_way(here, &variables, script, reference, "x-kong:test");
    // Without the certificate of the server: the message leads to the setting.
    let untrusted = in_a_shell(
        here,
        &variables,
        &format!(
            "{script}unset KONG_LUA_SSL_TRUSTED_CERTIFICATE\nkeyringd vault get hcv/headers/request/header"
        ),
    );
    let message = String::from_utf8_lossy(&untrusted.stderr);
    assert!(!untrusted.status.success() && message.contains("lua_ssl_trusted_certificate"), "{message}");
}

/// nginx with a certificate, before a server at `upstream`. It takes forms only at `/token`.
fn tls_before(upstream: &str, folder: &Path, certificate: &Path, key: &Path) -> (Running, u16) {
    let (port, at) = (free_port(), folder.display());
    let lines = format!(
        "daemon off; pid {at}/nginx.pid; error_log {at}/error.log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
         uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {};\n\
         location / {{ proxy_pass {upstream}; }}\n\
         location /token {{ if ($content_type != application/x-www-form-urlencoded) {{ return 415; }}\n\
         proxy_pass {upstream}; }} }} }}\n",
        certificate.display(),
        key.display()
    );
    let conf = folder.join("nginx.conf");
    fs::write(&conf, lines).unwrap();
    let mut command = tool("nginx");
    command.args(["-e", "stderr", "-c", conf.to_str().unwrap()]);
    let running = Running::start(command);
    wait_for("nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    (running, port)
}

/// The JWKS, the token endpoint and Vault have certificates of one private authority.
#[test]
fn oauth2_with_batch_tokens_behind_a_private_authority() {
    if passed_as_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("Private");
    let issued = authority.issue(&["127.0.0.1"], |_| ());
    let (server, vault_port) = OpenBao::dev_with_tls(&issued.certificate, &issued.key);
    server.api("POST", "secret/data/password", &json!({ "data": { "pass": "my-p@ss #1" } }));
    let policy = "path \"secret/data/password\" { capabilities = [\"read\"] }";
    server.api("PUT", "sys/policies/acl/password", &json!({ "policy": policy }));
    server.enable("jwt");
    let issuer = Arc::new(Issuer::new());
    let jwks = issuer.jwks().to_string();
    // The endpoint answers only to the form of RFC 6749, to its client and to its audience.
    let idp = Proxy::playing(move |request, body| {
        if request.starts_with("GET /jwks") {
            return (200, jwks.clone());
        }
        let form: HashMap<_, _> = url::form_urlencoded::parse(body).into_owned().collect();
        let is = |field: &str, value: &str| form.get(field).is_some_and(|found| found == value);
        if !is("grant_type", "client_credentials")
            || !is("audience", "vault")
            || !is("client_id", "kong")
            || !is("client_secret", "s3cret")
        {
            return (400, json!({ "error": "invalid_request" }).to_string());
        }
        let jwt = issuer.sign(&Issuer::claims("kong", "vault", 0));
        (200, json!({ "access_token": jwt, "token_type": "Bearer", "expires_in": 3600 }).to_string())
    });
    let (_nginx, port) = tls_before(&idp.address(), folder.path(), &issued.certificate, &issued.key);
    let config =
        json!({ "jwks_url": format!("https://127.0.0.1:{port}/jwks"), "jwks_ca_pem": authority.pem() });
    server.api("POST", "auth/jwt/config", &config);
    let role = json!({ "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
        "token_type": "batch", "token_policies": ["password"] });
    server.api("POST", "auth/jwt/role/demo", &role);
    fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    let (vault_port, token_endpoint) = (vault_port.to_string(), format!("https://127.0.0.1:{port}/token"));
    let variables = [
        ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", "./ca.pem"),
        ("KONG_VAULT_HCV_PROTOCOL", "https"),
        ("KONG_VAULT_HCV_HOST", "127.0.0.1"),
        ("KONG_VAULT_HCV_PORT", &vault_port),
        ("KONG_VAULT_HCV_KV", "v2"),
        ("KONG_VAULT_HCV_AUTH_METHOD", "oauth2"),
        ("KONG_VAULT_HCV_OAUTH2_ROLE_NAME", "demo"),
        ("KONG_VAULT_HCV_OAUTH2_TOKEN_ENDPOINT", &token_endpoint),
        ("KONG_VAULT_HCV_OAUTH2_CLIENT_ID", "kong"),
        ("KONG_VAULT_HCV_OAUTH2_CLIENT_SECRET", "s3cret"),
        ("KONG_VAULT_HCV_OAUTH2_AUDIENCES", "vault"),
    ];
    resolves_by_every_way(folder.path(), &variables, "", "{vault://hcv/password/pass}", "my-p@ss #1");
    // Each mistake leads to its setting.
    for (mistake, setting) in [
        ("unset KONG_VAULT_HCV_OAUTH2_AUDIENCES", "vault_hcv_oauth2_audiences is not set"),
        ("export KONG_VAULT_HCV_OAUTH2_CLIENT_SECRET=wrong", "vault_hcv_oauth2_client_secret"),
        ("export KONG_VAULT_HCV_OAUTH2_AUTH_STYLE=basic", "vault_hcv_oauth2_client_id"),
        ("unset KONG_LUA_SSL_TRUSTED_CERTIFICATE", "lua_ssl_trusted_certificate"),
        (
            "export KONG_VAULT_HCV_OAUTH2_TOKEN_ENDPOINT=$(echo $KONG_VAULT_HCV_OAUTH2_TOKEN_ENDPOINT | sed s/https/http/)",
            "vault_hcv_oauth2_token_endpoint",
        ),
    ] {
        let script = format!("{mistake}\nkeyringd vault get hcv/password/pass");
        let refused = in_a_shell(folder.path(), &variables, &script);
        let message = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{mistake}: {message}");
        assert!(message.contains(setting) && !message.contains("s3cret"), "{mistake}: {message}");
    }
}

/// APISIX's pair in KV v1 with a token that may read it alone.
#[test]
fn a_pair_of_apisix() {
    if passed_as_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = OpenBao::dev();
    let address = server.address();
    let written = as_root_of(
        &server,
        folder.path(),
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout test.com.key -out test.com.crt -subj /CN=test.com \
         2>/dev/null\n\
         bao secrets enable -version=1 kv >/dev/null\n\
         bao kv put kv/apisix/ssl test.com.crt=@test.com.crt test.com.key=@test.com.key >/dev/null\n\
         echo 'path \"kv/apisix/*\" { capabilities = [\"read\"] }' | bao policy write apisix-policy - >/dev/null\n\
         bao token create -policy=apisix-policy -field=token",
    );
    let token = success(&written);
    let objects =
        json!({ "quickstart-secret-id": { "uri": address, "prefix": "kv/apisix", "token": token.trim() } });
    let variables = [("KONG_KEYRING_SECRET_OBJECTS", objects.to_string())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    // Values of many lines: `vault get` adds a line break, `exec` into a variable does not.
    let printed = in_a_shell(
        folder.path(),
        &variables,
        "for half in crt key; do\n\
         REFERENCE='$secret://vault/quickstart-secret-id/ssl/test.com.'$half\n\
         keyringd vault get \"$REFERENCE\" | head -c -1 | cmp - test.com.$half\n\
         SECRET=\"$REFERENCE\" keyringd exec -- sh -c 'printf %s \"$SECRET\"' | cmp - test.com.$half\n\
         keyringd exec --file \"half.pem=$REFERENCE\" -- cat '{files}/half.pem' | cmp - test.com.$half\n\
         KONG_KEYRING_SOCKET_PATH=$PWD/keyringd.sock KONG_KEYRING_ACCESS=uid:$(id -u)=all keyringd run 2>run.log & daemon=$!\n\
         until curl -sf --unix-socket keyringd.sock http://localhost/readyz >ready.log; do sleep 0.1; done\n\
         curl -sf --unix-socket keyringd.sock http://localhost/v1/resolve -d \"{\\\"reference\\\": \\\"$REFERENCE\\\"}\" |\n\
         python3 -c 'import json, sys; sys.stdout.write(json.load(sys.stdin)[\"data\"][\"value\"])' | cmp - test.com.$half\n\
         kill $daemon; wait $daemon\n\
         done; echo the same",
    );
    assert_eq!(success(&printed), "the same\n");
}
