//! Where a command resolves references: at the running daemon, or with sessions of its own.
//!
//! References to variables are resolved in the command's environment. For all others a daemon is asked if one listens on the
//! socket; otherwise the command logs in to Vault itself, and revokes what it obtained at the end.

use std::{io, os::unix::net::UnixStream, path::Path, sync::Arc, time::Duration};

use clap::Args;
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::command::{Daemon, Failure, print_error, print_notes};
use crate::{
    client::{Client, ClientError},
    references::{self, Engines, References},
    secret::Secret,
    settings::{
        self, ReferenceSources,
        resolve::{EnvBackend, EnvReference, Unresolved},
        source::{Environment, Source as _, environment},
    },
    vault::Sessions,
};

/// The interval between polls. The daemon answers from its cache, whose TTLs are the references' own.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct ResolverArgs {
    #[command(flatten)]
    daemon: Daemon,
    /// Log in to Vault without a daemon [default: if none listens on the socket]
    #[arg(long, conflicts_with = "socket")]
    direct: bool,
    /// Ask the daemon, never Vault
    #[arg(long = "daemon", conflicts_with = "direct")]
    only_daemon: bool,
}

/// Resolves the references of one command. How it does is decided at the first reference that needs it.
pub(super) struct Resolver<'a> {
    arguments: &'a ResolverArgs,
    way: OnceCell<Way>,
}

enum Way {
    Daemon(Client),
    Direct(Direct),
}

/// The value of a reference.
struct Resolved {
    value: Secret<String>,
    /// How long ago it expired, if it could not be refreshed.
    stale: Option<Duration>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(arguments: &'a ResolverArgs) -> Self {
        Self { arguments, way: OnceCell::new() }
    }

    /// The values of references, in their order. It warns about stale values.
    pub(super) async fn values(&self, references: &[&str]) -> Result<Vec<Secret<String>>, Failure> {
        let mut values: Vec<Option<Secret<String>>> = Vec::new();
        let mut remote = Vec::new();
        let backend = self.arguments.env_backend(references)?;
        for reference in references {
            let value = EnvReference::from_either_notation(reference, &backend)
                .map(|named| variable(reference, named))
                .transpose()?;
            if value.is_none() {
                check_notation(reference)?;
                remote.push(*reference);
            }
            values.push(value);
        }
        if !remote.is_empty() {
            let resolved = self.resolve(&remote).await?;
            let missing = values.iter_mut().filter(|value| value.is_none());
            for ((value, reference), resolved) in missing.zip(remote).zip(resolved) {
                if let Some(stale) = resolved.stale {
                    print_error(&format!(
                        "keyringd: warning: {reference}: refresh failed; using a cached value that expired {} s ago",
                        stale.as_secs()
                    ));
                }
                *value = Some(resolved.value);
            }
        }
        let values: Option<Vec<_>> = values.into_iter().collect();
        values.ok_or_else(|| Failure::from_error("the daemon returned too few values"))
    }

    async fn resolve(&self, references: &[&str]) -> Result<Vec<Resolved>, Failure> {
        match self.way.get_or_try_init(|| async { self.arguments.way() }).await? {
            Way::Daemon(client) => {
                let resolved = client.resolve(references).await.map_err(|error| match error {
                    ClientError::NoSocket { .. }
                    | ClientError::Stale { .. }
                    | ClientError::Forbidden { .. }
                    | ClientError::Unreachable { .. } => Failure::Operation(format!(
                        "{error}, or log in to Vault without a daemon by --direct"
                    )),
                    error => error.into(),
                })?;
                Ok(resolved.into_iter().map(|one| Resolved { value: one.value, stale: one.stale }).collect())
            }
            Way::Direct(direct) => direct.resolve(references).await,
        }
    }

    /// Revokes the tokens that were obtained.
    pub(super) async fn close(self) {
        if let Some(Way::Direct(direct)) = self.way.into_inner() {
            direct.sessions.end().await;
        }
    }
}

/// Before anything is asked. What does not even look like a reference may be a secret in the wrong place.
fn check_notation(reference: &str) -> Result<(), Failure> {
    let subject = if reference.starts_with(['{', '$']) { reference } else { "the text" };
    let checked = references::check_notation(reference);
    checked.map_err(|error| Failure::Operation(format!("{subject} {error}")))
}

fn variable(reference: &str, named: Result<EnvReference, Unresolved>) -> Result<Secret<String>, Failure> {
    let value = named.and_then(|named| named.value(Environment.variable(&named.variable)));
    value.map_err(|error| Failure::Operation(format!("{reference} {error}")))
}

impl ResolverArgs {
    /// The variables of keyringd's own secrets, which no other program gets.
    pub(super) fn secret_variables(&self) -> Vec<String> {
        let secrets = environment::secret_variables(&self.daemon.referred_variables());
        secrets.into_iter().flat_map(|secret| [secret.name, secret.moved]).collect()
    }

    /// The settings of the backend `env`. They are only needed for variables, so that a bad kong.conf hinders no other
    /// reference.
    fn env_backend(&self, references: &[&str]) -> Result<EnvBackend, Failure> {
        let is_variable =
            |text: &&str| EnvReference::from_either_notation(text, &EnvBackend::default()).is_some();
        if references.iter().any(is_variable) { self.daemon.env_backend() } else { Ok(EnvBackend::default()) }
    }

    fn way(&self) -> Result<Way, Failure> {
        if self.direct {
            return self.open_direct().map(Way::Direct);
        }
        let socket = self.daemon.socket_path()?;
        if self.only_daemon || self.daemon.names_socket() || listens(&socket) {
            return Ok(Way::Daemon(Client::new(&socket)));
        }
        let direct = self.open_direct().map_err(|failure| match failure {
            Failure::Operation(why) => {
                Failure::Operation(format!("no daemon listens on {}, and {why}", socket.display()))
            }
            other => other,
        })?;
        Ok(Way::Direct(direct))
    }

    fn open_direct(&self) -> Result<Direct, Failure> {
        let (sources, warnings) = settings::load_reference_sources(&self.daemon.sources());
        print_notes("warning", &warnings);
        Direct::open(sources.map_err(Failure::Configuration)?)
    }
}

/// Whether a daemon listens. A socket that this user may not use counts: its error is to be shown.
fn listens(socket: &Path) -> bool {
    let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    !UnixStream::connect(socket).is_err_and(|error| nobody.contains(&error.kind()))
}

/// Sessions of this command alone.
struct Direct {
    references: References,
    sessions: Sessions,
}

impl Direct {
    fn open(sources: ReferenceSources) -> Result<Self, Failure> {
        let no_vault = "the settings name no Vault: start keyringd, or set vault_hcv_host and vault_hcv_token (for \
                        $secret://, keyring_secret_objects)";
        if sources.keyring.is_none() && !sources.references.names_a_server() {
            return Err(Failure::Operation(no_vault.to_owned()));
        }
        let sessions = Sessions::new(Arc::default(), CancellationToken::new());
        let engines = Engines::from_sources(sources, &sessions);
        let engines = engines.map_err(|error| Failure::Unusable(error.to_string()))?;
        Ok(Self { references: References::new(engines), sessions })
    }

    async fn resolve(&self, references: &[&str]) -> Result<Vec<Resolved>, Failure> {
        let resolved = self.references.resolve(references).await;
        let each = references.iter().zip(resolved).map(|(reference, result)| {
            let found = result.map_err(|error| Failure::Operation(format!("{reference} {error}")))?;
            Ok(Resolved { value: found.value, stale: found.stale })
        });
        each.collect()
    }
}

/// Polls for the values of references.
#[derive(Default)]
pub(super) struct Poll {
    due: Option<Instant>,
    /// The last poll failed. Only the first failure is reported.
    failing: bool,
}

impl Poll {
    /// The values at the next poll that succeeds. Dropping the future loses nothing.
    pub(super) async fn next(&mut self, resolver: &Resolver<'_>, references: &[&str]) -> Vec<Secret<String>> {
        loop {
            let due = *self.due.get_or_insert_with(|| Instant::now() + POLL_INTERVAL);
            sleep_until(due).await;
            let outcome = resolver.values(references).await;
            self.due = None;
            match outcome {
                Ok(values) => {
                    self.failing = false;
                    return values;
                }
                Err(failure) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        failure.report();
                        print_error("keyringd: the current secrets stay in use");
                    }
                }
            }
        }
    }
}
