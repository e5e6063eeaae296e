//! TLS as private authorities and strict listeners use it: curves, hashes, key exchange, client certificates, messages.
//!
//! Trust, names and redirects are in `tls`.

use std::{fs, net::TcpStream, path::Path, time::Duration};

use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512};
use serde_json::json;

use crate::support::{
    Daemon, OpenBao, Relay,
    certificates::{Authority, Issued, issued},
    daemon::{check, sync_error},
    free_port, success, tool,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

fn server_with(issued: &Issued) -> (OpenBao, u16) {
    let (server, port) = OpenBao::dev_with_tls(&issued.certificate, &issued.key);
    server.put_record("first", KEY);
    (server, port)
}

/// A server with a further TLS listener, with these lines in its configuration.
fn server_with_listener(issued: &Issued, lines: &str) -> (OpenBao, u16) {
    let port = free_port();
    let server = OpenBao::dev_with(&format!(
        "listener \"tcp\" {{\n address = \"127.0.0.1:{port}\"\n tls_cert_file = \"{}\"\n tls_key_file = \"{}\"\n{lines}\n}}\n",
        issued.certificate.display(),
        issued.key.display()
    ));
    server.put_record("first", KEY);
    (server, port)
}

fn host(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

fn key(algorithm: &'static rcgen::SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

#[test]
fn authorities_with_large_curves_and_sha_512_are_trusted() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512] {
        let authority = Authority::with_key("The Authority", key(algorithm));
        let served = authority.issue_for(&key(algorithm), &["127.0.0.1"], |_| ());
        let (server, port) = server_with(&served);
        let host = host(port);
        let more = [
            ("KONG_KEYRING_VAULT_HOST", host.as_str()),
            ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", served.authority.as_str()),
        ];
        assert_eq!(Daemon::start(&server, &more).active(), "first", "{algorithm:?}");
    }
}

#[test]
fn an_authority_on_p_384_that_signs_with_sha_512_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &str| {
        let output = tool("openssl").current_dir(folder.path()).args(arguments.split(' ')).output();
        success(&output.unwrap());
    };
    fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -sha512 -nodes -keyout ca.key -out ca.pem -subj /CN=CA -days 2",
    );
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -nodes -keyout key.pem -out csr.pem -subj /CN=vault",
    );
    openssl(
        "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -sha512 -days 2 -extfile names -out cert.pem",
    );
    let file = |name: &str| folder.path().join(name);
    let (server, port) = OpenBao::dev_with_tls(&file("cert.pem"), &file("key.pem"));
    server.put_record("first", KEY);
    let (host, authority) = (host(port), file("ca.pem").display().to_string());
    let more = [("KONG_KEYRING_VAULT_HOST", host.as_str()), ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", &authority)];
    assert_eq!(Daemon::start(&server, &more).active(), "first");
}

#[test]
fn the_key_exchange_is_the_hybrid_one() {
    let served = issued(&["127.0.0.1"], |_| ());
    let (server, port) = server_with(&served);
    let relay = Relay::to(port);
    let host = host(relay.port);
    let more = [
        ("KONG_KEYRING_VAULT_HOST", host.as_str()),
        ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", served.authority.as_str()),
    ];
    assert_eq!(Daemon::start(&server, &more).active(), "first");
    // X25519MLKEM768 is 0x11ec in IANA's registry of TLS supported groups.
    assert_eq!(key_share_group(&relay.server_bytes()), Some(0x11ec));
}

/// The group of the `key_share` extension in a `ServerHello` (RFC 8446, 4.1.3 and 4.2.8).
fn key_share_group(bytes: &[u8]) -> Option<u16> {
    let be = |bytes: &[u8]| bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    // Record header 5, handshake header 4, version 2, random 32.
    let session_id = 5 + 4 + 2 + 32;
    assert_eq!((bytes[0], bytes[5]), (22, 2), "a handshake record with a ServerHello");
    let mut at = session_id + 1 + usize::from(bytes[session_id]) + 2 + 1;
    let end = at + 2 + be(&bytes[at..at + 2]);
    at += 2;
    while at + 4 <= end {
        let (kind, length) = (be(&bytes[at..at + 2]), be(&bytes[at + 2..at + 4]));
        if kind == 0x33 {
            return u16::try_from(be(&bytes[at + 4..at + 6])).ok();
        }
        at += 4 + length;
    }
    None
}

#[test]
fn a_client_key_on_p_521_logs_in() {
    let served = issued(&["127.0.0.1"], |_| ());
    let clients = Authority::with_key("The clients' authority", key(&PKCS_ECDSA_P521_SHA512));
    let client = clients.issue_for(&key(&PKCS_ECDSA_P521_SHA512), &["a.client"], |_| ());
    let (server, port) = server_with(&served);
    server.enable("cert");
    let role = json!({ "certificate": clients.pem(), "token_policies": ["keyring"] });
    server.api("POST", "auth/cert/certs/app", &role);
    let host = host(port);
    let (certificate, private) = (client.certificate.display().to_string(), client.key.display().to_string());
    let more = [
        ("KONG_KEYRING_VAULT_HOST", host.as_str()),
        ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", served.authority.as_str()),
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "cert"),
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", &certificate),
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", &private),
    ];
    assert_eq!(Daemon::start(&server, &more).active(), "first");
}

#[test]
fn a_listener_that_requires_client_certificates_gets_one_with_every_login_method() {
    let served = issued(&["127.0.0.1"], |_| ());
    let clients = Authority::new("The clients' authority");
    let client = clients.issue(&["a.client"], |_| ());
    let authority = client.folder().join("clients.pem");
    fs::write(&authority, clients.pem()).unwrap();
    let lines = format!(
        " tls_require_and_verify_client_cert = true\n tls_client_ca_file = \"{}\"",
        authority.display()
    );
    let (server, port) = server_with_listener(&served, &lines);
    server.enable("approle");
    server.api("POST", "auth/approle/role/app", &json!({ "token_policies": ["keyring"] }));
    let role_id = server.role_id("app");
    let secret_id = server.secret_id("app");
    let host = host(port);
    let base = [
        ("KONG_KEYRING_VAULT_HOST", host.as_str()),
        ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", served.authority.as_str()),
    ];
    let said = sync_error(&server, &base);
    assert!(
        said.contains("requires a client certificate") && said.contains("keyring_vault_cert_auth_cert"),
        "{said}"
    );

    let (certificate, private) = (client.certificate.display().to_string(), client.key.display().to_string());
    let shown = [
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", certificate.as_str()),
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", private.as_str()),
    ];
    let approle = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role_id.as_str()),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", secret_id.as_str()),
    ];
    for method in [&[][..], &approle] {
        let daemon = Daemon::start(&server, &[&base[..], &shown, method].concat());
        assert_eq!(daemon.active(), "first");
    }
}

#[test]
fn a_client_certificate_that_is_never_shown_is_a_warning() {
    let client = issued(&["a.client"], |_| ());
    let server = OpenBao::shared();
    let more = [
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", client.certificate.to_str().unwrap()),
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", client.key.to_str().unwrap()),
    ];
    let report = check(&server, &more);
    let warned =
        report.lines().any(|line| line.contains("keyring_vault_cert_auth_cert") && line.contains("not used"));
    assert!(warned, "{report}");
}

#[test]
fn a_listener_without_a_common_cipher_suite_is_named_as_such() {
    let served = issued(&["127.0.0.1"], |_| ());
    let lines = " tls_max_version = \"tls12\"\n tls_cipher_suites = \"TLS_RSA_WITH_AES_128_CBC_SHA\"";
    let (server, port) = server_with_listener(&served, lines);
    let host = host(port);
    let said = sync_error(
        &server,
        &[("KONG_KEYRING_VAULT_HOST", &host), ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", &served.authority)],
    );
    assert!(said.contains("no common cipher suite") && said.contains("tls_cipher_suites"), "{said}");
}

#[test]
fn client_certificates_that_cannot_be_used_name_the_setting_and_the_cause() {
    let served = issued(&["127.0.0.1"], |_| ());
    let (server, port) = server_with(&served);
    server.enable("cert");
    let clients = Authority::new("The clients' authority");
    let (one, two) = (clients.issue(&["one.client"], |_| ()), clients.issue(&["two.client"], |_| ()));
    let host = host(port);
    let error = |certificate: &Path, private: &Path| {
        sync_error(
            &server,
            &[
                ("KONG_KEYRING_VAULT_HOST", host.as_str()),
                ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", served.authority.as_str()),
                ("KONG_KEYRING_VAULT_AUTH_METHOD", "cert"),
                ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", certificate.to_str().unwrap()),
                ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", private.to_str().unwrap()),
            ],
        )
    };
    let said = error(&one.certificate, &two.key);
    assert!(
        said.contains("do not belong together") && said.contains("keyring_vault_cert_auth_cert_key"),
        "{said}"
    );

    let encrypted = one.folder().join("encrypted.pem");
    let mut openssl = tool("openssl");
    openssl.args(["pkcs8", "-topk8", "-passout", "pass:x", "-in"]).arg(&one.key).arg("-out").arg(&encrypted);
    success(&openssl.output().unwrap());
    let more = [
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "cert"),
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT", one.certificate.to_str().unwrap()),
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", encrypted.to_str().unwrap()),
    ];
    let said = check(&server, &more);
    let named =
        |line: &str| line.contains("keyring_vault_cert_auth_cert_key") && line.contains("is encrypted");
    assert!(said.lines().any(named), "{said}");
}

#[test]
fn a_server_that_sends_its_leaf_last_is_named_as_such() {
    let authority = Authority::new("The Authority");
    let served = authority.issue(&["127.0.0.1"], |_| ());
    let backwards = fs::read_to_string(&served.certificate).unwrap();
    let (server, port) = {
        // Go refuses to serve a chain whose first certificate does not fit the key: play the authority's own key.
        let key = KeyPair::generate().unwrap();
        let first = Authority::with_key("The Authority", KeyPair::from_pem(&key.serialize_pem()).unwrap());
        fs::write(&served.certificate, format!("{}{backwards}", first.pem())).unwrap();
        fs::write(&served.key, key.serialize_pem()).unwrap();
        server_with(&served)
    };
    let host = host(port);
    let said = sync_error(
        &server,
        &[("KONG_KEYRING_VAULT_HOST", &host), ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", &served.authority)],
    );
    assert!(said.contains("server's own certificate comes first"), "{said}");
}

#[test]
fn a_connection_that_does_not_open_names_its_own_timeout() {
    let server = OpenBao::shared();
    // The queue of a listener that accepts nothing fills up, and the kernel drops what comes then.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok();
    let queued: Vec<_> = std::iter::from_fn(connect).collect();
    let host = format!("http://{address}");
    let said = sync_error(&server, &[("KONG_KEYRING_VAULT_HOST", &host)]);
    assert!(said.contains("within 3 s") && said.contains("keyring_vault_host"), "{said}");
    drop(queued);
}
