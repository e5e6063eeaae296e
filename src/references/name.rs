//! A parsed reference, in either notation: an engine, a secret in it, a field, and its cache times. Also the errors.
//!
//! The grammars are in `settings::reference`. References to variables are recognised by `settings::resolve`.

use crate::{
    settings::{
        reference::{
            self, Caching, Reference,
            apisix::{self, Apisix},
        },
        resolve::Unresolved,
    },
    vault::VaultError,
};

/// Why a reference gives no value. A message follows the reference, or the words "the text" where it may not be quoted.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("is not a well-formed reference: {0}")]
    Kong(#[from] reference::Malformed),
    #[error("is not a well-formed reference: {0}")]
    Apisix(#[from] apisix::Malformed),
    #[error("has a path segment of `.`, `..` or a control character, which is not a path in Vault")]
    BadPath,
    #[error(
        "names the unknown backend or prefix {0}: use hcv, env, a prefix in keyring_hcv_prefixes, or a name in keyring_secret_objects"
    )]
    UnknownBackend(String),
    #[error("names the ID {0}, which keyring_secret_objects does not have")]
    UnknownObject(String),
    #[error(
        "names no Vault: set vault_hcv_host and vault_hcv_token (for $secret://, keyring_secret_objects), or the keyring's"
    )]
    NoVault,
    #[error(
        "names a version, but the engine is of version 1 (vault_hcv_kv, or the object's kv), which keeps none"
    )]
    NoVersions,
    #[error("{0}")]
    Variable(#[from] Unresolved),
    #[error(
        "names the variable {0}, which is reserved for the daemon: use `keyringd vault get` or `keyringd exec` for your \
         own variables"
    )]
    OwnVariable(String),
    #[error("names no existing secret: {0}")]
    NoSecret(String),
    #[error("names a secret that has no fields")]
    NoFields,
    #[error("names a secret that has no field {0:?}")]
    NoField(String),
    #[error("names the field {0:?}, which is {1}: a value must be text")]
    NotText(String, &'static str),
    #[error("names the field {0:?}, which is not base64 of text, as vault_hcv_decode_base64 requires")]
    NotBase64(String),
    #[error("cannot be read: {0}")]
    Vault(String),
    /// Any of these, with the secret, its Vault and the settings that lead there.
    #[error("{error} [{source_of_secret}]")]
    At { error: Box<Self>, source_of_secret: String },
}

impl ResolveError {
    pub(super) fn from_vault(error: &VaultError) -> Self {
        match error {
            VaultError::NotFound { .. } => Self::NoSecret(error.to_string()),
            _ => Self::Vault(error.to_string()),
        }
    }

    pub(super) fn at(self, source_of_secret: String) -> Self {
        Self::At { error: Box::new(self), source_of_secret }
    }

    /// What happened, without where.
    pub fn cause(&self) -> &Self {
        match self {
            Self::At { error, .. } => error.cause(),
            cause => cause,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) engine: EngineName,
    pub(super) path: Vec<String>,
    /// `None` for the whole secret.
    pub(super) field: Option<String>,
    pub(super) version: Option<u64>,
    pub(super) caching: Caching,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum EngineName {
    /// A backend or prefix of Kong's.
    Kong(String),
    /// An object of APISIX's.
    Object(String),
}

impl Name {
    pub(super) fn parse(text: &str) -> Result<Self, ResolveError> {
        let name = if apisix::is_reference(text) { Self::from_apisix(text) } else { Self::from_kong(text) }?;
        // Servers and libraries would resolve the first two as steps of the path.
        let bad = |segment: &String| {
            matches!(segment.as_str(), "." | "..") || segment.chars().any(char::is_control)
        };
        if name.path.iter().any(bad) { Err(ResolveError::BadPath) } else { Ok(name) }
    }

    fn from_kong(text: &str) -> Result<Self, ResolveError> {
        let Reference { backend, path, key, caching, version, .. } = Reference::parse(text)?;
        Ok(Self { engine: EngineName::Kong(backend), path, field: key, version, caching })
    }

    fn from_apisix(text: &str) -> Result<Self, ResolveError> {
        match Apisix::parse(text)? {
            Apisix::Secret { id, path, field } => Ok(Self {
                engine: EngineName::Object(id),
                path,
                field: Some(field),
                version: None,
                caching: Caching::default(),
            }),
            Apisix::Variable { .. } => Err(apisix::Malformed::NoReference.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_name_the_same() {
        let kong = Name::parse("{vault://hcv/ssl/test.com.crt}").unwrap();
        let apisix = Name::parse("$secret://vault/hcv/ssl/test.com.crt").unwrap();
        assert_eq!((kong.path, kong.field), (apisix.path, apisix.field));
    }

    #[test]
    fn a_path_cannot_leave_its_engine() {
        for text in [
            "{vault://hcv/a/../b/c}",
            "{vault://hcv/%2e%2e/b}",
            "{vault://hcv/./b}",
            "{vault://hcv/a%0ab/c}",
            "$secret://vault/1/../b",
            "$secret://vault/1/a\nb/c",
        ] {
            assert!(matches!(Name::parse(text), Err(ResolveError::BadPath)), "{text}");
        }
        // A field name is not sent.
        assert!(Name::parse("{vault://hcv/a/..}").is_ok());
        assert_eq!(Name::parse("{vault://hcv/a%2Fb/c}").unwrap().path, ["a/b"]);
    }
}
