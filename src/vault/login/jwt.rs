//! `jwt`, also spelt `oauth2`: a JWT from a file, or from a token endpoint.
//!
//! <https://openbao.org/api-docs/auth/jwt/>: `{"role", "jwt"}`. The grant is RFC 6749's client credentials (4.4), with
//! `audience` as the usual extension.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use url::form_urlencoded::{Serializer, byte_serialize};
use zeroize::Zeroizing;

use super::method::{Issued, JwtLogin, Method, with_names};
use crate::{
    secret::Secret,
    settings::{
        Server,
        keys::AuthStyle,
        server::{ClientCredentials, Jwt, JwtSource},
    },
    vault::{
        error::VaultError,
        transport::{Request, Transport, quotable},
    },
};

const EXPIRED: &str =
    "the JWT has expired: renew it, or correct the clock of this machine, of the issuer or of Vault";

const NOT_YET_VALID: &str = "the JWT is not valid yet: the issuer's clock and Vault's differ";

const METHOD: Method = Method {
    name: "jwt",
    cures: &[
        ("could not be found", "{jwt_role} names a role that the auth method does not have"),
        ("missing role", "the auth method has no default role: set {jwt_role}"),
        ("token is expired", EXPIRED),
        ("expired", EXPIRED),
        ("not yet valid", NOT_YET_VALID),
        ("issued in the future", NOT_YET_VALID),
        ("not valid yet", NOT_YET_VALID),
        (
            "audience",
            "the JWT is for another audience than the role's: have its issuer name the role's audience; for a token \
             endpoint, set {oauth2_audiences}",
        ),
        ("signature", "Vault cannot verify the JWT: its auth method knows another issuer's keys"),
        ("issuer", "the JWT is from another issuer than the auth method's"),
    ],
    otherwise: "check {jwt_role}, and that the JWT matches what that role is bound to",
    auth_path: "jwt_auth_path",
};

#[derive(Deserialize)]
struct Grant {
    access_token: Secret<String>,
}

pub(super) async fn log_in(
    transport: &Transport,
    server: &Server,
    settings: &Jwt,
) -> Result<Issued, VaultError> {
    let jwt = match &settings.source {
        JwtSource::File(file) => file.read().map_err(|error| {
            METHOD.no_credential(format!("{}: {error}", server.names.setting("jwt_file")))
        })?,
        JwtSource::Endpoint(client) => request_jwt(server, client).await?,
    };
    let body = JwtLogin { role: settings.role.as_deref(), jwt: jwt.expose() };
    METHOD.log_in(transport, server.names, &settings.mount, &body, Some(&jwt)).await
}

/// The access token, which is the JWT.
async fn request_jwt(server: &Server, client: &ClientCredentials) -> Result<Secret<String>, VaultError> {
    let endpoint = server.names.setting("oauth2_token_endpoint");
    let failed = |cause: String| METHOD.no_credential(cause);
    let secret = client
        .client_secret
        .read()
        .map_err(|error| failed(format!("{}: {error}", server.names.setting("oauth2_client_secret"))))?;
    let transport = Transport::for_other_server(&client.endpoint, &server.tls, &endpoint)
        .map_err(|error| failed(error.to_string()))?;
    let form = form(client, &secret);
    let basic = basic(client, &secret);
    let mut request = Request::post_form(client.endpoint.clone(), &form).holding(&secret);
    if client.auth_style == AuthStyle::Basic {
        request = request.basic(&basic);
    }
    let response = transport.send(request).await.map_err(|error| VaultError::NoCredential {
        method: METHOD.name,
        retry_after: error.retry_after(),
        is_away: error.is_away(),
        cause: format!("{endpoint}: {error}"),
    })?;
    if !response.status.is_success() {
        let refusal = response.json::<Refusal>().unwrap_or_default().text(&[&secret, &basic]);
        let cure = if client.audiences.is_empty() {
            "check {oauth2_client_id} and {oauth2_client_secret}; {oauth2_audiences} is not set, and some endpoints require it"
        } else {
            "check {oauth2_client_id}, {oauth2_client_secret} and {oauth2_audiences}"
        };
        let cure = with_names(cure, server.names);
        return Err(failed(format!("{endpoint} answered {}{refusal}: {cure}", response.status.as_u16())));
    }
    let Some(Grant { access_token }) = response.json() else {
        return Err(failed(format!("{endpoint} gave no access_token")));
    };
    // RFC 7519: three parts. RFC 6749 leaves the form of an access token open.
    if access_token.expose().split('.').count() == 3 {
        return Ok(access_token);
    }
    let cure = "the access token is opaque and not a JWT, so Vault cannot verify it: request a JWT, usually by \
                {oauth2_audiences} or {oauth2_scopes}";
    Err(failed(format!("{endpoint}: {}", with_names(cure, server.names))))
}

/// Why a token endpoint refused (RFC 6749, 5.2).
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Refusal {
    /// Its text on one line, unless it repeats a secret.
    fn text(self, secrets: &[&Secret<String>]) -> String {
        let parts = [self.error, self.error_description];
        let quoted = parts.iter().filter_map(|part| quotable(part, secrets));
        quoted.fold(String::new(), |text, part| text + ": " + &part)
    }
}

/// The grant request, as a form (RFC 6749, 4.4.2). The client authenticates in the body or by a header (2.3.1).
fn form(client: &ClientCredentials, secret: &Secret<String>) -> Zeroizing<String> {
    let mut form = Serializer::new(String::with_capacity(4096));
    form.append_pair("grant_type", "client_credentials");
    if client.auth_style == AuthStyle::Post {
        form.append_pair("client_id", &client.client_id).append_pair("client_secret", secret.expose());
    }
    if !client.scopes.is_empty() {
        form.append_pair("scope", &client.scopes.join(" "));
    }
    for audience in &client.audiences {
        form.append_pair("audience", audience);
    }
    Zeroizing::new(form.finish())
}

/// The credentials of HTTP Basic, both parts form-encoded first (RFC 6749, 2.3.1).
fn basic(client: &ClientCredentials, secret: &Secret<String>) -> Secret<String> {
    let mut pair: Zeroizing<String> = Zeroizing::new(byte_serialize(client.client_id.as_bytes()).collect());
    pair.push(':');
    pair.extend(byte_serialize(secret.expose().as_bytes()));
    Secret::new(BASE64_STANDARD.encode(pair.as_bytes()))
}
