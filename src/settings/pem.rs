//! Certificates and private keys as settings give them: a path, PEM text, or base64 of PEM.
//!
//! What cannot be one of the others is never taken for a path, since paths are quoted in messages.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

use super::{
    TrustedCertificates,
    value::{Parsed, expected, list},
};

/// Kong's list for `lua_ssl_trusted_certificate`: `system`, a path, PEM text, base64 of PEM.
pub fn trusted_certificates(text: &str) -> Parsed<TrustedCertificates> {
    let mut trusted = TrustedCertificates::default();
    for (at, item) in list(text).into_iter().enumerate() {
        if item == "system" {
            trusted.system = true;
        } else if is_path(&item) {
            match std::fs::read_to_string(&item) {
                Ok(pem) => trusted.certificates.extend(certificate_chain(&pem)?),
                Err(error) => {
                    let wanted = "system, the path of a PEM file, PEM text or base64 of it";
                    return expected(format!("{wanted}; and reading item {} as a path: {error}", at + 1));
                }
            }
        } else {
            trusted.certificates.extend(certificate_chain(&item)?);
        }
    }
    Ok(trusted)
}

/// Whether a value that may be PEM, base64 of PEM or a path is a path. Only what cannot be the others is taken for one:
/// a path is quoted in messages, and a private key must never be.
pub fn is_path(text: &str) -> bool {
    ["/", "./", "../"].iter().any(|start| text.starts_with(start)) && !text.contains("-----BEGIN")
}

/// One certificate or several, as PEM or as base64 of PEM.
pub fn certificate_chain(text: &str) -> Parsed<Vec<CertificateDer<'static>>> {
    let decoded = base64_pem(text);
    let pem = decoded.as_deref().map_or(text.as_bytes(), Vec::as_slice);
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => expected(
            "a path that begins with / or ./, or certificates in PEM (-----BEGIN CERTIFICATE-----) or base64 of it",
        ),
    }
}

/// A private key, as PEM or as base64 of PEM.
pub fn private_key(text: &str) -> Parsed<PrivateKeyDer<'static>> {
    let decoded = base64_pem(text);
    let pem = decoded.as_deref().map_or(text.as_bytes(), Vec::as_slice);
    PrivateKeyDer::from_pem_slice(pem)
        .or_else(|_| {
        expected("a path that begins with / or ./, or a private key in PEM (-----BEGIN … PRIVATE KEY-----) or base64 of it")
    })
}

fn base64_pem(item: &str) -> Option<Zeroizing<Vec<u8>>> {
    // base64(1) breaks its lines.
    let item = Zeroizing::new(item.split_ascii_whitespace().collect::<String>());
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [alphabet::STANDARD, alphabet::URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(&*item).ok().map(Zeroizing::new))
        .filter(|decoded| decoded.starts_with(b"-----BEGIN"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn certificates_come_as_path_text_or_base64() {
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let pem = certified.cert.pem();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &pem).unwrap();
        let standard = base64::prelude::BASE64_STANDARD.encode(&pem);
        let url_safe = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(&pem);
        let list = format!("system, {}, {pem}, {standard}, {url_safe},", file.path().display());
        let trusted = trusted_certificates(&list).unwrap();
        assert!(trusted.system);
        assert_eq!(trusted.certificates.len(), 4);
        assert!(trusted.certificates.iter().all(|der| der == certified.cert.der()));
        for bad in
            ["/no/such/file.pem", "/dev/null", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"]
        {
            assert!(trusted_certificates(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (trusted_certificates(&text), certificate_chain(&text), private_key(&text));
        }
    }
}
