//! The base of all commands: shared arguments, the failure and its exit code, standard streams and the runtime.
//!
//! Exit codes: 0 success, 1 the operation failed, 2 wrong command line, 78 bad configuration (`EX_CONFIG` of sysexits.h), and
//! those of shells for a closed pipe and for a command that does not start.

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Write as _},
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use rustix::fs::{OFlags, fcntl_getfl};
use tokio::runtime::Builder;

use crate::{
    client::{Client, ClientError},
    daemon::dev,
    keyring::is_name,
    logging::without_error_numbers,
    settings::{
        self, Loaded, Note, Settings,
        resolve::EnvBackend,
        source::{self, environment::user_runtime_dir},
    },
};

#[derive(Debug, Args)]
pub(super) struct SettingsFile {
    /// The kong.conf to read
    #[arg(short, long = "conf", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Daemon {
    #[command(flatten)]
    file: SettingsFile,
    /// The daemon's socket [default: keyring_socket_path]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// A daemon, and one of its keyrings.
#[derive(Debug, Args)]
pub(super) struct OneKeyring {
    #[command(flatten)]
    pub(super) daemon: Daemon,
    /// The keyring [default: that of keyring_vault_path]
    #[arg(long, value_name = "NAME", value_parser = keyring_name)]
    pub(super) name: Option<String>,
}

impl OneKeyring {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Ok(self.daemon.client()?.with_keyring(self.name.clone()))
    }
}

fn keyring_name(text: &str) -> Result<String, &'static str> {
    let message = "a keyring is named with 1 to 128 letters, digits and _ . -";
    is_name(text).then(|| text.to_owned()).ok_or(message)
}

impl SettingsFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { config: Some(path) }
    }

    /// The named or default file, if there is one.
    pub(super) fn path(&self) -> Option<PathBuf> {
        source::file_of_this_process(self.config.as_deref())
    }

    pub(super) fn load(&self) -> Loaded {
        settings::load(&self.sources())
    }

    pub(super) fn sources(&self) -> Vec<Box<dyn source::Source>> {
        source::of_this_process(self.config.as_deref())
    }
}

/// Prints the warnings and returns the settings.
pub(super) fn valid_settings(loaded: Loaded) -> Result<Settings, Failure> {
    print_notes("warning", &loaded.warnings);
    loaded.settings.map_err(Failure::Configuration)
}

impl Daemon {
    /// The environment variables that settings refer to.
    pub(super) fn referred_variables(&self) -> BTreeSet<String> {
        self.file.load().referred
    }

    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.socket_path().map(|path| Client::new(&path))
    }

    /// The named socket, or the settings' one.
    pub(super) fn socket_path(&self) -> Result<PathBuf, Failure> {
        match &self.socket {
            Some(path) => Ok(path.clone()),
            None => settings::socket_path(&self.sources()).map_err(Failure::Configuration),
        }
    }

    pub(super) const fn names_socket(&self) -> bool {
        self.socket.is_some()
    }

    pub(super) fn sources(&self) -> Vec<Box<dyn source::Source>> {
        self.file.sources()
    }

    /// How Kong's env backend is set.
    pub(super) fn env_backend(&self) -> Result<EnvBackend, Failure> {
        settings::env_backend(&self.sources()).map_err(Failure::Configuration)
    }
}

/// Why a command failed: the message and the exit code.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    Operation(String),
    /// The reader of the output has gone: no message, and the exit code of a process that SIGPIPE ended.
    ClosedPipe,
    /// Exit code 78: all errors in the settings.
    Configuration(Vec<Note>),
    /// Exit code 78: the settings are valid, but something that they name cannot be used.
    Unusable(String),
    /// Exit code 127: the command to run was not found.
    NotFound(String),
    /// Exit code 126: the command to run was found, and cannot be executed.
    NotExecutable(String),
}

impl Failure {
    pub fn from_error(error: impl fmt::Display) -> Self {
        Self::Operation(error.to_string())
    }

    /// Prints the message on standard error and returns the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Operation(message) | Self::NotFound(message) | Self::NotExecutable(message) => {
                print_error(&format!("keyringd: {message}"));
            }
            Self::ClosedPipe => {}
            Self::Unusable(message) => print_error(&format!("keyringd: error: {message}")),
            Self::Configuration(errors) => {
                print_notes("error", errors);
                print_error(
                    "keyringd: invalid settings; `keyringd check` shows the origin of each value, and `keyringd dev` needs \
                     no settings",
                );
            }
        }
        self.exit_code()
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Operation(_) => 1,
            Self::Configuration(_) | Self::Unusable(_) => 78,
            Self::NotExecutable(_) => 126,
            Self::NotFound(_) => 127,
            Self::ClosedPipe => 141,
        })
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Operation(with_hint(&error))
    }
}

/// The message of an error, with the socket of `keyringd dev` if that is the one that serves.
pub(super) fn with_hint(error: &ClientError) -> String {
    if !matches!(error, ClientError::NoSocket { .. } | ClientError::Stale { .. }) {
        return error.to_string();
    }
    let dev = dev::socket_path(user_runtime_dir());
    match UnixStream::connect(&dev) {
        Ok(_) => format!("{error}; `keyringd dev` serves on {}: use --socket with it", dev.display()),
        Err(_) => error.to_string(),
    }
}

/// Adds the action and the path to an I/O error. A closed pipe at the output is no error to report.
pub(super) fn io_failure<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Failure + 'a {
    move |error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Failure::Operation(format!("cannot {action} {}: {}", path.display(), without_names(&error))),
    }
}

/// The message of an I/O error without the name of a temporary file.
fn without_names(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" at path \"").next().unwrap_or(&text).to_owned()
}

/// Runs a future on a new single-threaded runtime.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    block_on(&mut Builder::new_current_thread(), future)
}

/// How long the end of a command waits for calls of the system, such as a write to a disk that hangs.
const BLOCKED_CALLS: Duration = Duration::from_secs(1);

/// Runs a future to its end on a new runtime.
pub(super) fn block_on<T>(builder: &mut Builder, future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = builder.enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::Operation(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(BLOCKED_CALLS);
    Ok(result)
}

/// Prints a line on standard error. Write errors are ignored.
pub(super) fn print_error(line: &str) {
    let _ = writeln!(io::stderr(), "{}", without_error_numbers(line));
}

pub(super) fn print_notes(kind: &str, notes: &[Note]) {
    for note in notes {
        print_error(&format!("keyringd: {kind}: {note}"));
    }
}

/// Prints on standard output.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    refuse_closed(io::stdout(), "standard output")?;
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_ref()).and_then(|()| out.flush());
    written.map_err(io_failure("write to", Path::new("standard output")))
}

/// Fails if the descriptor was closed when the process started. The standard library opens `/dev/null` for it then, for
/// reading and writing, which a redirection does not.
pub(super) fn refuse_closed(descriptor: impl AsFd, name: &str) -> Result<(), Failure> {
    let null = fs::metadata("/dev/null").map(|null| null.rdev());
    let read_write = fcntl_getfl(&descriptor).is_ok_and(|flags| flags.contains(OFlags::RDWR));
    let file = descriptor.as_fd().try_clone_to_owned().map(fs::File::from);
    let device = file.and_then(|file| file.metadata()).map(|file| file.rdev());
    if read_write && matches!((null, device), (Ok(null), Ok(device)) if null == device) {
        return Err(Failure::Operation(format!("{name} is closed; use a file or a pipe, or -i and -o")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_no_temporary_names() {
        let error = tempfile::NamedTempFile::new_in("/no/such/folder").unwrap_err();
        let message = without_names(&error);
        assert!(message.starts_with("No such file") && !message.contains("/no/such"), "{message}");
    }
}
