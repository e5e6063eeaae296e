//! Whom to believe, and whom to say we are: the TLS configuration for `keyring_vault_host`.
//!
//! rustls with the ring provider, TLS 1.2 and 1.3. There is no way to switch verification off. What is put in front of
//! rustls' own verifier refuses more, and takes one thing more: a self-signed authority that the settings name, as the
//! server's own certificate. Reading the settings is in `settings`.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::ParsedCertificate,
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
        .dangerous() // rustls calls every verifier but its own so; this one asks its own
        .with_custom_certificate_verifier(Arc::new(AtMostDepth {
            webpki,
            named: trusted.certificates.clone(),
            depth,
        }));
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
    /// The certificates that the settings name themselves.
    named: Vec<CertificateDer<'static>>,
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
        let verified = match verify(intermediates) {
            // What `openssl req -x509` makes is an authority and a server's certificate in one. webpki has checked its
            // times by then; it is named in the settings itself, so what is left is the name.
            Err(error) if is_ca_as_end_entity(&error) && self.named.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                return Ok(ServerCertVerified::assertion());
            }
            other => other?,
        };
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

fn is_ca_as_end_entity(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other))) = error else {
        return false;
    };
    matches!(other.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
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

/// What to do about a TLS error of the server that `setting` names.
pub fn cure(error: &rustls::Error, setting: &str) -> String {
    use CertificateError as Bad;
    use rustls::Error;
    let cure = match error {
        Error::InvalidMessage(_) => {
            return format!("it does not speak TLS: is {setting} http instead of https?");
        }
        Error::AlertReceived(rustls::AlertDescription::CertificateRequired) => {
            return "it requires a client certificate: set keyring_vault_cert_auth_cert".into();
        }
        Error::InvalidCertificate(Bad::Other(other)) if other.0.is::<TooDeep>() => return other.to_string(),
        Error::InvalidCertificate(Bad::Other(other)) if is_ca_as_end_entity(error) => {
            return format!(
                "it shows an authority's certificate as its own; name that very certificate in \
                 lua_ssl_trusted_certificate, or give the server one that is not an authority's ({other})"
            );
        }
        Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "its certificate was issued by nobody in lua_ssl_trusted_certificate; add that authority there, and let \
             the server send its intermediate certificates"
        }
        Error::InvalidCertificate(Bad::BadSignature) => {
            "its certificate was not signed by the authority of that name in lua_ssl_trusted_certificate; replace that \
             authority there by the right one"
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            return format!(
                "its certificate is for another name; use one of its names in {setting} ({error})"
            );
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
