//! What goes wrong with a Vault, provoked for the keyring's session and for references': each message says which Vault, which
//! path, and which setting to correct, by its name in that session's family.

use std::fs;

use serde_json::{Value, json};

use crate::{
    references::everything,
    support::{
        Daemon, OpenBao,
        certificates::{Authority, Issued},
        daemon::run,
        jwt::Issuer,
        wait_for,
    },
};

/// One mistake. In `parts`, `<host>`, `<protocol>` and `<prefix>` are the session's own names of its settings.
struct Case {
    what: &'static str,
    url: String,
    /// The ends of settings, as after `keyring_vault_`, and their values.
    settings: Vec<(&'static str, String)>,
    trusted: Option<String>,
    path: &'static str,
    parts: &'static [&'static str],
}

/// What is the same for all cases.
struct Servers {
    plain: OpenBao,
    /// A listener of `plain` with a certificate of `authority`.
    tls: u16,
    /// Its certificate names another host.
    misnamed: (OpenBao, u16),
    /// Its certificate was issued by an intermediate authority that it does not send.
    incomplete: (OpenBao, u16),
    sealed: OpenBao,
    authority: String,
    issuer: Issuer,
    _issued: [Issued; 3],
}

impl Servers {
    fn start() -> Self {
        let authority = Authority::new("Known");
        let good = authority.issue(&["127.0.0.1"], |_| ());
        let misnamed = authority.issue(&["vault.example.com"], |_| ());
        let incomplete = authority.below("Between").issue(&["127.0.0.1"], |_| ());
        let (plain, tls) = OpenBao::dev_with_tls(&good.certificate, &good.key);
        let sealed = OpenBao::durable();
        sealed.seal();
        let servers = Self {
            plain,
            tls,
            misnamed: OpenBao::dev_with_tls(&misnamed.certificate, &misnamed.key),
            incomplete: OpenBao::dev_with_tls(&incomplete.certificate, &incomplete.key),
            sealed,
            authority: authority.pem().to_owned(),
            issuer: Issuer::new(),
            _issued: [good, misnamed, incomplete],
        };
        servers.fill();
        servers
    }

    fn fill(&self) {
        let server = &self.plain;
        server.put_record("first", "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=");
        server.api("POST", "sys/mounts/kv", &json!({ "type": "kv", "options": { "version": "1" } }));
        server.api("POST", "kv/keyring", &json!({ "id": "first", "key": "a key text" }));
        server.enable("jwt");
        let keys = crate::support::Proxy::playing({
            let jwks = self.issuer.jwks().to_string();
            move |_, _| (200, jwks.clone())
        });
        server.api("POST", "auth/jwt/config", &json!({ "jwks_url": keys.address() }));
        for (role, policy) in [("app", "keyring"), ("omnipotent", "root")] {
            let role_of = json!({ "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
                "token_policies": [policy] });
            server.api("POST", &format!("auth/jwt/role/{role}"), &role_of);
        }
    }

    fn with_token(&self, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let token = [("token", self.plain.token())];
        token.iter().chain(more).map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    /// A login by this role with this JWT.
    fn with_jwt(role: &str, jwt: &str) -> Vec<(&'static str, String)> {
        let settings = [("auth_method", "jwt"), ("jwt_role", role), ("jwt_file", jwt)];
        settings.map(|(name, value)| (name, value.to_owned())).into()
    }
}

#[test]
fn each_mistake_leads_to_its_cure_in_either_session() {
    let servers = Servers::start();
    let folder = tempfile::tempdir().unwrap();
    let mut missing = Vec::new();
    for case in all_cases(&servers, folder.path()) {
        let names = ["keyring_vault_host", "keyring_vault_host", "keyring_vault_"];
        missing.extend(missing_parts(&case, "doctor", &by_the_keyring(&case), names));
        let port = case.url.rsplit(':').next().unwrap();
        let source =
            format!("at {}://127.0.0.1:{port}, by vault_hcv_*]", case.url.split(':').next().unwrap());
        for (way, printed) in by_references(&case) {
            let names = ["vault_hcv_host", "vault_hcv_protocol", "vault_hcv_"];
            missing.extend(missing_parts(&case, way, &printed, names));
            if !printed.contains(&source) {
                missing.push(format!("{} by {way}: no {source:?} in\n{printed}", case.what));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

fn all_cases(servers: &Servers, folder: &std::path::Path) -> Vec<Case> {
    let families = [network_cases(servers), engine_cases(servers), login_cases(servers, folder)];
    families.into_iter().flatten().collect()
}

/// What a message should have and does not.
fn missing_parts(case: &Case, way: &str, printed: &str, [host, protocol, prefix]: [&str; 3]) -> Vec<String> {
    let named = |part: &&str| {
        part.replace("<host>", host).replace("<protocol>", protocol).replace("<prefix>", prefix)
    };
    let missing = case.parts.iter().map(named).filter(|part| !printed.contains(part));
    missing.map(|part| format!("{} by {way}: no {part:?} in\n{printed}", case.what)).collect()
}

fn network_cases(servers: &Servers) -> Vec<Case> {
    let (plain, tls) = (servers.plain.address(), servers.tls);
    let port = plain.rsplit(':').next().unwrap();
    let case = |what, url: String, trusted: Option<&String>, parts| Case {
        what,
        url,
        settings: servers.with_token(&[]),
        trusted: trusted.cloned(),
        path: "keyring",
        parts,
    };
    let known = Some(&servers.authority);
    vec![
        case("nothing listens", "http://127.0.0.1:1".to_owned(), None, &["127.0.0.1:1", "<host>"]),
        case("http to https", format!("http://127.0.0.1:{tls}"), None, &["https", "<protocol>"]),
        case("https to http", format!("https://127.0.0.1:{port}"), known, &["http", "<protocol>"]),
        case(
            "an unknown authority",
            format!("https://127.0.0.1:{tls}"),
            None,
            &["lua_ssl_trusted_certificate"],
        ),
        case(
            "another name",
            format!("https://127.0.0.1:{}", servers.misnamed.1),
            known,
            &["vault.example.com", "<host>"],
        ),
        case(
            "an incomplete chain",
            format!("https://127.0.0.1:{}", servers.incomplete.1),
            known,
            &["intermediate", "lua_ssl_trusted_certificate"],
        ),
        case("sealed", servers.sealed.address(), None, &["sealed", "unseal"]),
    ]
}

fn engine_cases(servers: &Servers) -> Vec<Case> {
    let case = |what, settings: &[(&'static str, &str)], path, parts| Case {
        what,
        url: servers.plain.address(),
        settings: servers.with_token(settings),
        trusted: None,
        path,
        parts,
    };
    vec![
        case("KV v1 as v2", &[("mount", "kv")], "keyring", &["kv/", "<prefix>kv"]),
        case("KV v2 as v1", &[("kv", "v1")], "keyring", &["secret/keyring", "<prefix>kv"]),
        case("data/ in the mount", &[("mount", "secret/data")], "keyring", &["data/", "<prefix>mount"]),
        case("no such mount", &[("mount", "nowhere")], "keyring", &["nowhere", "<prefix>mount"]),
        case("no such secret", &[], "none", &["secret/", "none"]),
        case("a wrong token", &[("token", "wrong")], "keyring", &["<prefix>token"]),
        case("another namespace", &[("namespace", "team")], "keyring", &["<prefix>namespace"]),
    ]
}

fn login_cases(servers: &Servers, folder: &std::path::Path) -> Vec<Case> {
    let jwt = |name: &str, audience: &str, seconds: i64| {
        let path = folder.join(name);
        fs::write(&path, servers.issuer.sign(&Issuer::claims("kong", audience, seconds))).unwrap();
        path.display().to_string()
    };
    let (good, other) = (jwt("good", "vault", 0), jwt("other", "another", 0));
    let (expired, early) = (jwt("expired", "vault", -86_400), jwt("early", "vault", 86_400));
    let case = |what, settings: Vec<(&'static str, String)>, path, parts| Case {
        what,
        url: servers.plain.address(),
        settings,
        trusted: None,
        path,
        parts,
    };
    let unmounted =
        [Servers::with_jwt("app", &good), vec![("jwt_auth_path", "elsewhere".to_owned())]].concat();
    vec![
        case("a denied path", Servers::with_jwt("app", &good), "other", &["secret/", "other", "`read`"]),
        case("a role with root", Servers::with_jwt("omnipotent", &good), "keyring", &["policy `root`"]),
        case("a wrong role", Servers::with_jwt("nobody", &good), "keyring", &["<prefix>jwt_role"]),
        case("an expired JWT", Servers::with_jwt("app", &expired), "keyring", &["expired", "clock"]),
        case("an early JWT", Servers::with_jwt("app", &early), "keyring", &["clock"]),
        case("another audience", Servers::with_jwt("app", &other), "keyring", &["audience"]),
        case("no such auth method", unmounted, "keyring", &["<prefix>jwt_auth_path"]),
    ]
}

/// What the doctor prints, which goes the way of the daemon.
fn by_the_keyring(case: &Case) -> String {
    let mut variables = vec![
        ("KONG_KEYRING_ENABLED".to_owned(), "on".to_owned()),
        ("KONG_KEYRING_STRATEGY".to_owned(), "vault".to_owned()),
        ("KONG_KEYRING_VAULT_HOST".to_owned(), case.url.clone()),
        ("KONG_KEYRING_VAULT_MOUNT".to_owned(), "secret".to_owned()),
        ("KONG_KEYRING_VAULT_PATH".to_owned(), case.path.to_owned()),
    ];
    variables.extend(case.variables("KONG_KEYRING_VAULT_"));
    let output = run(&["doctor"], &borrowed(&variables), b"");
    assert_eq!(output.status.code(), Some(1), "{}: {output:?}", case.what);
    [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
}

/// What each way prints that resolves references.
fn by_references(case: &Case) -> Vec<(&'static str, String)> {
    let (protocol, rest) = case.url.split_once("://").unwrap();
    let (host, port) = rest.split_once(':').unwrap();
    let mut variables = vec![
        ("KONG_VAULT_HCV_PROTOCOL".to_owned(), protocol.to_owned()),
        ("KONG_VAULT_HCV_HOST".to_owned(), host.to_owned()),
        ("KONG_VAULT_HCV_PORT".to_owned(), port.to_owned()),
        ("KONG_VAULT_HCV_KV".to_owned(), "v2".to_owned()),
        ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
    ];
    variables.extend(case.variables("KONG_VAULT_HCV_"));
    let reference = format!("{{vault://hcv/{}/id}}", case.path);
    let failed = |arguments: &[&str], more: &[(&str, &str)]| {
        let output = run(arguments, &[borrowed(&variables).as_slice(), more].concat(), b"");
        assert_eq!(output.status.code(), Some(1), "{} by {arguments:?}: {output:?}", case.what);
        String::from_utf8(output.stderr).unwrap()
    };
    let file = format!("secret={reference}");
    let access = everything();
    let daemon = Daemon::start_with(
        &[borrowed(&variables).as_slice(), &[("KONG_KEYRING_ACCESS", access.as_str())]].concat(),
    );
    vec![
        ("vault get", failed(&["vault", "get", "--direct", &reference], &[])),
        ("exec", failed(&["exec", "--direct", "--", "true"], &[("SECRET", &reference)])),
        ("exec --file", failed(&["exec", "--direct", "--file", &file, "--", "true"], &[])),
        ("/v1/resolve", resolve(&daemon, &reference)),
    ]
}

/// The error of a reference. While a login fails, the first attempt may be in its backoff.
fn resolve(daemon: &Daemon, reference: &str) -> String {
    wait_for("the error", || {
        let answer = daemon.post("/v1/resolve", &json!({ "reference": reference }));
        assert_ne!(answer.status, 200, "{answer:?}");
        answer.json().pointer("/errors/0").and_then(Value::as_str).map(str::to_owned)
    })
}

impl Case {
    /// The last one of a name counts.
    fn variables(&self, prefix: &'static str) -> impl Iterator<Item = (String, String)> {
        let setting =
            move |(name, value): &(&str, String)| (format!("{prefix}{}", name.to_uppercase()), value.clone());
        let trusted = self.trusted.clone().map(|pem| ("KONG_LUA_SSL_TRUSTED_CERTIFICATE".to_owned(), pem));
        self.settings.iter().map(setting).chain(trusted)
    }
}

/// What is wrong without any Vault: the message says what, and which setting or argument.
#[test]
fn a_mistake_in_a_reference_or_an_argument_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = |name: &str, content: Value| {
        let path = folder.path().join(name);
        fs::write(&path, content.to_string()).unwrap();
        path.display().to_string()
    };
    let at = folder.path().join("files");
    let reference = "{vault://hcv/a/b}";
    let typo = config("typo", json!({ "folder": at, "fils": {} }));
    let mode = config("mode", json!({ "folder": at, "files": { "a": reference }, "mode": "x" }));
    let plain = config("plain", json!({ "folder": at, "files": { "a": "planted-token" } }));
    let away = config("away", json!({ "folder": at, "files": { "a": reference } }));
    let vault = [
        ("KONG_VAULT_HCV_HOST", "127.0.0.1"),
        ("KONG_VAULT_HCV_PORT", "1"),
        ("KONG_VAULT_HCV_TOKEN", "planted-token"),
        ("KONG_KEYRING_SOCKET_PATH", "/nonexistent/keyringd.sock"),
    ];
    let get = |reference| vec!["vault", "get", reference];
    let file =
        |file, more: &[&'static str]| [["exec", "--file", file].as_slice(), more, &["--", "true"]].concat();
    for (arguments, code, parts) in [
        (get("{vault://hcv/a"), 1, ["{vault://hcv/a is not a well-formed reference", ""]),
        (get("$secret://vault/1"), 1, ["$secret://vault/1 is not a well-formed reference", ""]),
        (get("{vault://nope/a/b}"), 1, ["prefix nope", "keyring_hcv_prefixes"]),
        (get("{vault://hcv/a/../b}"), 1, ["path segment", ""]),
        (get("$secret://vault/7/a/b"), 1, ["the ID 7", "keyring_secret_objects"]),
        (get("{vault://hcv/a/b#2}"), 1, ["names a version", "vault_hcv_kv"]),
        (get("{vault://env/NOT_SET}"), 1, ["the variable NOT_SET, which is not set", ""]),
        (vec!["vault", "get", "-c", "/no/such", reference], 78, ["/no/such: cannot be read", ""]),
        (vec!["vault", "get", "--daemon", reference], 1, ["/nonexistent/keyringd.sock", "--direct"]),
        (file("a/b={vault://hcv/a/b}", &[]), 2, ["--file", "\"a/b\" is no file name"]),
        (file("a=b", &[]), 1, ["the text is not a well-formed reference", ""]),
        (file("a={vault://hcv/a/b}", &["--file-mode", "999"]), 2, ["--file-mode", "octal"]),
        (file("a={vault://hcv/a/b}", &["--files-dir", "/proc/x"]), 1, ["/proc/x", ""]),
        (vec!["exec", "--on-change", "signal:FOO", "--", "true"], 2, ["--on-change", "FOO"]),
        (vec!["files", "--config", "/no/such"], 1, ["cannot read /no/such", ""]),
        (vec!["files", "--config", &typo], 78, ["fils", "expected one of `folder`"]),
        (vec!["files", "--config", &mode], 78, ["mode", "octal"]),
        (vec!["files", "--config", &plain], 1, ["the text is not a well-formed reference", ""]),
        (
            vec!["files", "--config", &away],
            1,
            ["secret/a at http://127.0.0.1:1, by vault_hcv_*", "vault_hcv_host"],
        ),
    ] {
        let output = run(&arguments, &vault, b"");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}");
        assert!(parts.iter().all(|part| printed.contains(part)), "{parts:?} by {arguments:?}: {printed}");
        assert!(!printed.contains("planted-token"), "{printed}");
    }
    // With no Vault in the settings at all, a bad reference is still what is reported.
    let none = run(&get("{vault://hcv/a"), &vault[3..], b"");
    assert!(String::from_utf8_lossy(&none.stderr).contains("not a well-formed"), "{none:?}");
    let none = run(&get(reference), &vault[3..], b"");
    let printed = String::from_utf8_lossy(&none.stderr);
    assert!(printed.contains("set vault_hcv_host and vault_hcv_token"), "{printed}");
}

fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
