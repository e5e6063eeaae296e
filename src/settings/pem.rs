//! Certificates and private keys as settings hold them: a path, PEM text, or base64 of PEM.
//!
//! Only a text that cannot be PEM or base64 counts as a path, because messages quote paths. Files are read in `source`.
//! PEM is RFC 7468, with what people's tools make of it: a byte-order mark, text before it, and literal `\n` for line
//! breaks, as Kong's how-to makes it with awk.

use std::path::PathBuf;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};
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

const BEGIN: &str = "-----BEGIN ";

pub(super) const CERTIFICATES: Parser<()> = Parser::Pem {
    accepts: "certificates in PEM (-----BEGIN CERTIFICATE-----), base64 of PEM, or a path that begins with / or ./",
    convert: |text| certificate_chain(text).map(|_| ()),
};

pub(super) const PRIVATE_KEY: Parser<()> = Parser::Pem {
    accepts: "a private key in PEM (-----BEGIN … PRIVATE KEY-----), base64 of PEM, or a path that begins with / or ./",
    convert: |text| private_key(text).map(|_| ()),
};

pub(super) const TRUSTED: Parser<Vec<TrustItem>> = Parser::Pem {
    accepts: "a list of system, PEM text, base64 of PEM, and paths of PEM files",
    convert: |text| {
        let items = list(text);
        if items.is_empty() {
            return Ok(vec![TrustItem::System]);
        }
        let item = |(at, item): (usize, &String)| {
            trust_item(item).map_err(|found| format!("item {}: {found}", at + 1))
        };
        items.iter().enumerate().map(item).collect()
    },
};

pub(super) fn trust_item(item: &str) -> Result<TrustItem, String> {
    match item {
        "system" => Ok(TrustItem::System),
        path if is_path(path) => Ok(TrustItem::File(PathBuf::from(path))),
        other => match certificate_chain(other) {
            Ok(certificates) => Ok(TrustItem::Certificates(certificates)),
            Err(_) if is_relative_path(other) => Ok(TrustItem::File(PathBuf::from(other))),
            Err(found) => Err(found),
        },
    }
}

/// Whether a value that may be PEM, base64 of PEM or a path is a path.
pub(super) fn is_path(text: &str) -> bool {
    ["/", "./", "../"].iter().any(|start| text.starts_with(start)) && !text.contains(BEGIN)
}

/// A path such as `certs/ca.pem`. Messages quote paths, so a long text that may be base64 of a key is none.
fn is_relative_path(text: &str) -> bool {
    let of_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
    let may_be_base64 = text.len() >= 40 && text.bytes().all(of_base64);
    !may_be_base64 && text.len() < 256 && !text.contains(BEGIN) && !text.contains(char::is_control)
}

/// One certificate or several, as PEM or as base64 of PEM.
///
/// # Errors
/// What was found instead.
pub(crate) fn certificate_chain(value: impl AsRef<[u8]>) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = normalized(value.as_ref());
    let certificates =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| fault(&error))?;
    if certificates.is_empty() {
        return Err(format!("found {} instead of a certificate", found(&pem)));
    }
    certificates.into_iter().map(without_trust_attributes).collect()
}

/// A private key, as PEM or as base64 of PEM.
///
/// # Errors
/// What was found instead.
pub(crate) fn private_key(value: &str) -> Result<PrivateKeyDer<'static>, String> {
    let pem = normalized(value.as_bytes());
    if contains(&pem, b"BEGIN ENCRYPTED PRIVATE KEY-----") || contains(&pem, b"Proc-Type: 4,ENCRYPTED") {
        return Err("the key is encrypted; decrypt it with openssl pkey".to_owned());
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        pem::Error::NoItemsFound => format!("found {} instead of a private key", found(&pem)),
        other => fault(&other),
    })
}

/// Whether a server can use the key with the chain, whose first certificate must be the key's.
pub(crate) fn check_pair(certificate: &str, key: &str) -> Result<(), String> {
    let (chain, key) = (certificate_chain(certificate)?, private_key(key)?);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("the key is not that of the first certificate".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The PEM in a value, with real line breaks, and each section at the start of a line.
fn normalized(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let decoded = str::from_utf8(value).ok().and_then(base64_pem);
    let mut pem = Zeroizing::new(decoded.as_deref().map_or(value, Vec::as_slice).to_vec());
    // OpenSSL's form of a certificate with trust attributes, which follow the certificate in the same section.
    for (from, to) in [
        (br"\n".as_slice(), b"\n".as_slice()),
        (b"-----BEGIN ", b"\n-----BEGIN "),
        (b" TRUSTED CERTIFICATE-----", b" CERTIFICATE-----"),
    ] {
        pem = replaced(&pem, from, to);
    }
    pem
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(bytes.len().saturating_mul(2)));
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        if let Some(behind) = rest.strip_prefix(from) {
            out.extend_from_slice(to);
            rest = behind;
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

fn base64_pem(item: &str) -> Option<Zeroizing<Vec<u8>>> {
    // base64(1) breaks its lines.
    let item = Zeroizing::new(item.split_ascii_whitespace().collect::<String>());
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [alphabet::STANDARD, alphabet::URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(&*item).ok().map(Zeroizing::new))
        .filter(|decoded| contains(decoded, BEGIN.as_bytes()))
}

/// The kinds of PEM sections in a text, for a message. Nothing of the text is quoted.
fn found(pem: &[u8]) -> &'static str {
    [
        ("ENCRYPTED PRIVATE KEY-----", "an encrypted private key"),
        ("PRIVATE KEY-----", "a private key"),
        ("PUBLIC KEY-----", "a public key"),
        ("BEGIN CERTIFICATE REQUEST-----", "a certificate request"),
        ("BEGIN CERTIFICATE-----", "a certificate"),
        (BEGIN, "another kind of PEM"),
    ]
    .into_iter()
    .find(|(label, _)| contains(pem, label.as_bytes()))
    .map_or("no PEM", |(_, kind)| kind)
}

/// Without the details, which quote the text.
fn fault(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "the PEM has no END line",
        pem::Error::IllegalSectionStart { .. } => "the PEM has a BEGIN line that does not end with -----",
        pem::Error::Base64Decode(_) => "the PEM is not valid base64",
        _ => "the PEM cannot be read",
    }
    .to_owned()
}

/// OpenSSL's trust attributes follow the certificate: `SEQUENCE { trust, [0] reject, alias, … }` (X509_CERT_AUX). Uses
/// that they reject are not checked here, so such a certificate is not accepted.
fn without_trust_attributes(certificate: CertificateDer<'static>) -> Result<CertificateDer<'static>, String> {
    let Some((_, _, attributes)) = element(&certificate) else { return Ok(certificate) };
    if attributes.is_empty() {
        return Ok(certificate);
    }
    let mut rest = element(attributes).map_or(attributes, |(_, content, _)| content);
    while let Some((tag, _, after)) = element(rest) {
        if tag == 0xa0 {
            return Err("found a TRUSTED CERTIFICATE that rejects some uses; remove them with openssl x509"
                .to_owned());
        }
        rest = after;
    }
    let len = certificate.len().saturating_sub(attributes.len());
    Ok(CertificateDer::from(certificate[..len].to_vec()))
}

/// The first DER element: its tag, its content, and the bytes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let len = len
            .iter()
            .try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))?;
        (len, rest)
    };
    let (content, after) = rest.split_at_checked(len)?;
    Some((tag, content, after))
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
        for path in ["certs/ca.pem", "authorities"] {
            let found = TRUSTED.parse(path);
            assert!(
                matches!(found.as_deref(), Some([TrustItem::File(file)]) if file.to_str() == Some(path)),
                "{found:?}"
            );
        }
        for bad in [
            "MC4CAQAwBQYDK2VwBCIEIPlantedPlantedPlanted",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
        ] {
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
