//! Where a payload comes from: a file, or standard input. Its beginning can be looked at before it is read.

use std::{
    fs::File,
    io::{self, Cursor, Read},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::super::{Failure, closed, named, was_closed};

/// More than any daemon takes in one request.
const MAX_TEXT: u64 = 1 << 30;

/// The standard library reads into a buffer of its own, which nobody wipes, only where a vector has less room left.
const SPARE_ROOM: usize = 64;

pub struct Input {
    name: PathBuf,
    file: File,
    /// What was looked at and is still to be read.
    head: Cursor<Zeroizing<Vec<u8>>>,
}

impl Input {
    /// A file, or standard input past its buffer, which nobody wipes.
    pub fn open(path: Option<&Path>) -> Result<Self, Failure> {
        if path.is_none() && was_closed(io::stdin()) {
            return Err(closed("standard input"));
        }
        let (name, opened) = match path {
            Some(path) => (path, File::open(path)),
            None => (Path::new("standard input"), io::stdin().as_fd().try_clone_to_owned().map(File::from)),
        };
        let file = opened.map_err(named(name, "open"))?;
        Ok(Self { name: name.to_owned(), file, head: Cursor::default() })
    }

    pub fn name(&self) -> &Path {
        &self.name
    }

    /// How long it is, where that is known.
    pub fn len(&self) -> Option<u64> {
        self.file.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len())
    }

    /// The first `len` bytes, or all if there are fewer. They are still to be read.
    pub fn peek(&mut self, len: usize) -> Result<&[u8], Failure> {
        let mut head = Zeroizing::new(Vec::with_capacity(len + SPARE_ROOM));
        let read = (&mut self.file).take(len as u64).read_to_end(&mut head);
        read.map_err(named(&self.name, "read"))?;
        self.head = Cursor::new(head);
        Ok(self.head.get_ref())
    }

    /// All of it as the text of a ciphertext.
    pub fn text(&mut self) -> Result<String, Failure> {
        let mut bytes = Vec::new();
        self.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(named(&self.name, "read"))?;
        if bytes.len() as u64 > MAX_TEXT {
            let name = self.name.display();
            return Err(Failure::Operation(format!("{name} is larger than one request can be")));
        }
        let text = str::from_utf8(&bytes).map_err(|_| Failure::operation("the input is not a ciphertext"))?;
        Ok(text.trim().to_owned())
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
