//! Which request goes where: from a method and a path to what is asked for, what leave that needs, and what it is counted
//! as. How each is answered is in `transit`, `admin`, `kms` and `resolve`.

use hyper::{Method, Uri};

use super::{answer::Answer, kms, transit};
use crate::{
    metrics,
    settings::access::{Operation, Operations},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Transit(transit::Operation),
    DataKey(transit::datakey::Form),
    Key,
    KeyNames,
    Keyring,
    ActiveKey,
    Sync,
    Resolve,
    Status,
    Alive,
    Ready,
    Metrics,
    Kms(kms::Call),
}

impl Route {
    /// What a request asks of a keyring of this name. `Err` is the 404 or 405.
    pub fn of(method: &Method, uri: &Uri, name: &str) -> Result<Self, Answer> {
        let path = uri.path();
        let path = path.strip_suffix('/').unwrap_or(path);
        let route = match path.strip_prefix("/v1/transit/") {
            Some(rest) => Self::of_transit(rest, name)?,
            None => Self::of_admin(path)?,
        };
        let allowed = route.methods();
        if allowed.contains(&method.as_str()) {
            Ok(route)
        } else {
            Err(Answer::not_allowed(&allowed.join(", ")))
        }
    }

    /// The same of a call in gRPC.
    pub fn of_call(uri: &Uri) -> Result<Self, Answer> {
        let path = uri.path();
        let call = path.strip_prefix('/').and_then(|path| path.strip_prefix(kms::SERVICE)?.strip_prefix('/'));
        call.and_then(kms::Call::parse).map(Self::Kms).ok_or_else(|| {
            let served = kms::SERVICE;
            Answer::errors(
                404,
                format!("no such call here: Status, Encrypt and Decrypt of {served} are served"),
            )
        })
    }

    fn of_transit(rest: &str, name: &str) -> Result<Self, Answer> {
        if rest == "keys" {
            return Ok(Self::KeyNames);
        }
        let (operation, named) = rest.rsplit_once('/').unwrap_or((rest, ""));
        let route = match operation {
            "encrypt" => Self::Transit(transit::Operation::Encrypt),
            "decrypt" => Self::Transit(transit::Operation::Decrypt),
            "rewrap" => Self::Transit(transit::Operation::Rewrap),
            "datakey/plaintext" => Self::DataKey(transit::datakey::Form::Plaintext),
            "datakey/wrapped" => Self::DataKey(transit::datakey::Form::Wrapped),
            "keys" => Self::Key,
            _ => {
                return Err(Answer::errors(
                    404,
                    "no such Transit operation here: encrypt, decrypt, rewrap, datakey/plaintext, datakey/wrapped \
                     and keys are served",
                ));
            }
        };
        if named == name {
            return Ok(route);
        }
        let message = format!("no such key name here: this keyring is called {name} (keyring_name)");
        Err(Answer::errors(404, message))
    }

    fn of_admin(path: &str) -> Result<Self, Answer> {
        Ok(match path {
            "/keyring" => Self::Keyring,
            "/keyring/active" => Self::ActiveKey,
            "/keyring/vault/sync" => Self::Sync,
            "/v1/resolve" => Self::Resolve,
            "/status" => Self::Status,
            "/livez" => Self::Alive,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            _ => return Err(super::admin::elsewhere(path)),
        })
    }

    const fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Transit(_) | Self::DataKey(_) | Self::Sync | Self::Resolve => &["POST", "PUT"],
            // Vault's own method, which its clients also write as GET with a query.
            Self::KeyNames => &["GET", "LIST"],
            Self::Kms(_) => &["POST"],
            _ => &["GET"],
        }
    }

    /// What a peer must be allowed to do; nothing for asking whether the daemon lives.
    pub const fn needs(self) -> Operations {
        let operation = match self {
            Self::Transit(transit::Operation::Encrypt) => Operation::Encrypt,
            Self::Transit(transit::Operation::Decrypt) => Operation::Decrypt,
            Self::Transit(transit::Operation::Rewrap) => {
                return Operations::of(Operation::Encrypt).and(Operations::of(Operation::Decrypt));
            }
            Self::DataKey(_) => Operation::DataKey,
            Self::Key | Self::KeyNames | Self::Keyring | Self::ActiveKey | Self::Status => Operation::Status,
            Self::Sync => Operation::Sync,
            Self::Resolve => Operation::Secrets,
            Self::Metrics => Operation::Metrics,
            Self::Kms(_) => Operation::Kms,
            Self::Alive | Self::Ready => return Operations::NONE,
        };
        Operations::of(operation)
    }

    pub const fn counted_as(self) -> metrics::Operation {
        match self {
            Self::Transit(transit::Operation::Encrypt) => metrics::Operation::Encrypt,
            Self::Transit(transit::Operation::Decrypt) => metrics::Operation::Decrypt,
            Self::Transit(transit::Operation::Rewrap) => metrics::Operation::Rewrap,
            Self::DataKey(_) => metrics::Operation::DataKey,
            Self::Key | Self::KeyNames | Self::Keyring | Self::ActiveKey | Self::Status => {
                metrics::Operation::Status
            }
            Self::Sync => metrics::Operation::Sync,
            Self::Resolve => metrics::Operation::Resolve,
            Self::Metrics => metrics::Operation::Metrics,
            Self::Alive | Self::Ready => metrics::Operation::Health,
            Self::Kms(kms::Call::Status) => metrics::Operation::KmsStatus,
            Self::Kms(kms::Call::Encrypt) => metrics::Operation::KmsEncrypt,
            Self::Kms(kms::Call::Decrypt) => metrics::Operation::KmsDecrypt,
        }
    }

    /// Whether it is served where nobody can be told who he is.
    pub const fn is_public(self) -> bool {
        matches!(self, Self::Alive | Self::Ready | Self::Metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(method: &str, path: &str) -> Result<Route, u16> {
        let uri = path.parse().unwrap();
        let route = Route::of(&method.parse().unwrap(), &uri, "keyring");
        route.map_err(|answer| answer.into_response().status().as_u16())
    }

    #[test]
    fn paths_lead_where_they_should() {
        use transit::{Operation::*, datakey::Form};
        for (method, path, expected) in [
            ("POST", "/v1/transit/encrypt/keyring", Ok(Route::Transit(Encrypt))),
            ("PUT", "/v1/transit/decrypt/keyring/", Ok(Route::Transit(Decrypt))),
            ("POST", "/v1/transit/rewrap/keyring", Ok(Route::Transit(Rewrap))),
            ("POST", "/v1/transit/datakey/plaintext/keyring", Ok(Route::DataKey(Form::Plaintext))),
            ("POST", "/v1/transit/datakey/wrapped/keyring", Ok(Route::DataKey(Form::Wrapped))),
            ("GET", "/v1/transit/keys/keyring", Ok(Route::Key)),
            ("LIST", "/v1/transit/keys", Ok(Route::KeyNames)),
            ("GET", "/v1/transit/keys/?list=true", Ok(Route::KeyNames)),
            ("POST", "/v1/resolve", Ok(Route::Resolve)),
            ("GET", "/v1/resolve", Err(405)),
            ("GET", "/keyring/", Ok(Route::Keyring)),
            ("GET", "/livez", Ok(Route::Alive)),
            ("GET", "/v1/transit/encrypt/keyring", Err(405)),
            ("POST", "/v1/transit/keys/keyring", Err(405)),
            ("DELETE", "/keyring", Err(405)),
            ("POST", "/v1/transit/encrypt/other", Err(404)),
            ("POST", "/v1/transit/encrypt", Err(404)),
            ("POST", "/v1/transit/datakey/keyring", Err(404)),
            ("POST", "/v1/transit/sign/keyring", Err(404)),
            ("GET", "/", Err(404)),
            ("POST", "/keyring/generate", Err(400)),
        ] {
            assert_eq!(route(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn calls_lead_to_kms_and_nowhere_else() {
        for (path, expected) in [
            ("/v2.KeyManagementService/Status", Ok(Route::Kms(kms::Call::Status))),
            ("/v2.KeyManagementService/Decrypt", Ok(Route::Kms(kms::Call::Decrypt))),
            ("/v2.KeyManagementService/Encrypt", Ok(Route::Kms(kms::Call::Encrypt))),
            ("/v2.KeyManagementService/", Err(404)),
            ("/v2.KeyManagementService/status", Err(404)),
            ("/v1beta1.KeyManagementService/Version", Err(404)),
            ("/livez", Err(404)),
        ] {
            let route = Route::of_call(&path.parse().unwrap());
            assert_eq!(route.map_err(|answer| answer.status()), expected, "{path}");
        }
        assert_eq!(
            route("POST", "/v2.KeyManagementService/Status"),
            Err(404),
            "in HTTP/1.1 there is no gRPC"
        );
    }

    #[test]
    fn a_rewrap_needs_both_and_health_needs_nothing() {
        let rewrap = Route::Transit(transit::Operation::Rewrap).needs();
        assert_eq!(rewrap.to_string(), "encrypt+decrypt");
        assert_eq!(Route::Ready.needs(), Operations::NONE);
    }
}
