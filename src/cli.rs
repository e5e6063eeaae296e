//! The command line: its definition, which command goes where, and the exit codes.
//!
//! `serve` runs daemons, `check` shows settings, `doctor` tries them, `ask`, `payload`, `vault` and `exec` talk to a running
//! daemon, `docs` and `man` say what there is. Exit codes: 0 success, 1 the operation failed, 2 wrong command line, 78 bad configuration
//! (`EX_CONFIG` of sysexits.h). No argument takes a secret.

mod ask;
mod check;
mod docs;
mod doctor;
mod exec;
mod man;
mod payload;
mod serve;
mod vault;

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::{fd::AsFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use rustix::fs::{OFlags, fcntl_getfl};

use crate::{
    client::ClientError,
    settings::{self, Loaded, Note, Settings, source},
};

/// Encrypt and decrypt on a Unix socket, with keys from HashiCorp Vault or OpenBao and Kong's keyring settings.
#[derive(Debug, Parser)]
#[command(version, after_help = docs::after_help(), after_long_help = docs::after_long_help())]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run(FromFile),
    /// Run a daemon on a random key in memory, without Vault, to try it
    Dev {
        /// Where to serve [default: a folder of the user's own]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Show every setting with its origin, and every mistake
    Check {
        #[command(flatten)]
        from: FromFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Go the whole way to the keys, and say what to do about each failure
    Doctor(FromFile),
    /// Show what the running daemon says of itself
    Status {
        #[command(flatten)]
        daemon: Daemon,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say whether the running daemon is ready, which every user of its socket may ask
    Health(Daemon),
    /// Have the running daemon sync with Vault now
    Sync(Daemon),
    /// Encrypt standard input, or a file, of any size, under the active key
    Encrypt(Payload),
    /// Decrypt what encrypt wrote
    Decrypt(Payload),
    /// Bring what encrypt wrote under the active key
    Rewrap(Payload),
    /// Ask for secrets by reference
    #[command(subcommand)]
    Vault(vault::Vault),
    /// Run a command with the references in its variables replaced by the secrets they stand for
    Exec(exec::Exec),
    /// Print what a shell needs to complete this command line
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page
    Man,
}

#[derive(Debug, Args)]
struct FromFile {
    /// The kong.conf to read
    #[arg(short, long = "conf", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Which daemon to talk to.
#[derive(Debug, Args)]
struct Daemon {
    #[command(flatten)]
    from: FromFile,
    /// The daemon's socket [default: keyring_socket_path]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// What to work on.
#[derive(Debug, Args)]
struct Payload {
    #[command(flatten)]
    daemon: Daemon,
    /// Read this file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Write this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the output file if it exists
    #[arg(long, requires = "output")]
    force: bool,
    /// Associated data: not secret, not stored, and needed again to decrypt
    #[arg(long, value_name = "TEXT", default_value = "")]
    aad: String,
}

/// Why a command failed: what goes to standard error, and the exit code.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    Operation(String),
    /// Exit code 78, with every mistake.
    Configuration(Vec<Note>),
    /// Exit code 78: the settings are well-formed and name something that cannot be used.
    Unusable(String),
}

/// Runs a command to its exit code.
///
/// # Errors
/// [`Failure`], for [`Failure::report`].
pub fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Run(from) => serve::run(from),
        Command::Dev { socket } => serve::dev(socket),
        Command::Check { from, json } => check::check(&from, json),
        Command::Doctor(from) => doctor::doctor(&from),
        Command::Status { daemon, json } => ask::status(&daemon, json),
        Command::Health(daemon) => ask::health(&daemon),
        Command::Sync(daemon) => ask::sync(&daemon),
        Command::Encrypt(payload) => payload::encrypt(&payload),
        Command::Decrypt(payload) => payload::decrypt(&payload),
        Command::Rewrap(payload) => payload::rewrap(&payload),
        Command::Vault(asked) => vault::vault(&asked),
        Command::Exec(exec) => exec::exec(&exec),
        Command::Completions { shell } => docs::completions(shell),
        Command::Man => man::man(),
    }
}

impl Failure {
    fn operation(error: impl fmt::Display) -> Self {
        Self::Operation(error.to_string())
    }

    /// Says it on standard error and answers the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Operation(message) => {
                say(&format!("keyringd: {message}"));
                ExitCode::FAILURE
            }
            Self::Unusable(message) => {
                say(&format!("keyringd: error: {message}"));
                ExitCode::from(78)
            }
            Self::Configuration(mistakes) => {
                say_notes("error", mistakes);
                say(
                    "keyringd: the settings cannot be used; `keyringd check` shows where each value comes from, and `keyringd dev` runs without any",
                );
                ExitCode::from(78)
            }
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::operation(error)
    }
}

impl FromFile {
    fn load(&self) -> Loaded {
        settings::load(&source::of_this_process(self.config.as_deref()))
    }

    /// The settings, with warnings said on the way.
    fn settings(&self) -> Result<Settings, Failure> {
        usable(self.load())
    }
}

/// The settings, with warnings said on the way.
fn usable(loaded: Loaded) -> Result<Settings, Failure> {
    say_notes("warning", &loaded.warnings);
    loaded.settings.map_err(Failure::Configuration)
}

impl Daemon {
    fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        let sources = source::of_this_process(self.from.config.as_deref());
        settings::socket_path(&sources).map_err(Failure::Configuration)
    }
}

/// Waits for the daemon on this thread.
fn wait<T>(asked: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::operation)?;
    Ok(runtime.block_on(asked))
}

/// A line on standard error. Where that is closed there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn say_notes(kind: &str, notes: &[Note]) {
    for note in notes {
        say(&format!("keyringd: {kind}: {note}"));
    }
}

/// Whether this is no place for bytes: it was closed, and the standard library opened `/dev/null` there at the start, to read
/// and to write, as nobody who means it does.
fn was_closed(descriptor: impl AsFd) -> bool {
    let null = fs::metadata("/dev/null").map(|null| null.rdev());
    let both_ways = fcntl_getfl(&descriptor).is_ok_and(|flags| flags.contains(OFlags::RDWR));
    let file = descriptor.as_fd().try_clone_to_owned().map(fs::File::from);
    let here = file.and_then(|file| file.metadata()).map(|here| here.rdev());
    both_ways && matches!((null, here), (Ok(null), Ok(here)) if null == here)
}

fn closed(name: &str) -> Failure {
    Failure::Operation(format!("{name} is closed: give it a file or a pipe, or use -i and -o"))
}

/// Writes to standard output; a reader that went away is an error like others.
fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    if was_closed(io::stdout()) {
        return Err(closed("standard output"));
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::Operation(format!("cannot write to standard output: {error}")))
}

fn named<'a>(path: &'a Path, doing: &'a str) -> impl FnOnce(io::Error) -> Failure + 'a {
    move |error| Failure::Operation(format!("cannot {doing} {}: {error}", path.display()))
}
