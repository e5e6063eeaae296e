//! The engines that references name, by the settings: each with its session, or with the keyring's. One value, which a
//! reload replaces as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    error::ResolveError,
    fetch::{self, Fetch},
    name::EngineName,
};
use crate::{
    secret::Secret,
    settings::{
        self, KvSecret, KvVersion, ReferenceSettings, SecretPath,
        reference::Caching,
        resolve::EnvReference,
        setting::VARIABLE_PREFIX,
        source::{Environment, Source as _},
    },
    vault::{Client, SessionName, Sessions, transport::TransportError},
};

/// The prefixes of the daemon's own variables: its settings, and where it moved secrets to.
const OWN_VARIABLES: [&str; 2] = [VARIABLE_PREFIX, "KEYRINGD_"];

pub struct Engines {
    hcv: Engine,
    prefixes: Vec<String>,
    objects: BTreeMap<String, Engine>,
    own_variables: BTreeSet<String>,
}

pub(super) struct Engine {
    client: Client,
    pub(super) fetch: Fetch,
    /// The engine's name, server and namespace. An engine is served no cached secret of another.
    pub(super) id: Arc<str>,
    pub(super) mount: SecretPath,
    pub(super) kv: KvVersion,
    /// The start of each secret's path.
    pub(super) below: Vec<String>,
    pub(super) caching: Caching,
    pub(super) decode_base64: bool,
}

impl Engines {
    /// Engines without a mount or a server of their own use those of the keyring's secret. No request is sent yet.
    ///
    /// # Errors
    /// [`TransportError`] when the settings' certificates cannot be used.
    pub fn new(
        secrets: ReferenceSettings,
        keyring: (&Client, &KvSecret),
        sessions: &Sessions,
    ) -> Result<Self, TransportError> {
        let objects = secrets.objects.into_iter().map(|(id, object)| {
            let name = SessionName::Object(id.clone());
            Ok((id, Engine::new(name, object, keyring, sessions)?))
        });
        Ok(Self {
            objects: objects.collect::<Result<_, TransportError>>()?,
            hcv: Engine::new(SessionName::Hcv, secrets.hcv, keyring, sessions)?,
            prefixes: secrets.prefixes,
            own_variables: secrets.own_variables,
        })
    }

    /// The sessions, some of them several times.
    pub fn clients(&self) -> impl Iterator<Item = &Client> {
        self.all().map(|engine| &engine.client)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Engine> {
        std::iter::once(&self.hcv).chain(self.objects.values())
    }

    pub(super) fn get(&self, name: &EngineName) -> Result<&Engine, ResolveError> {
        match name {
            EngineName::Kong(name) if name == "hcv" || self.prefixes.contains(name) => Ok(&self.hcv),
            EngineName::Kong(name) => Err(ResolveError::UnknownBackend(name.clone())),
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
        (keyring, default): (&Client, &KvSecret),
        sessions: &Sessions,
    ) -> Result<Self, TransportError> {
        let engine = name.to_string();
        let client = match settings.server {
            None => keyring.clone(),
            Some(server) => sessions.client(name, server)?,
        };
        let server = client.server();
        let id = format!("{engine} {} {}", server.host, server.namespace.as_deref().unwrap_or_default());
        Ok(Self {
            id: id.into(),
            fetch: fetch::from_client(client.clone()),
            client,
            mount: settings.mount.unwrap_or_else(|| default.mount.clone()),
            kv: settings.kv.unwrap_or(default.kv),
            below: settings.below,
            caching: settings.caching,
            decode_base64: settings.decode_base64,
        })
    }
}
