//! Any secret of the KV secrets engine, as the JSON text of its fields. The keyring's own secret, with its versions and
//! records, is in `kv`.
//!
//! A denial is worth one new login, as for the keyring's own. What was found is kept by `references`.

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Session, VaultError, transport::Answer};
use crate::{
    secret::Secret,
    settings::{KvVersion, SecretPath},
};

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub mount: Vec<String>,
    pub path: Vec<String>,
    /// Version 2 of the engine, with the secret's version if one was named.
    pub v2: bool,
    pub version: Option<u64>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl Place {
    pub fn new(mount: &SecretPath, kv: KvVersion, path: Vec<String>, version: Option<u64>) -> Self {
        Self { mount: mount.0.clone(), path, v2: kv == KvVersion::V2, version }
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        let data = self.v2.then_some("data");
        self.mount.iter().map(String::as_str).chain(data).chain(self.path.iter().map(String::as_str))
    }
}

/// The fields of the secret at `place`, as JSON text. One request, and a second after a login that a denial led to.
///
/// # Errors
/// [`VaultError`]; [`VaultError::NotFound`] also for a version that was deleted or destroyed.
pub async fn read(session: &mut Session, place: &Place) -> Result<Secret<String>, VaultError> {
    let found = match try_to_read(session, place).await {
        Err(VaultError::Denied { path }) => {
            session.after_denial(path).await?;
            try_to_read(session, place).await
        }
        other => other,
    };
    if found.is_ok() {
        session.proved();
    }
    found
}

async fn try_to_read(session: &mut Session, place: &Place) -> Result<Secret<String>, VaultError> {
    let answer = session.access().await?.get(place.segments(), place.version).await?;
    if answer.status == StatusCode::NOT_FOUND {
        let hint = "write the secret there, or correct the reference; if it is there, then the mount or the version of \
                    the engine (…_mount, …_kv) is another";
        return Err(VaultError::NotFound { path: answer.path, hint: hint.to_owned() });
    }
    let fields = fields(&answer, place.v2).map(|fields| Secret::new(fields.get().to_owned()));
    let what = if place.v2 { "data.data is missing; is the engine of version 2?" } else { "data is missing" };
    fields.ok_or(VaultError::Malformed { path: answer.path, what })
}

fn fields(answer: &Answer, v2: bool) -> Option<&RawValue> {
    let outer: Envelope<'_> = answer.json()?;
    if !v2 {
        return outer.data;
    }
    let inner: Envelope<'_> = serde_json::from_str(outer.data?.get()).ok()?;
    inner.data.filter(|data| data.get() != "null")
}
