//! `token`: a configured token. A lookup gives its lease; it is never revoked.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::{
    secret::Secret,
    settings::{SettingNames, credential::Credential},
    vault::{
        error::VaultError,
        lease::{Lease, Renewal, TokenOrigin},
        transport::{Request, Transport},
    },
};

pub(super) async fn log_in(
    transport: &Transport,
    names: SettingNames,
    credential: &Credential,
) -> Result<(Secret<String>, Lease), VaultError> {
    #[derive(Deserialize)]
    struct Lookup {
        ttl: u64,
        #[serde(default)]
        renewable: bool,
    }
    let unreadable = |error| VaultError::no_credential("token", format!("{}: {error}", names.token));
    let token = credential.read().map_err(unreadable)?;
    let url = transport.url(["auth", "token", "lookup-self"]);
    let response = transport.send(Request::get(url).token(&token)).await?;
    let (ttl, renewable) = match response.data::<Lookup>() {
        Some(Lookup { ttl, renewable }) => (ttl, renewable),
        // A token may lack the right to look itself up and yet read the secret: reading it shows that.
        None => (0, false),
    };
    let renewal = Renewal::from_renewable(renewable);
    let lease = Lease::new(TokenOrigin::Configured, Duration::from_secs(ttl), renewal, Instant::now());
    Ok((token, lease))
}

/// Whether the token's file holds another token now. Compared without a hash, whose state would leave copies of the token.
pub(super) fn has_changed(credential: &Credential, used: &Secret<String>) -> bool {
    matches!(credential, Credential::File(_)) && credential.read().is_ok_and(|now| now != *used)
}
