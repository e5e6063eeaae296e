//! The input of a payload command: a file or standard input, with a peek at its start.

use std::{
    fs::{self, File},
    io::{self, Cursor, IsTerminal as _, Read},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    super::command::{Failure, io_failure, print_error, refuse_closed},
    STANDARD,
};
use crate::cipher::TEXT_FORMS;

/// More than the maximum of `keyring_max_request_size`.
const MAX_TEXT: u64 = 1 << 30;

/// With less spare capacity the standard library reads into a buffer of its own, which is not wiped.
const SPARE_ROOM: usize = 64;

pub(super) struct Input {
    name: PathBuf,
    file: File,
    /// Bytes that were peeked and are still to be read.
    head: Cursor<Zeroizing<Vec<u8>>>,
}

impl Input {
    /// `-` is standard input, which is read without the standard library's buffer: that is not wiped.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let (name, opened) = match path {
            Some(path) if path != Path::new(STANDARD) => (path, File::open(path)),
            _ => {
                refuse_closed(io::stdin(), "standard input")?;
                (Path::new("standard input"), io::stdin().as_fd().try_clone_to_owned().map(File::from))
            }
        };
        let file = opened.map_err(io_failure("open", name))?;
        if file.metadata().is_ok_and(|file| file.is_dir()) {
            return Err(Failure::Operation(format!("cannot read {}: it is a folder", name.display())));
        }
        if file.is_terminal() {
            print_error("keyringd: reading from the terminal; Ctrl-D ends the input");
        }
        Ok(Self { name: name.to_owned(), file, head: Cursor::default() })
    }

    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    /// The length of a file; `None` for a pipe.
    pub(super) fn len(&self) -> Option<u64> {
        self.file.metadata().ok().filter(fs::Metadata::is_file).map(|file| file.len())
    }

    /// The first `len` bytes, or all if there are fewer, without consuming them.
    pub(super) fn peek(&mut self, len: usize) -> Result<&[u8], Failure> {
        let mut head = Zeroizing::new(Vec::with_capacity(len + SPARE_ROOM));
        let read = (&mut self.file).take(len as u64).read_to_end(&mut head);
        read.map_err(io_failure("read", &self.name))?;
        self.head = Cursor::new(head);
        Ok(self.head.get_ref())
    }

    /// The whole input as the text form of a ciphertext.
    pub(super) fn text(&mut self) -> Result<String, Failure> {
        let mut bytes = Vec::new();
        self.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(io_failure("read", &self.name))?;
        if bytes.len() as u64 > MAX_TEXT {
            let name = self.name.display();
            return Err(Failure::Operation(format!(
                "{name} exceeds the size of a request, {MAX_TEXT} bytes"
            )));
        }
        let name = self.name.display();
        let text = str::from_utf8(&bytes).map_err(|_| {
            Failure::Operation(format!(
                "{name} is not a ciphertext: it is binary; expected a stream of `keyringd encrypt`, or text as {TEXT_FORMS}"
            ))
        })?;
        match text.trim() {
            "" => Err(Failure::Operation(format!("{name} is empty: expected a ciphertext"))),
            text => Ok(text.to_owned()),
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.head.read(buffer)? {
            0 => self.file.read(buffer),
            read => Ok(read),
        }
    }
}
