//! Certificates and private keys as settings hold them: a path, PEM text, or base64 of PEM.
//!
//! Only a text that cannot be PEM or base64 counts as a path, because messages quote paths. Files are read in `source`.

use std::path::PathBuf;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use zeroize::Zeroizing;

use super::{setting::Parser, value::list};

/// An item of `lua_ssl_trusted_certificate`.
#[derive(Clone, Debug)]
pub enum TrustItem {
    /// The certificate authorities of the operating system.
    System,
    File(PathBuf),
    Certificates(Vec<CertificateDer<'static>>),
}

const CERTIFICATES_FORM: &str =
    "certificates in PEM (-----BEGIN CERTIFICATE-----), base64 of PEM, or a path that begins with / or ./";
const PRIVATE_KEY_FORM: &str =
    "a private key in PEM (-----BEGIN … PRIVATE KEY-----), base64 of PEM, or a path that begins with / or ./";

pub(super) const CERTIFICATES: Parser<()> =
    Parser::Text { accepts: CERTIFICATES_FORM, convert: |text| certificate_chain(text).ok().map(|_| ()) };

pub(super) const PRIVATE_KEY: Parser<()> =
    Parser::Text { accepts: PRIVATE_KEY_FORM, convert: |text| private_key(text).ok().map(|_| ()) };

pub(super) const TRUSTED: Parser<Vec<TrustItem>> = Parser::Text {
    accepts: "a list of system, PEM text, base64 of PEM, and paths of PEM files that begin with / or ./",
    convert: |text| list(text).iter().map(|item| trust_item(item)).collect(),
};

fn trust_item(item: &str) -> Option<TrustItem> {
    match item {
        "system" => Some(TrustItem::System),
        path if is_path(path) => Some(TrustItem::File(PathBuf::from(path))),
        pem => certificate_chain(pem).ok().map(TrustItem::Certificates),
    }
}

/// Whether a value that may be PEM, base64 of PEM or a path is a path.
pub(super) fn is_path(text: &str) -> bool {
    ["/", "./", "../"].iter().any(|start| text.starts_with(start)) && !text.contains("-----BEGIN")
}

/// One certificate or several, as PEM or as base64 of PEM. The error is what is expected instead.
pub(crate) fn certificate_chain(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let decoded = base64_pem(text);
    let pem = decoded.as_deref().map_or(text.as_bytes(), Vec::as_slice);
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(CERTIFICATES_FORM.to_owned()),
    }
}

/// A private key, as PEM or as base64 of PEM. The error is what is expected instead.
pub(crate) fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, String> {
    let decoded = base64_pem(text);
    let pem = decoded.as_deref().map_or(text.as_bytes(), Vec::as_slice);
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| PRIVATE_KEY_FORM.to_owned())
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
    fn trusted_certificates_are_system_paths_text_or_base64() {
        let pem = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap().cert.pem();
        let standard = base64::prelude::BASE64_STANDARD.encode(&pem);
        let url_safe = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(&pem);
        let items = TRUSTED.parse(&format!("system, /a/ca.pem, {pem}, {standard}, {url_safe},")).unwrap();
        let [TrustItem::System, TrustItem::File(path), rest @ ..] = items.as_slice() else {
            panic!("{items:?}")
        };
        assert_eq!((path.to_str(), rest.len()), (Some("/a/ca.pem"), 3));
        assert!(rest.iter().all(|item| matches!(item, TrustItem::Certificates(found) if found.len() == 1)));
        for bad in ["ca.pem", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"] {
            assert!(TRUSTED.parse(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (TRUSTED.parse(&text), certificate_chain(&text), private_key(&text));
        }
    }
}
