//! `cert`: a TLS client certificate, shown in the handshake; its files are read anew at each login.
//!
//! <https://openbao.org/api-docs/auth/cert/>: `{"name": role}`.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::Method;
use crate::{
    settings::{auth::Cert, pem},
    vault::{VaultError, lease::Lease, tls::Identity, transport::Transport},
};

const METHOD: Method = Method {
    name: "cert",
    cures: &[
        (
            "client certificate must be supplied",
            "no certificate was shown: is keyring_vault_host a TLS listener of Vault's own?",
        ),
        ("missing client", "no certificate was shown: is keyring_vault_host a TLS listener of Vault's own?"),
        ("failed to match all constraints", "the certificate does not meet what the role is bound to"),
        (
            "invalid certificate or no client certificate supplied",
            "the role in keyring_vault_cert_auth_role_name does not exist, or trusts another authority than the one that \
          issued keyring_vault_cert_auth_cert",
        ),
    ],
    otherwise: "check keyring_vault_cert_auth_role_name, and that the role trusts the authority that issued \
                keyring_vault_cert_auth_cert",
};

/// Which certificate and key the files hold, to tell a changed one.
pub type Fingerprint = [u8; 32];

/// The certificate and its key, as they are now.
pub fn identity(settings: &Cert) -> Result<(Identity, Fingerprint), VaultError> {
    let failed =
        |setting: &str, why: String| VaultError::no_credential(METHOD.name, format!("{setting}: {why}"));
    let of_certificate = |why| failed("keyring_vault_cert_auth_cert", why);
    let of_key = |why| failed("keyring_vault_cert_auth_cert_key", why);
    let certificate = settings.certificate.read().map_err(|error| of_certificate(error.to_string()))?;
    let key = settings.key.read().map_err(|error| of_key(error.to_string()))?;
    let mut hash = Sha256::new();
    for part in [&certificate, &key] {
        hash.update((part.expose().len() as u64).to_be_bytes());
        hash.update(part.expose());
    }
    let expected = |wanted: String| format!("it holds something else than {wanted}");
    let chain =
        pem::certificate_chain(certificate.expose()).map_err(|wanted| of_certificate(expected(wanted)))?;
    let key = pem::private_key(key.expose()).map_err(|wanted| of_key(expected(wanted)))?;
    Ok((Identity { chain, key }, hash.finalize().into()))
}

pub async fn log_in(transport: &Transport, settings: &Cert) -> Result<Lease, VaultError> {
    let mut body = Map::new();
    if let Some(role) = &settings.role {
        body.insert("name".to_owned(), Value::from(role.as_str()));
    }
    METHOD.log_in(transport, &settings.mount, &body, None).await
}
