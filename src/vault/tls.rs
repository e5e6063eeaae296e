//! TLS: server verification and client certificate.
//!
//! rustls with the aws-lc-rs provider, TLS 1.2 and 1.3, the hybrid key exchange X25519MLKEM768 first. Verification
//! cannot be switched off. Our verifier calls the one of rustls. It also enforces `lua_ssl_verify_depth`, and it
//! accepts a self-signed authority that the settings name as the server's own certificate. Reading the settings is in
//! `settings`.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use crate::settings::{Tls, TrustedCertificates};

/// With more intermediates than this, no combination of them is tried: there would be too many.
const MAX_INTERMEDIATES: usize = 10;

/// The client certificate, with its intermediates, and its key.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// Why TLS could not be configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(
        "lua_ssl_trusted_certificate: this system has no certificate authorities: install ca-certificates, or name the \
         server's authority in place of `system`"
    )]
    NoSystemRoots,
    #[error("lua_ssl_trusted_certificate: a certificate in it cannot be an authority: {0}")]
    UnusableCertificate(rustls::Error),
    #[error(
        "lua_ssl_trusted_certificate: it names neither a certificate nor `system`, so no server would be trusted"
    )]
    NothingTrusted,
    #[error("the client certificate and its key do not belong together: {0}")]
    Identity(rustls::Error),
    #[error("TLS cannot be configured: {0}")]
    Setup(#[from] rustls::Error),
}

pub(super) fn client_config(settings: &Tls, identity: Option<Identity>) -> Result<ClientConfig, TlsError> {
    let Tls { trusted, verify_depth: depth } = settings;
    let provider = Arc::new(provider());
    let roots = Arc::new(roots(trusted)?);
    let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
    let config = with_provider(provider)?
        .dangerous() // as rustls calls any other verifier; ours calls the one of rustls
        .with_custom_certificate_verifier(Arc::new(AtMostDepth {
            webpki,
            named: trusted.certificates.clone(),
            depth: *depth,
        }));
    match identity {
        None => Ok(config.with_no_client_auth()),
        Some(Identity { chain, key }) => {
            config.with_client_auth_cert(leaf_first(chain, &key), key).map_err(TlsError::Identity)
        }
    }
}

/// The chain with the certificate of the key first, as TLS requires. Some tools write it last.
fn leaf_first(
    mut chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
) -> Vec<CertificateDer<'static>> {
    let key = aws_lc_rs::sign::any_supported_type(key).ok();
    let public = key.as_ref().and_then(|key| key.public_key());
    let is_leaf = |certificate: &CertificateDer<'_>| {
        let certificate = webpki::EndEntityCert::try_from(certificate);
        certificate.is_ok_and(|certificate| Some(certificate.subject_public_key_info()) == public)
    };
    match chain.iter().position(is_leaf) {
        Some(last) if last.checked_add(1) == Some(chain.len()) => chain.reverse(),
        Some(leaf) => chain[..=leaf].rotate_right(1),
        None => {}
    }
    chain
}

/// For plain HTTP: it trusts no server, should TLS be used after all.
pub(super) fn unused() -> Result<ClientConfig, TlsError> {
    let config = with_provider(Arc::new(provider()))?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The hybrid key exchange first: a recorded handshake that carried the keys of a keyring must stay secret for as long as
/// what they sealed. P-521 is missing as a group, not in signatures.
fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    }
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

/// rustls' verifier, with `lua_ssl_verify_depth`: at most that many intermediates between the server and a root.
#[derive(Debug)]
struct AtMostDepth {
    webpki: Arc<WebPkiServerVerifier>,
    /// The certificates in the settings.
    named: Vec<CertificateDer<'static>>,
    depth: usize,
}

/// The chain is valid except for its length.
#[derive(Debug, thiserror::Error)]
#[error(
    "its certificate chain has more intermediate authorities than lua_ssl_verify_depth = {0} allows; raise it, or add the \
     lower authority to lua_ssl_trusted_certificate"
)]
struct TooDeep(usize);

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
            // `openssl req -x509` makes an authority and a server certificate in one. webpki has checked its times by
            // then, and the settings name it, so the name is all that is left to check.
            Err(error) if is_ca_as_end_entity(&error) && self.named.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                return Ok(ServerCertVerified::assertion());
            }
            other => other?,
        };
        // rustls does not report which intermediates it used, and servers send more than necessary: look for a combination
        // of at most `depth` of them that suffices.
        let enough = intermediates.len() <= self.depth
            || (intermediates.len() <= MAX_INTERMEDIATES
                && combinations(intermediates, self.depth).any(|some| verify(&some).is_ok()));
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

/// Every combination of `count` of the items, at most [`MAX_INTERMEDIATES`], in their order.
fn combinations<T: Clone>(items: &[T], count: usize) -> impl Iterator<Item = Vec<T>> {
    let chosen = move |mask: &u32| mask.count_ones() as usize == count;
    (0..1_u32 << items.len()).filter(chosen).map(|mask| {
        let is_chosen = |at: &(usize, &T)| mask & (1 << at.0) != 0;
        items.iter().enumerate().filter(is_chosen).map(|(_, item)| item.clone()).collect()
    })
}

/// What to do about a TLS error of a server. The settings have its name, its protocol, and the certificate that it may get.
pub(super) fn cure(
    error: &rustls::Error,
    [setting, protocol]: [&str; 2],
    certificate: Option<&str>,
) -> String {
    use CertificateError as Bad;
    use rustls::Error;
    let cure = match error {
        Error::InvalidMessage(_) => {
            return format!("the server does not speak TLS: use http instead of https in {protocol}");
        }
        Error::AlertReceived(rustls::AlertDescription::CertificateRequired) => {
            let cure = certificate.map(|setting| format!(": set {setting}")).unwrap_or_default();
            return format!("the server requires a client certificate{cure}");
        }
        Error::AlertReceived(rustls::AlertDescription::HandshakeFailure) => {
            "there is probably no common cipher suite or version: keyringd uses TLS 1.2 with ECDHE and AEAD, and TLS 1.3; \
             correct tls_cipher_suites, tls_min_version and tls_max_version of the server's listener"
        }
        Error::AlertReceived(rustls::AlertDescription::ProtocolVersion) => {
            "there is no common TLS version: keyringd uses TLS 1.2 and 1.3; correct tls_max_version of the server's listener"
        }
        Error::InvalidCertificate(Bad::Other(other)) if other.0.is::<TooDeep>() => return other.to_string(),
        Error::InvalidCertificate(Bad::Other(other)) if is_ca_as_end_entity(error) => {
            return format!(
                "the server's certificate is an authority's; add that very certificate to \
                 lua_ssl_trusted_certificate, or correct tls_cert_file of the server's listener: the \
                 server's own certificate comes first, and its authorities follow ({other})"
            );
        }
        Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "no authority in lua_ssl_trusted_certificate issued its certificate; add that authority there, and let the \
             server send its intermediate certificates"
        }
        Error::InvalidCertificate(Bad::BadSignature) => {
            "the authority of that name in lua_ssl_trusted_certificate did not sign its certificate; replace that \
             authority there"
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            return format!(
                "its certificate is for another name; use one of its names in {setting} ({error})"
            );
        }
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => "its certificate has expired",
        Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not valid yet; check this machine's clock"
        }
        _ => return error.to_string(),
    };
    format!("{cure} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_complete_and_in_order() {
        let all = |items: &[i32], count| combinations(items, count).collect::<Vec<_>>();
        assert_eq!(all(&[1, 2, 3], 0), [Vec::<i32>::new()]);
        assert_eq!(all(&[1, 2, 3], 2), [[1, 2], [1, 3], [2, 3]]);
        assert_eq!(all(&[1], 2), [] as [Vec<i32>; 0]);
    }
}
