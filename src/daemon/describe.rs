//! What the daemon says of itself: the `source` of the status, and the first line of the log.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    logging::NOTICE,
    server::listen::SocketFile,
    settings::{self, Keyrings, Settings},
};

/// The `source` of the status: nothing of a keyring if there is none.
pub(super) fn describe(settings: &Settings, socket: &Path, configuration: Option<&Path>) -> Value {
    let configuration = configuration.map(|path| path.display().to_string());
    let socket = socket.display().to_string();
    let Some(Keyrings { server, default }) = &settings.keyrings else {
        return json!({ "configuration": configuration, "socket": socket });
    };
    json!({
        "configuration": configuration,
        "socket": socket,
        "vault": server.host.as_str().trim_end_matches('/'),
        "mount": default.secret.mount.to_string(),
        "path": default.secret.path.to_string(),
        "kv": default.secret.kv.to_string(),
        "auth_method": server.auth.name(),
        "interval": default.sync_interval.as_secs(),
        "plain_http": server.sends_in_the_clear(),
    })
}

/// The first line of the log: what is served, where, and for whom.
pub(super) fn log_start(
    described: &Value,
    socket: &settings::Socket,
    keyring: &str,
    file: Option<&SocketFile>,
) {
    let access = match &socket.access {
        Some(list) => format!("{} entries of keyring_access", list.len()),
        None if described["path"].is_null() => "none, references need keyring_access".to_owned(),
        None => format!("every user who may connect, by mode {:04o}", socket.mode),
    };
    let by = if file.is_some() { "keyringd" } else { "systemd" };
    tracing::info!(
        target: NOTICE,
        version = env!("CARGO_PKG_VERSION"),
        commit = env!("KEYRINGD_COMMIT"),
        configuration = described["configuration"].as_str().unwrap_or("none, only variables"),
        socket = %socket.path.display(),
        socket_made_by = by,
        access,
        keyrings = keyring,
        vault = described["vault"].as_str(),
        "keyringd starts"
    );
}

/// The keyrings of the settings, the default one first. A folder stands for its secrets.
pub(super) fn names(keyring: &settings::Keyring) -> String {
    let further = keyring.further.iter().map(|item| match item {
        settings::KeyringPath::Secret { name, .. } => name.clone(),
        settings::KeyringPath::Folder(path) => format!("{path}/"),
    });
    std::iter::once(keyring.name.clone()).chain(further).collect::<Vec<_>>().join(", ")
}
