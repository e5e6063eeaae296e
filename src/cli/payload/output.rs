//! The output of a payload command: a file, standard output, or what is at a path and is no file.
//!
//! A file appears when it is complete: without `--force` it never replaces one, and after a failure or a signal no partial
//! file remains. With `--force` the file keeps its links and what `attributes` copies. A terminal gets text only.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use tempfile::NamedTempFile;

use super::{
    super::command::{Failure, io_failure, refuse_closed},
    STANDARD, attributes,
};
use crate::{server::listen::parent_folder, signals};

/// The most links that a path is followed over, as in Linux.
const MAX_LINKS: usize = 40;

/// The most bytes of a character of UTF-8 that a write can cut off.
const MAX_CUT: usize = 3;

pub(super) enum Output<'a> {
    /// Without the standard library's buffer, which is not wiped.
    Standard {
        file: File,
        shown: Shown,
    },
    /// A device, a pipe, or a descriptor of this process. It is written as it is.
    Device {
        path: &'a Path,
        file: File,
    },
    File(Box<Unfinished<'a>>),
}

/// What may be written to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Anything,
    /// It is a terminal, whose settings binary bytes could change.
    Text,
}

/// A file that gets its name when it is complete.
pub(super) struct Unfinished<'a> {
    /// As it was given.
    path: &'a Path,
    /// Where the links of `path` lead.
    target: PathBuf,
    /// The file that is replaced.
    replaced: Option<Metadata>,
    content: NamedTempFile,
}

impl<'a> Output<'a> {
    /// Fails early if the path cannot be written, or exists without `force`.
    pub(super) fn create(path: Option<&'a Path>, force: bool) -> Result<Self, Failure> {
        let is_forced = path == Some(Path::new(STANDARD));
        let Some(path) = path.filter(|_| !is_forced) else {
            return standard(is_forced);
        };
        let found = fs::metadata(path);
        if is_descriptor(path) || found.as_ref().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            let file = OpenOptions::new().write(true).open(path).map_err(io_failure("write", path))?;
            return Ok(Self::Device { path, file });
        }
        if found.as_ref().is_ok_and(Metadata::is_dir) {
            return Err(Failure::Operation(format!("cannot write {}: it is a folder", path.display())));
        }
        if !force && fs::symlink_metadata(path).is_ok() {
            return Err(exists(path));
        }
        let replaced = found.ok();
        let target = if replaced.is_some() { fs::canonicalize(path) } else { Ok(path.to_owned()) };
        let target = target.map_err(io_failure("write", path))?;
        let content = NamedTempFile::new_in(parent_folder(&target)).map_err(io_failure("write", path))?;
        signals::remove_on_termination(content.path()).map_err(io_failure("write", path))?;
        Ok(Self::File(Box::new(Unfinished { path, target, replaced, content })))
    }

    pub(super) fn name(&self) -> &Path {
        match self {
            Self::Standard { .. } => Path::new("standard output"),
            Self::Device { path, .. } => path,
            Self::File(unfinished) => unfinished.path,
        }
    }

    /// Whether it is a file, which appears when it is complete.
    pub(super) const fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    pub(super) fn is_terminal(&self) -> bool {
        match self {
            Self::Standard { file, .. } | Self::Device { file, .. } => file.is_terminal(),
            Self::File(_) => false,
        }
    }

    /// Gives a complete file its name.
    pub(super) fn finish(self) -> Result<ExitCode, Failure> {
        match self {
            Self::File(unfinished) => unfinished.finish()?,
            Self::Standard { .. } | Self::Device { .. } => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn standard(is_forced: bool) -> Result<Output<'static>, Failure> {
    refuse_closed(io::stdout(), "standard output")?;
    let file = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let file = file.map_err(io_failure("write", Path::new("standard output")))?;
    let shown = if file.is_terminal() && !is_forced { Shown::Text } else { Shown::Anything };
    Ok(Output::Standard { file, shown })
}

/// Whether a path leads to a descriptor of this process, such as `/dev/stdout`, whatever file that is.
fn is_descriptor(path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let folder = fs::canonicalize(parent_folder(&path)).unwrap_or_default();
        if folder.starts_with("/proc") && folder.ends_with("fd") {
            return true;
        }
        match fs::read_link(&path) {
            Ok(target) => path = parent_folder(&path).join(target),
            Err(_) => return false,
        }
    }
    false
}

impl Unfinished<'_> {
    fn finish(self) -> Result<(), Failure> {
        let failed = || io_failure("write", self.path);
        let Some(replaced) = &self.replaced else {
            self.content.as_file().sync_all().map_err(failed())?;
            let named = self.content.persist_noclobber(&self.target);
            return match named {
                Ok(_) => Ok(()),
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(self.path)),
                Err(error) => Err(io_failure("write", self.path)(error.error)),
            };
        };
        // A file with several names must stay one file, and not every user can make the same one again. All others are
        // renamed: a crash never leaves a part of a file.
        let is_single = replaced.nlink() == 1;
        if !is_single || attributes::copy(&self.target, replaced, self.content.as_file()).is_err() {
            return self.overwrite();
        }
        self.content.as_file().sync_all().map_err(failed())?;
        let named = self.content.persist(&self.target);
        named.map(drop).map_err(|error| io_failure("write", self.path)(error.error))
    }

    /// Writes the complete content over the file itself.
    fn overwrite(&self) -> Result<(), Failure> {
        let copy = || {
            let mut content = self.content.reopen()?;
            let mut file = OpenOptions::new().write(true).truncate(true).open(&self.target)?;
            io::copy(&mut content, &mut file)?;
            file.sync_all()
        };
        copy().map_err(io_failure("write", self.path))
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard { shown: Shown::Text, .. } if !is_text(bytes) => Err(io::Error::other(
                "the output is binary, and standard output is a terminal; use -o FILE, or -o - to force it",
            )),
            Self::Standard { file, .. } | Self::Device { file, .. } => file.write(bytes),
            Self::File(unfinished) => unfinished.content.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard { file, .. } | Self::Device { file, .. } => file.flush(),
            Self::File(unfinished) => unfinished.content.flush(),
        }
    }
}

/// Whether a terminal shows these bytes as they are. The last character may be cut off.
fn is_text(bytes: &[u8]) -> bool {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if bytes.len() - error.valid_up_to() <= MAX_CUT && error.error_len().is_none() => {
            str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.chars().any(|character| character.is_control() && !matches!(character, '\n' | '\r' | '\t'))
}

fn exists(path: &Path) -> Failure {
    Failure::Operation(format!("{} exists; use --force to replace it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_no_control_characters_and_may_end_in_half_a_character() {
        for text in ["hello\n\tworld\r\n", "größe", ""] {
            assert!(is_text(text.as_bytes()), "{text}");
        }
        assert!(is_text(&"ü".as_bytes()[..1]));
        for binary in [b"KRS1\0".as_slice(), b"\x1b[2J", b"\xff\xfe", b"a\xffb"] {
            assert!(!is_text(binary), "{binary:?}");
        }
    }

    #[test]
    fn a_descriptor_is_found_behind_links() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/stdout", &link).unwrap();
        assert!(is_descriptor(Path::new("/dev/stdout")) && is_descriptor(&link));
        assert!(is_descriptor(Path::new("/dev/fd/1")) && is_descriptor(Path::new("/proc/self/fd/2")));
        assert!(!is_descriptor(Path::new("/dev/null")) && !is_descriptor(folder.path()));
    }
}
