//! What an operator should correct before it causes a failure, each a sentence. Sync and doctor report the same.

use std::time::SystemTime;

use super::read::Read;
use crate::keyring::{History, KeyId, Keyring, Listing, history::Built};

/// From this many remaining writes on, there is a warning before Vault destroys the oldest version.
const LOW_HEADROOM: u64 = 2;

/// How many records have a warning of their own: a map may hold thousands.
const MAX_WARNINGS: usize = 50;

/// How many keys a warning names.
const MAX_NAMED: usize = 8;

/// The warnings of a sync. `current` is the keyring in use if the read gave none, `index_key` the one of the settings.
pub(super) fn from_sync(
    read: &Read,
    built: &Built,
    history: &History,
    current: Option<&Keyring>,
    index_key: Option<&KeyId>,
) -> Vec<String> {
    let keyring = built.keyring.as_ref();
    let unchanged = keyring
        .err()
        .map(|reason| format!("{reason}: the keyring stays as it was; write a new version, or undelete one"));
    let rejected = built.rejected.iter().map(ToString::to_string);
    let records = first_of(rejected.chain(record_warnings(history)).collect());
    let in_use = keyring.ok().or(current);
    let held_only_here = in_use.map(|keyring| held_only_here(keyring, read));
    let listing = read.listing.as_ref();
    let of_index = in_use.and_then(|keyring| {
        // The settings are for all keyrings, of which few have that record.
        let by_settings = || index_key.filter(|id| keyring.get(id.as_str()).is_some());
        index_key_warning(keyring, listing, read.options.index_key.as_ref().or_else(by_settings)?)
    });
    unchanged
        .into_iter()
        .chain(records)
        .chain(held_only_here.into_iter().flatten())
        .chain(listing.and_then(expiry_warning))
        .chain(listing.and_then(low_headroom))
        .chain(read.ignored_options.iter().cloned())
        .chain(of_index)
        .collect()
}

/// The first warnings, and how many more there are.
fn first_of(mut warnings: Vec<String>) -> Vec<String> {
    let more = warnings.len().saturating_sub(MAX_WARNINGS);
    warnings.truncate(MAX_WARNINGS);
    warnings.extend((more > 0).then(|| format!("{more} more records have such warnings")));
    warnings
}

/// Records that are usable and better written again.
pub fn record_warnings(history: &History) -> impl Iterator<Item = String> + '_ {
    let short = history.short_keys().into_iter().map(|(version, id)| {
        format!("version {version}: the key text of {id} is short for a key: use 32 random bytes in base64")
    });
    let breaks = history.line_breaks().into_iter().map(|(version, id, meaning)| {
        format!(
            "version {version}: the key of {id} ends in a line break, which is {meaning}: write it without one \
             (printf, or base64 -w0)"
        )
    });
    short.chain(breaks)
}

/// Keys that Vault no longer has, and a current version that went back.
fn held_only_here(keyring: &Keyring, read: &Read) -> Vec<String> {
    let keys = keyring.newest_first();
    let mut gone: Vec<_> =
        keys.iter().filter(|held| held.retired).map(|held| held.key.id().as_str()).collect();
    if gone.is_empty() {
        return Vec::new();
    }
    gone.sort_unstable();
    let (count, more) = (gone.len(), if gone.len() > MAX_NAMED { ", …" } else { "" });
    gone.truncate(MAX_NAMED);
    let (keys, end) = if count == 1 { ("key is", "ends") } else { ("keys are", "end") };
    let ids = gone.join(", ");
    let mut warnings = vec![format!(
        "{count} {keys} no longer in Vault and {end} with this process ({ids}{more}): write them back under their \
         ids, or rewrap what they sealed"
    )];
    if let Some(listing) = &read.listing
        && listing.current < read.highest
    {
        warnings.push(format!(
            "the secret's current version went back from {} to {}: Vault was restored from an older snapshot, or the \
             secret was deleted and written again",
            read.highest, listing.current
        ));
    }
    warnings
}

/// The version that Vault deletes next by itself.
pub fn expiry_warning(listing: &Listing) -> Option<String> {
    let (version, at) = listing.next_deletion()?;
    Some(format!(
        "version {version} is deleted by delete_version_after at {}: set delete_version_after to 0s for the secret and \
         its engine, then write the record again as a new version",
        rfc3339(at)
    ))
}

/// The record that makes blind indexes is missing, or soon gone: without it no row is found.
pub fn index_key_warning(keyring: &Keyring, listing: Option<&Listing>, id: &KeyId) -> Option<String> {
    let Some(held) = keyring.get(id.as_str()) else {
        return Some(format!(
            "the record {id} that makes blind indexes is not in the keyring: write it back, or correct \
             keyring_index_key or keyringd_index_key"
        ));
    };
    let listing = listing?;
    let headroom = if held.retired { 0 } else { listing.headroom_of(held.version) };
    (headroom <= LOW_HEADROOM).then(|| {
        format!(
            "the record {id} that makes blind indexes is in version {}, which Vault destroys after {headroom} more versions \
             of {}: raise max_versions, or index under a newer record",
            held.version, listing.max_versions
        )
    })
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

pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
