//! `vault get`: prints the value of a reference and a line break, like `kong vault get`.
//!
//! References to variables are resolved in this command's environment, all others by the running daemon. `exec` resolves
//! its references here too.

use std::process::ExitCode;

use clap::Subcommand;

use super::command::{Daemon, Failure, print, print_error, wait};
use crate::{
    secret::Secret,
    settings::{
        reference::is_any_reference,
        resolve::{EnvBackend, EnvReference, Unresolved},
        source::{Environment, Source as _},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Vault {
    /// Print the value of a reference
    Get {
        #[command(flatten)]
        daemon: Daemon,
        /// {vault://…}, $secret://… or $ENV://…; the text between {vault:// and } is enough
        reference: String,
    },
}

/// `keyringd vault get`
pub(super) fn get(daemon: &Daemon, reference: &str) -> Result<ExitCode, Failure> {
    let reference = complete(reference);
    let values = wait(resolve(daemon, &[&reference]))??;
    for mut value in values {
        value.expose_mut().push('\n');
        print(value.expose())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Completes `<name>/<path>/<key>` to `{vault://<name>/<path>/<key>}`.
fn complete(reference: &str) -> String {
    if is_any_reference(reference) || reference.starts_with(['{', '$']) {
        reference.to_owned()
    } else {
        format!("{{vault://{reference}}}")
    }
}

/// The values of references, in their order. It warns about stale values.
pub(super) async fn resolve(daemon: &Daemon, references: &[&str]) -> Result<Vec<Secret<String>>, Failure> {
    let mut values: Vec<Option<Secret<String>>> = Vec::new();
    let mut remote = Vec::new();
    // The settings of the backend are only needed for variables, so that a bad kong.conf hinders no other reference.
    let is_variable =
        |text: &&str| EnvReference::from_either_notation(text, &EnvBackend::default()).is_some();
    let backend =
        if references.iter().any(is_variable) { daemon.env_backend()? } else { EnvBackend::default() };
    for reference in references {
        let value = EnvReference::from_either_notation(reference, &backend)
            .map(|named| variable(reference, named))
            .transpose()?;
        if value.is_none() {
            remote.push(*reference);
        }
        values.push(value);
    }
    if !remote.is_empty() {
        let resolved = daemon.client()?.resolve(&remote).await?;
        let missing = values.iter_mut().filter(|value| value.is_none());
        for ((value, reference), resolved) in missing.zip(remote).zip(resolved) {
            if let Some(stale) = resolved.stale {
                print_error(&format!(
                    "keyringd: warning: {reference}: refresh failed; using a cached value that expired {} s ago",
                    stale.as_secs()
                ));
            }
            *value = Some(resolved.value);
        }
    }
    let values: Option<Vec<_>> = values.into_iter().collect();
    values.ok_or_else(|| Failure::from_error("the daemon returned too few values"))
}

fn variable(reference: &str, named: Result<EnvReference, Unresolved>) -> Result<Secret<String>, Failure> {
    let value = named.and_then(|named| named.value(Environment.variable(&named.variable)));
    value.map_err(|error| Failure::Operation(format!("{reference} {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_is_kongs() {
        for (given, full) in [
            ("hcv/customer/acme/name", "{vault://hcv/customer/acme/name}"),
            ("hcv/a/b?ttl=1#2", "{vault://hcv/a/b?ttl=1#2}"),
            ("{vault://hcv/a/b}", "{vault://hcv/a/b}"),
            ("$secret://vault/1/a/b", "$secret://vault/1/a/b"),
            ("{vault://hcv/a", "{vault://hcv/a"),
        ] {
            assert_eq!(complete(given), full);
        }
    }
}
