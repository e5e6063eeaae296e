//! `token`: a configured token. A lookup gives its lease; it is never revoked.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::Instant;

use super::method::{Issued, LIMITED_USES};
use crate::{
    secret::Secret,
    settings::{SettingNames, credential::Credential},
    vault::{
        error::VaultError,
        lease::{Lease, Renewal, TokenOrigin},
        transport::{Request, Transport},
    },
};

#[derive(Deserialize)]
struct Lookup {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
    /// Uses that are left; 0 for any number, negative after the last.
    #[serde(default)]
    num_uses: i64,
    #[serde(default)]
    policies: Vec<String>,
}

/// How a 403 begins that means a policy: the token itself is valid. For an invalid one it is "permission denied" alone, or
/// with "invalid token".
const LACKS_RIGHT: &str = "1 error occurred";

const ROOT: &str = "the token is a root token: use one whose policy allows reading the needed secrets only";

pub(super) async fn log_in(
    transport: &Transport,
    names: SettingNames,
    credential: &Credential,
) -> Result<Issued, VaultError> {
    let unreadable = |error| VaultError::no_credential("token", format!("{}: {error}", names.token));
    let token = credential.read().map_err(unreadable)?;
    let url = transport.url(["auth", "token", "lookup-self"]);
    let response = transport.send(Request::get(url).token(&token)).await?;
    let (ttl, renewable, notes) = match (response.data::<Lookup>(), response.status) {
        (Some(lookup), _) => (lookup.ttl, lookup.renewable, lookup.notes()),
        // A token may lack the right to look itself up and yet read the secret: reading it shows that.
        (None, StatusCode::FORBIDDEN) if response.message.contains(LACKS_RIGHT) => (0, false, Vec::new()),
        (None, StatusCode::FORBIDDEN) => return Err(VaultError::BadToken(names.token)),
        (None, StatusCode::NOT_FOUND) => {
            let (namespace, host) = (names.setting("namespace"), names.host);
            let cure = format!("there is no such namespace, or no Vault: correct {namespace} or {host}");
            return Err(VaultError::Login { method: "token", message: response.message, cure });
        }
        (None, _) => {
            return Err(VaultError::Malformed { path: response.path, what: "data.ttl is missing" });
        }
    };
    let renewal = Renewal::from_renewable(renewable);
    let lease = Lease::new(TokenOrigin::Configured, Duration::from_secs(ttl), renewal, Instant::now());
    Ok(Issued { token, lease, notes })
}

impl Lookup {
    fn notes(&self) -> Vec<&'static str> {
        let is_root = self.policies.iter().any(|policy| policy == "root");
        let notes = [is_root.then_some(ROOT), (self.num_uses != 0).then_some(LIMITED_USES)];
        notes.into_iter().flatten().collect()
    }
}

/// Whether the token's file holds another token now. Compared without a hash, whose state would leave copies of the token.
pub(super) fn has_changed(credential: &Credential, used: &Secret<String>) -> bool {
    matches!(credential, Credential::File(_)) && credential.read().is_ok_and(|now| now != *used)
}
