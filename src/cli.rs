//! The command line: its definition and the dispatch to the commands.
//!
//! One file per family of commands; `command` is their base. Only `run` and `dev` are daemons. No argument takes a secret.

mod check;
mod command;
mod docs;
mod exec;
mod files;
mod keygen;
mod man;
mod payload;
mod policy;
mod reload;
mod resolver;
mod rotate;
mod secret_files;
mod serve;
mod status;
mod terminal;
mod vault;

use std::{path::PathBuf, process::ExitCode};

use clap::{
    CommandFactory as _, Parser, Subcommand,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};
use clap_complete::Shell;

use check::Shown;
pub use command::Failure;
use command::{OneKeyring, SettingsFile};

use crate::doctor::SecretIds;

/// Encrypt and decrypt on a Unix socket, with keys from HashiCorp Vault or OpenBao
#[derive(Debug, Parser)]
#[command(version = VERSION, after_help = docs::after_help(), disable_help_subcommand = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// The version, and what it was built from.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("KEYRINGD_COMMIT"),
    " ",
    env!("KEYRINGD_DATE"),
    ", ",
    env!("KEYRINGD_TARGET"),
    ")"
);

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run(SettingsFile),
    /// Run a daemon for trials, with a random key and without Vault
    Dev(serve::Dev),
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
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the status of the running daemon
    Status(status::Status),
    /// Exit 0 if the daemon is ready (needs no permission)
    Health(OneKeyring),
    /// Make the running daemon sync with Vault now
    Sync(status::Sync),
    /// Make the running daemon load its settings again
    Reload(reload::Reload),
    /// Make a new key, write it to Vault, and have the daemon use it
    Rotate(rotate::Rotate),
    /// Print a record with a new random key
    Keygen(keygen::Keygen),
    /// Print the policy that Vault needs, or the commands for the role
    Policy(policy::Policy),
    /// Encrypt standard input, a file or lines under the active key
    Encrypt(payload::Payload),
    /// Decrypt the output of encrypt
    Decrypt(payload::Payload),
    /// Re-encrypt the output of encrypt under the active key
    Rewrap(payload::Rewrap),
    /// Resolve references to secrets
    #[command(subcommand)]
    Vault(vault::Vault),
    /// Run a command with the references in its variables resolved
    Exec(exec::Exec),
    /// Keep secrets in files, and act when they change
    Files(files::Files),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print a man page
    Man(man::Man),
    /// Print the help of a command, or of all settings
    Help(docs::Help),
}

impl Arguments {
    /// Parses the command line, or exits with a message and code 2. Kong's commands lead to ours.
    pub fn from_command_line() -> Self {
        Self::try_parse().unwrap_or_else(|mut error| {
            if let Some(tip) = tip(&error) {
                let tip = StyledStr::from(tip);
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
                error.remove(ContextKind::SuggestedSubcommand);
                error.remove(ContextKind::SuggestedArg);
            }
            error.exit()
        })
    }
}

/// What was probably meant.
fn tip(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if matches!(text(ContextKind::InvalidSubcommand), Some("start" | "serve" | "server" | "daemon")) {
        return Some(
            "`keyringd run` runs the daemon in the foreground, for systemd or a container".to_owned(),
        );
    }
    let word = text(ContextKind::InvalidArg).filter(|_| error.kind() == ErrorKind::UnknownArgument)?;
    let word = Some(word).filter(|word| !word.starts_with('-'))?;
    match std::env::args().nth(1)?.as_str() {
        command @ ("encrypt" | "decrypt" | "rewrap") => {
            Some(format!("to read a file: `keyringd {command} -i {word}`"))
        }
        "exec" => Some(format!("to run a program: `keyringd exec -- {word}`")),
        _ => None,
    }
}

/// Runs a command and returns its exit code.
pub fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Command::Run(file) => serve::run(file),
        Command::Dev(dev) => serve::dev(dev),
        Command::Check { file, positional, changed, json } => {
            let shown = if changed { Shown::Changed } else { Shown::All };
            let file = positional.map_or(file, SettingsFile::new);
            if json { check::check_json(&file, shown) } else { check::check(&file, shown) }
        }
        Command::Doctor { file, login, json } => {
            let secret_ids = if login { SecretIds::UseOnce } else { SecretIds::Spare };
            let doctor = if json { check::doctor_json } else { check::doctor };
            doctor(&file, secret_ids)
        }
        Command::Status(status) => status::status(&status),
        Command::Health(keyring) => status::health(&keyring),
        Command::Sync(sync) => status::sync(&sync),
        Command::Reload(reload) => reload::reload(&reload),
        Command::Keygen(keygen) => keygen::keygen(&keygen),
        Command::Rotate(rotate) => rotate::rotate(&rotate),
        Command::Policy(policy) => policy::policy(&policy),
        Command::Encrypt(payload) => payload::encrypt(&payload),
        Command::Decrypt(payload) => payload::decrypt(&payload),
        Command::Rewrap(payload) => payload::rewrap(&payload),
        Command::Vault(vault::Vault::Get { resolver, reference }) => vault::get(&resolver, &reference),
        Command::Exec(exec) => exec::exec(&exec),
        Command::Files(files) => files::files(&files),
        Command::Completions { shell } => docs::completions(shell, Arguments::command()),
        Command::Man(man) => man::man(&man, Arguments::command()),
        Command::Help(help) => docs::help(&help, Arguments::command()),
    }
}
