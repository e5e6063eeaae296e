//! A secret as the settings give it: the text itself, or a file that is read anew whenever the secret is needed.
//!
//! Platforms rotate such files (projected service-account tokens, agents' sinks), so nothing of them is kept here.

use std::{fmt, fs::File, io::Read as _, os::unix::fs::MetadataExt as _, path::PathBuf};

use zeroize::Zeroizing;

use super::reference::is_reference;
use crate::secret::Secret;

/// The longest secret that a file may hold: a private key with its chain fits many times over.
const MAX_LEN: usize = 1 << 20;

/// Equal when both are the same text or the same file, whatever the file holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Credential {
    Inline(Secret<String>),
    File(SecretFile),
}

/// A file that holds a secret. What the path of one that a reference gave is, no message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    path: PathBuf,
    by_reference: bool,
}

/// Why a file's secret could not be had. Nothing of the file is quoted.
#[derive(Debug, thiserror::Error)]
#[error("{file} {fault}")]
pub struct CredentialError {
    file: SecretFile,
    fault: Fault,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    #[error("is empty")]
    Empty,
    #[error("is not UTF-8 text, or is larger than 1 MiB")]
    NotText,
    #[error(
        "holds a reference, which only a setting can be: give it as the setting's value, or reload if it is"
    )]
    Reference,
}

impl Credential {
    /// The secret that a file holds.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(SecretFile { path: path.into(), by_reference: false })
    }

    /// The same, where the path came by a reference.
    pub fn file_by_reference(path: impl Into<PathBuf>) -> Self {
        Self::File(SecretFile { path: path.into(), by_reference: true })
    }

    /// The secret, as it is now. A trailing line break, which editors and `echo` leave, is not part of it.
    pub fn read(&self) -> Result<Secret<String>, CredentialError> {
        let text = self.read_with_references()?;
        match self {
            Self::File(file) if is_reference(text.expose()) => Err(file.with(Fault::Reference)),
            _ => Ok(text),
        }
    }

    /// The same, for those who resolve references: that is done once, when the settings are loaded.
    pub fn read_with_references(&self) -> Result<Secret<String>, CredentialError> {
        match self {
            Self::Inline(text) => Ok(Secret::new(text.expose().clone())),
            Self::File(file) => file.read().map_err(|fault| file.with(fault)),
        }
    }

    /// Whether the file that holds it can be read by everybody on this machine.
    pub fn is_open_to_all(&self) -> bool {
        match self {
            Self::Inline(_) => false,
            Self::File(SecretFile { path, .. }) => {
                std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0)
            }
        }
    }
}

impl SecretFile {
    fn read(&self) -> Result<Secret<String>, Fault> {
        // Room for the whole at once: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(8 << 10));
        let file = File::open(&self.path).map_err(Fault::Unreadable)?;
        file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes).map_err(Fault::Unreadable)?;
        let text = str::from_utf8(&bytes).ok().filter(|text| text.len() <= MAX_LEN);
        let text = text.ok_or(Fault::NotText)?.trim_end_matches(['\n', '\r']);
        if text.is_empty() { Err(Fault::Empty) } else { Ok(Secret::new(text.to_owned())) }
    }

    fn with(&self, fault: Fault) -> CredentialError {
        CredentialError { file: self.clone(), fault }
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { by_reference: true, .. } => f.write_str("the file that the reference gives"),
            Self { path, .. } => write!(f, "the file {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_file_is_read_anew_each_time_without_its_line_break() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credential = Credential::file(file.path());
        for (content, secret) in
            [("one\n", "one"), ("two\r\n", "two"), (" three ", " three "), ("a\nb\n\n", "a\nb")]
        {
            fs::write(file.path(), content).unwrap();
            assert_eq!(credential.read().unwrap().expose(), secret);
        }
    }

    #[test]
    fn an_empty_a_missing_and_a_binary_file_are_errors_that_name_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credential = Credential::file(file.path());
        for (content, error) in [
            (b"\n".as_slice(), "is empty"),
            (b"\xff", "is not UTF-8 text"),
            (b"{vault://env/x}\n", "holds a reference"),
        ] {
            fs::write(file.path(), content).unwrap();
            assert!(credential.read().unwrap_err().to_string().contains(error));
        }
        let error = Credential::file("/no/such/file").read().unwrap_err();
        assert!(error.to_string().starts_with("the file /no/such/file cannot be read"), "{error}");
        let error = Credential::file_by_reference("/no/such/file").read().unwrap_err();
        assert!(error.to_string().starts_with("the file that the reference gives cannot be read"), "{error}");
    }

    #[test]
    fn a_file_that_everybody_can_read_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credential = Credential::file(file.path());
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(credential.is_open_to_all(), open, "{mode:o}");
        }
    }
}
