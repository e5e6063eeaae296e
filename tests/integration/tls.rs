//! Which servers the daemon trusts, and that no other gets a request: TLS, redirects, endless responses.

use std::fs;

use crate::support::{
    Daemon, Fault, OpenBao, Proxy,
    certificates::{Authority, Issued, issued, issued_by, self_signed_with},
    daemon::sync_error,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

fn server_with(issued: &Issued) -> (OpenBao, String) {
    let (server, port) = OpenBao::dev_with_tls(&issued.certificate, &issued.key);
    server.put_record("first", KEY);
    (server, format!("https://127.0.0.1:{port}"))
}

#[test]
fn a_private_authority_is_trusted_as_path_text_or_base64_if_it_is_named() {
    let issued = issued(&["127.0.0.1"], |_| ());
    let (server, host) = server_with(&issued);
    let path = issued.folder().join("authority.pem");
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
        let message = sync_error(&server, &[("KONG_KEYRING_VAULT_HOST", host.as_str()), trusted]);
        assert!(message.contains("lua_ssl_trusted_certificate") && message.contains(cure), "{message}");
    }
}

#[test]
fn a_certificate_for_another_name_and_an_expired_one_are_refused() {
    let elsewhere = issued(&["vault.example.com"], |_| ());
    let (server, host) = server_with(&elsewhere);
    let more = [
        ("KONG_KEYRING_VAULT_HOST", host.as_str()),
        ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", elsewhere.authority.as_str()),
    ];
    let message = sync_error(&server, &more);
    assert!(message.contains("is for another name") && message.contains("vault.example.com"), "{message}");

    let expired = issued(&["127.0.0.1"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let (server, host) = server_with(&expired);
    let more = [
        ("KONG_KEYRING_VAULT_HOST", host.as_str()),
        ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", expired.authority.as_str()),
    ];
    let message = sync_error(&server, &more);
    assert!(message.contains("its certificate has expired"), "{message}");
}

#[test]
fn http_instead_of_https_and_the_reverse_name_the_correction() {
    let issued = issued(&["127.0.0.1"], |_| ());
    let (server, host) = server_with(&issued);
    let message = sync_error(&server, &[("KONG_KEYRING_VAULT_HOST", &host.replace("https", "http"))]);
    assert!(message.contains("speaks TLS: use https in keyring_vault_host"), "{message}");
    let https = server.address().replace("http", "https");
    let message = sync_error(&server, &[("KONG_KEYRING_VAULT_HOST", &https)]);
    assert!(message.contains("use http instead of https in keyring_vault_host"), "{message}");
}

#[test]
fn a_redirect_is_not_followed() {
    let server = OpenBao::dev();
    for status in [301, 302, 303, 307, 308] {
        let other = Proxy::only(Fault::status(200));
        let to = format!("{}/v1/secret/metadata/keyring", other.address());
        let proxy = Proxy::only(Fault::Answer(status, format!("location: {to}\r\n"), String::new()));
        let message = sync_error(&server, &[("KONG_KEYRING_VAULT_HOST", &proxy.address())]);
        assert!(
            message.contains(&to) && message.contains("set keyring_vault_host to that server"),
            "{message}"
        );
        assert_eq!(other.seen(), [] as [String; 0], "status {status}");
    }
}

#[test]
fn endless_truncated_and_foreign_responses_are_refused() {
    let server = OpenBao::dev();
    let html =
        Fault::Answer(200, "content-type: text/html\r\n".to_owned(), "<html>a portal</html>".to_owned());
    for (fault, expected) in [
        (Fault::Endless, "is larger than 4 MiB"),
        (Fault::Truncated, "cannot reach http"),
        (Fault::Cut, "cannot reach http"),
        (html, "does not match Vault's API"),
    ] {
        let proxy = Proxy::only(fault);
        let message = sync_error(&server, &[("KONG_KEYRING_VAULT_HOST", &proxy.address())]);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn system_selects_the_authorities_of_this_machine_and_several_may_be_named() {
    let issued = issued(&["127.0.0.1"], |_| ());
    let (server, host) = server_with(&issued);
    let path = issued.folder().join("system.pem");
    fs::write(&path, &issued.authority).unwrap();
    let host = ("KONG_KEYRING_VAULT_HOST", host.as_str());
    let machines = ("SSL_CERT_FILE", path.to_str().unwrap());
    let other = Authority::new("Another");
    for trusted in [
        "system".to_owned(),
        format!("{}, system", other.pem()),
        format!("{},{}", other.pem(), issued.authority),
    ] {
        let trusted = ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", trusted.as_str());
        assert_eq!(Daemon::start(&server, &[host, machines, trusted]).active(), "first");
    }
    let message = sync_error(&server, &[host, machines, ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", other.pem())]);
    assert!(message.contains("add that authority there"), "{message}");
}

#[test]
fn a_self_signed_authority_is_accepted_as_a_server_certificate_if_it_is_named() {
    let certificate = |name: &str| {
        self_signed_with(&[name], |params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        })
    };
    let good = certificate("127.0.0.1");
    let (server, host) = server_with(&good);
    let named = [
        ("KONG_KEYRING_VAULT_HOST", host.as_str()),
        ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", good.authority.as_str()),
    ];
    assert_eq!(Daemon::start(&server, &named).active(), "first");

    let elsewhere = certificate("vault.example.com");
    let (server, host) = server_with(&elsewhere);
    let named = [
        ("KONG_KEYRING_VAULT_HOST", host.as_str()),
        ("KONG_LUA_SSL_TRUSTED_CERTIFICATE", elsewhere.authority.as_str()),
    ];
    let message = sync_error(&server, &named);
    assert!(message.contains("is for another name"), "{message}");
}
