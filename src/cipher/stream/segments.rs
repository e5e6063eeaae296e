//! The input of a stream, split into numbered segments. One byte of read-ahead detects the last segment.
//!
//! The parent seals and opens segments; this file knows no key.

use std::io::{self, Read};

use super::super::aead::NoRandomness;

pub const TAG_LEN: usize = 16;

/// Longer than any wrapped key, so that a header cannot request much memory.
pub const MAX_WRAPPED_LEN: usize = 1024;

/// Why a stream cannot be written or read.
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
pub struct SegmentPosition {
    pub index: u32,
    pub last: bool,
}

/// Splits its input into segments. All but the last are full.
pub struct Segments<R> {
    input: R,
    /// The length of a full segment.
    len: usize,
    /// The current segment. Its capacity includes the tag, so the buffer is never reallocated.
    pub buffer: Vec<u8>,
    /// The first byte of the next segment. `None` after the last segment.
    ahead: Option<u8>,
    /// The index of the next segment; `None` after the last.
    next_index: Option<u32>,
    /// The bytes of all segments returned so far.
    pub taken: u64,
}

impl<R: Read> Segments<R> {
    pub fn new(input: R, len: usize) -> Self {
        let buffer = Vec::with_capacity(len + 1 + TAG_LEN);
        Self { input, len, buffer, ahead: None, next_index: Some(0), taken: 0 }
    }

    /// Reads the next segment into the buffer. `None` after the last.
    pub fn advance(&mut self) -> Result<Option<SegmentPosition>, StreamError> {
        let Some(index) = self.next_index else { return Ok(None) };
        self.buffer.clear();
        self.buffer.extend(self.ahead.take());
        let filled = self.buffer.len();
        self.buffer.resize(self.len + 1, 0);
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
pub fn read_full(mut input: impl Read, buffer: &mut [u8]) -> Result<usize, StreamError> {
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
    use super::*;

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
