//! Commands that ask a running daemon how it is: `status`, `health`, `sync`.

use std::{fmt::Write as _, process::ExitCode};

use serde_json::Value;

use super::{Daemon, Failure, print, wait};
use crate::client::Client;

/// `keyringd status`.
pub fn status(daemon: &Daemon, as_json: bool) -> Result<ExitCode, Failure> {
    let client = Client::new(&daemon.socket()?);
    let status = wait(client.status())??;
    let ready = status.get("ready").and_then(Value::as_bool).unwrap_or(false);
    print(if as_json { format!("{status:#}\n") } else { for_people(&status) })?;
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `keyringd health`, for what asks again and again: a container engine, a load balancer.
pub fn health(daemon: &Daemon) -> Result<ExitCode, Failure> {
    let client = Client::new(&daemon.socket()?);
    let (ready, said) = wait(client.health())??;
    print(said)?;
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `keyringd sync`.
pub fn sync(daemon: &Daemon) -> Result<ExitCode, Failure> {
    let client = Client::new(&daemon.socket()?);
    wait(client.sync())??;
    Ok(ExitCode::SUCCESS)
}

/// The status as lines of `what: how it is`.
fn for_people(status: &Value) -> String {
    let text = |pointer: &str| match status.pointer(pointer) {
        Some(Value::String(text)) => Some(text.clone()),
        None | Some(Value::Null) => None,
        Some(other) => Some(other.to_string()),
    };
    let mut out = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "{name:<13} {value}");
        }
    };
    line(
        "state:",
        text("/reason").or_else(|| text("/keyring/active").map(|id| format!("ready, active key {id}"))),
    );
    line("version:", text("/version"));
    line("name:", text("/name"));
    line("vault:", text("/source/vault"));
    line(
        "secret:",
        text("/source/mount").zip(text("/source/path")).map(|(mount, path)| format!("{mount}/{path}")),
    );
    line(
        "last sync:",
        text("/sync/last_success")
            .zip(text("/sync/seconds_since_success"))
            .map(|(at, ago)| format!("{at} ({ago} s ago)")),
    );
    line("last error:", text("/sync/last_error"));
    line(
        "headroom:",
        text("/sync/headroom").map(|left| format!("{left} more versions before Vault destroys the oldest")),
    );
    for key in status.pointer("/keyring/keys").and_then(Value::as_array).into_iter().flatten() {
        let field =
            |name| key.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let fields: Vec<_> =
            ["id", "state", "version", "creation_time"].into_iter().filter_map(field).collect();
        if let [id, state, version, created] = fields.as_slice() {
            line("key:", Some(format!("{id}  {state}  version {version} of {created}")));
        }
    }
    for (name, pointer) in [("warning:", "/sync/warnings"), ("not reloaded:", "/source/reload_mistakes")] {
        for message in status.pointer(pointer).and_then(Value::as_array).into_iter().flatten() {
            line(name, message.as_str().map(str::to_owned));
        }
    }
    out
}
