//! The settings of the simulated daemon.

use std::time::Duration;

use super::folder;
use crate::{
    keyring::KeyDerivation,
    secret::Secret,
    settings::{
        self, Auth, CiphertextFormat, KeyringPath, KvSecret, KvVersion, SecretPath, Server,
        credential::Credential, server::AppRole,
    },
    vault::transport::simulated,
};

pub(super) const ROLE_ID: &str = "role";

/// `credential` is the secret ID, or a token that wraps it.
pub(super) fn server(credential: &str, wrapped: bool) -> Server {
    let auth = Auth::AppRole(AppRole {
        mount: SecretPath(vec!["approle".to_owned()]),
        role_id: ROLE_ID.to_owned(),
        secret_id: Credential::Inline(Secret::new(credential.to_owned())),
        wrapped,
    });
    simulated::server(auth)
}

pub(super) fn keyring(interval: Duration, kv: KvVersion) -> settings::Keyring {
    let path = |name: &str| SecretPath(vec![name.to_owned()]);
    settings::Keyring {
        secret: KvSecret { mount: path("secret"), path: path("app"), kv },
        name: "keyring".to_owned(),
        further: vec![KeyringPath::Folder(path(folder::PATH))],
        kms_name: None,
        index_key: None,
        derivation: KeyDerivation::Raw,
        ciphertext_format: CiphertextFormat::Native,
        kong_fields: false,
        sync_interval: interval,
        max_stale: None,
    }
}
