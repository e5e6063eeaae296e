//! Base64 as Vault reads it: the standard alphabet with padding, where line breaks and loose trailing bits are accepted
//! (RFC 4648, sections 3.1 and 3.5 leave both to the reader). Writing is strict.

use base64::{
    Engine as _, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use base64_simd::STANDARD;

/// For what the fast decoder refuses.
const LOOSE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The text is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotBase64;

pub(crate) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    STANDARD.encode_append(bytes, out);
}

/// How long the decoded bytes are at most.
pub(crate) fn max_decoded_len(text: &str) -> usize {
    STANDARD.estimated_decoded_length(text.len())
}

/// Appends the decoded bytes to `out`.
///
/// # Errors
/// [`NotBase64`], and `out` is as it was.
pub(crate) fn decode(text: &str, out: &mut Vec<u8>) -> Result<(), NotBase64> {
    STANDARD.decode_append(text, out).or_else(|_| decode_slowly(&LOOSE, text, out))
}

/// The same without loose trailing bits: no two texts differ in these only.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_canonical(text: &str, out: &mut Vec<u8>) -> Result<(), NotBase64> {
    STANDARD.decode_append(text, out).or_else(|_| decode_slowly(&BASE64_STANDARD, text, out))
}

#[cold]
fn decode_slowly(engine: &GeneralPurpose, text: &str, out: &mut Vec<u8>) -> Result<(), NotBase64> {
    let text: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let before = out.len();
    out.resize(before + base64::decoded_len_estimate(text.len()), 0);
    let decoded = engine.decode_slice(&text, &mut out[before..]);
    out.truncate(before + decoded.as_ref().copied().unwrap_or(0));
    decoded.map(drop).map_err(|_| NotBase64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_and_loose_bits_are_read_and_nothing_else() {
        let decoded = |text: &str| {
            let mut out = b"before".to_vec();
            let outcome = decode(text, &mut out);
            assert!(out.starts_with(b"before") && (outcome.is_ok() || out.len() == 6), "{text}");
            outcome.map(|()| out.split_off(6))
        };
        for (text, expected) in
            [("aGVsbG8=", b"hello".as_slice()), ("aGVs\nbG8=\r\n", b"hello"), ("YR==", b"a"), ("", b"")]
        {
            assert_eq!(decoded(text), Ok(expected.to_vec()), "{text}");
        }
        let mut out = Vec::new();
        assert_eq!(decode_canonical("aGVs\nbG8=", &mut out), Ok(()));
        assert_eq!((decode_canonical("YR==", &mut out), out.as_slice()), (Err(NotBase64), &b"hello"[..]));
        for text in ["aGVsbG8", "aGVs bG8=", "aGVs\tbG8=", "=aGVsbG8", "aGVsbG8==", "-_-_", "!", "YQ==YQ=="] {
            assert_eq!(decoded(text), Err(NotBase64), "{text}");
        }
    }
}
