//! The auth methods: each a value with all that the method requires.
//!
//! The settings are in `keys::login`. How each method logs in is in `vault::login`.

use url::Url;

use super::{
    keys::{LoginSettings, Method},
    reader::Reader,
    source::credential::Credential,
    value::{SecretPath, TOKEN},
};

/// How to log in.
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

pub(super) fn read(reader: &mut Reader, settings: &'static LoginSettings) -> Option<Auth> {
    match reader.required(&settings.auth_method)? {
        Method::Token => reader.credential(&settings.token).map(Auth::Token),
        Method::Kubernetes => kubernetes(reader, settings).map(Auth::Kubernetes),
        Method::AppRole => app_role(reader, settings).map(Auth::AppRole),
        Method::Cert => cert(reader, settings).map(Auth::Cert),
        Method::Jwt => jwt(reader, settings).map(Auth::Jwt),
    }
}

fn kubernetes(reader: &mut Reader, settings: &'static LoginSettings) -> Option<Kubernetes> {
    let mount = reader.required(&settings.kube_auth_path);
    let role = reader.required(&settings.kube_role);
    let jwt = reader.credential_file(&settings.kube_api_token_file, &TOKEN);
    Some(Kubernetes { mount: mount?, role: role?, jwt: jwt? })
}

fn app_role(reader: &mut Reader, settings: &'static LoginSettings) -> Option<AppRole> {
    let LoginSettings { approle_secret_id: inline, approle_secret_id_file: file, .. } = settings;
    let mount = reader.required(&settings.approle_auth_path);
    let role_id = reader.required(&settings.approle_role_id);
    let secret_id = match (reader.is_set(&inline.key), reader.is_set(&file.key)) {
        (true, true) => {
            reader.mistake(&file.key, format!("set only one of {} and {}", inline.key.name, file.key.name));
            None
        }
        (false, true) => reader.credential_file(file, &inline.parser),
        _ => reader.credential(inline),
    };
    let wrapped = reader.required(&settings.approle_response_wrapping);
    Some(AppRole { mount: mount?, role_id: role_id?, secret_id: secret_id?, wrapped: wrapped? })
}

fn cert(reader: &mut Reader, settings: &'static LoginSettings) -> Option<Cert> {
    let mount = reader.required(&settings.cert_auth_path);
    let certificate = reader.credential(&settings.cert_auth_cert);
    let key = reader.credential(&settings.cert_auth_cert_key);
    let role = reader.optional(&settings.cert_auth_role_name);
    Some(Cert { mount: mount?, certificate: certificate?, key: key?, role })
}

fn jwt(reader: &mut Reader, settings: &'static LoginSettings) -> Option<Jwt> {
    let LoginSettings { jwt_file: file, oauth2_token_endpoint: endpoint, .. } = settings;
    let mount = reader.required(&settings.jwt_auth_path);
    let role = reader.optional(&settings.jwt_role);
    let source = match (reader.is_set(&file.key), reader.is_set(&endpoint.key)) {
        (true, false) => reader.credential_file(file, &TOKEN).map(JwtSource::File),
        (false, true) => client_credentials(reader, settings).map(JwtSource::Endpoint),
        (both, _) => {
            let amount = if both { "only one" } else { "one" };
            let (file_name, endpoint_name) = (file.key.name, endpoint.key.name);
            let message =
                format!("the auth method jwt needs the JWT: set {amount} of {file_name} and {endpoint_name}");
            reader.mistake(&file.key, message);
            None
        }
    };
    Some(Jwt { mount: mount?, role, source: source? })
}

fn client_credentials(reader: &mut Reader, settings: &'static LoginSettings) -> Option<ClientCredentials> {
    let endpoint = reader.required(&settings.oauth2_token_endpoint);
    let client_id = reader.required(&settings.oauth2_client_id);
    let client_secret = reader.credential(&settings.oauth2_client_secret);
    let audiences = reader.optional(&settings.oauth2_audiences);
    Some(ClientCredentials {
        endpoint: endpoint?,
        client_id: client_id?,
        client_secret: client_secret?,
        audiences: audiences.unwrap_or_default(),
    })
}
