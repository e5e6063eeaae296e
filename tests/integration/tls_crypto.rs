//! TLS as private authorities use it: curves, hashes, key exchange, client certificates.
//!
//! Trust, names and redirects are in `tls`.

use std::{fs, process::Command};

use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512};
use serde_json::json;

use crate::support::{
    Daemon, OpenBao, Relay,
    certificates::{Authority, Issued, issued},
    success,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

fn server_with(issued: &Issued) -> (OpenBao, u16) {
    let (server, port) = OpenBao::dev_with_tls(&issued.certificate, &issued.key);
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
        let output = Command::new("openssl").current_dir(folder.path()).args(arguments.split(' ')).output();
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
