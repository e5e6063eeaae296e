//! `jwt`, also spelt `oauth2`: a JWT from a file, or granted by a token endpoint to us as a client.
//!
//! <https://openbao.org/api-docs/auth/jwt/>: `{"role", "jwt"}`. The grant is RFC 6749's client credentials (4.4), with
//! `audience` as the usual extension.

use serde::{Deserialize, Serialize};
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use super::Method;
use crate::{
    secret::Secret,
    settings::{
        self,
        auth::{ClientCredentials, Jwt, JwtSource},
    },
    vault::{
        VaultError,
        lease::Lease,
        transport::{Request, Transport},
    },
};

const METHOD: Method = Method {
    name: "jwt",
    cures: &[
        ("could not be found", "keyring_vault_jwt_role names a role that the auth method does not have"),
        ("missing role", "the auth method has no default role: set keyring_vault_jwt_role"),
        (
            "token is expired",
            "the JWT has expired: renew it, or set this machine's clock, the issuer's or Vault's right",
        ),
        (
            "expired",
            "the JWT has expired: renew it, or set this machine's clock, the issuer's or Vault's right",
        ),
        ("not yet valid", "the JWT is not valid yet: the issuer's clock and Vault's differ"),
        ("issued in the future", "the JWT is not valid yet: the issuer's clock and Vault's differ"),
        ("not valid yet", "the JWT is not valid yet: the issuer's clock and Vault's differ"),
        (
            "audience",
            "the JWT is for another audience than the role's: have its issuer name the role's, which an endpoint does by \
          keyring_vault_oauth2_audiences",
        ),
        ("signature", "Vault cannot verify the JWT: its auth method knows another issuer's keys"),
        ("issuer", "the JWT is from another issuer than the auth method's"),
    ],
    otherwise: "check keyring_vault_jwt_role, and that the JWT meets what that role is bound to",
};

const ENDPOINT: &str = "keyring_vault_oauth2_token_endpoint";

#[derive(Deserialize)]
struct Grant {
    access_token: Secret<String>,
}

/// Borrowed, so that the one copy of the secret is the one that is sent and wiped.
#[derive(Serialize)]
struct Login<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    jwt: &'a str,
}

pub async fn log_in(
    transport: &Transport,
    vault: &settings::Vault,
    settings: &Jwt,
) -> Result<Lease, VaultError> {
    let jwt = match &settings.source {
        JwtSource::File(file) => file.read().map_err(|error| {
            VaultError::no_credential(METHOD.name, format!("keyring_vault_jwt_file: {error}"))
        })?,
        JwtSource::Endpoint(client) => granted(vault, client).await?,
    };
    let body = Login { role: settings.role.as_deref(), jwt: jwt.expose() };
    METHOD.log_in(transport, &settings.mount, &body, Some(&jwt)).await
}

/// The access token, which is the JWT.
async fn granted(vault: &settings::Vault, client: &ClientCredentials) -> Result<Secret<String>, VaultError> {
    let failed = |why: String| VaultError::no_credential(METHOD.name, why);
    let secret = client
        .client_secret
        .read()
        .map_err(|error| failed(format!("keyring_vault_oauth2_client_secret: {error}")))?;
    let transport =
        Transport::elsewhere(&client.endpoint, vault, ENDPOINT).map_err(|error| failed(error.to_string()))?;
    let form = form(client, &secret);
    let request = Request::post_form(client.endpoint.clone(), &form).holding(&secret);
    let answer = transport.send(request).await.map_err(|error| VaultError::NoCredential {
        method: METHOD.name,
        retry_after: error.retry_after(),
        why: format!("{ENDPOINT}: {error}"),
    })?;
    if !answer.status.is_success() {
        let said = answer
            .json::<Refusal>()
            .and_then(Refusal::known)
            .map(|code| format!(": {code}"))
            .unwrap_or_default();
        let cure = "check keyring_vault_oauth2_client_id, …_client_secret and …_audiences";
        return Err(failed(format!("{ENDPOINT} answered {}{said}: {cure}", answer.status.as_u16())));
    }
    let grant: Option<Grant> = answer.json();
    grant.map(|grant| grant.access_token).ok_or_else(|| failed(format!("{ENDPOINT} gave no access_token")))
}

/// Why a token endpoint refused (RFC 6749, 5.2). Only the code is taken over: what else it says may repeat the request.
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
