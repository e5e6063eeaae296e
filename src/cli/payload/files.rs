//! The input and output of a payload command: files, or standard input and output.
//!
//! The input has a peek at its start. An output file appears when it is complete: without `--force` it never replaces a
//! file, and after a failure or a signal no partial file remains.

use std::{
    fs::{self, File},
    io::{self, Cursor, IsTerminal as _, Read, Write},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::super::command::{Failure, io_failure, refuse_closed};
use crate::{server::listen::parent_folder, signals};

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
    /// Standard input is read without the standard library's buffer, which is not wiped.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let (name, opened) = match path {
            Some(path) => (path, File::open(path)),
            None => {
                refuse_closed(io::stdin(), "standard input")?;
                (Path::new("standard input"), io::stdin().as_fd().try_clone_to_owned().map(File::from))
            }
        };
        let file = opened.map_err(io_failure("open", name))?;
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
        let text =
            str::from_utf8(&bytes).map_err(|_| Failure::from_error("the input is not a ciphertext"))?;
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

pub(super) enum Output<'a> {
    /// Without the standard library's buffer, which is not wiped.
    Standard(File),
    File {
        path: &'a Path,
        /// Replace an existing file.
        force: bool,
        unfinished: NamedTempFile,
    },
}

impl<'a> Output<'a> {
    /// Fails early if the path cannot be written or exists.
    pub(super) fn create(path: Option<&'a Path>, force: bool) -> Result<Self, Failure> {
        let Some(path) = path else {
            refuse_closed(io::stdout(), "standard output")?;
            let standard = io::stdout().as_fd().try_clone_to_owned().map(File::from);
            return standard.map(Self::Standard).map_err(io_failure("write", Path::new("standard output")));
        };
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let name = path.display();
            return Err(Failure::Operation(format!(
                "{name} is not a regular file; use another path, or redirect standard output"
            )));
        }
        if !force && fs::symlink_metadata(path).is_ok() {
            return Err(exists(path));
        }
        let unfinished = NamedTempFile::new_in(parent_folder(path)).map_err(io_failure("write", path))?;
        signals::remove_on_termination(unfinished.path()).map_err(io_failure("write", path))?;
        Ok(Self::File { path, force, unfinished })
    }

    pub(super) fn name(&self) -> &Path {
        match self {
            Self::Standard(_) => Path::new("standard output"),
            Self::File { path, .. } => path,
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Standard(standard) if standard.is_terminal())
    }

    /// Renames the complete file to its path.
    pub(super) fn finish(self) -> Result<ExitCode, Failure> {
        let Self::File { path, force, unfinished } = self else { return Ok(ExitCode::SUCCESS) };
        unfinished.as_file().sync_all().map_err(io_failure("write", path))?;
        let renamed = if force { unfinished.persist(path) } else { unfinished.persist_noclobber(path) };
        match renamed {
            Ok(_) => Ok(ExitCode::SUCCESS),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(path)),
            Err(error) => Err(io_failure("write", path)(error.error)),
        }
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(standard) => standard.write(bytes),
            Self::File { unfinished, .. } => unfinished.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(standard) => standard.flush(),
            Self::File { unfinished, .. } => unfinished.flush(),
        }
    }
}

fn exists(path: &Path) -> Failure {
    Failure::Operation(format!("{} exists; use --force to replace it", path.display()))
}
