//! A Vault server: its address, how to trust it, and how to log in.

use rustls::pki_types::CertificateDer;
use url::Url;

use super::{
    auth::{self, Auth},
    keys,
    pem::{self, TrustItem},
    reader::Reader,
    setting::Key,
    source,
};

/// A Vault server and the login. Two equal values can share one session.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    pub host: Url,
    pub namespace: Option<String>,
    pub auth: Auth,
    pub tls: Tls,
    pub names: SettingNames,
}

/// How to verify the server's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub trusted: TrustedCertificates,
    /// The most intermediate authorities between the server's certificate and a trusted one.
    pub verify_depth: usize,
}

/// The certificate authorities that may sign the server's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedCertificates {
    /// Those of the operating system.
    pub system: bool,
    pub certificates: Vec<CertificateDer<'static>>,
}

/// The settings that the messages of a session name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettingNames {
    pub host: &'static str,
    pub token: &'static str,
    /// The start of all other settings of the login: `keyring_vault_` or `vault_hcv_`.
    pub prefix: &'static str,
}

impl SettingNames {
    /// The session's setting with this ending, such as `kube_role`. An object of APISIX's has one setting for all.
    pub fn setting(&self, ending: &str) -> String {
        if self.prefix == self.host { self.host.to_owned() } else { format!("{}{ending}", self.prefix) }
    }
}

impl Server {
    /// Whether requests leave this machine unencrypted.
    pub fn sends_in_the_clear(&self) -> bool {
        let loopback = match self.host.host() {
            Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        self.host.scheme() == "http" && !loopback
    }
}

/// The server of the keyring.
pub(super) fn read(reader: &mut Reader) -> Option<Server> {
    let login = &keys::KEYRING_LOGIN;
    let host = reader.required(&keys::VAULT_HOST);
    let namespace = reader.optional(&keys::VAULT_NAMESPACE);
    let auth = auth::read(reader, login);
    let tls = read_tls(reader);
    let names =
        SettingNames { host: keys::VAULT_HOST.key.name, token: login.token.key.name, prefix: login.prefix };
    Some(Server { host: host?, namespace, auth: auth?, tls: tls?, names })
}

/// The trust settings, which are the same for every server.
pub(super) fn read_tls(reader: &mut Reader) -> Option<Tls> {
    let trusted = reader.optional_checked(&keys::SSL_TRUSTED_CERTIFICATE, read_certificates);
    let depth = reader.required(&keys::SSL_VERIFY_DEPTH);
    Some(Tls { trusted: trusted?, verify_depth: depth? })
}

fn read_certificates(items: Vec<TrustItem>) -> Result<TrustedCertificates, String> {
    let mut trusted = TrustedCertificates::default();
    for (at, item) in items.into_iter().enumerate() {
        match item {
            TrustItem::System => trusted.system = true,
            TrustItem::Certificates(certificates) => trusted.certificates.extend(certificates),
            TrustItem::File(path) => {
                let item = at + 1;
                let pem = source::read_text(&path)
                    .map_err(|error| format!("the file of item {item} cannot be read: {error}"))?;
                let certificates = pem::certificate_chain(&pem)
                    .map_err(|_| format!("the file of item {item} has no certificate in PEM"))?;
                trusted.certificates.extend(certificates);
            }
        }
    }
    Ok(trusted)
}

pub(super) const IN_THE_CLEAR: &str =
    "plain http to another machine: token and keys cross the network unencrypted; use https";

/// Warnings about a server, at the setting that sets its protocol.
pub(super) fn warn(reader: &mut Reader, key: &'static Key, server: &Server) {
    if server.sends_in_the_clear() {
        reader.warn(key, IN_THE_CLEAR);
    }
    if matches!(server.auth, Auth::Cert(_)) && server.host.scheme() == "http" {
        reader.warn(key, "the auth method cert needs https: http has no client certificates");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_certificates_are_read() {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certified.cert.pem()).unwrap();
        let read = |path: &str| read_certificates(vec![TrustItem::System, TrustItem::File(path.into())]);
        let trusted = read(file.path().to_str().unwrap()).unwrap();
        assert!(trusted.system);
        assert_eq!(trusted.certificates, [certified.cert.der().clone()]);
        assert!(read("/no/such/file.pem").unwrap_err().starts_with("the file of item 2 cannot be read"));
        assert_eq!(read("/dev/null").unwrap_err(), "the file of item 2 has no certificate in PEM");
    }
}
