//! Seal and open: bytes in, bytes out, under the keys of one keyring.
//!
//! Here: the choice of the format. One file per format; `aead` is their base, and `batch` has their nonces. `stream` seals
//! payloads that do not fit into a request. The API decodes JSON and base64.

mod aead;
mod batch;
pub mod copy;
pub(crate) mod encoding;
mod kong;
pub(crate) mod mac;
mod native;
#[cfg(test)]
mod properties;
pub mod stream;
mod transit;
#[cfg(test)]
mod wycheproof;

pub use crate::keyring::{Format, KongFields};
use crate::keyring::{HeldKey, Keyring};
pub use aead::{NoRandomness, OpenError, Opened, OpenedText, Payload, SealError, TEXT_FORMS};
pub use batch::Batch;
pub use native::{ROOM, TAG_LEN, binary_key_id, is_binary, open_kms, overhead};

/// What a message is bound to: it opens only with the same again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Binding<'a> {
    pub associated_data: &'a [u8],
    /// The key is derived for it. Empty for none.
    pub context: &'a [u8],
}

/// The format of a text, by its prefix, if it is one to open.
fn text_format(text: &[u8], kong_fields: KongFields) -> Result<Format, OpenError> {
    let starts_with = |prefix: &str| text.starts_with(prefix.as_bytes());
    if starts_with(native::TEXT_PREFIX) {
        Ok(Format::Native)
    } else if starts_with(transit::TEXT_PREFIX) {
        match kong_fields {
            // Both formats use one key and cipher: without its tag, any Transit ciphertext would open as a field.
            KongFields::Accept => Err(OpenError::TransitWithKongFields),
            KongFields::Refuse => Ok(Format::Transit),
        }
    } else if starts_with(kong::TEXT_PREFIX) {
        match kong_fields {
            KongFields::Refuse => Err(OpenError::KongFieldsOff),
            KongFields::Accept => Ok(Format::Kong),
        }
    } else {
        Err(OpenError::NotACiphertext)
    }
}

/// The error if the text form of any format names a key that the keyring does not have.
pub fn unknown_key(keyring: &Keyring, text: &[u8], kong_fields: KongFields) -> Option<OpenError> {
    let found = text_format(text, kong_fields).and_then(|format| match format {
        Format::Native => native::find_text(keyring, text).map(drop),
        Format::Transit => transit::find_text(keyring, text).map(drop),
        Format::Kong => kong::find_text(keyring, text).map(drop),
    });
    found.err().filter(OpenError::is_unknown_key)
}

/// Opens the text form of any format in place, without a context. A text whose key is unknown stays as it was.
pub fn open_text<'k>(
    keyring: &'k Keyring,
    text: &mut [u8],
    associated_data: &[u8],
    kong_fields: KongFields,
) -> Result<OpenedText<'k>, OpenError> {
    open_bound(keyring, text, Binding { associated_data, context: b"" }, kong_fields, &mut Batch::to_open())
}

/// Opens the text form of any format in place. A text whose key is unknown stays as it was.
pub fn open_bound<'k>(
    keyring: &'k Keyring,
    text: &mut [u8],
    binding: Binding<'_>,
    kong_fields: KongFields,
    batch: &mut Batch,
) -> Result<OpenedText<'k>, OpenError> {
    match text_format(text, kong_fields)? {
        Format::Native => native::open_text(keyring, text, binding, batch),
        Format::Transit => transit::open_text(keyring, text, binding),
        Format::Kong if !binding.associated_data.is_empty() => Err(OpenError::KongAssociatedData),
        Format::Kong if !binding.context.is_empty() => Err(OpenError::KongContext),
        Format::Kong => kong::open_text(keyring, text),
    }
}

/// The key for a context, as the format derives it, in the place of `held`.
pub fn in_context(held: &HeldKey, format: Format, context: &[u8]) -> Result<HeldKey, SealError> {
    let key = match format {
        Format::Native => held.key.in_context(context),
        Format::Transit => held.key.in_transit_context(context),
        Format::Kong => return Err(SealError::KongContext),
    };
    Ok(HeldKey { mapped: held.mapped, ..HeldKey::new(key, held.version, held.created) })
}

/// Seals `buffer[ROOM..]` in place into the binary form of the native format. The first [`ROOM`] bytes are free.
pub fn seal_binary(held: &HeldKey, buffer: Vec<u8>, batch: &mut Batch, associated_data: &[u8]) -> Payload {
    native::seal_binary(&held.key, buffer, batch.nonce(), associated_data)
}

/// The same for Kubernetes: applications cannot open the result.
pub fn seal_kms(held: &HeldKey, buffer: Vec<u8>, batch: &mut Batch, associated_data: &[u8]) -> Payload {
    native::seal_kms(&held.key, buffer, batch.nonce(), associated_data)
}

/// Opens `sealed[start..]`: the binary form, or the text form of any format. It takes the bytes only when it has found a key,
/// so the caller can retry after a sync.
pub fn open_bytes<'k>(
    keyring: &'k Keyring,
    sealed: &mut Vec<u8>,
    start: usize,
    associated_data: &[u8],
    kong_fields: KongFields,
) -> Result<Opened<'k>, OpenError> {
    if is_binary(&sealed[start..]) {
        return native::open_binary(keyring, sealed, start, associated_data);
    }
    let len = sealed[start..].trim_ascii_end().len();
    let Opened { held, format, plaintext } =
        open_text(keyring, &mut sealed[start..start + len], associated_data, kong_fields)?;
    let plaintext = Payload {
        buffer: std::mem::take(sealed),
        start: start + plaintext.start,
        end: start + plaintext.end,
    };
    Ok(Opened { held, format, plaintext })
}

/// Seals the plaintext in place, and appends the text form to `out`: ASCII that JSON does not escape.
pub fn seal_text(
    held: &HeldKey,
    format: Format,
    plaintext: &mut [u8],
    batch: &mut Batch,
    associated_data: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), SealError> {
    match format {
        Format::Native => native::seal_text(&held.key, plaintext, batch, associated_data, out),
        Format::Transit if held.mapped => return Err(SealError::TransitMap(held.key.id().clone())),
        Format::Transit => transit::seal_text(held, plaintext, batch, associated_data, out),
        Format::Kong if !associated_data.is_empty() => return Err(SealError::KongAssociatedData),
        Format::Kong => kong::seal_text(&held.key, plaintext, batch.short_nonce(), out)?,
    }
    Ok(())
}

/// Helpers of the formats' tests.
#[cfg(test)]
mod testing {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        keyring::{Key, KeyId},
        secret::Secret,
    };

    pub(super) fn unhex(hex: &str) -> Vec<u8> {
        hex_simd::decode_to_vec(hex).unwrap()
    }

    pub(super) fn key(id: &str, k: u8) -> Key {
        Key::new(KeyId::parse(id).unwrap(), Secret::new([k; 32]))
    }

    /// A keyring with one key in version 1.
    pub(super) fn keyring(key: Key) -> Keyring {
        let id = key.id().clone();
        Keyring::new([HeldKey::new(key.into(), 1, SystemTime::UNIX_EPOCH)], &id).unwrap()
    }

    /// Opens a copy of the text.
    pub(super) fn opened<'k>(
        keyring: &'k Keyring,
        text: &str,
        associated_data: &[u8],
        kong_fields: KongFields,
    ) -> Result<Opened<'k>, OpenError> {
        let mut buffer = text.as_bytes().to_vec();
        let Opened { held, format, plaintext } =
            open_text(keyring, &mut buffer, associated_data, kong_fields)?;
        let plaintext = Payload { buffer, start: plaintext.start, end: plaintext.end };
        Ok(Opened { held, format, plaintext })
    }

    /// The text form under the active key with a fixed nonce.
    pub(super) fn sealed(
        keyring: &Keyring,
        format: Format,
        nonce: &[u8],
        associated_data: &[u8],
        plaintext: &[u8],
    ) -> Result<String, SealError> {
        let mut batch = Batch::fixed(nonce);
        let (mut plaintext, mut out) = (plaintext.to_vec(), Vec::new());
        seal_text(keyring.active(), format, &mut plaintext, &mut batch, associated_data, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{testing::*, *};

    #[test]
    fn kong_fields_open_only_if_accepted_and_without_associated_data() {
        let keyring = keyring(key("a", 7));
        let field = sealed(&keyring, Format::Kong, &[1; 12], b"", b"hello").unwrap();
        assert_eq!(opened(&keyring, &field, b"", KongFields::Refuse).err(), Some(OpenError::KongFieldsOff));
        assert_eq!(
            opened(&keyring, &field, b"x", KongFields::Accept).err(),
            Some(OpenError::KongAssociatedData)
        );
        assert_eq!(opened(&keyring, &field, b"", KongFields::Accept).unwrap().plaintext.as_bytes(), b"hello");
        let refused = sealed(&keyring, Format::Kong, &[1; 12], b"x", b"hello");
        assert_eq!(refused, Err(SealError::KongAssociatedData));
    }

    #[test]
    fn a_text_that_has_the_form_of_no_format_is_no_ciphertext() {
        let keyring = keyring(key("a", 7));
        for text in [
            "",
            "hello",
            "kr1",
            "kr1:a",
            "KR1:a:AAAA",
            "vault:1:AAAA",
            "vault:vx:AAAA",
            "vault:v1",
            "$ke$1$-a",
        ] {
            let refused = opened(&keyring, text, b"", KongFields::Refuse);
            let expected =
                if text.starts_with('$') { OpenError::KongFieldsOff } else { OpenError::NotACiphertext };
            assert_eq!(refused.err(), Some(expected), "{text}");
        }
        assert_eq!(
            opened(&keyring, "$ke$1$-a", b"", KongFields::Accept).err(),
            Some(OpenError::NotACiphertext)
        );
        // What has the form fails in one way.
        for text in ["kr1:a:", "kr1:a:AAAA", "kr1:a:?", "vault:v1:AAAA", "vault:v1:?"] {
            assert_eq!(
                opened(&keyring, text, b"", KongFields::Refuse).err(),
                Some(OpenError::NotAuthentic),
                "{text}"
            );
        }
    }

    #[test]
    fn a_message_opens_in_its_own_context_only() {
        let keyring = keyring(key("some.id", 7));
        let open = |text: &[u8], context: &[u8]| {
            let (mut text, binding) = (text.to_vec(), Binding { associated_data: b"aad", context });
            let opened = open_bound(&keyring, &mut text, binding, KongFields::Refuse, &mut Batch::to_open())?;
            Ok(text[opened.plaintext].to_vec())
        };
        for format in [Format::Native, Format::Transit] {
            let held = in_context(keyring.active(), format, b"tenant 1").unwrap();
            let (mut out, mut plaintext) = (Vec::new(), b"hello".to_vec());
            let mut batch = Batch::fixed(&[3; 24]);
            seal_text(&held, format, &mut plaintext, &mut batch, b"aad", &mut out).unwrap();
            assert_eq!(open(&out, b"tenant 1"), Ok(b"hello".to_vec()));
            for other in [b"tenant 2".as_slice(), b"", b"tenant 1\0"] {
                assert_eq!(open(&out, other), Err(OpenError::NotAuthentic), "{format:?}");
            }
        }
        assert_eq!(in_context(keyring.active(), Format::Kong, b"x").err(), Some(SealError::KongContext));
        let mut field = sealed(&keyring, Format::Kong, &[1; 12], b"", b"hello").unwrap().into_bytes();
        let binding = Binding { associated_data: b"", context: b"x" };
        let refused = open_bound(&keyring, &mut field, binding, KongFields::Accept, &mut Batch::to_open());
        assert_eq!(refused.err(), Some(OpenError::KongContext));
    }

    proptest! {
        #[test]
        fn a_sealed_text_opens_again(
            plaintext: Vec<u8>, aad: Vec<u8>, nonce: [u8; 24], format in prop_oneof![Just(Format::Native), Just(Format::Transit)]
        ) {
            let keyring = keyring(key("some.id", 7));
            let text = sealed(&keyring, format, &nonce, &aad, &plaintext).unwrap();
            let opened = opened(&keyring, &text, &aad, KongFields::Refuse).unwrap();
            prop_assert_eq!((opened.plaintext.as_bytes(), opened.format), (plaintext.as_slice(), format));
        }

        #[test]
        fn no_text_panics(text: String, prefix in prop_oneof![Just(""), Just("kr1:"), Just("vault:v"), Just("$ke$1$-")]) {
            let keyring = keyring(key("some.id", 7));
            let opened = opened(&keyring, &[prefix, &text].concat(), b"", KongFields::Accept);
            prop_assert!(opened.is_err());
        }
    }
}
