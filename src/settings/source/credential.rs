//! A secret from the settings: its text, or a file that is read at each use.
//!
//! Platforms rotate such files (projected service-account tokens, agent sinks), so their content is not kept.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{
    secret::Secret,
    settings::{conf::trim, reference::is_reference},
};

/// The longest secret in a file, in bytes. A private key with its chain is far smaller.
const MAX_LEN: usize = 1 << 20;
const MORE_THAN_MAX_LEN: u64 = MAX_LEN as u64 + 1;

/// Two credentials are equal if they are the same text or the same file path.
#[derive(Debug, PartialEq, Eq)]
pub enum Credential {
    Inline(Secret<String>),
    File(SecretFile),
}

/// A file that holds a secret. Messages do not quote a path that came from a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    path: PathBuf,
    path_origin: PathOrigin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathOrigin {
    Setting,
    Reference,
}

/// Why the secret in a file cannot be used. The content is not quoted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("{0} cannot be read: {1}")]
    Unreadable(SecretFile, std::io::Error),
    #[error("{0} is empty")]
    Empty(SecretFile),
    #[error("{0} is not UTF-8 text, or is larger than 1 MiB")]
    NotText(SecretFile),
    #[error("{0} holds a reference: references are only resolved in settings, when they are loaded")]
    Reference(SecretFile),
}

impl Credential {
    pub(crate) fn file(path: impl Into<PathBuf>, path_origin: PathOrigin) -> Self {
        Self::File(SecretFile { path: path.into(), path_origin })
    }

    /// The current secret, without the blanks around it: editors and `echo` add line breaks, and Kong trims all of them.
    pub(crate) fn read(&self) -> Result<Secret<String>, CredentialError> {
        let text = self.read_with_references()?;
        match self {
            Self::File(file) if is_reference(text.expose()) => Err(CredentialError::Reference(file.clone())),
            _ => Ok(text),
        }
    }

    /// Like [`Self::read`], but accepts a reference. For loading the settings, which resolves it.
    pub(crate) fn read_with_references(&self) -> Result<Secret<String>, CredentialError> {
        match self {
            Self::Inline(text) => Ok(Secret::new(text.expose().clone())),
            Self::File(file) => file.read(),
        }
    }

    /// The path of a file.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Inline(_) => None,
            Self::File(file) => Some(&file.path),
        }
    }

    /// Whether every user of this machine can read the file, and the operator can change that. The kubelet sets the modes of a
    /// projected volume, which it swaps by the link `..data`.
    pub(crate) fn is_world_readable(&self) -> bool {
        match self {
            Self::Inline(_) => false,
            Self::File(SecretFile { path, .. }) if path.with_file_name("..data").is_symlink() => false,
            Self::File(SecretFile { path, .. }) => {
                std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0)
            }
        }
    }
}

impl SecretFile {
    fn read(&self) -> Result<Secret<String>, CredentialError> {
        // A buffer that grows leaves copies behind, so reserve enough for common files.
        let mut bytes = Zeroizing::new(Vec::with_capacity(8 << 10));
        let read =
            File::open(&self.path).and_then(|file| file.take(MORE_THAN_MAX_LEN).read_to_end(&mut bytes));
        read.map_err(|error| CredentialError::Unreadable(self.clone(), error))?;
        let text = str::from_utf8(&bytes).ok().filter(|text| text.len() <= MAX_LEN);
        let text = trim(text.ok_or_else(|| CredentialError::NotText(self.clone()))?);
        if text.is_empty() {
            Err(CredentialError::Empty(self.clone()))
        } else {
            Ok(Secret::new(text.to_owned()))
        }
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { path_origin: PathOrigin::Reference, .. } => {
                f.write_str("the file that the reference names")
            }
            Self { path, .. } => write!(f, "the file {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_file_is_read_at_each_use_without_its_line_break() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credential = Credential::file(file.path(), PathOrigin::Setting);
        for (content, secret) in
            [("one\n", "one"), ("two\r\n", "two"), (" three ", "three"), ("a\nb\n\n", "a\nb")]
        {
            fs::write(file.path(), content).unwrap();
            assert_eq!(credential.read().unwrap().expose(), secret);
        }
    }

    #[test]
    fn empty_missing_and_binary_files_are_errors_that_name_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credential = Credential::file(file.path(), PathOrigin::Setting);
        for (content, error) in [
            (b"\n".as_slice(), "is empty"),
            (b"\xff", "is not UTF-8 text"),
            (b"{vault://env/x}\n", "holds a reference"),
        ] {
            fs::write(file.path(), content).unwrap();
            assert!(credential.read().unwrap_err().to_string().contains(error));
        }
        let error = Credential::file("/no/such/file", PathOrigin::Setting).read().unwrap_err();
        assert!(error.to_string().starts_with("the file /no/such/file cannot be read"), "{error}");
        let error = Credential::file("/no/such/file", PathOrigin::Reference).read().unwrap_err();
        assert!(error.to_string().starts_with("the file that the reference names cannot be read"), "{error}");
    }

    #[test]
    fn a_world_readable_file_is_detected() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credential = Credential::file(file.path(), PathOrigin::Setting);
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(credential.is_world_readable(), open, "{mode:o}");
        }
    }
}
