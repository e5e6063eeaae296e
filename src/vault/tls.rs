//! Whom to believe, and whom to say we are: the TLS configuration for `keyring_vault_host`.
//!
//! rustls with the ring provider, TLS 1.2 and 1.3. There is no way to switch verification off; what is put in front of
//! rustls' own verifier can only refuse more. Reading the settings is in `settings`.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};

use crate::settings::TrustedCertificates;

/// More intermediates than this are not looked at: the choices among them would take too long.
const MOST_INTERMEDIATES: usize = 10;

/// Our own certificate, with its intermediates, and its key.
#[derive(Debug)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(
        "lua_ssl_trusted_certificate: this system has no certificate authorities of its own: install its \
         ca-certificates, or name the server's authority in place of `system`"
    )]
    NoSystemRoots,
    #[error("lua_ssl_trusted_certificate: a certificate in it cannot vouch for anything: {0}")]
    UnusableCertificate(rustls::Error),
    #[error(
        "lua_ssl_trusted_certificate: it names no certificate and not `system`, so no server could be trusted"
    )]
    NothingTrusted,
    #[error("keyring_vault_cert_auth_cert and keyring_vault_cert_auth_cert_key do not belong together: {0}")]
    Identity(rustls::Error),
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// # Errors
/// [`TlsError`], naming the setting.
pub fn client_config(
    trusted: &TrustedCertificates,
    depth: usize,
    identity: Option<Identity>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(roots(trusted)?);
    let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
    let config = with_provider(provider)?
        .dangerous() // rustls calls every verifier but its own so; this one asks its own, and refuses more
        .with_custom_certificate_verifier(Arc::new(AtMostDepth { webpki, depth }));
    match identity {
        None => Ok(config.with_no_client_auth()),
        Some(Identity { chain, key }) => config.with_client_auth_cert(chain, key).map_err(TlsError::Identity),
    }
}

/// For a server that is spoken to in the clear: it trusts nobody, should it be asked after all.
///
/// # Errors
/// [`TlsError::Setup`].
pub fn unused() -> Result<ClientConfig, TlsError> {
    let config = with_provider(Arc::new(ring::default_provider()))?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn with_provider(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

fn roots(trusted: &TrustedCertificates) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if trusted.system {
        let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 && trusted.certificates.is_empty() {
            return Err(TlsError::NoSystemRoots);
        }
    }
    for certificate in &trusted.certificates {
        roots.add(certificate.clone()).map_err(TlsError::UnusableCertificate)?;
    }
    if roots.is_empty() { Err(TlsError::NothingTrusted) } else { Ok(roots) }
}

/// rustls' verifier, and `lua_ssl_verify_depth`: at most that many intermediates between the server and a root.
#[derive(Debug)]
struct AtMostDepth {
    webpki: Arc<WebPkiServerVerifier>,
    depth: usize,
}

/// The chain is good, but for its length.
#[derive(Debug)]
pub struct TooDeep(usize);

impl ServerCertVerifier for AtMostDepth {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |intermediates: &[CertificateDer<'_>]| {
            self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        let verified = verify(intermediates)?;
        // rustls does not say which intermediates it used, and servers send more than are needed: look for a choice of
        // at most `depth` of them that does.
        let enough = intermediates.len() <= self.depth
            || (intermediates.len() <= MOST_INTERMEDIATES
                && choices(intermediates, self.depth).iter().any(|choice| verify(choice).is_ok()));
        if enough {
            return Ok(verified);
        }
        let too_deep = OtherError(Arc::new(TooDeep(self.depth)));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(too_deep)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Every choice of `count` of the items, in their order.
fn choices<T: Clone>(items: &[T], count: usize) -> Vec<Vec<T>> {
    match (count, items.split_first()) {
        (0, _) => vec![Vec::new()],
        (_, None) => Vec::new(),
        (_, Some((first, rest))) => {
            let with = choices(rest, count - 1).into_iter().map(|mut choice| {
                choice.insert(0, first.clone());
                choice
            });
            with.chain(choices(rest, count)).collect()
        }
    }
}

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its certificate stands below more intermediate authorities than lua_ssl_verify_depth = {} allows; raise it, \
             or add the lower authority to lua_ssl_trusted_certificate",
            self.0
        )
    }
}

impl std::error::Error for TooDeep {}

/// What to do about a TLS error.
pub fn cure(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    use rustls::Error;
    let cure = match error {
        Error::InvalidMessage(_) => {
            return "it does not speak TLS: is keyring_vault_host http instead of https?".into();
        }
        Error::AlertReceived(rustls::AlertDescription::CertificateRequired) => {
            return "it requires a client certificate: set keyring_vault_cert_auth_cert".into();
        }
        Error::InvalidCertificate(Bad::Other(other)) => return other.to_string(),
        Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "its certificate was issued by nobody in lua_ssl_trusted_certificate; add that authority there, and let \
             the server send its intermediate certificates"
        }
        Error::InvalidCertificate(Bad::BadSignature) => {
            "its certificate was not signed by the authority of that name in lua_ssl_trusted_certificate; replace that \
             authority there by the right one"
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for another name; use one of its names in keyring_vault_host"
        }
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => "its certificate has expired",
        Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet; is this machine's clock right?"
        }
        _ => return error.to_string(),
    };
    format!("{cure} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_all_there_are() {
        assert_eq!(choices(&[1, 2, 3], 0), [Vec::<i32>::new()]);
        assert_eq!(choices(&[1, 2, 3], 2), [vec![1, 2], vec![1, 3], vec![2, 3]]);
        assert_eq!(choices(&[1], 2), [] as [Vec<i32>; 0]);
    }
}
