//! `jwt`, also spelt `oauth2`: a JWT from a file, or from a token endpoint.
//!
//! <https://openbao.org/api-docs/auth/jwt/>: `{"role", "jwt"}`. The grant is RFC 6749's client credentials (4.4), with
//! `audience` as the usual extension.

use serde::Deserialize;
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use super::method::{JwtLogin, Method, with_names};
use crate::{
    secret::Secret,
    settings::{
        Server,
        server::{ClientCredentials, Jwt, JwtSource},
    },
    vault::{
        error::VaultError,
        lease::Lease,
        transport::{Request, Transport},
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
) -> Result<(Secret<String>, Lease), VaultError> {
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
    let request = Request::post_form(client.endpoint.clone(), &form).holding(&secret);
    let response = transport.send(request).await.map_err(|error| VaultError::NoCredential {
        method: METHOD.name,
        retry_after: error.retry_after(),
        cause: format!("{endpoint}: {error}"),
    })?;
    if !response.status.is_success() {
        let code = response.json::<Refusal>().and_then(Refusal::known);
        let code = code.map(|code| format!(": {code}")).unwrap_or_default();
        let cure = "check {oauth2_client_id}, {oauth2_client_secret} and {oauth2_audiences}";
        let cure = with_names(cure, server.names);
        return Err(failed(format!("{endpoint} answered {}{code}: {cure}", response.status.as_u16())));
    }
    let grant: Option<Grant> = response.json();
    grant.map(|grant| grant.access_token).ok_or_else(|| failed(format!("{endpoint} gave no access_token")))
}

/// Why a token endpoint refused (RFC 6749, 5.2). Only the code is quoted: the rest may repeat the request.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Refusal {
    fn known(self) -> Option<&'static str> {
        let codes = [
            "invalid_request",
            "invalid_client",
            "invalid_grant",
            "unauthorized_client",
            "unsupported_grant_type",
            "invalid_scope",
        ];
        codes.into_iter().find(|code| *code == self.error)
    }
}

/// The grant request, as a form (RFC 6749, 4.4.2). The client authenticates in the body (2.3.1).
fn form(client: &ClientCredentials, secret: &Secret<String>) -> Zeroizing<String> {
    let mut form = Serializer::new(String::with_capacity(4096));
    form.append_pair("grant_type", "client_credentials")
        .append_pair("client_id", &client.client_id)
        .append_pair("client_secret", secret.expose());
    for audience in &client.audiences {
        form.append_pair("audience", audience);
    }
    Zeroizing::new(form.finish())
}
