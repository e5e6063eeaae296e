//! The sealed copy: whether its key can be used, whose its folder is, whether it opens, and how old it is.

use std::{os::unix::fs::MetadataExt as _, path::Path, time::SystemTime};

use super::report::Report;
use crate::{
    keyring::SecretLocation,
    settings::{Cache, SealedCopy, credential::Credential},
    sync::copy::{CopyError, CopyFile, ReadCopy},
};

/// Makes a key that only this machine can open, by its TPM too.
pub const KEY_COMMAND: &str = "head -c 32 /dev/urandom | base64 -w0 | systemd-creds encrypt --with-key=host+tpm2 \
                               --name=keyring_cache_key - /etc/credstore.encrypted/keyring_cache_key";

/// Whether a copy is wanted, and its key cannot be used.
pub fn needs_key(cache: &Cache) -> bool {
    matches!(cache, Cache::On(settings) if CopyFile::new(settings).is_err())
}

const STEP: &str = "copy";

/// `name` and `location` are those of the keyring.
pub(super) fn examine(report: &mut Report<'_>, cache: &Cache, name: &str, location: &SecretLocation) {
    let Cache::On(settings) = cache else { return };
    let SealedCopy { path, key, .. } = settings;
    let file = match CopyFile::new(settings) {
        Ok(file) => file,
        Err(error) => return report.failed(STEP, error.to_string()),
    };
    let folder = path.parent().unwrap_or(path);
    match folder.symlink_metadata() {
        Err(_) => report.good(STEP, format!("keyringd will make the folder {}", folder.display())),
        // Root examines the daemon of another user.
        Ok(metadata) => match file.check_folder(user(metadata.uid())) {
            Ok(()) => {
                report.good(STEP, format!("only uid {} can enter {}", metadata.uid(), folder.display()));
            }
            Err(error) => return report.failed(STEP, error.to_string()),
        },
    }
    let now = SystemTime::now();
    match file.read(location, now) {
        Ok(read) => contents(report, path, &read, name),
        Err(error @ CopyError::None(_)) => {
            report.warn(STEP, format!("{error}: the daemon writes it after its next good sync"));
        }
        Err(error) => report.warn(STEP, format!("{error}; the next good sync replaces it")),
    }
    if let Credential::File(file) = key {
        report.good(STEP, format!("its key is in {file}"));
    }
}

/// The user whose folder it has to be.
fn user(owner: u32) -> u32 {
    let ours = nix::unistd::geteuid();
    if ours.is_root() { owner } else { ours.as_raw() }
}

fn contents(report: &mut Report<'_>, path: &Path, read: &ReadCopy, name: &str) {
    let path = path.display();
    if read.from_the_future {
        report.warn(STEP, format!("{path} was written in the future: correct this machine's clock"));
    }
    for one in &read.keyrings {
        let (held, synced) = (one.keyring.key_count(), humantime::format_rfc3339_seconds(one.synced));
        report.good(STEP, format!("{path} opens: {held} held of {}, synced at {synced}", one.name));
    }
    if !read.keyrings.iter().any(|one| one.name == name) {
        report.warn(STEP, format!("{path} has no keyring {name}: the next good sync replaces it"));
    }
}
