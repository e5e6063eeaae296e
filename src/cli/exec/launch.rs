//! What the command of `exec` is started with: its words, the values of its variables, and its files.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

use tokio::process::{Child, Command};

use super::super::{
    command::Failure,
    secret_files::{FOLDER_VARIABLE, SecretFiles},
};
use crate::secret::Secret;

/// In the arguments of the command it stands for the folder of the files.
const FOLDER_ARGUMENT: &[u8] = b"{files}";

/// What the command is started with.
pub(super) struct Launch {
    words: Vec<OsString>,
    /// Names and references.
    variables: Vec<(String, String)>,
    files: Option<SecretFiles>,
    /// The variables with secrets of keyringd's own settings.
    own_secrets: Vec<String>,
}

impl Launch {
    /// `variables` are names and references.
    pub(super) fn new(
        words: &[OsString],
        variables: Vec<(String, String)>,
        files: Option<SecretFiles>,
        own_secrets: Vec<String>,
    ) -> Self {
        let whole = |word: &OsString| match &files {
            Some(files) => with_folder(word, files.folder().as_os_str()),
            None => word.clone(),
        };
        Self { words: words.iter().map(whole).collect(), variables, files, own_secrets }
    }

    /// The references of the variables, then those of the files.
    pub(super) fn references(&self) -> Vec<&str> {
        let variables = self.variables.iter().map(|(_, reference)| reference.as_str());
        variables.chain(self.files.iter().flat_map(SecretFiles::references)).collect()
    }

    /// The command, with these values of the references in its environment.
    pub(super) fn command(&self, values: &[Secret<String>]) -> Result<Command, Failure> {
        let mut words = self.words.iter();
        let mut command = Command::new(words.next().map_or_else(Default::default, Clone::clone));
        command.args(words);
        self.prepare(&mut command);
        for ((name, reference), value) in self.variables.iter().zip(values) {
            if value.expose().contains('\0') {
                return Err(Failure::Operation(format!(
                    "{name}: the value of {reference} contains a NUL byte, which is not allowed in a variable"
                )));
            }
            command.env(name, value.expose());
        }
        Ok(command)
    }

    /// Every program gets the name of the folder, and this process's environment without keyringd's own secrets.
    pub(super) fn prepare(&self, command: &mut Command) {
        for name in &self.own_secrets {
            command.env_remove(name);
        }
        if let Some(files) = &self.files {
            command.env(FOLDER_VARIABLE, files.folder());
        }
    }

    pub(super) const fn files(&self) -> Option<&SecretFiles> {
        self.files.as_ref()
    }

    pub(super) fn write_files(&mut self, values: &[Secret<String>]) -> Result<(), Failure> {
        let of_the_files = values.get(self.variables.len()..).unwrap_or_default();
        self.files.as_mut().map_or(Ok(()), |files| files.write(of_the_files))
    }

    pub(super) fn start(&self, values: &[Secret<String>]) -> Result<Child, Failure> {
        self.command(values)?.spawn().map_err(|error| self.start_failure(&error))
    }

    pub(super) fn start_failure(&self, error: &io::Error) -> Failure {
        let name = self.words.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let message = format!("cannot start {name}: {error}");
        match error.kind() {
            io::ErrorKind::NotFound => Failure::NotFound(message),
            _ => Failure::NotExecutable(message),
        }
    }
}

/// The word with the folder in place of each `{files}`.
fn with_folder(word: &OsStr, folder: &OsStr) -> OsString {
    let (mut rest, mut whole) = (word.as_bytes(), Vec::new());
    while let Some(at) = rest.windows(FOLDER_ARGUMENT.len()).position(|window| window == FOLDER_ARGUMENT) {
        whole.extend_from_slice(&rest[..at]);
        whole.extend_from_slice(folder.as_bytes());
        rest = &rest[at + FOLDER_ARGUMENT.len()..];
    }
    whole.extend_from_slice(rest);
    OsString::from_vec(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_replaces_its_placeholder_wherever_it_stands() {
        for (word, whole) in [
            ("{files}", "/run/k"),
            ("--cert={files}/cert.pem:{files}/key.pem", "--cert=/run/k/cert.pem:/run/k/key.pem"),
            ("{file}{files", "{file}{files"),
            ("", ""),
        ] {
            assert_eq!(with_folder(OsStr::new(word), OsStr::new("/run/k")), whole);
        }
    }
}
