//! `token`: a token that somebody made for us. It is looked up, so that its lease is known; it is never revoked.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::{
    settings::credential::Credential,
    vault::{
        VaultError,
        lease::Lease,
        transport::{Request, Transport},
    },
};

#[derive(Deserialize)]
struct Lookup {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

/// `setting` is the one that holds the token.
pub async fn log_in(
    transport: &Transport,
    credential: &Credential,
    setting: &str,
) -> Result<Lease, VaultError> {
    let token = credential
        .read()
        .map_err(|error| VaultError::no_credential("token", format!("{setting}: {error}")))?;
    let answer =
        transport.send(Request::get(transport.url(["auth", "token", "lookup-self"])).token(&token)).await?;
    let (ttl, renewable) = match answer.json::<Lookup>() {
        Some(Lookup { data }) => (data.ttl, data.renewable),
        // A token may lack the right to look at itself and yet read the secret: that will show.
        None => (0, false),
    };
    Ok(Lease::new(token, false, Duration::from_secs(ttl), renewable, Instant::now()))
}
