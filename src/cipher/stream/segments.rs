//! A stream's input, cut into numbered segments; which of them is the last is known from one byte read ahead.
//!
//! What is done with a segment, and under which key, is the parent's business.

use std::io::{self, Read};

use super::{StreamError, TAG_LEN};

/// Where a segment stands in its stream. Each is handed out once, so no nonce is used twice.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub position: u32,
    pub last: bool,
}

/// Cuts what it reads into segments that are all full but the last.
pub struct Segments<R> {
    input: R,
    /// The length of a full one.
    len: usize,
    /// The segment at hand, with room for the tag behind it, so that the buffer never moves.
    pub buffer: Vec<u8>,
    /// The first byte of the next segment: only where there is none was this the last.
    ahead: Option<u8>,
    /// Of the next segment; `None` after the last.
    position: Option<u32>,
    /// Bytes of the segments up to here.
    pub taken: u64,
}

impl<R: Read> Segments<R> {
    pub fn new(input: R, len: usize) -> Self {
        let buffer = Vec::with_capacity(len + 1 + TAG_LEN);
        Self { input, len, buffer, ahead: None, position: Some(0), taken: 0 }
    }

    /// Reads the next segment into the buffer; `None` after the last.
    ///
    /// # Errors
    /// [`StreamError::Read`] and [`StreamError::TooLong`].
    pub fn advance(&mut self) -> Result<Option<Place>, StreamError> {
        let Some(position) = self.position else { return Ok(None) };
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
        self.position = if last { None } else { Some(position.checked_add(1).ok_or(StreamError::TooLong)?) };
        Ok(Some(Place { position, last }))
    }
}

/// Reads until the buffer is full or the input ends. Answers how much was read.
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
    fn the_counter_is_used_up_and_never_wraps() {
        let mut segments = Segments::new([1, 2].as_slice(), 1);
        segments.position = Some(u32::MAX - 1);
        let second_to_last = Place { position: u32::MAX - 1, last: false };
        assert_eq!(segments.advance().unwrap(), Some(second_to_last));
        assert_eq!(segments.advance().unwrap(), Some(Place { position: u32::MAX, last: true }));
        assert_eq!(segments.advance().unwrap(), None);

        let mut segments = Segments::new([1, 2].as_slice(), 1);
        segments.position = Some(u32::MAX);
        assert!(matches!(segments.advance(), Err(StreamError::TooLong)));
    }
}
