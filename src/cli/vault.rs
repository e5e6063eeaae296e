//! `vault get`: what a reference stands for, and a line break; nothing else, as Kong's command of that name prints it.
//!
//! A variable is looked for in the environment of this command, anything else by the running daemon. `exec` resolves its
//! references here too.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Daemon, Failure, print, say, wait};
use crate::{
    client::{Client, Resolved},
    secret::Secret,
    settings::{
        reference::is_of_either_notation,
        resolve::{Named, Unresolved},
        source::{Environment, Source as _},
    },
};

/// What is asked of Vault by way of the daemon.
#[derive(Debug, Subcommand)]
pub enum Vault {
    /// Print what a reference stands for
    Get {
        #[command(flatten)]
        daemon: Daemon,
        /// {vault://…}, $secret://… or $ENV://…, or what stands between the first's {vault:// and }
        reference: String,
    },
}

/// `keyringd vault`.
pub fn vault(asked: &Vault) -> Result<ExitCode, Failure> {
    match asked {
        Vault::Get { daemon, reference } => get(daemon, reference),
    }
}

/// `keyringd vault get`.
fn get(daemon: &Daemon, reference: &str) -> Result<ExitCode, Failure> {
    let reference = in_full(reference);
    let values = wait(resolved(daemon, &[&reference]))??;
    let mut line = values.into_iter().next().unwrap_or_else(|| Secret::new(String::new()));
    line.expose_mut().push('\n');
    print(line.expose()).map(|()| ExitCode::SUCCESS)
}

/// `<name>/<path>/<key>` stands for `{vault://<name>/<path>/<key>}`.
fn in_full(reference: &str) -> String {
    if is_of_either_notation(reference) || reference.starts_with(['{', '$']) {
        reference.to_owned()
    } else {
        format!("{{vault://{reference}}}")
    }
}

/// What references stand for, in their order. What is older than it should be is said.
pub async fn resolved(daemon: &Daemon, references: &[&str]) -> Result<Vec<Secret<String>>, Failure> {
    let mut values: Vec<Option<Secret<String>>> = Vec::new();
    let mut of_daemon = Vec::new();
    for reference in references {
        values.push(match Named::of(reference) {
            Some(named) => Some(variable(reference, named)?),
            None => None,
        });
        if values.last().is_some_and(Option::is_none) {
            of_daemon.push(*reference);
        }
    }
    let asked = match of_daemon.as_slice() {
        [] => Vec::new(), // without anything to ask, no daemon is needed
        some => Client::new(&daemon.socket()?).resolve(some).await?,
    };
    let mut asked = asked.into_iter();
    let mut names = of_daemon.into_iter();
    let fill = |value: Option<Secret<String>>| match value {
        Some(value) => Ok(value),
        None => asked.next().map(|one| told(names.next().unwrap_or_default(), one)).ok_or_else(unanswered),
    };
    values.into_iter().map(fill).collect()
}

fn variable(reference: &str, named: Result<Named, Unresolved>) -> Result<Secret<String>, Failure> {
    let value = named.and_then(|named| named.value(Environment.variable(&named.variable)));
    value.map_err(|why| Failure::Operation(format!("{reference} {why}")))
}

fn told(reference: &str, resolved: Resolved) -> Secret<String> {
    if let Some(stale) = resolved.stale {
        say(&format!(
            "keyringd: warning: {reference} cannot be read anew, and stands for what it was: its time was over {} s ago",
            stale.as_secs()
        ));
    }
    resolved.value
}

fn unanswered() -> Failure {
    Failure::Operation("keyringd answered fewer references than it was asked for".to_owned())
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
            assert_eq!(in_full(given), full);
        }
    }
}
