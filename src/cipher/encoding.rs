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

/// Decodes a text where it is, and returns the bytes. A text that is not base64 is damaged.
pub(crate) fn decode_in_place(text: &mut [u8]) -> Result<&mut [u8], NotBase64> {
    decode_with(&LOOSE, text)
}

/// The same without loose trailing bits: no two texts differ in these only.
pub(crate) fn decode_canonical_in_place(text: &mut [u8]) -> Result<&mut [u8], NotBase64> {
    decode_with(&BASE64_STANDARD, text)
}

fn decode_with<'t>(last: &GeneralPurpose, text: &'t mut [u8]) -> Result<&'t mut [u8], NotBase64> {
    match STANDARD.check(text) {
        Ok(()) => STANDARD.decode_inplace(text).map_err(|_| NotBase64),
        Err(_) => decode_slowly(last, text),
    }
}

/// Decodes a text with line breaks, or whose last four characters have what only `last` accepts.
#[cold]
fn decode_slowly<'t>(last: &GeneralPurpose, text: &'t mut [u8]) -> Result<&'t mut [u8], NotBase64> {
    let mut len = 0;
    for at in 0..text.len() {
        if !matches!(text[at], b'\r' | b'\n') {
            text[len] = text[at];
            len += 1;
        }
    }
    let (before, end) = text[..len].split_at_mut(len.saturating_sub(4));
    if len % 4 != 0 || before.ends_with(b"=") {
        return Err(NotBase64);
    }
    let mut decoded = [0; 3];
    let decoded_end = last.decode_slice(end, &mut decoded).map_err(|_| NotBase64)?;
    let at = STANDARD.decode_inplace(before).map_err(|_| NotBase64)?.len();
    text[at..][..decoded_end].copy_from_slice(&decoded[..decoded_end]);
    Ok(&mut text[..at + decoded_end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_and_loose_bits_are_read_and_nothing_else() {
        let decoded = |text: &str| decode_in_place(&mut text.as_bytes().to_vec()).map(|bytes| bytes.to_vec());
        let canonical =
            |text: &str| decode_canonical_in_place(&mut text.as_bytes().to_vec()).map(|bytes| bytes.to_vec());
        for (text, expected) in [
            ("aGVsbG8=", b"hello".as_slice()),
            ("aGVs\nbG8=\r\n", b"hello"),
            ("aGVs\nbG9o", b"helloh"),
            ("\nYQ==", b"a"),
            ("", b""),
            ("\n", b""),
        ] {
            assert_eq!(decoded(text), Ok(expected.to_vec()), "{text}");
            assert_eq!(canonical(text), Ok(expected.to_vec()), "{text}");
        }
        for (text, expected) in [("YR==", b"a".as_slice()), ("aGVsbG9=", b"hello"), ("aGVs\nYR==", b"hela")] {
            assert_eq!((decoded(text), canonical(text)), (Ok(expected.to_vec()), Err(NotBase64)), "{text}");
        }
        for text in [
            "aGVsbG8",
            "aGVs bG8=",
            "aGVs\tbG8=",
            "=aGVsbG8",
            "aGVsbG8==",
            "-_-_",
            "!",
            "YQ==YQ==",
            "YQ==\nYQ==",
            "YR==aGVs",
            "aGVs\n!GVs",
            "====",
            "a",
        ] {
            assert_eq!((decoded(text), canonical(text)), (Err(NotBase64), Err(NotBase64)), "{text}");
        }
    }
}
