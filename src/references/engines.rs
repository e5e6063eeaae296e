//! Which engine a name leads to, by the settings as they are, and the way there: a session of the engine's own, or the
//! keyring's. One value, which a reload replaces as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ResolveError, Resolved,
    name::EngineName,
    read::{OwnSession, Reads},
};
use crate::{
    metrics::Metrics,
    settings::{
        self, KvVersion, SecretPath, Secrets,
        keys::VARIABLE_PREFIX,
        reference::Caching,
        resolve::Named,
        source::{Environment, Source as _},
    },
    vault::{Session, transport::TransportError},
};

/// How the variables begin that are the daemon's own: its settings, and where it moved secrets to.
const OWN_VARIABLES: [&str; 2] = [VARIABLE_PREFIX, "KEYRINGD_"];

/// The engines by their names.
pub struct Engines {
    hcv: Engine,
    prefixes: Vec<String>,
    objects: BTreeMap<String, Engine>,
    own_variables: BTreeSet<String>,
}

/// One engine, and the way to it.
pub struct Engine {
    pub reads: Arc<dyn Reads>,
    /// The engine's name, server and namespace: what is kept of another is none of its business.
    pub server: Arc<str>,
    pub mount: SecretPath,
    pub kv: KvVersion,
    pub below: Vec<String>,
    pub caching: Caching,
    pub decode_base64: bool,
    /// One of its own.
    pub has_session: bool,
}

/// Where the keyring is: what engines without a server of their own go by.
#[derive(Clone, Debug)]
pub struct Home {
    mount: SecretPath,
    kv: KvVersion,
    server: String,
}

impl Home {
    pub fn of(vault: &settings::Vault) -> Self {
        Self { mount: vault.mount.clone(), kv: vault.kv, server: server(vault) }
    }
}

fn server(vault: &settings::Vault) -> String {
    format!("{} {}", vault.host, vault.namespace.as_deref().unwrap_or_default())
}

impl Engines {
    pub fn new(
        secrets: Secrets,
        home: &Home,
        keyring: &Arc<dyn Reads>,
        sessions: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, TransportError> {
        let engine = |name: &str, engine: settings::secrets::Engine| {
            let has_session = engine.server.is_some();
            let (reads, server): (Arc<dyn Reads>, _) = match engine.server {
                None => (Arc::clone(keyring), home.server.clone()),
                Some(vault) => {
                    let server = server(&vault);
                    // What the metrics say of logins is of the keyring's own.
                    let session = Session::new(vault, Arc::new(Metrics::default()))?;
                    let (own, driven) = OwnSession::new(session, stop.clone());
                    sessions.spawn(driven);
                    (Arc::new(own), server)
                }
            };
            Ok::<_, TransportError>(Engine {
                reads,
                server: format!("{name} {server}").into(),
                mount: engine.mount.unwrap_or_else(|| home.mount.clone()),
                kv: engine.kv.unwrap_or(home.kv),
                below: engine.below,
                caching: engine.caching,
                decode_base64: engine.decode_base64,
                has_session,
            })
        };
        let objects = secrets.objects.into_iter();
        Ok(Self {
            hcv: engine("hcv", secrets.hcv)?,
            prefixes: secrets.prefixes,
            objects: objects
                .map(|(id, object)| Ok((id.clone(), engine(&format!("vault/{id}"), object)?)))
                .collect::<Result<_, TransportError>>()?,
            own_variables: secrets.own_variables,
        })
    }

    pub fn all(&self) -> impl Iterator<Item = &Engine> {
        std::iter::once(&self.hcv).chain(self.objects.values())
    }

    pub fn of(&self, name: &EngineName) -> Result<&Engine, ResolveError> {
        match name {
            EngineName::Kong(name) if name == "hcv" || self.prefixes.contains(name) => Ok(&self.hcv),
            EngineName::Kong(name) => Err(ResolveError::UnknownBackend(name.clone())),
            EngineName::Object(id) => {
                self.objects.get(id).ok_or_else(|| ResolveError::UnknownObject(id.clone()))
            }
        }
    }

    /// A variable of the daemon's, unless it is there to make the daemon what it is: its token is one.
    pub fn variable(&self, named: &Named) -> Result<Resolved, ResolveError> {
        let name = &named.variable;
        let own = OWN_VARIABLES.iter().any(|prefix| name.starts_with(prefix));
        if own || self.own_variables.contains(name) {
            return Err(ResolveError::OwnVariable(name.clone()));
        }
        let value = named.value(Environment.variable(name))?;
        Ok(Resolved { value, stale: None })
    }
}
