//! The least-privilege policy for a configuration: what the daemon requests, and nothing else.

use std::fmt::Write as _;

use crate::settings::{self, KvVersion, SecretPath};

/// The paths of the secret that the daemon reads.
pub fn read_paths(settings: &settings::KvSecret) -> Vec<String> {
    let join = |endpoint: Option<&str>| {
        let segments = settings.mount.segments().chain(endpoint).chain(settings.path.segments());
        SecretPath(segments.map(str::to_owned).collect()).to_string()
    };
    match settings.kv {
        KvVersion::V1 => vec![join(None)],
        KvVersion::V2 => vec![join(Some("metadata")), join(Some("data"))],
    }
}

/// The policy, in HCL. Vault's `default` policy also has the paths of the token itself; a token without that policy needs
/// them here.
pub fn least_privilege(settings: &settings::KvSecret) -> String {
    let mut text = String::new();
    let mut allow = |path: &str, capability: &str| {
        let path = path.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(text, "path \"{path}\" {{ capabilities = [\"{capability}\"] }}");
    };
    for path in read_paths(settings) {
        allow(&path, "read");
    }
    allow("auth/token/lookup-self", "read");
    allow("auth/token/renew-self", "update");
    allow("auth/token/revoke-self", "update");
    allow("sys/capabilities-self", "update");
    text
}
