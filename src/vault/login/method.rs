//! What the auth methods share: the request to `auth/<mount>/login`, its response, and what an error message means.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    secret::Secret,
    settings::{SecretPath, SettingNames},
    vault::{
        error::VaultError,
        lease::{Lease, Renewal, TokenOrigin},
        transport::{Request, Response, Transport},
    },
};

/// An auth method: its name, and for each known part of a server's message what to do. In a cure, `{kube_role}` is the
/// name of the session's setting that ends so.
pub(super) struct Method {
    pub(super) name: &'static str,
    pub(super) cures: &'static [(&'static str, &'static str)],
    /// For any other message.
    pub(super) otherwise: &'static str,
    /// The setting that names the mount.
    pub(super) auth_path: &'static str,
}

/// The body of a login with a JWT. Borrowed, so that the one copy of the secret is the one that is sent and wiped.
#[derive(Serialize)]
pub(super) struct JwtLogin<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'a str>,
    pub(super) jwt: &'a str,
}

const NOT_MOUNTED: &str = "the auth method is not mounted there: correct {auth_path}, or enable the method";

/// The same for every method.
const COMMON_CURES: [(&str, &str); 3] = [
    (
        "auth methods cannot create root tokens",
        "remove the policy `root` from the role: a login cannot have it, and reading one secret does not need it",
    ),
    ("no handler for route", NOT_MOUNTED),
    ("route entry not found", NOT_MOUNTED),
];

/// Vault answers only "permission denied" for a path where nothing is mounted.
const MOUNTED: &str = "; and that the method is mounted at {auth_path}, in {namespace} if that is set";

/// What a login or a renewal grants.
#[derive(Deserialize)]
pub(in crate::vault) struct Granted {
    client_token: Secret<String>,
    lease_duration: u64,
    renewable: bool,
    /// How often the token can be used; 0 for any number.
    #[serde(default)]
    num_uses: i64,
}

/// What a method gives.
pub(super) struct Issued {
    pub(super) token: Secret<String>,
    pub(super) lease: Lease,
    /// What operators should know of the token.
    pub(super) notes: Vec<&'static str>,
}

pub(in crate::vault) const LIMITED_USES: &str = "the token has a limited number of uses, and each request takes one: create \
                                                 it without num_uses, or set token_num_uses of the role to 0";

impl Granted {
    pub(in crate::vault) fn from_response(response: &Response) -> Option<Self> {
        #[derive(Deserialize)]
        struct Login {
            auth: Granted,
        }
        response.json::<Login>().filter(|_| response.status.is_success()).map(|login| login.auth)
    }

    pub(in crate::vault) const fn ttl(&self) -> Duration {
        Duration::from_secs(self.lease_duration)
    }

    pub(in crate::vault) const fn renewal(&self) -> Renewal {
        Renewal::from_renewable(self.renewable)
    }
}

impl Method {
    /// `POST auth/<mount>/login`. The body holds `secret`.
    pub(super) async fn log_in(
        &self,
        transport: &Transport,
        names: SettingNames,
        mount: &SecretPath,
        body: &(impl Serialize + Sync),
        secret: Option<&Secret<String>>,
    ) -> Result<Issued, VaultError> {
        let url = transport.url(std::iter::once("auth").chain(mount.segments()).chain(["login"]));
        let mut request = Request::post(url, body);
        if let Some(secret) = secret {
            request = request.holding(secret);
        }
        match transport.send(request).await {
            Ok(response) if response.status.is_success() => granted(response),
            Ok(response) => Err(self.refused(response.message, names)),
            // Some methods answer 500 to what the client has to correct.
            Err(VaultError::Status { status: 500, message, .. }) if self.cure(&message).is_some() => {
                Err(self.refused(message, names))
            }
            Err(error) => Err(error),
        }
    }

    /// A login that could not be tried.
    pub(super) fn no_credential(&self, cause: String) -> VaultError {
        VaultError::no_credential(self.name, cause)
    }

    fn refused(&self, message: String, names: SettingNames) -> VaultError {
        let template = self.cure(&message).map_or_else(|| [self.otherwise, MOUNTED].concat(), str::to_owned);
        let template = template.replace("{auth_path}", &format!("{{{}}}", self.auth_path));
        VaultError::Login { method: self.name, message, cure: with_names(&template, names) }
    }

    fn cure(&self, message: &str) -> Option<&'static str> {
        let lower = message.to_lowercase();
        let mut known = COMMON_CURES.iter().chain(self.cures);
        known.find(|(part, _)| lower.contains(&part.to_lowercase())).map(|(_, cure)| *cure)
    }
}

/// Fills in the names of the session's settings.
pub(super) fn with_names(template: &str, names: SettingNames) -> String {
    let (mut text, mut rest) = (String::new(), template);
    while let Some((before, (setting, after))) =
        rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        text.push_str(before);
        text.push_str(&names.setting(setting));
        rest = after;
    }
    text + rest
}

fn granted(response: Response) -> Result<Issued, VaultError> {
    let Some(auth) = Granted::from_response(&response) else {
        return Err(VaultError::Malformed { path: response.path, what: "auth.client_token is missing" });
    };
    let lease = Lease::new(TokenOrigin::Login, auth.ttl(), auth.renewal(), Instant::now());
    let notes = if auth.num_uses == 0 { vec![] } else { vec![LIMITED_USES] };
    Ok(Issued { token: auth.client_token, lease, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cure_names_the_settings_of_its_session() {
        let hcv = SettingNames {
            host: "vault_hcv_host",
            protocol: "vault_hcv_protocol",
            token: "vault_hcv_token",
            prefix: "vault_hcv_",
        };
        assert_eq!(
            with_names("check {jwt_role} and {jwt_file}.", hcv),
            "check vault_hcv_jwt_role and vault_hcv_jwt_file."
        );
        assert_eq!(with_names("an open { brace", hcv), "an open { brace");
    }
}
