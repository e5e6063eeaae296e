//! `vault get`: prints the value of a reference and a line break, like `kong vault get`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    command::{Failure, print, wait},
    resolver::{Resolver, ResolverArgs},
};
use crate::settings::reference::is_any_reference;

#[derive(Debug, Subcommand)]
pub(super) enum Vault {
    /// Print the value of a reference
    Get {
        #[command(flatten)]
        resolver: ResolverArgs,
        /// {vault://…}, $secret://… or $ENV://…; the text between {vault:// and } is enough
        reference: String,
    },
}

/// `keyringd vault get`
pub(super) fn get(resolver: &ResolverArgs, reference: &str) -> Result<ExitCode, Failure> {
    let reference = complete(reference);
    let values = wait(async {
        let resolver = Resolver::new(resolver);
        let values = resolver.values(&[&reference]).await;
        resolver.close().await;
        values
    })??;
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
