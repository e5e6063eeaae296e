//! The auth methods: each a value that holds all that the method requires, and nothing of the others.
//!
//! How a method logs in is in `vault::login`, one file each; here is what the settings say of it. Which settings those are
//! is in `family`.

mod family;

use url::Url;

use super::{
    SecretPath,
    credential::Credential,
    keys::Key,
    pem,
    reader::Reader,
    value::{self, Expected},
};
pub use family::{Family, HCV, KEYRING};

/// How to log in.
#[derive(Debug, PartialEq, Eq)]
pub enum Auth {
    /// A token that somebody made for us.
    Token(Credential),
    Kubernetes(Kubernetes),
    AppRole(AppRole),
    Cert(Cert),
    Jwt(Jwt),
}

/// A service account's token, from the file that Kubernetes keeps fresh.
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
    /// The secret ID is a token that unwraps to it, once.
    pub wrapped: bool,
}

/// A TLS client certificate.
#[derive(Debug, PartialEq, Eq)]
pub struct Cert {
    pub mount: SecretPath,
    pub certificate: Credential,
    pub key: Credential,
    pub role: Option<String>,
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
}

impl Auth {
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

#[derive(Clone, Copy)]
enum Method {
    Token,
    Kubernetes,
    AppRole,
    Cert,
    Jwt,
}

const METHODS: [(&str, Method); 6] = [
    ("token", Method::Token),
    ("kubernetes", Method::Kubernetes),
    ("approle", Method::AppRole),
    ("cert", Method::Cert),
    ("jwt", Method::Jwt),
    ("oauth2", Method::Jwt),
];

pub fn read(reader: &mut Reader, keys: &Family) -> Option<Auth> {
    match reader.required(keys.method, |text| value::one_of(text, &METHODS))? {
        Method::Token => Some(Auth::Token(reader.secret(keys.token, value::token)?)),
        Method::Kubernetes => kubernetes(reader, keys).map(Auth::Kubernetes),
        Method::AppRole => app_role(reader, keys).map(Auth::AppRole),
        Method::Cert => cert(reader, keys).map(Auth::Cert),
        Method::Jwt => jwt(reader, keys).map(Auth::Jwt),
    }
}

fn kubernetes(reader: &mut Reader, keys: &Family) -> Option<Kubernetes> {
    let [mount, role, file] = keys.kube;
    let mount = reader.required(mount, value::secret_path);
    let role = reader.required(role, any_text);
    let jwt = reader.secret_file(file, value::token);
    Some(Kubernetes { mount: mount?, role: role?, jwt: jwt? })
}

fn app_role(reader: &mut Reader, keys: &Family) -> Option<AppRole> {
    let [mount, role_id, secret_id, secret_id_file, wrapping] = keys.approle;
    let mount = reader.required(mount, value::secret_path);
    let role_id = reader.required(role_id, any_text);
    let secret_id = match (reader.is_set(secret_id), reader.is_set(secret_id_file)) {
        (true, true) => {
            reader.mistake(secret_id_file, "give the secret ID once: inline or as a file");
            None
        }
        (false, true) => reader.secret_file(secret_id_file, value::token),
        _ => reader.secret(secret_id, value::token),
    };
    let wrapped = reader.required(wrapping, value::boolean);
    Some(AppRole { mount: mount?, role_id: role_id?, secret_id: secret_id?, wrapped: wrapped? })
}

fn cert(reader: &mut Reader, keys: &Family) -> Option<Cert> {
    let [mount, certificate, key, role] = keys.cert;
    let mount = reader.required(mount, value::secret_path);
    let certificate = pem_or_path(reader, certificate, pem::certificate_chain);
    let key = pem_or_path(reader, key, pem::private_key);
    let role = reader.optional(role, any_text);
    Some(Cert { mount: mount?, certificate: certificate?, key: key?, role })
}

/// PEM as a path, as text, or as base64 of it. What is a path stays one, since the file may be renewed.
fn pem_or_path<T>(
    reader: &mut Reader,
    key: &'static Key,
    parse: fn(&str) -> Result<T, Expected>,
) -> Option<Credential> {
    let check = |text: &str| parse(text).map(|_| ());
    if reader.optional(key, |text| Ok(pem::is_path(text))) == Some(true) {
        return reader.secret_file(key, check);
    }
    reader.secret(key, check)
}

fn jwt(reader: &mut Reader, keys: &Family) -> Option<Jwt> {
    let ([mount, role, file], [endpoint, ..]) = (keys.jwt, keys.oauth2);
    let mount = reader.required(mount, value::secret_path);
    let role = reader.optional(role, any_text);
    let source = match (reader.is_set(file), reader.is_set(endpoint)) {
        (true, false) => reader.secret_file(file, value::token).map(JwtSource::File),
        (false, true) => client_credentials(reader, keys).map(JwtSource::Endpoint),
        (both, _) => {
            let message = if both {
                format!("the JWT comes from this file or from {}: set one of the two", endpoint.name)
            } else {
                format!("is required for the auth method jwt, or else {}", endpoint.name)
            };
            reader.mistake(file, message);
            None
        }
    };
    Some(Jwt { mount: mount?, role, source: source? })
}

fn client_credentials(reader: &mut Reader, keys: &Family) -> Option<ClientCredentials> {
    let [endpoint, client_id, client_secret, audiences] = keys.oauth2;
    let endpoint = reader.required(endpoint, value::endpoint_url);
    let client_id = reader.required(client_id, any_text);
    let client_secret = reader.secret(client_secret, |_| Ok(()));
    let audiences = reader.optional(audiences, |text| Ok(value::list(text)));
    Some(ClientCredentials {
        endpoint: endpoint?,
        client_id: client_id?,
        client_secret: client_secret?,
        audiences: audiences.unwrap_or_default(),
    })
}

#[expect(clippy::unnecessary_wraps, reason = "a parser like the others")]
fn any_text(text: &str) -> Result<String, Expected> {
    Ok(text.to_owned())
}
