//! `keyringd dev`: the daemon on a random keyring of its own, without Vault.
//!
//! For trying it, and for applications' own tests. The key lives in memory alone and ends with the process. Variables can set
//! its name, the permissions, and where references lead.

use std::{
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
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
    cipher::NoRandomness,
    keyring::{
        Format, Formats, HeldKey, Key, KeyId, Keyring, KeyringEntry, Keyrings, KongFields, Published,
        SecretLocation,
    },
    metrics::Metrics,
    references::{Engines, References},
    secret::Secret,
    server::{self, Listeners, Server, listen},
    settings::{self, DevSettings, keys},
    signals::Signal,
    vault::Sessions,
};

/// The key name in Transit's paths, unless the settings have one.
const NAME: &str = "keyring";

/// Serves until a signal. `started` gets the keyring's name and the key's ID once clients can connect.
pub async fn run(
    path: &Path,
    settings: DevSettings,
    mut signals: UnboundedReceiver<Signal>,
    started: impl FnOnce(&str, &KeyId),
) -> Result<ExitCode, StartError> {
    let (keyring, id) = random_keyring()?;
    let name = settings.name.unwrap_or_else(|| NAME.to_owned());
    let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
    let sessions = Arc::new(Sessions::new(Arc::clone(&metrics), stop.clone()));
    let references = References::new(Engines::from_sources(settings.references, &sessions)?);
    let upstream = DevUpstream { references, sessions: Arc::clone(&sessions) };
    let (listener, file) = listen::bind(path, 0o600, None).await?;
    let settings::Limits { request_size, inflight_size, connections, batch } = settings::Limits::default();
    let config = RuntimeConfig {
        keyrings: Keyrings::single(KeyringEntry {
            name: name.as_str().into(),
            published: Arc::new(Published::with(keyring)),
            formats: Formats { write: Format::Native, kong_fields: KongFields::Refuse },
            index_key: None,
            max_stale: None,
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

fn random_keyring() -> Result<(Keyring, KeyId), NoRandomness> {
    let mut k = Secret::new([0; 32]);
    getrandom::fill(k.expose_mut())?;
    let id = format!("dev-{:08x}", getrandom::u32()?);
    let id = KeyId::parse(&id).unwrap_or_else(|_| unreachable!("hexadecimal digits make a key id"));
    let key = Arc::new(Key::new(id.clone(), k));
    let held = HeldKey::new(key, 1, SystemTime::now());
    let keyring = Keyring::new([held], &id).unwrap_or_else(|| unreachable!("the key was just put in"));
    // By its time, the key has a public name that no other run's has.
    let location = SecretLocation { versioned: true, ..SecretLocation::default() };
    Ok((keyring.with_location(location), id))
}

/// The default socket of `dev`: in the user's runtime folder, else in a folder of the user's
/// own under the temporary directory. The folder is made if need be, and refused if others could enter it.
pub fn default_socket(runtime_dir: Option<PathBuf>) -> io::Result<PathBuf> {
    let uid = nix::unistd::getuid().as_raw();
    let folder = match runtime_dir {
        Some(folder) => folder.join("keyringd"),
        None => std::env::temp_dir().join(format!("keyringd-{uid}")),
    };
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
    Ok(folder.join("keyringd.sock"))
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

    fn describe(&self) -> Value {
        json!({ "dev": true, "sessions": self.sessions.describe() })
    }
}
