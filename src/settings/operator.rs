//! The settings that operators' commands need, without the credentials of the daemon: an operator may not read those.

use super::{
    Keyring, SecretPath, Server, keyring,
    keys::{self, KEYRING_LOGIN, Method},
    reader::{LoadedPart, Reader},
    server,
    source::{Source, credential::Credential},
};

/// The keyring's secret and a session that may write it.
#[derive(Debug)]
pub struct OperatorSettings {
    pub server: Server,
    pub keyring: Keyring,
}

/// How an operator's command logs in.
#[derive(Debug)]
pub enum OperatorLogin {
    /// With this token, which messages name so.
    Token(Credential, &'static str),
    /// By the auth method of the settings.
    AsSet,
}

/// What a role of the daemon in Vault is made from.
#[derive(Debug)]
pub struct RoleSettings {
    pub keyring: Keyring,
    pub namespace: Option<String>,
    pub method: Method,
    /// The mount of each auth method.
    pub mounts: RoleMounts,
    /// The role of kubernetes, cert or jwt, if one is set.
    pub kube_role: String,
    pub cert_role: Option<String>,
    pub jwt_role: Option<String>,
}

#[derive(Debug)]
pub struct RoleMounts {
    pub approle: SecretPath,
    pub kubernetes: SecretPath,
    pub cert: SecretPath,
    pub jwt: SecretPath,
}

/// The settings of `rotate`.
pub fn load_operator(sources: &[Box<dyn Source>], login: OperatorLogin) -> LoadedPart<OperatorSettings> {
    let mut reader = Reader::new(sources);
    let server = match login {
        OperatorLogin::AsSet => server::read_keyrings(&mut reader),
        OperatorLogin::Token(token, name) => server::read_operators(&mut reader, token, name),
    };
    let keyring = keyring(&mut reader);
    reader.finish(server.zip(keyring).map(|(server, keyring)| OperatorSettings { server, keyring }))
}

/// The settings of `policy`.
pub fn load_role(sources: &[Box<dyn Source>]) -> LoadedPart<RoleSettings> {
    let mut reader = Reader::new(sources);
    let settings = role(&mut reader);
    reader.finish(settings)
}

fn role(reader: &mut Reader) -> Option<RoleSettings> {
    let login = &KEYRING_LOGIN;
    gather!(RoleSettings {
        keyring: keyring(reader),
        namespace: Some(reader.optional(&keys::VAULT_NAMESPACE)),
        method: reader.required(&login.auth_method),
        mounts: mounts(reader),
        kube_role: reader.required(&login.kube_role),
        cert_role: Some(reader.optional(&login.cert_auth_role_name)),
        jwt_role: Some(reader.optional(&login.jwt_role)),
    })
}

fn mounts(reader: &mut Reader) -> Option<RoleMounts> {
    let login = &KEYRING_LOGIN;
    gather!(RoleMounts {
        approle: reader.required(&login.approle_auth_path),
        kubernetes: reader.required(&login.kube_auth_path),
        cert: reader.required(&login.cert_auth_path),
        jwt: reader.required(&login.jwt_auth_path),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::source::Pairs, *};
    use crate::secret::Secret;

    const PLACE: [(&str, &str); 3] = [
        ("keyring_vault_host", "http://127.0.0.1:8200"),
        ("keyring_vault_mount", "secret"),
        ("keyring_vault_path", "keyring"),
    ];

    fn sources(more: &[(&'static str, &'static str)]) -> [Box<dyn Source>; 1] {
        [Box::new(Pairs { settings: PLACE.iter().chain(more).copied().collect(), variables: &[] })]
    }

    #[test]
    fn an_operator_needs_no_credential_of_the_daemon() {
        let sources = sources(&[
            ("keyring_vault_auth_method", "approle"),
            ("keyring_vault_approle_role_id", "app"),
            ("keyring_vault_approle_secret_id_file", "/no/such/file"),
        ]);
        let token = Credential::Inline(Secret::new("hvs.operator".to_owned()));
        let (loaded, _) = load_operator(&sources, OperatorLogin::Token(token, "VAULT_TOKEN"));
        assert_eq!(loaded.unwrap().server.names.token, "VAULT_TOKEN");
        let (role, _) = load_role(&sources);
        assert_eq!(role.unwrap().method, Method::AppRole);
        let (own, _) = load_operator(&sources, OperatorLogin::AsSet);
        assert!(own.unwrap_err()[0].to_string().contains("keyring_vault_approle_secret_id_file"));
    }

    #[test]
    fn a_mistake_counts_only_in_a_setting_that_the_command_reads() {
        let bad = |key| sources(&[(key, "{vault://env/not-there}")]);
        let token = || Credential::Inline(Secret::new("hvs.operator".to_owned()));
        for unread in ["keyring_vault_token", "keyring_cache_key", "keyring_socket_mode"] {
            assert!(load_role(&bad(unread)).0.is_ok(), "{unread}");
            let (loaded, _) = load_operator(&bad(unread), OperatorLogin::Token(token(), "VAULT_TOKEN"));
            assert!(loaded.is_ok(), "{unread}");
        }
        let (own, _) = load_operator(&bad("keyring_vault_token"), OperatorLogin::AsSet);
        assert!(own.unwrap_err()[0].to_string().contains("NOT_THERE"));
        for read in ["keyring_vault_path", "keyring_vault_namespace", "keyring_vault_pth"] {
            assert!(!load_role(&bad(read)).0.unwrap_err().is_empty(), "{read}");
        }
    }

    #[test]
    fn the_place_of_the_secret_is_required() {
        let (role, _) = load_role(&[]);
        let mistakes: Vec<_> = role.unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    }
}
