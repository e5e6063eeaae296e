//! Streams: payloads of any size in constant memory, under one data key per stream, which the keyring wraps.
//!
//! `KRS1 ‖ len(wrapped) as u16 ‖ wrapped ‖ prefix[7] ‖ segments`, big-endian. Segment `i` is AES-256-GCM of 64 KiB of
//! plaintext, with nonce `prefix ‖ i as u32 ‖ last as u8` and associated data `KRS1`. The last segment may be shorter; it
//! is empty only if the plaintext is empty. This is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: Online
//! Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance, CRYPTO 2015), implemented by RustCrypto's aead-stream.

use std::io::{self, Read, Write};

use aead_stream::{NewStream as _, StreamBE32, StreamPrimitive as _};
use aes_gcm::Aes256Gcm;

use super::{aead::NoRandomness, native::TAG_LEN};
use crate::secret::Secret;

/// The first bytes of a stream, unique among our formats.
pub const MAGIC: &[u8; 4] = b"KRS1";

/// The data key seals one stream and nothing else.
pub type DataKey = Secret<[u8; 32]>;

const SEGMENT_LEN: usize = 64 << 10;
const PREFIX_LEN: usize = 7;

/// The bytes before the segments, which do not authenticate the wrapped key: a rewrap replaces only the header, and a wrong
/// key opens no segment.
#[derive(Debug)]
pub struct Header {
    wrapped: String,
    prefix: [u8; PREFIX_LEN],
}

impl Header {
    /// A header for a new stream with a random prefix. `wrapped` is the wrapped data key.
    pub fn new(wrapped: String) -> Result<Self, StreamError> {
        let mut prefix = [0; PREFIX_LEN];
        getrandom::fill(&mut prefix).map_err(NoRandomness::from)?;
        Self { wrapped: String::new(), prefix }.rewrapped(wrapped)
    }

    /// The header of the same segments with a rewrapped data key.
    pub fn rewrapped(self, wrapped: String) -> Result<Self, StreamError> {
        if is_wrapped_key(&wrapped) { Ok(Self { wrapped, ..self }) } else { Err(StreamError::NotAWrappedKey) }
    }

    pub fn wrapped(&self) -> &str {
        &self.wrapped
    }

    /// Reads a header and stops at the first segment.
    pub fn read(mut input: impl Read) -> Result<Self, StreamError> {
        let mut head = [0; MAGIC.len() + 2];
        read_header(&mut input, &mut head)?;
        let [magic @ .., high, low] = head;
        let len = usize::from(u16::from_be_bytes([high, low]));
        if &magic != MAGIC || len > MAX_WRAPPED_LEN {
            return Err(StreamError::NotAStream);
        }
        let mut wrapped = vec![0; len];
        read_header(&mut input, &mut wrapped)?;
        let mut prefix = [0; PREFIX_LEN];
        read_header(&mut input, &mut prefix)?;
        match String::from_utf8(wrapped) {
            Ok(wrapped) if is_wrapped_key(&wrapped) => Ok(Self { wrapped, prefix }),
            _ => Err(StreamError::NotAStream),
        }
    }

    pub fn write(&self, mut output: impl Write) -> Result<(), StreamError> {
        let len = u16::try_from(self.wrapped.len()).map_err(|_| StreamError::NotAWrappedKey)?;
        let header = [MAGIC, len.to_be_bytes().as_slice(), self.wrapped.as_bytes(), &self.prefix].concat();
        output.write_all(&header).map_err(StreamError::Write)
    }
}

/// Seals all of `input` into segments. The caller writes `header` first. `progress` receives the number of input bytes done
/// after each segment.
pub fn seal(
    key: &DataKey,
    header: &Header,
    input: impl Read,
    mut output: impl Write,
    progress: &mut dyn FnMut(u64),
) -> Result<(), StreamError> {
    let cipher = cipher(key, header);
    let mut segments = Segments::new(input, SEGMENT_LEN);
    while let Some(SegmentPosition { index, last }) = segments.advance()? {
        cipher
            .encrypt_in_place(index, last, MAGIC, &mut segments.buffer)
            .unwrap_or_else(|_| unreachable!("a segment is smaller than AES-GCM's limit of 64 GiB"));
        output.write_all(&segments.buffer).map_err(StreamError::Write)?;
        progress(segments.taken);
    }
    output.flush().map_err(StreamError::Write)
}

/// Opens the segments after `header`. It writes the plaintext of a segment once that is authentic. A truncated stream is
/// detected only at its end: use the output only if this succeeds.
pub fn open(
    key: &DataKey,
    header: &Header,
    input: impl Read,
    output: impl Write,
    progress: &mut dyn FnMut(u64),
) -> Result<(), StreamError> {
    authenticate(key, header, input, output, Emit::Plaintext, progress)
}

/// Copies the segments after `header` unchanged, each once it is authentic. The caller writes a rewrapped header first.
pub fn copy_verified(
    key: &DataKey,
    header: &Header,
    input: impl Read,
    output: impl Write,
    progress: &mut dyn FnMut(u64),
) -> Result<(), StreamError> {
    authenticate(key, header, input, output, Emit::Segment, progress)
}

/// The output for an authentic segment.
#[derive(Clone, Copy)]
enum Emit {
    Plaintext,
    Segment,
}

fn authenticate(
    key: &DataKey,
    header: &Header,
    input: impl Read,
    mut output: impl Write,
    emit: Emit,
    progress: &mut dyn FnMut(u64),
) -> Result<(), StreamError> {
    let cipher = cipher(key, header);
    let mut segments = Segments::new(input, SEGMENT_LEN + TAG_LEN);
    let mut segment = Vec::new();
    while let Some(SegmentPosition { index, last }) = segments.advance()? {
        if matches!(emit, Emit::Segment) {
            segment.clone_from(&segments.buffer);
        }
        let opened = cipher.decrypt_in_place(index, last, MAGIC, &mut segments.buffer);
        // Only the empty plaintext has an empty segment, so that each plaintext has one encoding.
        if opened.is_err() || (segments.buffer.is_empty() && index > 0) {
            return Err(StreamError::NotAuthentic);
        }
        let emitted = match emit {
            Emit::Plaintext => &*segments.buffer,
            Emit::Segment => &segment,
        };
        output.write_all(emitted).map_err(StreamError::Write)?;
        progress(segments.taken);
    }
    output.flush().map_err(StreamError::Write)
}

fn cipher(key: &DataKey, header: &Header) -> StreamBE32<Aes256Gcm> {
    StreamBE32::new(key.expose().into(), &header.prefix.into())
}

fn read_header(input: impl Read, buffer: &mut [u8]) -> Result<(), StreamError> {
    if read_full(input, buffer)? == buffer.len() { Ok(()) } else { Err(StreamError::NotAStream) }
}

fn is_wrapped_key(text: &str) -> bool {
    (1..=MAX_WRAPPED_LEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Longer than any wrapped key, so that a header cannot request much memory.
const MAX_WRAPPED_LEN: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("cannot read: {0}")]
    Read(io::Error),
    #[error("cannot write: {0}")]
    Write(io::Error),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error("the wrapped data key is invalid: expected 1 to {MAX_WRAPPED_LEN} visible ASCII characters")]
    NotAWrappedKey,
    #[error("the input is not a stream of keyringd, or is truncated in the header")]
    NotAStream,
    #[error("decryption failed: the stream is truncated, was changed or reordered, or has another key")]
    NotAuthentic,
    #[error("the input exceeds the limit of 2^32 segments of 64 KiB; split it")]
    TooLong,
}

/// The position of a segment. Each position is returned once, so no nonce is reused.
#[derive(Debug, PartialEq, Eq)]
struct SegmentPosition {
    index: u32,
    last: bool,
}

/// Splits its input into segments. All but the last are full. One byte of read-ahead detects the last.
struct Segments<R> {
    input: R,
    /// The length of a full segment.
    len: usize,
    /// The current segment. Its capacity includes the tag, so the buffer is never reallocated.
    buffer: Vec<u8>,
    /// The first byte of the next segment. `None` after the last segment.
    ahead: Option<u8>,
    /// The index of the next segment; `None` after the last.
    next_index: Option<u32>,
    /// The bytes of all segments returned so far.
    taken: u64,
}

impl<R: Read> Segments<R> {
    fn new(input: R, len: usize) -> Self {
        let buffer = Vec::with_capacity(len + 1 + TAG_LEN);
        Self { input, len, buffer, ahead: None, next_index: Some(0), taken: 0 }
    }

    /// Reads the next segment into the buffer. `None` after the last.
    fn advance(&mut self) -> Result<Option<SegmentPosition>, StreamError> {
        let Some(index) = self.next_index else { return Ok(None) };
        self.buffer.resize(self.len + 1, 0); // the former segment is overwritten, which costs less than clearing it
        let filled = match (self.ahead.take(), self.buffer.first_mut()) {
            (Some(ahead), Some(first)) => {
                *first = ahead;
                1
            }
            _ => 0,
        };
        let read = read_full(&mut self.input, &mut self.buffer[filled..])?;
        self.buffer.truncate(filled + read);
        if self.buffer.len() > self.len {
            self.ahead = self.buffer.pop();
        }
        self.taken += self.buffer.len() as u64;
        let last = self.ahead.is_none();
        self.next_index = if last { None } else { Some(index.checked_add(1).ok_or(StreamError::TooLong)?) };
        Ok(Some(SegmentPosition { index, last }))
    }
}

/// Reads until the buffer is full or the input ends. Returns the number of bytes read.
fn read_full(mut input: impl Read, buffer: &mut [u8]) -> Result<usize, StreamError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StreamError::Read(error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use hex_simd::{AsciiCase::Lower, decode_to_vec as from_hex, encode_to_string as to_hex};
    use proptest::prelude::*;
    use serde::Deserialize;
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        key_hex: String,
        wrapped: String,
        prefix_hex: String,
        plaintext_len: usize,
        stream_len: usize,
        stream_sha256: String,
        stream_hex: Option<String>,
    }

    const WRAPPED: &str = "kr1:some.id:AAAA";
    const SEALED_LEN: usize = SEGMENT_LEN + TAG_LEN;

    fn key() -> DataKey {
        Secret::new([7; 32])
    }

    /// Byte `i` is `i mod 251`, as in the vectors, so that all segments differ.
    fn plaintext(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    fn stream(key: &DataKey, header: &Header, plaintext: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        header.write(&mut out).unwrap();
        seal(key, header, plaintext, &mut out, &mut |_| {}).unwrap();
        out
    }

    fn some_header() -> Header {
        Header { wrapped: WRAPPED.to_owned(), prefix: [3; PREFIX_LEN] }
    }

    fn some_stream(len: usize) -> Vec<u8> {
        stream(&key(), &some_header(), &plaintext(len))
    }

    /// The length of the header in [`some_stream`].
    const START: usize = MAGIC.len() + 2 + WRAPPED.len() + PREFIX_LEN;

    fn opened(key: &DataKey, mut stream: &[u8]) -> Result<Vec<u8>, StreamError> {
        let header = Header::read(&mut stream)?;
        let mut out = Vec::new();
        open(key, &header, stream, &mut out, &mut |_| {})?;
        Ok(out)
    }

    /// Neither opened nor copied by a rewrap.
    #[track_caller]
    fn assert_refused(stream: &[u8], what: &str) {
        let error = opened(&key(), stream).expect_err(what);
        assert!(matches!(error, StreamError::NotAuthentic | StreamError::NotAStream), "{what}: {error}");
        let mut rest = stream;
        if let Ok(header) = Header::read(&mut rest) {
            let copied = copy_verified(&key(), &header, rest, io::sink(), &mut |_| {});
            assert!(matches!(copied, Err(StreamError::NotAuthentic)), "{what} was copied");
        }
    }

    #[test]
    fn known_answers_of_the_stream_format() {
        let file: Vectors = serde_json::from_str(include_str!("../../tests/vectors/stream.json")).unwrap();
        assert_eq!(file.vectors.len(), 6);
        for vector in file.vectors {
            let key = Secret::new(from_hex(&vector.key_hex).unwrap().try_into().unwrap());
            let prefix = from_hex(&vector.prefix_hex).unwrap().try_into().unwrap();
            let plaintext = plaintext(vector.plaintext_len);
            let sealed = stream(&key, &Header { wrapped: vector.wrapped.clone(), prefix }, &plaintext);

            assert_eq!(sealed.len(), vector.stream_len);
            assert_eq!(
                to_hex(Sha256::digest(&sealed), Lower),
                vector.stream_sha256,
                "{}",
                vector.plaintext_len
            );
            assert!(vector.stream_hex.is_none_or(|expected| to_hex(&sealed, Lower) == expected));
            assert!(opened(&key, &sealed).unwrap() == plaintext);
        }
    }

    #[test]
    fn a_truncated_stream_is_refused_at_every_length() {
        let whole = some_stream(2 * SEGMENT_LEN + 100);
        for cut in 0..START + 2 * TAG_LEN {
            assert_refused(&whole[..cut], &format!("cut at {cut}"));
        }
        for boundary in [START + SEALED_LEN, START + 2 * SEALED_LEN, whole.len()] {
            for cut in [boundary - TAG_LEN - 1, boundary - TAG_LEN, boundary - 1, boundary, boundary + 1] {
                if cut < whole.len() {
                    assert_refused(&whole[..cut], &format!("cut at {cut}"));
                }
            }
        }
        for cut in [START + SEALED_LEN + TAG_LEN, START + 2 * SEALED_LEN + TAG_LEN] {
            assert_refused(&whole[..cut], &format!("cut at {cut}"));
        }
    }

    #[test]
    fn reordered_repeated_and_added_segments_are_refused() {
        let whole = some_stream(2 * SEGMENT_LEN + 100);
        let (head, segments) = whole.split_at(START);
        let parts: Vec<_> = segments.chunks(SEALED_LEN).collect();
        let [first, second, last] = parts[..] else { panic!("three segments") };
        for (what, order) in [
            ("two full ones swapped", [second, first, last].as_slice()),
            ("the last one first", &[last, first, second]),
            ("one repeated", &[first, first, second, last]),
            ("the last one repeated", &[first, second, last, last]),
            ("one left out", &[first, last]),
            ("the first one left out", &[second, last]),
            ("a byte added", &[first, second, last, b"\0"]),
            ("nothing but the last", &[last]),
        ] {
            assert_refused(&[head, &order.concat()].concat(), what);
        }
        let full = some_stream(2 * SEGMENT_LEN);
        let (head, segments) = full.split_at(START);
        let (first, second) = segments.split_at(SEALED_LEN);
        assert_refused(&[head, first, second, second].concat(), "a full last one repeated");
        assert_refused(&[head, second, first].concat(), "a full last one first");
    }

    #[test]
    fn an_empty_segment_after_others_is_refused_even_if_authentic() {
        let mut forged = Vec::new();
        some_header().write(&mut forged).unwrap();
        for (position, len) in [(0, SEGMENT_LEN), (1, 0)] {
            let mut segment = plaintext(len);
            cipher(&key(), &some_header())
                .encrypt_in_place(position, position == 1, MAGIC, &mut segment)
                .unwrap();
            forged.extend(segment);
        }
        assert_refused(&forged, "an empty last segment");
    }

    #[test]
    fn every_flipped_bit_makes_open_fail_except_in_the_wrapped_key() {
        let whole = some_stream(5);
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let in_the_key_and_still_text = (6..6 + WRAPPED.len()).contains(&(bit / 8))
                && Header::read(changed.as_slice()).is_ok_and(|header| header.wrapped() != WRAPPED);
            if !in_the_key_and_still_text {
                assert_refused(&changed, &format!("bit {bit}"));
            }
        }
        let error = opened(&Secret::new([8; 32]), &whole);
        assert!(matches!(error, Err(StreamError::NotAuthentic)), "another key");
    }

    #[test]
    fn a_rewrap_replaces_only_the_header() {
        let whole = some_stream(SEGMENT_LEN + 1);
        let mut segments = whole.as_slice();
        let header = Header::read(&mut segments).unwrap().rewrapped("kr1:other:BBBB".to_owned()).unwrap();
        let mut rewrapped = Vec::new();
        header.write(&mut rewrapped).unwrap();
        copy_verified(&key(), &header, segments, &mut rewrapped, &mut |_| {}).unwrap();
        assert!(rewrapped.ends_with(&whole[START..]) && rewrapped.starts_with(b"KRS1\0\x0ekr1:other:BBBB"));
        assert!(opened(&key(), &rewrapped).unwrap() == plaintext(SEGMENT_LEN + 1));
    }

    #[test]
    fn an_invalid_wrapped_key_is_neither_written_nor_read() {
        for wrapped in ["", "two words", "line\n", "é", &"x".repeat(MAX_WRAPPED_LEN + 1)] {
            let refused = Header::new(wrapped.to_owned());
            assert!(matches!(refused, Err(StreamError::NotAWrappedKey)), "{wrapped:?}");
            let mut bytes = Vec::new();
            Header { wrapped: wrapped.to_owned(), prefix: [0; PREFIX_LEN] }.write(&mut bytes).unwrap();
            assert!(matches!(Header::read(bytes.as_slice()), Err(StreamError::NotAStream)), "{wrapped:?}");
        }
        let longest = Header::new("x".repeat(MAX_WRAPPED_LEN)).unwrap();
        let mut bytes = Vec::new();
        longest.write(&mut bytes).unwrap();
        assert_eq!(Header::read(bytes.as_slice()).unwrap().prefix, longest.prefix);
        assert_ne!(Header::new(WRAPPED.to_owned()).unwrap().prefix, longest.prefix);
    }

    #[test]
    fn progress_reports_the_input_bytes_done() {
        let mut reported = Vec::new();
        let plaintext = plaintext(2 * SEGMENT_LEN + 5);
        seal(&key(), &some_header(), &*plaintext, io::sink(), &mut |bytes| reported.push(bytes)).unwrap();
        assert_eq!(reported, [SEGMENT_LEN, 2 * SEGMENT_LEN, 2 * SEGMENT_LEN + 5].map(|len| len as u64));
    }

    /// Returns a few bytes per call, and is interrupted in between.
    struct Trickle<'a>(&'a [u8], bool);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = buffer.len().min(1000);
            self.0.read(&mut buffer[..len])
        }
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }

    #[test]
    fn short_reads_are_joined_and_io_errors_are_returned() {
        let mut sealed = Vec::new();
        let plaintext = plaintext(SEGMENT_LEN + 1);
        some_header().write(&mut sealed).unwrap();
        seal(&key(), &some_header(), Trickle(&plaintext, false), &mut sealed, &mut |_| {}).unwrap();
        assert!(sealed == some_stream(SEGMENT_LEN + 1));

        let failed = seal(&key(), &some_header(), plaintext.chain(Broken), io::sink(), &mut |_| {});
        assert!(matches!(failed, Err(StreamError::Read(_))));
        let mut full = [0; 10];
        let failed = seal(&key(), &some_header(), &*plaintext, full.as_mut_slice(), &mut |_| {});
        assert!(matches!(failed, Err(StreamError::Write(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_sealed_stream_opens_again(len in 0..2 * SEGMENT_LEN + 2, key: [u8; 32], prefix: [u8; PREFIX_LEN]) {
            let (key, plaintext) = (Secret::new(key), plaintext(len));
            let sealed = stream(&key, &Header { wrapped: WRAPPED.to_owned(), prefix }, &plaintext);
            prop_assert!(opened(&key, &sealed).unwrap() == plaintext);
        }

        #[test]
        fn no_input_panics(bytes: Vec<u8>) {
            prop_assert!(opened(&key(), &bytes).is_err());
            prop_assert!(opened(&key(), &[b"KRS1\0\x01x".as_slice(), &bytes].concat()).is_err());
        }
    }

    #[test]
    fn the_index_never_wraps() {
        let mut segments = Segments::new([1, 2].as_slice(), 1);
        segments.next_index = Some(u32::MAX - 1);
        let second_to_last = SegmentPosition { index: u32::MAX - 1, last: false };
        assert_eq!(segments.advance().unwrap(), Some(second_to_last));
        assert_eq!(segments.advance().unwrap(), Some(SegmentPosition { index: u32::MAX, last: true }));
        assert_eq!(segments.advance().unwrap(), None);

        let mut segments = Segments::new([1, 2].as_slice(), 1);
        segments.next_index = Some(u32::MAX);
        assert!(matches!(segments.advance(), Err(StreamError::TooLong)));
    }
}
