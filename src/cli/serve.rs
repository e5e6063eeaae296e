//! `run` and `dev`: harden the process, start the log and run the daemon.

use std::{io, path::PathBuf, process::ExitCode};

use clap::Args;
use tokio::runtime::Builder;

use super::command::{Failure, SettingsFile, block_on, print, print_error, print_notes, valid_settings};
use crate::{
    daemon::{
        self, Inputs, StartError,
        dev::{self, Served},
    },
    hardening::{self, Variable},
    keyring::KeyId,
    logging::{self, Level, LineFormat},
    server::listen::ListenError,
    settings::{
        self, Loaded, Note, key_name,
        source::{
            self, Origin,
            environment::{SecretVariable, secret_variables, user_runtime_dir},
        },
    },
    signals, systemd,
};

/// `keyringd run`
pub(super) fn run(file: SettingsFile) -> Result<ExitCode, Failure> {
    let mut loaded = file.load();
    // Only with valid settings, so that errors name the variables as the user set them.
    if loaded.settings.is_ok() {
        clear_environment(&secret_variables(&loaded.referred));
    }
    let effective = std::mem::take(&mut loaded.effective);
    let settings = valid_settings(loaded)?;
    disable_dumps();
    hardening::raise_descriptor_limit();
    if let Err(error) = hardening::lock_memory() {
        if settings.require_memory_lock {
            return Err(Failure::Unusable(format!("keyring_require_memory_lock: {error}")));
        }
        print_error(&format!("keyringd: warning: {error}"));
    }
    let listener = systemd::listener().map_err(cannot("take the socket that systemd passed"))?;
    let log = logging::start(settings.log.level, settings.log.format);
    let inputs = Inputs {
        configuration: file.path(),
        signals: signals::watch().map_err(cannot("handle signals"))?,
        load: Box::new(move || reload(&file)),
        effective,
        log,
        listener,
    };
    serve(daemon::run(settings, inputs))?.map_err(|error| match error {
        StartError::Transport(error) => Failure::Unusable(error.to_string()),
        other => Failure::from_error(other),
    })
}

fn disable_dumps() {
    if let Err(error) = hardening::disable_dumps() {
        print_error(&format!("keyringd: warning: a core dump of this process may contain keys: {error}"));
    }
}

/// Moves secrets from variables to pipes and executes the program again. Call it before any thread starts.
fn clear_environment(secrets: &[SecretVariable]) {
    if secrets.is_empty() {
        return;
    }
    let variables: Vec<_> = secrets
        .iter()
        .map(|SecretVariable { name, moved, value }| Variable {
            name,
            moved,
            value: value.expose().as_bytes(),
        })
        .collect();
    let Err(error) = hardening::reexec_without(&variables);
    print_error(&format!("keyringd: warning: secrets stay in this process's environment: {error}"));
}

/// A reload may refer to further variables. They leave the environment only at a restart.
fn reload(file: &SettingsFile) -> Loaded {
    let mut loaded = file.load();
    let warning = |variable: SecretVariable| Note {
        origin: Origin::Variable(variable.name),
        key: None,
        message: "this secret stays in the process's environment until keyringd is restarted".to_owned(),
    };
    loaded.warnings.extend(secret_variables(&loaded.referred).into_iter().map(warning));
    loaded
}

#[derive(Debug, Args)]
pub(super) struct Dev {
    /// The socket to serve on [default: KONG_KEYRING_SOCKET_PATH, or one in a private folder of this user]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The key name in Transit's paths [default: KONG_KEYRING_NAME, or keyring]
    #[arg(long, value_name = "NAME", value_parser = key_name)]
    name: Option<String>,
    /// Keep the key in this file between two runs, which is for development only
    #[arg(long, value_name = "FILE")]
    persist: Option<PathBuf>,
}

/// `keyringd dev`
pub(super) fn dev(Dev { socket, name, persist }: Dev) -> Result<ExitCode, Failure> {
    let sources = source::variables_of_this_process();
    let (settings, warnings) = settings::load_dev(&sources);
    print_notes("warning", &warnings);
    let mut settings = settings.map_err(Failure::Configuration)?;
    settings.name = name.or(settings.name);
    let socket = match socket.or_else(|| settings.socket.take()) {
        Some(path) => path,
        None => dev::default_socket(user_runtime_dir()).map_err(Failure::from_error)?,
    };
    disable_dumps();
    let _log = logging::start(Level::Warn, LineFormat::Text);
    let signals = signals::watch().map_err(cannot("handle signals"))?;
    // Clients may run in another folder.
    let absolute = std::path::absolute(&socket).unwrap_or_else(|_| socket.clone()).display().to_string();
    let kept = match &persist {
        Some(path) => format!("kept in {}, for development only", path.display()),
        None => "random, in memory only, lost when keyringd stops (Ctrl-C)".to_owned(),
    };
    let started = |name: &str, id: &KeyId| {
        // A closed standard output does not stop the daemon.
        let _ = print(welcome(&absolute, name, id, &kept));
    };
    serve(dev::run(Served { socket, settings, persist }, signals, started))?.map_err(|error| match error {
        StartError::Listen(ListenError::InUse(path)) => Failure::Operation(format!(
            "another daemon serves on {}: use it, stop it, or name another path with --socket",
            path.display()
        )),
        other => Failure::from_error(other),
    })
}

fn welcome(socket: &str, name: &str, id: &KeyId, kept: &str) -> String {
    format!(
        "\
keyringd is serving on {socket}
with the key {id}: {kept}.

For the commands of keyringd in another terminal:
  export KONG_KEYRING_SOCKET_PATH={socket}

Encrypt and decrypt:
  curl -s --unix-socket {socket} http://localhost/v1/transit/encrypt/{name} -d '{{\"plaintext\":\"aGVsbG8=\"}}'
  curl -s --unix-socket {socket} http://localhost/v1/transit/decrypt/{name} -d '{{\"ciphertext\":\"kr1:…\"}}'
  echo hello | keyringd encrypt --socket {socket} | keyringd decrypt --socket {socket}

With the CLI of OpenBao or Vault:
  BAO_ADDR=unix://{socket} bao write transit/encrypt/{name} plaintext=aGVsbG8=

Keys and status:
  curl -s --unix-socket {socket} http://localhost/keyring
  keyringd status --socket {socket}
"
    )
}

fn serve<T>(daemon: impl Future<Output = T>) -> Result<T, Failure> {
    block_on(&mut Builder::new_multi_thread(), daemon)
}

fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Operation(format!("cannot {what}: {error}"))
}
