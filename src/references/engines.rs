//! The engines that references name, by the settings: each with its session, or with the keyring's, and its reads.
//!
//! One value, which a reload replaces as a whole. A limit on concurrent reads keeps references from flooding a server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::name::{EngineName, ResolveError};
use crate::{
    secret::Secret,
    settings::{
        self, KvSecret, KvVersion, ReferenceSettings, ReferenceSources, SecretPath,
        reference::Caching,
        resolve::{EnvBackend, EnvReference},
        setting::VARIABLE_PREFIX,
        source::{Environment, Source as _},
    },
    vault::{Client, Kv, SessionName, Sessions, VaultError, kv::Purpose, transport::TransportError},
};

/// The prefixes of the daemon's own variables: its settings, and where it moved secrets to.
const OWN_VARIABLES: [&str; 2] = [VARIABLE_PREFIX, "KEYRINGD_"];

/// How many secrets of one engine are read at once.
const CONCURRENT_READS: usize = 8;

pub struct Engines {
    /// `None` if the settings name no Vault for it.
    hcv: Option<Engine>,
    prefixes: Vec<String>,
    entities: BTreeMap<String, Engine>,
    entity_prefixes: BTreeMap<String, String>,
    objects: BTreeMap<String, Engine>,
    own_variables: BTreeSet<String>,
    /// How Kong's env backend is set.
    pub(super) env: EnvBackend,
}

/// The keyring's session and KV engine, for engines without their own.
pub struct KeyringEngine {
    pub client: Client,
    pub mount: SecretPath,
    pub kv: KvVersion,
}

pub(super) struct Engine {
    client: Client,
    pub(super) fetch: Fetch,
    /// Its server, and the settings that name it, for messages.
    pub(super) source: Arc<str>,
    /// The engine's name, server and namespace. An engine is served no cached secret of another.
    pub(super) id: Arc<str>,
    pub(super) mount: SecretPath,
    pub(super) kv: KvVersion,
    /// The start of each secret's path.
    pub(super) below: Vec<String>,
    pub(super) caching: Caching,
    pub(super) decode_base64: bool,
}

/// A secret, and its version if the reference names one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SecretAddress {
    pub(super) secret: KvSecret,
    pub(super) version: Option<u64>,
}

/// Reads the fields of a secret, as JSON text.
pub(super) type Fetch =
    Arc<dyn Fn(SecretAddress) -> BoxFuture<'static, Result<Secret<String>, VaultError>> + Send + Sync>;

impl Engines {
    /// Engines without a mount or a server of their own use those of the keyring. No request is sent yet.
    pub fn new(
        secrets: ReferenceSettings,
        keyring: Option<&KeyringEngine>,
        sessions: &Sessions,
    ) -> Result<Self, TransportError> {
        let named = |all: BTreeMap<String, settings::EngineSettings>| {
            let mut engines = BTreeMap::new();
            for (name, settings) in all {
                let engine = Engine::new(SessionName::Object(name.clone()), settings, keyring, sessions)?;
                engines.extend(engine.map(|engine| (name, engine)));
            }
            Ok::<_, TransportError>(engines)
        };
        Ok(Self {
            entities: named(secrets.entities)?,
            entity_prefixes: secrets.entity_prefixes,
            objects: named(secrets.objects)?,
            hcv: Engine::new(SessionName::Hcv, secrets.hcv, keyring, sessions)?,
            prefixes: secrets.prefixes,
            own_variables: secrets.own_variables,
            env: secrets.env,
        })
    }

    /// For a command or a daemon without a keyring: the keyring's session serves if the sources have one.
    pub fn from_sources(sources: ReferenceSources, sessions: &Sessions) -> Result<Self, TransportError> {
        let ReferenceSources { references, keyring } = sources;
        let engine = keyring.map(|keyring| {
            let client = sessions.client(SessionName::Keyring, keyring.server)?;
            Ok::<_, TransportError>(KeyringEngine { client, mount: keyring.mount, kv: keyring.kv })
        });
        Self::new(references, engine.transpose()?.as_ref(), sessions)
    }

    /// The sessions, some of them several times.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.all().map(|engine| &engine.client)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Engine> {
        self.hcv.iter().chain(self.entities.values()).chain(self.objects.values())
    }

    pub(super) fn get(&self, name: &EngineName) -> Result<&Engine, ResolveError> {
        match name {
            EngineName::Kong(name) if name == "hcv" || self.prefixes.contains(name) => {
                self.hcv.as_ref().ok_or(ResolveError::NoVault)
            }
            EngineName::Kong(name) => {
                let entity = self.entity_prefixes.get(name).unwrap_or(name);
                self.entities.get(entity).ok_or_else(|| ResolveError::UnknownBackend(name.clone()))
            }
            EngineName::Object(id) => {
                self.objects.get(id).ok_or_else(|| ResolveError::UnknownObject(id.clone()))
            }
        }
    }

    /// The value of one of the daemon's variables. Those that configure the daemon are refused: its token is one.
    pub(super) fn variable(&self, named: &EnvReference) -> Result<Secret<String>, ResolveError> {
        let name = &named.variable;
        let own = OWN_VARIABLES.iter().any(|prefix| name.starts_with(prefix));
        if own || self.own_variables.contains(name) {
            return Err(ResolveError::OwnVariable(name.clone()));
        }
        Ok(named.value(Environment.variable(name))?)
    }
}

impl Engine {
    fn new(
        name: SessionName,
        settings: settings::EngineSettings,
        keyring: Option<&KeyringEngine>,
        sessions: &Sessions,
    ) -> Result<Option<Self>, TransportError> {
        let engine = name.to_string();
        let client = match (settings.server, keyring) {
            (Some(server), _) => sessions.client(name, server)?,
            (None, Some(keyring)) => keyring.client.clone(),
            (None, None) => return Ok(None),
        };
        let mount = settings.mount.or_else(|| keyring.map(|keyring| keyring.mount.clone()));
        let kv = settings.kv.or_else(|| keyring.map(|keyring| keyring.kv));
        let Some((mount, kv)) = mount.zip(kv) else { return Ok(None) };
        let server = client.server();
        let id = format!("{engine} {} {}", server.host, server.namespace.as_deref().unwrap_or_default());
        Ok(Some(Self {
            id: id.into(),
            source: source(&client).into(),
            fetch: fetch_from(client.clone()),
            client,
            mount,
            kv,
            below: settings.below,
            caching: settings.caching,
            decode_base64: settings.decode_base64,
        }))
    }
}

fn source(client: &Client) -> String {
    let settings = match client.name() {
        SessionName::Keyring => "keyring_vault_*".to_owned(),
        SessionName::Hcv => "vault_hcv_*".to_owned(),
        SessionName::Object(id) => format!("keyring_secret_objects {id}"),
    };
    format!("at {}, by {settings}", client.transport().host())
}

/// `secret/customer/acme`, or `secret/customer/acme#2`.
impl fmt::Display for SecretAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.secret.mount, self.secret.path)?;
        self.version.map_or(Ok(()), |version| write!(f, "#{version}"))
    }
}

fn fetch_from(client: Client) -> Fetch {
    let limit = Arc::new(Limit::default());
    Arc::new(move |address| {
        let (client, limit) = (client.clone(), Arc::clone(&limit));
        Box::pin(async move { limit.run(read(&client, &address)).await })
    })
}

async fn read(client: &Client, address: &SecretAddress) -> Result<Secret<String>, VaultError> {
    Kv::new(client, &address.secret, Purpose::Reference).read(address.version).await
}

/// While a server is unreachable, all reads that wait for their turn fail at once.
struct Limit {
    permits: Semaphore,
    /// The last failure to reach the server, and when it ended.
    unreachable: Mutex<Option<(Instant, VaultError)>>,
}

impl Default for Limit {
    fn default() -> Self {
        Self { permits: Semaphore::new(CONCURRENT_READS), unreachable: Mutex::default() }
    }
}

impl Limit {
    async fn run(
        &self,
        read: impl Future<Output = Result<Secret<String>, VaultError>> + Send,
    ) -> Result<Secret<String>, VaultError> {
        let start = Instant::now();
        let _permit = self.permits.acquire().await;
        if let Some(error) = self.unreachable_since(start) {
            return Err(error);
        }
        let outcome = read.await;
        if let Err(error) = &outcome
            && let Some(error) = error.for_other_requests()
        {
            *self.unreachable.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error));
        }
        outcome
    }

    fn unreachable_since(&self, start: Instant) -> Option<VaultError> {
        let unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        unreachable.as_ref().filter(|(at, _)| *at >= start).and_then(|(_, error)| error.for_other_requests())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn reads_that_wait_for_an_unreachable_server_fail_at_once() {
        let (limit, sent) = (Arc::new(Limit::default()), Arc::new(AtomicUsize::new(0)));
        let gate = Arc::new(Semaphore::new(0));
        let reads: Vec<_> = (0..100)
            .map(|_| {
                let (limit, sent, gate) = (Arc::clone(&limit), Arc::clone(&sent), Arc::clone(&gate));
                tokio::spawn(async move {
                    let read = async {
                        sent.fetch_add(1, Ordering::Relaxed);
                        gate.acquire().await.unwrap().forget();
                        Err(VaultError::Timeout { host: "planted".into() })
                    };
                    limit.run(read).await
                })
            })
            .collect();
        while sent.load(Ordering::Relaxed) < CONCURRENT_READS {
            tokio::task::yield_now().await;
        }
        gate.add_permits(100);
        for read in reads {
            assert!(matches!(read.await.unwrap(), Err(VaultError::Timeout { .. })));
        }
        assert_eq!(sent.load(Ordering::Relaxed), CONCURRENT_READS);
    }
}
