//! One read of the keyring's secret: what changed is fetched, and the history builds the keyring. Sync and doctor share it.
//!
//! Also the warnings that follow from it. A failed read leaves the history as it was.

use std::time::SystemTime;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    keyring::{
        History, KeyDerivation, Listing,
        history::{Built, VersionState},
        key::VersionId,
        record::Contents,
    },
    settings::KvVersion,
    vault::{Kv, VaultError},
};

/// How many versions are fetched at once.
const CONCURRENT_READS: usize = 4;

/// From this many remaining writes on, there is a warning before Vault destroys the oldest version.
const LOW_HEADROOM: u64 = 2;

/// What a read gave.
#[derive(Debug)]
pub struct Read {
    pub built: Built,
    /// `None` on KV version 1.
    pub listing: Option<Listing>,
}

/// Reads what `history` does not hold yet. `observe` gets the contents of each version that was fetched, oldest first; on
/// KV version 1 there is no version number.
pub async fn read(
    kv: &Kv<'_>,
    derivation: KeyDerivation,
    history: &mut History,
    now: SystemTime,
    mut observe: impl FnMut(Option<u64>, &Contents) + Send,
) -> Result<Read, VaultError> {
    let parse = |number, fields: &str| {
        let contents = Contents::parse(fields.as_bytes(), derivation);
        observe(number, &contents);
        contents
    };
    match kv.engine() {
        KvVersion::V1 => {
            let fields = kv.read(None).await?;
            let contents = { parse }(None, fields.expose());
            Ok(Read { built: history.replace(contents, now), listing: None })
        }
        KvVersion::V2 => read_versions(kv, history, now, parse).await,
    }
}

async fn read_versions(
    kv: &Kv<'_>,
    history: &mut History,
    now: SystemTime,
    mut parse: impl FnMut(Option<u64>, &str) -> Contents + Send,
) -> Result<Read, VaultError> {
    let mut listing = kv.list(now).await?;
    let fetch = |id: VersionId| async move { kv.read_version(id.number).await.map(|fields| (id, fields)) };
    let missing = stream::iter(history.missing(&listing));
    let fetched: Vec<_> = missing.map(fetch).buffered(CONCURRENT_READS).try_collect().await?;
    let mut contents = Vec::new();
    for (id, fields) in fetched {
        match fields {
            Some(fields) => contents.push((id, parse(Some(id.number), fields.expose()))),
            // Removed since it was listed, or by a clock that is ahead of ours.
            None => drop(listing.versions.insert(id, VersionState::Removed)),
        }
    }
    Ok(Read { built: history.advance(&listing, contents), listing: Some(listing) })
}

impl Read {
    /// What an operator should correct before it causes a failure, each a sentence.
    pub(super) fn warnings(&self, history: &History) -> Vec<String> {
        let unchanged = self.built.keyring.as_ref().err().map(|reason| {
            format!("{reason}: the keyring stays as it was; write a new version, or undelete one")
        });
        let short = history.short_keys().into_iter().map(|(version, id)| {
            format!(
                "version {version}: the key text of {id} is short for a key: use 32 random bytes in base64"
            )
        });
        let rejected = self.built.rejected.iter().map(ToString::to_string);
        let headroom = self.listing.as_ref().and_then(low_headroom);
        unchanged.into_iter().chain(rejected).chain(short).chain(headroom).collect()
    }
}

fn low_headroom(listing: &Listing) -> Option<String> {
    let headroom = listing.headroom();
    (headroom <= LOW_HEADROOM).then(|| {
        format!(
            "Vault keeps {} versions of the secret: after {headroom} more it destroys the oldest, and a daemon that \
             starts then cannot open what was sealed under it; raise max_versions",
            listing.max_versions
        )
    })
}
