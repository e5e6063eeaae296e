//! `cert`: a TLS client certificate, sent in the handshake. Its files are read at each login.
//!
//! <https://openbao.org/api-docs/auth/cert/>: `{"name": role}`.

use serde_json::{Map, Value};

use super::method::{Issued, Method};
use crate::{
    settings::{
        Server, SettingNames, pem,
        server::{Cert, ClientCertificate},
    },
    vault::{
        error::VaultError,
        tls::{Identity, TlsError},
        transport::{Transport, TransportError},
    },
};

const NOT_SENT: &str = "no certificate was sent: {host} must be a TLS listener of Vault's own";

const METHOD: Method = Method {
    name: "cert",
    cures: &[
        ("client certificate must be supplied", NOT_SENT),
        ("missing client", NOT_SENT),
        ("failed to match all constraints", "the certificate does not match what the role is bound to"),
        (
            "invalid certificate or no client certificate supplied",
            "the role in {cert_auth_role_name} does not exist, or trusts another authority than the one that issued \
             {cert_auth_cert}",
        ),
    ],
    otherwise: "check {cert_auth_role_name}, and that the role trusts the authority that issued {cert_auth_cert}",
    auth_path: "cert_auth_path",
};

/// A transport that sends the certificate, as its files are now.
pub(super) fn transport(server: &Server, settings: &ClientCertificate) -> Result<Transport, VaultError> {
    let names = ["cert_auth_cert", "cert_auth_cert_key"].map(|setting| server.names.setting(setting));
    let failed = |name: &String, cause: String| METHOD.no_credential(format!("{name}: {cause}"));
    let [certificate, key] = &names;
    let chain = settings.certificate.read().map_err(|error| failed(certificate, error.to_string()))?;
    let chain = pem::certificate_chain(chain.expose()).map_err(|fault| failed(certificate, fault))?;
    let private = settings.key.read().map_err(|error| failed(key, error.to_string()))?;
    let private = pem::private_key(private.expose()).map_err(|fault| failed(key, fault))?;
    Transport::new(server, Some(Identity { chain, key: private })).map_err(|error| match error {
        TransportError::Tls(TlsError::Identity(error)) => {
            METHOD.no_credential(format!("{certificate} and {key} do not belong together: {error}"))
        }
        other => METHOD.no_credential(other.to_string()),
    })
}

pub(super) async fn log_in(
    transport: &Transport,
    names: SettingNames,
    settings: &Cert,
) -> Result<Issued, VaultError> {
    let mut body = Map::new();
    if let Some(role) = &settings.role {
        body.insert("name".to_owned(), Value::from(role.as_str()));
    }
    METHOD.log_in(transport, names, &settings.mount, &body, None).await
}
