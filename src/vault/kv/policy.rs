//! Policies in HCL: what the daemon's token needs, and what an operator's token needs for a rotation.

use std::fmt::Write as _;

use super::{engine_config_path, read_paths};
use crate::settings::{KeyringPath, KvSecret, keys::Method};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The daemon, which logs in by this method.
    Daemon(Method),
    /// `keyringd rotate`.
    Rotation,
}

/// The least privilege for a use of these keyrings. Vault's `default` policy also has the paths of the token itself; a token
/// without that policy needs them here. A configured token is never revoked.
pub fn least_privilege(secret: &KvSecret, further: &[KeyringPath], what_for: Use) -> String {
    let mut policy = Policy::default();
    policy.secret(secret, what_for);
    for item in further {
        match item {
            KeyringPath::Secret { path, .. } => policy.secret(&secret.at(path.clone()), what_for),
            KeyringPath::Folder(path) => policy.folder(&secret.at(path.clone()), what_for),
        }
    }
    if let Some(path) = engine_config_path(secret) {
        policy.allow(&path, &["read"]);
    }
    policy.allow("auth/token/lookup-self", &["read"]);
    if let Use::Daemon(_) = what_for {
        policy.allow("auth/token/renew-self", &["update"]);
    }
    // A rotation may log in, and ends its session then.
    if what_for != Use::Daemon(Method::Token) {
        policy.allow("auth/token/revoke-self", &["update"]);
    }
    if let Use::Daemon(_) = what_for {
        policy.allow("sys/capabilities-self", &["update"]);
    }
    policy.0
}

impl Use {
    /// On the path of a record, which is the last of its secret's.
    const fn of_records(self) -> &'static [&'static str] {
        match self {
            Self::Daemon(_) => &["read"],
            Self::Rotation => &["create", "read", "update"],
        }
    }
}

#[derive(Default)]
struct Policy(String);

impl Policy {
    fn allow(&mut self, path: &str, capabilities: &[&str]) {
        let path = path.replace('\\', "\\\\").replace('"', "\\\"");
        let capabilities = capabilities.join("\", \"");
        let _ = writeln!(self.0, "path \"{path}\" {{ capabilities = [\"{capabilities}\"] }}");
    }

    fn secret(&mut self, secret: &KvSecret, what_for: Use) {
        self.paths(secret, "", what_for);
    }

    /// Lists the secrets of a folder, and those directly below.
    fn folder(&mut self, folder: &KvSecret, what_for: Use) {
        if let (Use::Daemon(_), Some(listed)) = (what_for, read_paths(folder).first()) {
            self.allow(&format!("{listed}/"), &["list"]);
        }
        self.paths(folder, "/+", what_for);
    }

    fn paths(&mut self, secret: &KvSecret, ending: &str, what_for: Use) {
        let paths = read_paths(secret);
        for (at, path) in (1..).zip(&paths) {
            let capabilities = if at == paths.len() { what_for.of_records() } else { &["read"] };
            self.allow(&format!("{path}{ending}"), capabilities);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{KvVersion, SecretPath};

    fn secret(kv: KvVersion) -> KvSecret {
        let path = |text: &str| SecretPath(text.split('/').map(str::to_owned).collect());
        KvSecret { mount: path("kv/apps"), path: path("keyring"), kv }
    }

    #[test]
    fn only_a_rotation_may_write_and_only_the_secret_itself() {
        let daemon = least_privilege(&secret(KvVersion::V2), &[], Use::Daemon(Method::AppRole));
        assert!(!daemon.contains("create") && daemon.contains("revoke-self"), "{daemon}");
        assert!(
            !least_privilege(&secret(KvVersion::V2), &[], Use::Daemon(Method::Token)).contains("revoke-self")
        );
        let rotation = least_privilege(&secret(KvVersion::V2), &[], Use::Rotation);
        assert!(
            rotation
                .contains(r#"path "kv/apps/data/keyring" { capabilities = ["create", "read", "update"] }"#)
                && rotation.contains(r#"path "kv/apps/metadata/keyring" { capabilities = ["read"] }"#),
            "{rotation}"
        );
        let of_v1 = least_privilege(&secret(KvVersion::V1), &[], Use::Rotation);
        assert!(
            of_v1.starts_with(r#"path "kv/apps/keyring" { capabilities = ["create", "read", "update"] }"#)
        );
    }

    #[test]
    fn a_folder_is_listed_and_its_secrets_are_read() {
        let further = [
            KeyringPath::Secret { name: "b".to_owned(), path: SecretPath(vec!["b".to_owned()]) },
            KeyringPath::Folder(SecretPath(vec!["teams".to_owned()])),
        ];
        let policy = least_privilege(&secret(KvVersion::V2), &further, Use::Daemon(Method::Token));
        for line in [
            r#"path "kv/apps/data/b" { capabilities = ["read"] }"#,
            r#"path "kv/apps/metadata/teams/" { capabilities = ["list"] }"#,
            r#"path "kv/apps/metadata/teams/+" { capabilities = ["read"] }"#,
            r#"path "kv/apps/data/teams/+" { capabilities = ["read"] }"#,
        ] {
            assert!(policy.lines().any(|one| one == line), "{line} in {policy}");
        }
    }
}
