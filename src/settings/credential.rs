//! A secret as the settings give it: the text itself, or a file that is read anew whenever the secret is needed.
//!
//! Platforms rotate such files (projected service-account tokens, agents' sinks), so nothing of them is kept here.

use std::{fs::File, io::Read as _, os::unix::fs::MetadataExt as _, path::PathBuf};

use zeroize::Zeroizing;

use crate::secret::Secret;

/// The longest secret that a file may hold: a private key with its chain fits many times over.
const MAX_LEN: usize = 1 << 20;

#[derive(Debug)]
pub enum Credential {
    Inline(Secret<String>),
    File(PathBuf),
}

/// Why a file's secret could not be had. Nothing of the file is quoted.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("the file {0} cannot be read: {1}")]
    Unreadable(PathBuf, std::io::Error),
    #[error("the file {0} is empty")]
    Empty(PathBuf),
    #[error("the file {0} is not UTF-8 text, or is larger than 1 MiB")]
    NotText(PathBuf),
}

impl Credential {
    /// The secret, as it is now. A trailing line break, which editors and `echo` leave, is not part of it.
    pub fn read(&self) -> Result<Secret<String>, CredentialError> {
        let path = match self {
            Self::Inline(text) => return Ok(Secret::new(text.expose().clone())),
            Self::File(path) => path,
        };
        let unreadable = |error| CredentialError::Unreadable(path.clone(), error);
        // Room for the whole at once: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(8 << 10));
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let text = str::from_utf8(&bytes).ok().filter(|text| text.len() <= MAX_LEN);
        let text = text.ok_or_else(|| CredentialError::NotText(path.clone()))?.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            Err(CredentialError::Empty(path.clone()))
        } else {
            Ok(Secret::new(text.to_owned()))
        }
    }

    /// Whether the file that holds it can be read by everybody on this machine.
    pub fn is_open_to_all(&self) -> bool {
        match self {
            Self::Inline(_) => false,
            Self::File(path) => std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o004 != 0),
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
        let credential = Credential::File(file.path().to_owned());
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
        let credential = Credential::File(file.path().to_owned());
        for (content, error) in [(b"\n".as_slice(), "is empty"), (b"\xff", "is not UTF-8 text")] {
            fs::write(file.path(), content).unwrap();
            assert!(credential.read().unwrap_err().to_string().contains(error));
        }
        let error = Credential::File("/no/such/file".into()).read().unwrap_err();
        assert!(error.to_string().starts_with("the file /no/such/file cannot be read"), "{error}");
    }

    #[test]
    fn a_file_that_everybody_can_read_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let credential = Credential::File(file.path().to_owned());
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(credential.is_open_to_all(), open, "{mode:o}");
        }
    }
}
