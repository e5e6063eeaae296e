//! `run` and `dev`: from the arguments to a running daemon.

use std::{io, path::PathBuf, process::ExitCode};

use tokio::runtime::{Builder, Runtime};
use tracing::level_filters::LevelFilter;

use super::{Failure, FromFile, print, say, usable};
use crate::{
    daemon::{self, Inputs, StartError, dev},
    hardening::{self, Variable},
    keyring::KeyId,
    logging,
    settings::{
        Loaded, LogFormat, Note,
        source::{
            Origin,
            environment::{SecretVariable, secret_variables, user_runtime_dir},
        },
    },
    signals, systemd,
};

/// `keyringd run`.
pub fn run(from: FromFile) -> Result<ExitCode, Failure> {
    let loaded = from.load();
    // Only with settings that can be used: mistakes are reported as people made them.
    if loaded.settings.is_ok() {
        take_out_of_the_environment(&secret_variables(&loaded.referred));
    }
    let settings = usable(loaded)?;
    keep_out_of_dumps();
    if let Err(error) = hardening::lock_memory() {
        if settings.require_memory_lock {
            return Err(Failure::Unusable(format!("keyring_require_memory_lock: {error}")));
        }
        say(&format!("keyringd: warning: {error}"));
    }
    let listener = systemd::listener().map_err(cannot("take the socket that systemd passed"))?;
    let log = logging::start(daemon::level(settings.log), settings.log.format == LogFormat::Json);
    let inputs = Inputs {
        signals: signals::watch().map_err(cannot("handle signals"))?,
        load: Box::new(move || reload(&from)),
        log,
        listener,
    };
    runtime()?.block_on(daemon::run(settings, inputs)).map_err(|error| match error {
        StartError::Transport(error) => Failure::Unusable(error.to_string()),
        other => Failure::operation(other),
    })
}

fn keep_out_of_dumps() {
    if let Err(error) = hardening::keep_out_of_dumps() {
        say(&format!("keyringd: warning: a core dump of this process could hold keys: {error}"));
    }
}

/// Before any thread starts. The program begins again then, and finds nothing more to take out.
fn take_out_of_the_environment(secrets: &[SecretVariable]) {
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
    let Err(error) = hardening::start_anew_without(&variables);
    say(&format!("keyringd: warning: secrets stay in this process's environment: {error}"));
}

/// Settings that come to refer to another variable find it; its secret leaves the environment at the next start only.
fn reload(from: &FromFile) -> Loaded {
    let mut loaded = from.load();
    let stays = |variable: SecretVariable| Note {
        origin: Origin::Variable(variable.name),
        key: None,
        message: "holds a secret that stays in this process's environment until keyringd is restarted"
            .to_owned(),
    };
    loaded.warnings.extend(secret_variables(&loaded.referred).into_iter().map(stays));
    loaded
}

/// `keyringd dev`.
pub fn dev(socket: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let path = match socket {
        Some(path) => path,
        None => dev::default_socket(user_runtime_dir()).map_err(Failure::operation)?,
    };
    keep_out_of_dumps();
    let _log = logging::start(LevelFilter::WARN, false);
    let signals = signals::watch().map_err(cannot("handle signals"))?;
    // Clients may stand elsewhere.
    let shown = std::path::absolute(&path).unwrap_or_else(|_| path.clone()).display().to_string();
    let started = |id: &KeyId| {
        // Whoever closed standard output does not want to be told.
        let _ = print(welcome(&shown, id));
    };
    runtime()?.block_on(dev::run(&path, signals, started)).map_err(Failure::operation)
}

fn welcome(socket: &str, id: &KeyId) -> String {
    let name = dev::NAME;
    format!(
        "\
keyringd is serving on {socket}
under the key {id}: random, in memory alone, and gone when this process ends (Ctrl-C).

Encrypt and decrypt:
  curl -s --unix-socket {socket} http://localhost/v1/transit/encrypt/{name} -d '{{\"plaintext\":\"aGVsbG8=\"}}'
  curl -s --unix-socket {socket} http://localhost/v1/transit/decrypt/{name} -d '{{\"ciphertext\":\"kr1:…\"}}'
  echo hello | keyringd encrypt --socket {socket} | keyringd decrypt --socket {socket}

With the client of OpenBao or Vault:
  BAO_ADDR=unix://{socket} bao write transit/encrypt/{name} plaintext=aGVsbG8=

Its keys and its state:
  curl -s --unix-socket {socket} http://localhost/keyring
  keyringd status --socket {socket}
"
    )
}

fn runtime() -> Result<Runtime, Failure> {
    keep_what_is_freed();
    Builder::new_multi_thread().enable_all().build().map_err(cannot("start the threads that serve"))
}

/// Has glibc keep some megabytes of what is freed: by default it gives all but 128 KiB back to the kernel, and a request of
/// 64 KiB costs more in page faults than in encryption. It learns by example (mallopt(3), on `M_MMAP_THRESHOLD`): once so
/// large a block was freed, it keeps up to twice as much in each of its arenas. Other allocators take no notice.
fn keep_what_is_freed() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BLOCK)));
}

/// As large as the bodies that are common.
const LARGE_BLOCK: usize = 4 << 20;

fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Operation(format!("cannot {what}: {error}"))
}
