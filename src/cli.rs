//! The command line: its definition and the dispatch to the commands.
//!
//! One file per family of commands; `command` is their base. Only `run` and `dev` are daemons. No argument takes a secret.

mod check;
mod command;
mod docs;
mod exec;
mod files;
mod payload;
mod resolver;
mod secret_files;
mod serve;
mod status;
mod vault;

use std::{path::PathBuf, process::ExitCode};

use clap::{
    CommandFactory as _, Parser, Subcommand,
    builder::StyledStr,
    error::{ContextKind, ContextValue},
};
use clap_complete::Shell;

use check::Shown;
pub use command::Failure;
use command::{Daemon, SettingsFile};

use crate::doctor::SecretIds;

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
    Run(SettingsFile),
    /// Run a daemon for trials, with a random key in memory and without Vault
    Dev {
        /// The socket to serve on [default: in a private folder of this user]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Show every setting with its origin, and every error
    Check {
        #[command(flatten)]
        file: SettingsFile,
        /// The kong.conf to read, as in `kong check`
        #[arg(value_name = "FILE", conflicts_with = "config")]
        positional: Option<PathBuf>,
        /// Show only settings that are not a default
        #[arg(long)]
        changed: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check each step from DNS to the keys, and advise on each failure
    Doctor {
        #[command(flatten)]
        file: SettingsFile,
        /// Log in with an AppRole secret ID, which uses it once
        #[arg(long)]
        login: bool,
    },
    /// Show the status of the running daemon
    Status {
        #[command(flatten)]
        daemon: Daemon,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Exit 0 if the daemon is ready (needs no permission)
    Health(Daemon),
    /// Make the running daemon sync with Vault now
    Sync(Daemon),
    /// Encrypt standard input or a file, of any size, under the active key
    Encrypt(payload::Payload),
    /// Decrypt the output of encrypt
    Decrypt(payload::Payload),
    /// Re-encrypt the output of encrypt under the active key
    Rewrap(payload::Payload),
    /// Resolve references to secrets
    #[command(subcommand)]
    Vault(vault::Vault),
    /// Run a command with the references in its environment variables resolved
    Exec(exec::Exec),
    /// Keep secrets in files for programs that read files, and act when they change
    Files(files::Files),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page
    Man,
}

impl Arguments {
    /// Parses the command line, or exits with a message and code 2. Kong's commands lead to ours.
    pub fn from_command_line() -> Self {
        Self::try_parse().unwrap_or_else(|mut error| {
            let unknown = error.get(ContextKind::InvalidSubcommand).map(ToString::to_string);
            let tip = match unknown.as_deref() {
                Some("start") => {
                    Some("`keyringd run` runs the daemon in the foreground, for systemd or a container")
                }
                Some("reload") => {
                    Some("`systemctl reload keyringd`, or SIGHUP to the daemon, reloads its settings")
                }
                _ => None,
            };
            if let Some(tip) = tip {
                let tip = StyledStr::from(tip.to_owned());
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
                error.remove(ContextKind::SuggestedSubcommand);
            }
            error.exit()
        })
    }
}

/// Runs a command and returns its exit code.
pub fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Run(file) => serve::run(file),
        Command::Dev { socket } => serve::dev(socket),
        Command::Check { file, positional, changed, json } => {
            let shown = if changed { Shown::Changed } else { Shown::All };
            let file = positional.map_or(file, SettingsFile::new);
            if json { check::check_json(&file, shown) } else { check::check(&file, shown) }
        }
        Command::Doctor { file, login: false } => check::doctor(&file, SecretIds::Spare),
        Command::Doctor { file, login: true } => check::doctor(&file, SecretIds::UseOnce),
        Command::Status { daemon, json: false } => status::status(&daemon, status::lines),
        Command::Status { daemon, json: true } => status::status(&daemon, status::json),
        Command::Health(daemon) => status::health(&daemon),
        Command::Sync(daemon) => status::sync(&daemon),
        Command::Encrypt(payload) => payload::encrypt(&payload),
        Command::Decrypt(payload) => payload::decrypt(&payload),
        Command::Rewrap(payload) => payload::rewrap(&payload),
        Command::Vault(vault::Vault::Get { resolver, reference }) => vault::get(&resolver, &reference),
        Command::Exec(exec) => exec::exec(&exec),
        Command::Files(files) => files::files(&files),
        Command::Completions { shell } => docs::completions(shell, Arguments::command()),
        Command::Man => docs::man(Arguments::command()),
    }
}
