//! `kubernetes`: the service account's token, read from its file at each login.
//!
//! <https://openbao.org/api-docs/auth/kubernetes/>: `{"role", "jwt"}`.

use super::method::{Issued, JwtLogin, Method};
use crate::{
    settings::{SettingNames, server::Kubernetes},
    vault::{error::VaultError, transport::Transport},
};

const METHOD: Method = Method {
    name: "kubernetes",
    cures: &[
        ("invalid role name", "{kube_role} names a role that the auth method does not have"),
        (
            "service account name not authorized",
            "the role in {kube_role} is not bound to this service account",
        ),
        ("namespace not authorized", "the role in {kube_role} is not bound to this pod's namespace"),
        ("invalid audience", "the token in {kube_api_token_file} is for another audience than the role's"),
        ("expired", "the token in {kube_api_token_file} has expired, or this machine's clock is wrong"),
    ],
    otherwise: "check {kube_role}, the token in {kube_api_token_file}, and that Vault may call the cluster's \
                TokenReview API",
    auth_path: "kube_auth_path",
};

pub(super) async fn log_in(
    transport: &Transport,
    names: SettingNames,
    settings: &Kubernetes,
) -> Result<Issued, VaultError> {
    let failed = |error| METHOD.no_credential(format!("{}: {error}", names.setting("kube_api_token_file")));
    let jwt = settings.jwt.read().map_err(failed)?;
    let body = JwtLogin { role: Some(&settings.role), jwt: jwt.expose() };
    METHOD.log_in(transport, names, &settings.mount, &body, Some(&jwt)).await
}
