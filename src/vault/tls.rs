//! Whom to believe: the TLS configuration for `keyring_vault_host`.
//!
//! rustls with the ring provider, TLS 1.2 and 1.3. There is no way to switch verification off. Reading
//! `lua_ssl_trusted_certificate` is in `settings`.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::settings::TrustedCertificates;

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
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// # Errors
/// [`TlsError`], naming the setting.
pub fn client_config(trusted: &TrustedCertificates) -> Result<ClientConfig, TlsError> {
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
    if roots.is_empty() {
        return Err(TlsError::NothingTrusted);
    }
    Ok(trusting(roots)?)
}

/// For a server that is spoken to in the clear: it trusts nobody, should it be asked after all.
///
/// # Errors
/// [`TlsError::Setup`].
pub fn unused() -> Result<ClientConfig, TlsError> {
    Ok(trusting(RootCertStore::empty())?)
}

fn trusting(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
