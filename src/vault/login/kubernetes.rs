//! `kubernetes`: the service account's token, read anew from its file at each login.
//!
//! <https://openbao.org/api-docs/auth/kubernetes/>: `{"role", "jwt"}`.

use serde::Serialize;

use super::Method;
use crate::{
    settings::auth::Kubernetes,
    vault::{VaultError, lease::Lease, transport::Transport},
};

const METHOD: Method = Method {
    name: "kubernetes",
    cures: &[
        ("invalid role name", "keyring_vault_kube_role names a role that the auth method does not have"),
        (
            "service account name not authorized",
            "the role in keyring_vault_kube_role is not bound to this service account",
        ),
        (
            "namespace not authorized",
            "the role in keyring_vault_kube_role is not bound to this pod's namespace",
        ),
        (
            "invalid audience",
            "the token in keyring_vault_kube_api_token_file is for another audience than the role's",
        ),
        (
            "expired",
            "the token in keyring_vault_kube_api_token_file has expired, or this machine's clock is wrong",
        ),
    ],
    otherwise: "check keyring_vault_kube_role, the token in keyring_vault_kube_api_token_file, and that Vault may ask \
                the cluster's TokenReview API",
};

/// Borrowed, so that the one copy of the secret is the one that is sent and wiped.
#[derive(Serialize)]
struct Login<'a> {
    role: &'a str,
    jwt: &'a str,
}

pub async fn log_in(transport: &Transport, settings: &Kubernetes) -> Result<Lease, VaultError> {
    let failed = |error| format!("keyring_vault_kube_api_token_file: {error}");
    let jwt = settings.jwt.read().map_err(|error| VaultError::no_credential(METHOD.name, failed(error)))?;
    let body = Login { role: &settings.role, jwt: jwt.expose() };
    METHOD.log_in(transport, &settings.mount, &body, Some(&jwt)).await
}
