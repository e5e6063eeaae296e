//! The settings of the auth methods, twice: the keyring's, and those of references, which Kong calls alike. Each list is in
//! the order in which `auth` reads it.

use crate::settings::keys::{self, Key};

/// The settings of one way into Vault: the keyring's, or that of references, which are called alike.
#[derive(Debug)]
pub struct Family {
    pub method: &'static Key,
    pub token: &'static Key,
    pub kube: [&'static Key; 3],
    pub approle: [&'static Key; 5],
    pub cert: [&'static Key; 4],
    pub jwt: [&'static Key; 3],
    pub oauth2: [&'static Key; 4],
}

pub static KEYRING: Family = Family {
    method: &keys::VAULT_AUTH_METHOD,
    token: &keys::VAULT_TOKEN,
    kube: [&keys::VAULT_KUBE_AUTH_PATH, &keys::VAULT_KUBE_ROLE, &keys::VAULT_KUBE_API_TOKEN_FILE],
    approle: [
        &keys::VAULT_APPROLE_AUTH_PATH,
        &keys::VAULT_APPROLE_ROLE_ID,
        &keys::VAULT_APPROLE_SECRET_ID,
        &keys::VAULT_APPROLE_SECRET_ID_FILE,
        &keys::VAULT_APPROLE_RESPONSE_WRAPPING,
    ],
    cert: [
        &keys::VAULT_CERT_AUTH_PATH,
        &keys::VAULT_CERT_AUTH_CERT,
        &keys::VAULT_CERT_AUTH_CERT_KEY,
        &keys::VAULT_CERT_AUTH_ROLE_NAME,
    ],
    jwt: [&keys::VAULT_JWT_AUTH_PATH, &keys::VAULT_JWT_ROLE, &keys::VAULT_JWT_FILE],
    oauth2: [
        &keys::VAULT_OAUTH2_TOKEN_ENDPOINT,
        &keys::VAULT_OAUTH2_CLIENT_ID,
        &keys::VAULT_OAUTH2_CLIENT_SECRET,
        &keys::VAULT_OAUTH2_AUDIENCES,
    ],
};

pub static HCV: Family = Family {
    method: &keys::HCV_AUTH_METHOD,
    token: &keys::HCV_TOKEN,
    kube: [&keys::HCV_KUBE_AUTH_PATH, &keys::HCV_KUBE_ROLE, &keys::HCV_KUBE_API_TOKEN_FILE],
    approle: [
        &keys::HCV_APPROLE_AUTH_PATH,
        &keys::HCV_APPROLE_ROLE_ID,
        &keys::HCV_APPROLE_SECRET_ID,
        &keys::HCV_APPROLE_SECRET_ID_FILE,
        &keys::HCV_APPROLE_RESPONSE_WRAPPING,
    ],
    cert: [
        &keys::HCV_CERT_AUTH_PATH,
        &keys::HCV_CERT_AUTH_CERT,
        &keys::HCV_CERT_AUTH_CERT_KEY,
        &keys::HCV_CERT_AUTH_ROLE_NAME,
    ],
    jwt: [&keys::HCV_JWT_AUTH_PATH, &keys::HCV_JWT_ROLE, &keys::HCV_JWT_FILE],
    oauth2: [
        &keys::HCV_OAUTH2_TOKEN_ENDPOINT,
        &keys::HCV_OAUTH2_CLIENT_ID,
        &keys::HCV_OAUTH2_CLIENT_SECRET,
        &keys::HCV_OAUTH2_AUDIENCES,
    ],
};

impl Family {
    /// Every key of it.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> {
        let lists: [&[&'static Key]; 5] = [&self.kube, &self.approle, &self.cert, &self.jwt, &self.oauth2];
        [self.method, self.token].into_iter().chain(lists.concat())
    }
}
