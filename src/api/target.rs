//! Which keyring a request is about, and whether its peer may know of it.
//!
//! Permissions come first: a peer without one on a name gets the same answer whether the keyring exists or not.

use std::{borrow::Cow, sync::Arc};

use super::{
    access::{Caller, Scope},
    context::{RuntimeConfig, no_keyring},
    error::{ApiError, ErrorKind},
};
use crate::{keyring::KeyringEntry, operation::Operation};

/// The keyring of one request.
pub(super) struct Target<'a> {
    operation: Operation,
    /// The name in the request or, for Kubernetes, in the settings.
    name: Option<Cow<'a, str>>,
    /// `None` if no keyring has the name, or without a name if there is no keyring.
    pub(super) entry: Option<Arc<KeyringEntry>>,
}

impl<'a> Target<'a> {
    /// Without a name it is the default keyring.
    pub(super) fn find(config: &RuntimeConfig, operation: Operation, name: Option<Cow<'a, str>>) -> Self {
        let entry = match &name {
            // Kubernetes names its keyring by the settings alone.
            Some(name) if is_kms(operation) => {
                config.keyrings.get(name).or_else(|| config.keyrings.moving_to(name))
            }
            Some(name) => config.keyrings.get(name),
            None => config.keyrings.default(),
        };
        Self { operation, name, entry }
    }

    /// The error is the 403, or the 404 or 503 for a name that no keyring has.
    pub(super) fn authorise(&self, caller: &Caller, config: &RuntimeConfig) -> Result<(), ApiError> {
        caller.authorise(self.operation, self.scope(), config.access.as_ref())?;
        match (&self.name, &self.entry) {
            (Some(name), None) => Err(self.unknown(name, caller, config)),
            _ => Ok(()),
        }
    }

    /// The name of the keyring for the audit.
    pub(super) fn audited(&self) -> Option<Arc<str>> {
        let entry = self.entry.as_ref().filter(|_| self.scope() != Scope::Daemon);
        entry.map(|entry| Arc::clone(&entry.name))
    }

    fn scope(&self) -> Scope<'_> {
        match (&self.name, &self.entry) {
            (Some(name), _) => Scope::Keyring(name),
            (None, Some(entry)) if self.operation.is_of_keyring() => Scope::Keyring(&entry.name),
            (None, _) => Scope::Daemon,
        }
    }

    /// It lists only what the peer may use.
    fn unknown(&self, name: &str, caller: &Caller, config: &RuntimeConfig) -> ApiError {
        let keyrings = &config.keyrings;
        if keyrings.default().is_none() {
            return no_keyring();
        }
        if let Some(reason) = keyrings.incomplete() {
            return ApiError::unavailable(reason);
        }
        if config.kms_name.as_deref() == Some(name) && is_kms(self.operation) {
            return ApiError::unavailable(format!("there is no keyring {name} (keyring_kms_name)"));
        }
        let names: Vec<_> = keyrings.all().iter().map(|entry| Arc::clone(&entry.name)).collect();
        let usable: Vec<_> = names
            .iter()
            .map(AsRef::as_ref)
            .filter(|name| caller.may_use(name, config.access.as_ref()))
            .collect();
        let message = match &*usable {
            [] => "no keyring has this name".to_owned(),
            [one] => format!("no such key name here: this keyring is called {one} (keyring_name)"),
            several => format!("no such key name here: the keyrings are called {}", several.join(", ")),
        };
        ApiError::new(ErrorKind::NoRoute, message)
    }
}

fn is_kms(operation: Operation) -> bool {
    operation.permissions() == Operation::KmsStatus.permissions()
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::{
        super::{
            access::{ListenerKind, Peer},
            context::testing,
        },
        *,
    };
    use crate::keyring::Keyrings;

    /// The status and message for a peer without a list of permissions.
    fn refused(config: &RuntimeConfig, operation: Operation, name: Option<&str>) -> Option<(u16, String)> {
        let peer = Peer { uid: 70001, gid: 70001, pid: None, groups: vec![70001] };
        let (peer, closed) = (Some(Arc::new(peer)), CancellationToken::new());
        let caller = Caller { listener: ListenerKind::Unix, peer, closed };
        let target = Target::find(config, operation, name.map(Cow::Borrowed));
        let error = target.authorise(&caller, config).err()?;
        Some((error.status().as_u16(), error.message.into_owned()))
    }

    #[test]
    fn a_name_that_no_keyring_has_is_refused() {
        let config = testing::config();
        assert_eq!(refused(&config, Operation::Encrypt, Some("keyring")), None);
        let (status, message) = refused(&config, Operation::Encrypt, Some("other")).unwrap();
        assert!(status == 404 && message.contains("this keyring is called keyring"), "{message}");
        let without = RuntimeConfig { keyrings: Keyrings::none(), ..config };
        let (status, message) = refused(&without, Operation::Encrypt, Some("keyring")).unwrap();
        assert!(status == 404 && message.starts_with("no keyring is configured"), "{message}");
        assert_eq!(refused(&without, Operation::Health, None), None);
    }

    #[test]
    fn while_a_folder_is_not_listed_its_keyrings_are_unavailable() {
        let config = testing::config();
        let entry = KeyringEntry::clone(&config.keyrings.default().unwrap());
        config.keyrings.replace(vec![entry], Some("the keyrings of rings/ are not known yet".to_owned()));
        let (status, message) = refused(&config, Operation::Encrypt, Some("other")).unwrap();
        assert!(status == 503 && message.contains("rings/"), "{message}");
    }
}
