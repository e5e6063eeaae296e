//! What an operator should see to before it hurts, as the log and the status say it.

use crate::keyring::{History, Listing, history::Built};

/// From this many writes before Vault destroys the oldest version on, there is a warning.
const LOW_HEADROOM: u64 = 2;

/// The warnings after a sync, each a sentence.
pub fn of(built: &Built, history: &History, listing: Option<&Listing>) -> Vec<String> {
    let kept =
        built.keyring.as_ref().err().map(|reason| {
            format!("{reason}: the keyring stays as it was; write a new version, or undelete one")
        });
    let short = |(version, id)| {
        format!("version {version}: the key text of {id} is short for a key: use 32 random bytes in base64")
    };
    let rejected = built.rejected.iter().map(ToString::to_string);
    let short = history.short_keys().into_iter().map(short);
    kept.into_iter().chain(rejected).chain(short).chain(listing.and_then(low_headroom)).collect()
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
