//! `keyringd dev`: the daemon on a random keyring of its own, without Vault.
//!
//! For trying it, and for applications' own tests. The key lives in memory alone and ends with the process, unless a file
//! is named that keeps it. Variables can set its name, the permissions, and where references lead.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::SystemTime,
};

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::{StartError, upstream};
use crate::{
    api::{self, Api, ApiError, ResolvedValue, RuntimeConfig, Upstream, UpstreamFuture},
    keyring::{
        Format, Formats, HeldKey, KeyDerivation, KeyId, Keyring, KeyringEntry, Keyrings, KongFields,
        Published, SecretLocation,
        new_record::{self, NewRecordError},
        record::Contents,
    },
    metrics::Metrics,
    references::{Engines, References},
    secret::Secret,
    server::{self, Listeners, Server, listen},
    settings::{self, DevSettings, keys},
    signals::Signal,
    vault::Sessions,
};

/// More than a record takes.
const MAX_RECORD: usize = 64 << 10;

/// The key name in Transit's paths, unless the settings have one.
const NAME: &str = "keyring";

/// What `dev` serves.
#[derive(Debug)]
pub struct Served {
    pub socket: PathBuf,
    pub settings: DevSettings,
    /// The file that keeps the key between two runs.
    pub persist: Option<PathBuf>,
}

/// Why the file of the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    #[error("--persist {0}: {1}")]
    Io(PathBuf, io::Error),
    #[error("--persist {0}: other users may read it: chmod 600")]
    Open(PathBuf),
    #[error("--persist {0}: expected a record as `keyringd keygen` prints it")]
    NoRecord(PathBuf),
}

/// Serves until a signal. `started` gets the keyring's name and the key's ID once clients can connect.
pub async fn run(
    Served { socket, settings, persist }: Served,
    mut signals: UnboundedReceiver<Signal>,
    started: impl FnOnce(&str, &KeyId),
) -> Result<ExitCode, StartError> {
    let name = settings.name.unwrap_or_else(|| NAME.to_owned());
    let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
    let sessions = Arc::new(Sessions::new(Arc::clone(&metrics), stop.clone()));
    let references = References::new(Engines::from_sources(settings.references, &sessions)?);
    let upstream = DevUpstream { references, sessions: Arc::clone(&sessions) };
    let (listener, file) = listen::bind(&socket, 0o600, None).await?;
    let (keyring, id) = match persist {
        Some(path) => persistent_keyring(&path)?,
        None => random_keyring()?,
    };
    let settings::Limits { request_size, inflight_size, connections, batch } = settings::Limits::default();
    let config = RuntimeConfig {
        keyrings: Keyrings::single(KeyringEntry {
            name: name.as_str().into(),
            published: Arc::new(Published::with(keyring)),
            formats: Formats { write: Format::Native, kong_fields: KongFields::Refuse },
            index_key: None,
            max_stale: None,
            secret: None,
            moving_to: None,
        }),
        kms_name: None,
        access: settings.access,
        audit: keys::AUDIT.default_value(),
        limits: api::Limits::new(request_size, inflight_size, batch),
        transit_mounts: keys::TRANSIT_MOUNTS.default_value().into(),
        namespace: None,
    };
    let api = Arc::new(Api::new(config, Arc::clone(&metrics), Arc::new(upstream)));
    let server = Arc::new(Server::new(Arc::clone(&api), metrics, server::Limits::new(connections)));
    let serving = server.serve(Listeners { socket: listener, metrics: None }, None, stop.clone());
    let serving = tokio::spawn(async move { api.audit_during(serving).await });
    started(&name, &id);
    while !matches!(signals.recv().await, Some(Signal::Stop) | None) {}
    stop.cancel();
    let _ = serving.await;
    sessions.end().await;
    drop(file);
    Ok(ExitCode::SUCCESS)
}

fn random_keyring() -> Result<(Keyring, KeyId), StartError> {
    let record = new_record()?;
    Ok(keyring(&record, SystemTime::now()).unwrap_or_else(|| unreachable!("the record was just made")))
}

fn new_record() -> Result<Secret<String>, NewRecordError> {
    let id = KeyId::parse(&format!("dev-{:08x}", getrandom::u32()?));
    new_record::single(&id.unwrap_or_else(|_| unreachable!("hexadecimal digits make a key id")))
}

/// The keyring of a file, which is made if there is none. By its time, the key keeps its public name for Kubernetes.
fn persistent_keyring(path: &Path) -> Result<(Keyring, KeyId), StartError> {
    let failed = |error| PersistError::Io(path.to_owned(), error);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let record = new_record()?;
            file.write_all(record.expose().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error).into()),
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(PersistError::Open(path.to_owned()).into());
    }
    let mut record = Secret::new(String::with_capacity(MAX_RECORD));
    file.take(MAX_RECORD as u64).read_to_string(record.expose_mut()).map_err(failed)?;
    let created = metadata.modified().map_err(failed)?;
    keyring(&record, created).ok_or_else(|| PersistError::NoRecord(path.to_owned()).into())
}

/// The keyring of one record.
fn keyring(record: &Secret<String>, created: SystemTime) -> Option<(Keyring, KeyId)> {
    let Contents { keys, active, .. } = Contents::parse(record.expose().as_bytes(), KeyDerivation::Sha256);
    let id = active?;
    let keyring = Keyring::new(keys.into_iter().map(|key| HeldKey::new(key, 1, created)), &id)?;
    let location = SecretLocation { versioned: true, ..SecretLocation::default() };
    Some((keyring.with_location(location), id))
}

/// The default socket of `dev`: in the user's runtime folder, else in a folder of the user's
/// own under the temporary directory. The folder is made if need be, and refused if others could enter it.
pub fn default_socket(runtime_dir: Option<PathBuf>) -> io::Result<PathBuf> {
    let uid = nix::unistd::getuid().as_raw();
    let path = socket_path(runtime_dir);
    let folder = listen::parent_folder(&path).to_owned();
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io::Error::new(
                error.kind(),
                format!("cannot make the folder {}: {error}", folder.display()),
            ));
        }
        _ => {}
    }
    let metadata = std::fs::symlink_metadata(&folder)?;
    if !metadata.is_dir() || metadata.uid() != uid || metadata.mode() & 0o077 != 0 {
        let message =
            format!("{} is not a folder of this user's alone: remove it, or use --socket", folder.display());
        return Err(io::Error::other(message));
    }
    Ok(path)
}

/// Where the default socket of `dev` is, whether it exists or not.
pub fn socket_path(runtime_dir: Option<PathBuf>) -> PathBuf {
    let folder = match runtime_dir {
        Some(folder) => folder.join("keyringd"),
        None => std::env::temp_dir().join(format!("keyringd-{}", nix::unistd::getuid())),
    };
    folder.join("keyringd.sock")
}

/// There is no Vault for keys. References lead where the settings say.
struct DevUpstream {
    references: References,
    sessions: Arc<Sessions>,
}

impl Upstream for DevUpstream {
    fn sync<'a>(&'a self, _: &'a str, _: Option<Secret<String>>) -> UpstreamFuture<'a, Result<(), String>> {
        Box::pin(async { Err("keyringd dev has no Vault to sync with: its one key is random".to_owned()) })
    }

    fn look_for_new_keys<'a>(&'a self, _: &'a str) -> UpstreamFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn first_outcome<'a>(&'a self, _: &'a str) -> UpstreamFuture<'a, ()> {
        Box::pin(async {})
    }

    fn resolve<'a>(
        &'a self,
        references: &'a [&'a str],
    ) -> UpstreamFuture<'a, Vec<Result<ResolvedValue, ApiError>>> {
        Box::pin(upstream::resolve(&self.references, references))
    }

    fn can_resolve(&self) -> Result<(), String> {
        self.sessions.health()
    }

    fn reload(&self) -> UpstreamFuture<'_, Result<Value, String>> {
        Box::pin(async { Err("keyringd dev has no settings to reload".to_owned()) })
    }

    fn describe(&self) -> Value {
        json!({ "dev": true, "sessions": self.sessions.describe() })
    }
}
