//! Whom the daemon believes, and that nothing else gets a request: TLS, redirects, endless answers.

use std::{fs, io::Read as _, net::TcpListener, path::PathBuf, thread::JoinHandle};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::support::{Daemon, OpenBao, wait_for};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// A private authority and a certificate that it issued for `names`, as PEM files.
struct Issued {
    authority: String,
    certificate: PathBuf,
    key: PathBuf,
    folder: TempDir,
}

fn issued(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
    issued_by("The Authority", names, change)
}

fn issued_by(name: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
    let folder = tempfile::tempdir().unwrap();
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    change(&mut params);
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    Issued {
        authority: authority.pem(),
        certificate: file("server.pem", certificate.pem()),
        key: file("server.key", key.serialize_pem()),
        folder,
    }
}

fn server_with(issued: &Issued) -> (OpenBao, String) {
    let (server, port) = OpenBao::dev_with_tls(&issued.certificate, &issued.key);
    server.put_record("first", KEY);
    (server, format!("https://127.0.0.1:{port}"))
}

/// What the daemon says when it cannot sync with these settings.
fn complaint(server: &OpenBao, more: &[(&str, &str)]) -> String {
    let daemon = Daemon::start_unready(server, more);
    wait_for("a sync to fail", || daemon.log().contains("sync failed").then_some(()));
    daemon.get("/status").at("/sync/last_error")
}

#[test]
fn a_private_authority_is_believed_as_path_text_or_base64_and_not_unless_it_is_named() {
    let issued = issued(&["127.0.0.1"], |_| ());
    let (server, host) = server_with(&issued);
    let path = issued.folder.path().join("authority.pem");
    fs::write(&path, &issued.authority).unwrap();
    let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &issued.authority);
    for trusted in [path.to_str().unwrap(), &format!("system,{}", issued.authority), &base64] {
        let more =
            [("KONG_KEYRING_VAULT_HOST", host.as_str()), ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", trusted)];
        let daemon = Daemon::start(&server, &more);
        assert_eq!(daemon.active(), "first");
    }
    for (name, cure) in
        [("Another", "add that authority there"), ("The Authority", "replace that authority there")]
    {
        let other = issued_by(name, &["127.0.0.1"], |_| ());
        let trusted = ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", other.authority.as_str());
        let said = complaint(&server, &[("KONG_KEYRING_VAULT_HOST", host.as_str()), trusted]);
        assert!(said.contains("lua_ssl_trusted_certificate; ") && said.contains(cure), "{said}");
    }
}

#[test]
fn another_name_and_an_expired_certificate_are_refused_and_say_so() {
    let elsewhere = issued(&["vault.example.com"], |_| ());
    let (server, host) = server_with(&elsewhere);
    let more = [
        ("KONG_KEYRING_VAULT_HOST", host.as_str()),
        ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", elsewhere.authority.as_str()),
    ];
    let said = complaint(&server, &more);
    assert!(said.contains("is for another name") && said.contains("vault.example.com"), "{said}");

    let expired = issued(&["127.0.0.1"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let (server, host) = server_with(&expired);
    let more = [
        ("KONG_KEYRING_VAULT_HOST", host.as_str()),
        ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", expired.authority.as_str()),
    ];
    let said = complaint(&server, &more);
    assert!(said.contains("its certificate has expired"), "{said}");
}

#[test]
fn http_and_https_mixed_up_say_which_way() {
    let issued = issued(&["127.0.0.1"], |_| ());
    let (server, host) = server_with(&issued);
    let said = complaint(&server, &[("KONG_KEYRING_VAULT_HOST", &host.replace("https", "http"))]);
    assert!(said.contains("speaks TLS: write https in keyring_vault_host"), "{said}");
    let https = server.address().replace("http", "https");
    let said = complaint(&server, &[("KONG_KEYRING_VAULT_HOST", &https)]);
    assert!(said.contains("is keyring_vault_host http instead of https?"), "{said}");
}

/// A server that answers every request with `answer`, and says at the end what it was asked.
fn answering(answer: impl Fn(&mut dyn std::io::Write) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        answer(&mut stream);
    });
    (address, serving)
}

#[test]
fn a_redirect_is_not_followed_and_the_other_server_sees_no_request() {
    let server = OpenBao::dev();
    for status in [301, 302, 303, 307, 308] {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        other.set_nonblocking(true).unwrap();
        let to = format!("http://{}/v1/secret/metadata/keyring", other.local_addr().unwrap());
        let location = to.clone();
        let (address, serving) = answering(move |stream| {
            write!(
                stream,
                "HTTP/1.1 {status} Elsewhere\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
            )
            .unwrap();
        });
        let said = complaint(&server, &[("KONG_KEYRING_VAULT_HOST", &address)]);
        assert!(said.contains(&to) && said.contains("name that server in keyring_vault_host"), "{said}");
        serving.join().unwrap();
        assert!(other.accept().is_err(), "status {status}: the other server was connected to");
    }
}

#[test]
fn an_endless_answer_and_a_cut_one_are_refused() {
    let server = OpenBao::dev();
    let (address, serving) = answering(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b' '; 8192]).is_ok() {}
    });
    let said = complaint(&server, &[("KONG_KEYRING_VAULT_HOST", &address)]);
    assert!(said.contains("is larger than 4 MiB"), "{said}");
    serving.join().unwrap();

    let (address, serving) = answering(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"data\": {").unwrap();
    });
    let said = complaint(&server, &[("KONG_KEYRING_VAULT_HOST", &address)]);
    assert!(said.contains("cannot reach Vault"), "{said}");
    serving.join().unwrap();

    let (address, serving) = answering(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>").unwrap();
    });
    let said = complaint(&server, &[("KONG_KEYRING_VAULT_HOST", &address)]);
    assert!(said.contains("is not what the KV API gives"), "{said}");
    serving.join().unwrap();
}
