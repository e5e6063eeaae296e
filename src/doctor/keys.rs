//! The steps with a token: login, policy, each record, and the keyring that they give.

use std::time::SystemTime;

use super::report::{Finding, Report, Step};
use crate::{
    keyring::{History, Listing, record::Contents},
    settings,
    sync::{self, Read},
    vault::{Client, Kv, VaultError, kv::Purpose, policy},
};

pub(super) async fn keys(
    report: &mut Report<impl FnMut(Finding) + Send>,
    client: &Client,
    keyring: &settings::Keyring,
) -> Step<()> {
    report.require("login", client.log_in().await)?;
    match client.server().auth.name() {
        "token" => report.good("login", "the configured token is used as it is"),
        method => report.good("login", format!("logged in by {method}")),
    }
    capabilities(report, client, &policy::read_paths(&keyring.secret)).await;
    let mut history = History::default();
    let read = read(report, client, keyring, &mut history).await;
    let Read { built, listing } = report.require("secret", read)?;
    for rejection in built.rejected {
        report.warn("record", rejection.to_string());
    }
    for (version, id) in history.short_keys() {
        report.warn("record", format!("version {version}: the key text of {id} is short for a key"));
    }
    let keyring = report.require("keyring", built.keyring)?;
    report.good("keyring", format!("{} held, {} is active", keyring.key_count(), keyring.active().key.id()));
    if let Some(listing) = listing {
        headroom(report, &listing);
    }
    Ok(())
}

async fn capabilities(report: &mut Report<impl FnMut(Finding) + Send>, client: &Client, paths: &[String]) {
    let capabilities = match client.capabilities(paths).await {
        Ok(capabilities) => capabilities,
        Err(error) => {
            return report.warn("policy", format!("the token may not read its own capabilities: {error}"));
        }
    };
    for (path, capabilities) in capabilities {
        let message = format!("{path}: {}", capabilities.join(", "));
        if capabilities.iter().any(|one| one == "read" || one == "root") {
            report.good("policy", message);
        } else {
            report.failed("policy", format!("{message}: give the token's policy `read` on it"));
        }
    }
}

async fn read(
    report: &mut Report<impl FnMut(Finding) + Send>,
    client: &Client,
    keyring: &settings::Keyring,
    history: &mut History,
) -> Result<Read, VaultError> {
    let kv = Kv::new(client, &keyring.secret, Purpose::Keyring);
    let observe = |version: Option<u64>, contents: &Contents| {
        let ids: Vec<_> = contents.keys.iter().map(|key| key.id().as_str()).collect();
        if !ids.is_empty() {
            let record =
                version.map_or_else(|| "the secret".to_owned(), |number| format!("version {number}"));
            report.good("record", format!("{record}: {}", ids.join(", ")));
        }
    };
    sync::read(&kv, keyring.derivation, history, SystemTime::now(), observe).await
}

fn headroom(report: &mut Report<impl FnMut(Finding) + Send>, listing: &Listing) {
    let max = listing.max_versions;
    match listing.headroom() {
        headroom @ 0..=2 => report.warn(
            "versions",
            format!("after {headroom} more versions Vault destroys the oldest of {max}: raise max_versions"),
        ),
        headroom => report.good("versions", format!("Vault keeps {max}: room for {headroom} more")),
    }
}
