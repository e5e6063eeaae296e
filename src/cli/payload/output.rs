//! Where a result goes: standard output as it comes, or a file that appears under its name when it is complete.
//!
//! A file takes no other's place unless told to, and leaves nothing behind when it does not come to its end.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd as _,
    path::Path,
    process::ExitCode,
};

use tempfile::NamedTempFile;

use super::super::{Failure, closed, named, was_closed};
use crate::signals;

pub enum Output<'a> {
    /// Past the standard library's buffer, which nobody wipes.
    Standard(File),
    File {
        path: &'a Path,
        /// Whether another file may stand there.
        force: bool,
        unfinished: NamedTempFile,
    },
}

impl<'a> Output<'a> {
    /// Says what is in the way now, not after the work was done.
    pub fn begin(path: Option<&'a Path>, force: bool) -> Result<Self, Failure> {
        let Some(path) = path else {
            if was_closed(io::stdout()) {
                return Err(closed("standard output"));
            }
            let standard = io::stdout().as_fd().try_clone_to_owned().map(File::from);
            return standard.map(Self::Standard).map_err(named(Path::new("standard output"), "write"));
        };
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let name = path.display();
            return Err(Failure::Operation(format!(
                "{name} is not a file: name one, or leave -o out and redirect"
            )));
        }
        if !force && fs::symlink_metadata(path).is_ok() {
            return Err(exists(path));
        }
        let unfinished = NamedTempFile::new_in(folder(path)).map_err(named(path, "write"))?;
        signals::remove_when_ended(unfinished.path()).map_err(named(path, "write"))?;
        Ok(Self::File { path, force, unfinished })
    }

    pub fn name(&self) -> &Path {
        match self {
            Self::Standard(_) => Path::new("standard output"),
            Self::File { path, .. } => path,
        }
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Standard(standard) if standard.is_terminal())
    }

    /// Everything is written: lets the file appear.
    pub fn finish(self) -> Result<ExitCode, Failure> {
        let Self::File { path, force, unfinished } = self else { return Ok(ExitCode::SUCCESS) };
        unfinished.as_file().sync_all().map_err(named(path, "write"))?;
        let kept = if force { unfinished.persist(path) } else { unfinished.persist_noclobber(path) };
        match kept {
            Ok(_) => Ok(ExitCode::SUCCESS),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(path)),
            Err(error) => Err(named(path, "write")(error.error)),
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

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn exists(path: &Path) -> Failure {
    Failure::Operation(format!("{} exists: use --force to replace it", path.display()))
}
