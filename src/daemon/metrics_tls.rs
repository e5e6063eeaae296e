//! TLS of the metrics listener: its configuration from the files, which are read again, so that a renewed certificate is used
//! without a reload.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    RootCertStore, ServerConfig, crypto::aws_lc_rs, pki_types::CertificateDer, server::WebPkiClientVerifier,
};

use crate::{
    secret::Secret,
    server::TlsConfig,
    settings::{MetricsTls, credential::Credential, pem},
};

/// How long a configuration is used before the files are read again.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// What every connection asks for the configuration.
pub(super) fn config(tls: Arc<MetricsTls>) -> Result<TlsConfig, String> {
    let current = Mutex::new((Instant::now(), Arc::new(build(&tls)?)));
    Ok(Box::new(move || {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0.elapsed() >= REFRESH_INTERVAL {
            current.0 = Instant::now();
            match build(&tls) {
                Ok(config) => current.1 = Arc::new(config),
                Err(error) => {
                    tracing::warn!(%error, "the previous certificate of keyring_metrics_listen stays in use");
                }
            }
        }
        Arc::clone(&current.1)
    }))
}

fn build(tls: &MetricsTls) -> Result<ServerConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(authorities, "keyring_metrics_tls_client_ca")? {
                roots.add(authority).map_err(|error| format!("keyring_metrics_tls_client_ca: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
        }
    };
    let chain = certificates(&tls.certificate, "keyring_metrics_tls_cert")?;
    let key = pem::private_key(text(&tls.key, "keyring_metrics_tls_key")?.expose())
        .map_err(|error| format!("keyring_metrics_tls_key: {error}"))?;
    builder.with_single_cert(chain, key).map_err(|error| format!("keyring_metrics_tls_cert: {error}"))
}

fn certificates(credential: &Credential, setting: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    pem::certificate_chain(text(credential, setting)?.expose()).map_err(|error| format!("{setting}: {error}"))
}

fn text(credential: &Credential, setting: &str) -> Result<Secret<String>, String> {
    credential.read().map_err(|error| format!("{setting}: {error}"))
}
