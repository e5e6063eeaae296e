//! `policy`: the least-privilege policy by the settings alone, and the commands that make a role with it.
//!
//! It needs no login and no credential of the daemon. `doctor` prints the same policy.

use std::{fmt::Write as _, process::ExitCode};

use clap::{Args, ValueEnum};

use super::command::{Failure, SettingsFile, print, print_notes};
use crate::{
    settings::{self, RoleSettings, SecretPath, keys::Method},
    vault::kv::{self, Use},
};

#[derive(Debug, Args)]
pub(super) struct Policy {
    #[command(flatten)]
    file: SettingsFile,
    /// Print the policy of an operator who rotates keys
    #[arg(long, conflicts_with = "role")]
    rotate: bool,
    /// Print the commands that make the daemon's role [default: for the auth method of the settings]
    #[arg(long, value_name = "METHOD", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "an option with an optional value")]
    role: Option<Option<RoleMethod>>,
    /// The command line of the server
    #[arg(long, value_name = "PROGRAM", value_enum, default_value_t = Program::Bao)]
    program: Program,
    /// The name of the policy and of the role
    #[arg(long, value_name = "NAME", default_value = "keyringd")]
    name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleMethod {
    Token,
    Kubernetes,
    Approle,
    Cert,
    Jwt,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Program {
    Bao,
    Vault,
}

impl RoleMethod {
    const fn method(self) -> Method {
        match self {
            Self::Token => Method::Token,
            Self::Kubernetes => Method::Kubernetes,
            Self::Approle => Method::AppRole,
            Self::Cert => Method::Cert,
            Self::Jwt => Method::Jwt,
        }
    }
}

/// `keyringd policy`
pub(super) fn policy(policy: &Policy) -> Result<ExitCode, Failure> {
    let (loaded, warnings) = settings::load_role(&policy.file.sources());
    print_notes("warning", &warnings);
    let settings = loaded.map_err(Failure::Configuration)?;
    let text = match policy.role {
        None if policy.rotate => {
            kv::least_privilege(&settings.keyring.secret, &settings.keyring.further, Use::Rotation)
        }
        None => kv::least_privilege(
            &settings.keyring.secret,
            &settings.keyring.further,
            Use::Daemon(settings.method),
        ),
        Some(method) => {
            let method = method.map_or(settings.method, RoleMethod::method);
            Commands { settings: &settings, policy }.text(method)
        }
    };
    print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// The commands that make a role.
struct Commands<'a> {
    settings: &'a RoleSettings,
    policy: &'a Policy,
}

impl Commands<'_> {
    fn text(&self, method: Method) -> String {
        let (program, variable) = match self.policy.program {
            Program::Bao => ("bao", "BAO_NAMESPACE"),
            Program::Vault => ("vault", "VAULT_NAMESPACE"),
        };
        let name = word(&self.policy.name);
        let mut text = String::new();
        if let Some(namespace) = &self.settings.namespace {
            let _ = writeln!(text, "export {variable}={}", word(namespace));
        }
        let hcl = kv::least_privilege(
            &self.settings.keyring.secret,
            &self.settings.keyring.further,
            Use::Daemon(method),
        );
        let _ = write!(
            text,
            "{program} policy write {name} - <<'END'\n{hcl}END\n{}",
            self.role(method, program, &name)
        );
        text
    }

    fn role(&self, method: Method, program: &str, name: &str) -> String {
        let mounts = &self.settings.mounts;
        let enable = |mount: &SecretPath, method: &str| {
            let mount = word(&mount.to_string());
            format!("{program} auth enable -path={mount} {method}  # once\n")
        };
        match method {
            Method::Token => format!(
                "# keyring_vault_token, by a file: KONG_KEYRING_VAULT_TOKEN_FILE\n\
                 (umask 077; {program} token create -field=token -policy={name} -period=24h -orphan > token)\n"
            ),
            Method::AppRole => {
                let path = word(&format!("auth/{}/role/{name}", mounts.approle));
                format!(
                    "{}{program} write {path} token_policies={name} token_ttl=1h token_max_ttl=24h\n\
                     # keyring_vault_approle_role_id\n{program} read -field=role_id {path}/role-id\n\
                     # keyring_vault_approle_secret_id_file\n\
                     (umask 077; {program} write -f -field=secret_id {path}/secret-id > secret-id)\n",
                    enable(&mounts.approle, "approle")
                )
            }
            Method::Kubernetes => {
                let role = word(&format!("auth/{}/role/{}", mounts.kubernetes, self.settings.kube_role));
                format!(
                    "{}{program} write {role} token_policies={name} token_ttl=1h \\\n  \
                     bound_service_account_names=keyringd bound_service_account_namespaces=NAMESPACE\n",
                    enable(&mounts.kubernetes, "kubernetes")
                )
            }
            Method::Cert => {
                let role = self.settings.cert_role.as_deref().unwrap_or(name);
                let path = word(&format!("auth/{}/certs/{role}", mounts.cert));
                format!(
                    "{}{program} write {path} token_policies={name} token_ttl=1h \\\n  \
                     certificate=@ca.pem allowed_common_names=COMMON-NAME\n",
                    enable(&mounts.cert, "cert")
                )
            }
            Method::Jwt => {
                let role = self.settings.jwt_role.as_deref().unwrap_or(name);
                let path = word(&format!("auth/{}/role/{role}", mounts.jwt));
                format!(
                    "{}{program} write {path} role_type=jwt token_policies={name} token_ttl=1h \\\n  \
                     user_claim=sub bound_audiences=AUDIENCE bound_subject=SUBJECT\n",
                    enable(&mounts.jwt, "jwt")
                )
            }
        }
    }
}

/// A word of a shell's command line.
fn word(text: &str) -> String {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b':');
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_where_they_must_be() {
        assert_eq!(word("auth/approle/role/a"), "auth/approle/role/a");
        assert_eq!(word("it's $(x)"), r"'it'\''s $(x)'");
        assert_eq!(word(""), "''");
    }
}
