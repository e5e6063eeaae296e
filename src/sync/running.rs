//! One running sync: what it is served as, what it reads, and whether it moves to another secret.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{SyncHandle, Target, location, read::Rules};
use crate::{
    keyring::{Format, Formats, KeyringEntry, Published, SecretLocation},
    settings::{self, CiphertextFormat},
    vault::Client,
};

/// The sync of one keyring.
#[derive(Debug)]
pub(super) struct Running {
    /// What it is served as: the name of before, while it moves.
    pub(super) name: Arc<str>,
    /// Whether its keys are those of another secret than the settings name.
    pub(super) is_moving: bool,
    pub(super) target: Target,
    /// What it reads in fact. It follows once the session has logged in.
    pub(super) applied: (Client, Target),
    pub(super) handle: SyncHandle,
    pub(super) published: Arc<Published>,
    pub(super) stop: CancellationToken,
}

impl Running {
    /// With other settings. A keyring that moves keeps its name until its new place was read, unless another has it now.
    pub(super) fn with_target(self, target: Target, client: &Client, names: &[Arc<str>]) -> Self {
        let moved = Self { target, ..self };
        let is_moving = moved.has_other_keys(client);
        let is_free = *moved.name == *moved.target.name || !names.contains(&moved.name);
        let name = if is_moving && is_free { &moved.name } else { &moved.target.name };
        Self { name: Arc::clone(name), is_moving, ..moved }
    }

    /// Where the settings say that it is.
    pub(super) fn wanted(&self, client: &Client) -> SecretLocation {
        location(client.server(), &self.target.secret, self.target.rules.derivation)
    }

    /// Whether the keys that it serves are of another secret than the settings name.
    pub(super) fn has_other_keys(&self, client: &Client) -> bool {
        let wanted = self.wanted(client);
        self.published.keyring().is_some_and(|keyring| !keyring.location().is_same_secret(&wanted))
    }

    /// As the API serves it.
    pub(super) fn entry(&self, settings: &settings::Keyring, next: &Client) -> KeyringEntry {
        let write = match settings.ciphertext_format {
            CiphertextFormat::Native => Format::Native,
            CiphertextFormat::Transit => Format::Transit,
        };
        KeyringEntry {
            name: Arc::clone(&self.name),
            secret: Some(self.wanted(next)),
            moving_to: self.is_moving.then(|| Arc::clone(&self.target.name)),
            published: Arc::clone(&self.published),
            formats: Formats { write, kong_fields: Rules::from_settings(settings).kong_fields },
            index_key: settings.index_key.clone(),
            max_stale: settings.max_stale,
        }
    }
}
