//! A Vault server: its address, how to trust it, and the auth method with all that it requires.
//!
//! The settings are in `keys`. How each method logs in is in `vault::login`.
//! The file is longer than most: each method is here with all that it requires.

use rustls::pki_types::CertificateDer;
use url::Url;

use super::{
    keys::{self, AuthStyle, LoginSettings, Method},
    pem::{self, TrustItem},
    reader::Reader,
    setting::{Key, Setting},
    source::{self, credential::Credential},
    value::{self, SecretPath, TOKEN},
};

/// A Vault server and the login. Two equal values can share one session.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    pub host: Url,
    pub namespace: Option<String>,
    pub auth: Auth,
    /// Sent in every TLS handshake, if there is one.
    pub identity: Option<ClientCertificate>,
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
    /// The setting with `http` or `https`.
    pub protocol: &'static str,
    pub token: &'static str,
    /// The start of all other settings of the login: `keyring_vault_` or `vault_hcv_`.
    pub prefix: &'static str,
}

/// How to log in: each method with all that it requires.
#[derive(Debug, PartialEq, Eq)]
pub enum Auth {
    /// A token that was created outside.
    Token(Credential),
    Kubernetes(Kubernetes),
    AppRole(AppRole),
    Cert(Cert),
    Jwt(Jwt),
}

/// The token of a service account, from a file that Kubernetes rotates.
#[derive(Debug, PartialEq, Eq)]
pub struct Kubernetes {
    pub mount: SecretPath,
    pub role: String,
    pub jwt: Credential,
}

#[derive(Debug, PartialEq, Eq)]
pub struct AppRole {
    pub mount: SecretPath,
    pub role_id: String,
    pub secret_id: Credential,
    /// The secret ID is a wrapping token, which can be used once.
    pub wrapped: bool,
}

/// The TLS client certificate, which is the identity of the server's settings.
#[derive(Debug, PartialEq, Eq)]
pub struct Cert {
    pub mount: SecretPath,
    pub role: Option<String>,
}

/// A client certificate with its intermediates, and its key.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub certificate: Credential,
    pub key: Credential,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Jwt {
    pub mount: SecretPath,
    pub role: Option<String>,
    pub source: JwtSource,
}

/// Where the JWT comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum JwtSource {
    File(Credential),
    /// An OAuth 2.0 token endpoint, by the client-credentials grant (RFC 6749, 4.4).
    Endpoint(ClientCredentials),
}

#[derive(Debug, PartialEq, Eq)]
pub struct ClientCredentials {
    pub endpoint: Url,
    pub client_id: String,
    pub client_secret: Credential,
    pub audiences: Vec<String>,
    pub scopes: Vec<String>,
    pub auth_style: AuthStyle,
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
        is_in_the_clear(&self.host)
    }
}

/// Plain http to anything but this machine.
fn is_in_the_clear(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !loopback
}

impl Auth {
    pub const fn method(&self) -> Method {
        match self {
            Self::Token(_) => Method::Token,
            Self::Kubernetes(_) => Method::Kubernetes,
            Self::AppRole(_) => Method::AppRole,
            Self::Cert(_) => Method::Cert,
            Self::Jwt(_) => Method::Jwt,
        }
    }

    /// The method, as `keyring_vault_auth_method` names it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Kubernetes(_) => "kubernetes",
            Self::AppRole(_) => "approle",
            Self::Cert(_) => "cert",
            Self::Jwt(_) => "jwt",
        }
    }
}

/// The server of the keyring.
pub(super) fn read_keyrings(reader: &mut Reader) -> Option<Server> {
    let host = reader.required(&keys::VAULT_HOST);
    let names = [keys::VAULT_HOST.key.name; 2];
    read(reader, host, names, &keys::VAULT_NAMESPACE, &keys::KEYRING_LOGIN)
}

/// The server of the keyring with an operator's token, which messages name `token_name`.
pub(super) fn read_operators(
    reader: &mut Reader,
    token: Credential,
    token_name: &'static str,
) -> Option<Server> {
    let login = &keys::KEYRING_LOGIN;
    let setting = keys::VAULT_HOST.key.name;
    gather!(Server {
        host: reader.required(&keys::VAULT_HOST),
        namespace: Some(reader.optional(&keys::VAULT_NAMESPACE)),
        auth: Some(Auth::Token(token)),
        identity: Some(read_identity(reader, login, None)),
        tls: read_tls(reader),
        names: Some(SettingNames {
            host: setting,
            protocol: setting,
            token: token_name,
            prefix: login.prefix
        }),
    })
}

/// The server at `url`. The names are those of the settings of its host and its protocol.
pub(super) fn read(
    reader: &mut Reader,
    url: Option<Url>,
    [host_name, protocol]: [&'static str; 2],
    namespace: &'static Setting<String>,
    login: &'static LoginSettings,
) -> Option<Server> {
    let token = login.token.key.name;
    gather!(Server {
        host: url,
        namespace: Some(reader.optional(namespace)),
        auth: read_auth(reader, login),
        identity: Some(read_identity(reader, login, auth.as_ref())),
        tls: read_tls(reader),
        names: Some(SettingNames { host: host_name, protocol, token, prefix: login.prefix }),
    })
}

/// The client certificate, which the method cert requires and every other one allows.
fn read_identity(
    reader: &mut Reader,
    login: &'static LoginSettings,
    auth: Option<&Auth>,
) -> Option<ClientCertificate> {
    let LoginSettings { cert_auth_cert: certificate, cert_auth_cert_key: key, .. } = login;
    let is_set = reader.is_set(&certificate.key) || reader.is_set(&key.key);
    if !is_set && !matches!(auth, Some(Auth::Cert(_))) {
        return None;
    }
    gather!(ClientCertificate { certificate: reader.credential(certificate), key: reader.credential(key) })
}

fn read_auth(reader: &mut Reader, login: &'static LoginSettings) -> Option<Auth> {
    match reader.required(&login.auth_method)? {
        Method::Token => reader.credential(&login.token).map(Auth::Token),
        Method::Kubernetes => gather!(Kubernetes {
            mount: reader.required(&login.kube_auth_path),
            role: reader.required(&login.kube_role),
            jwt: reader.credential_file(&login.kube_api_token_file, &TOKEN),
        })
        .map(Auth::Kubernetes),
        Method::AppRole => gather!(AppRole {
            mount: reader.required(&login.approle_auth_path),
            role_id: reader.required(&login.approle_role_id),
            secret_id: secret_id(reader, login),
            wrapped: reader.required(&login.approle_response_wrapping),
        })
        .map(Auth::AppRole),
        Method::Cert => gather!(Cert {
            mount: reader.required(&login.cert_auth_path),
            role: Some(reader.optional(&login.cert_auth_role_name)),
        })
        .map(Auth::Cert),
        Method::Jwt => gather!(Jwt {
            mount: reader.required(&login.jwt_auth_path),
            role: Some(reader.optional(&login.jwt_role)),
            source: jwt_source(reader, login),
        })
        .map(Auth::Jwt),
    }
}

fn secret_id(reader: &mut Reader, login: &'static LoginSettings) -> Option<Credential> {
    let LoginSettings { approle_secret_id: inline, approle_secret_id_file: file, .. } = login;
    match (reader.is_set(&inline.key), reader.is_set(&file.key)) {
        (true, true) => {
            reader.mistake(&file.key, format!("set only one of {} and {}", inline.key.name, file.key.name));
            None
        }
        (false, true) => reader.credential_file(file, &inline.parser),
        _ => reader.credential(inline),
    }
}

fn jwt_source(reader: &mut Reader, login: &'static LoginSettings) -> Option<JwtSource> {
    let LoginSettings { jwt_file: file, oauth2_token_endpoint: endpoint, .. } = login;
    match (reader.is_set(&file.key), reader.is_set(&endpoint.key)) {
        (true, false) => reader.credential_file(file, &TOKEN).map(JwtSource::File),
        (false, true) => gather!(ClientCredentials {
            endpoint: reader.required(endpoint),
            client_id: reader.required(&login.oauth2_client_id),
            client_secret: reader.credential(&login.oauth2_client_secret),
            audiences: Some(reader.optional(&login.oauth2_audiences).unwrap_or_default()),
            scopes: Some(reader.optional(&login.oauth2_scopes).unwrap_or_default()),
            auth_style: reader.required(&login.oauth2_auth_style),
        })
        .map(JwtSource::Endpoint),
        (both, _) => {
            let amount = if both { "only one" } else { "one" };
            let (file_name, endpoint_name) = (file.key.name, endpoint.key.name);
            let message =
                format!("the auth method jwt needs the JWT: set {amount} of {file_name} and {endpoint_name}");
            reader.mistake(&file.key, message);
            None
        }
    }
}

/// The trust settings, which are the same for every server.
pub(super) fn read_tls(reader: &mut Reader) -> Option<Tls> {
    let trusted = reader.optional_checked(&keys::SSL_TRUSTED_CERTIFICATE, read_certificates);
    warn_about_trust(reader);
    let depth = reader.required(&keys::SSL_VERIFY_DEPTH);
    Some(Tls { trusted: trusted?, verify_depth: depth? })
}

fn read_certificates(items: Vec<TrustItem>) -> Result<TrustedCertificates, String> {
    let mut trusted = TrustedCertificates::default();
    for (number, item) in (1..).zip(items) {
        match item {
            TrustItem::System => trusted.system = true,
            TrustItem::Certificates(certificates) => trusted.certificates.extend(certificates),
            TrustItem::File(path) => {
                let pem = source::read_bytes(&path).map_err(|error| {
                    let folder = if path.is_relative() {
                        format!(" in {}", source::working_folder())
                    } else {
                        String::new()
                    };
                    format!("the file of item {number} cannot be read{folder}: {error}")
                })?;
                let certificates = pem::certificate_chain(&pem)
                    .map_err(|found| format!("the file of item {number}: {found}"))?;
                trusted.certificates.extend(certificates);
            }
        }
    }
    Ok(trusted)
}

/// An empty list, and paths that depend on the working folder, mean something else in Kong or at the next start.
fn warn_about_trust(reader: &mut Reader) {
    let key = &keys::SSL_TRUSTED_CERTIFICATE.key;
    let Some(text) = reader.given_text(key) else { return };
    let items = value::list(text);
    let is_relative =
        |item: &String| matches!(pem::trust_item(item), Ok(TrustItem::File(path)) if path.is_relative());
    if items.is_empty() {
        reader.warn(key, "empty trusts the system's authorities here; Kong would trust none");
    } else if items.iter().any(is_relative) {
        reader.warn(
            key,
            format!(
                "has a relative path, which is looked up in {}; use an absolute path",
                source::working_folder()
            ),
        );
    }
}

pub(super) const IN_THE_CLEAR: &str =
    "plain http to another machine: token and keys cross the network unencrypted; use https";

/// Warnings about a server, at the setting that sets its protocol.
pub(super) fn warn(reader: &mut Reader, key: &'static Key, login: &'static LoginSettings, server: &Server) {
    if server.sends_in_the_clear() {
        reader.warn(key, IN_THE_CLEAR);
    }
    if matches!(server.auth, Auth::Cert(_)) && server.host.scheme() == "http" {
        reader.warn(key, "the auth method cert needs https: http has no client certificates");
    } else if server.identity.is_some() && server.host.scheme() == "http" {
        let message = "the client certificate is not used: plain http has none; use https, or remove it";
        reader.warn(&login.cert_auth_cert.key, message);
    }
    if let Auth::Jwt(Jwt { source: JwtSource::Endpoint(client), .. }) = &server.auth
        && is_in_the_clear(&client.endpoint)
    {
        let message = "plain http to another machine: the client secret and the JWT cross the network unencrypted; use https";
        reader.warn(&login.oauth2_token_endpoint.key, message);
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
        assert_eq!(
            read("/dev/null").unwrap_err(),
            "the file of item 2: found no PEM instead of a certificate"
        );
    }
}
