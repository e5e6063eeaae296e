//! `status`, `health` and `sync`: commands on the state of the running daemon.

use std::{fmt::Write as _, process::ExitCode};

use serde_json::Value;

use super::command::{Daemon, Failure, print, wait};

/// `keyringd status`
pub(super) fn status(daemon: &Daemon, format: fn(&Value) -> String) -> Result<ExitCode, Failure> {
    let status = wait(daemon.client()?.status())??;
    print(format(&status))?;
    Ok(exit_code(status.pointer("/ready") == Some(&Value::Bool(true))))
}

/// `keyringd health`, for container engines and load balancers.
pub(super) fn health(daemon: &Daemon) -> Result<ExitCode, Failure> {
    let (ready, message) = wait(daemon.client()?.health())??;
    print(message)?;
    Ok(exit_code(ready))
}

const fn exit_code(ready: bool) -> ExitCode {
    if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `keyringd sync`
pub(super) fn sync(daemon: &Daemon) -> Result<ExitCode, Failure> {
    wait(daemon.client()?.sync())??;
    Ok(ExitCode::SUCCESS)
}

/// `--json`
pub(super) fn json(status: &Value) -> String {
    format!("{status:#}\n")
}

/// The status as lines `name: value`.
pub(super) fn lines(status: &Value) -> String {
    let text = |pointer| text(status, pointer);
    let array = |pointer| status.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let mut out = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "{name:<13} {value}");
        }
    };
    let ready = || text("/keyring/active").map(|id| format!("ready, active key {id}"));
    line("state:", text("/reason").or_else(ready));
    line("version:", text("/version"));
    line("name:", text("/name"));
    line("vault:", text("/source/vault"));
    let secret = text("/source/mount").zip(text("/source/path"));
    line("secret:", secret.map(|(mount, path)| format!("{mount}/{path}")));
    let last = text("/sync/last_success").zip(text("/sync/seconds_since_success"));
    line("last sync:", last.map(|(time, ago)| format!("{time} ({ago} s ago)")));
    line("last error:", text("/sync/last_error"));
    let headroom = text("/sync/headroom");
    line("headroom:", headroom.map(|left| format!("{left} more versions before Vault destroys the oldest")));
    for key in array("/keyring/keys") {
        let field = |pointer| self::text(key, pointer);
        let fields = [field("/id"), field("/state"), field("/version"), field("/creation_time")];
        if let [Some(id), Some(state), Some(version), Some(created)] = fields {
            line("key:", Some(format!("{id}  {state}  version {version} of {created}")));
        }
    }
    for (name, pointer) in [("warning:", "/sync/warnings"), ("not reloaded:", "/source/reload_mistakes")] {
        for message in array(pointer) {
            line(name, message.as_str().map(str::to_owned));
        }
    }
    out
}

/// A field of the status as text; `None` if it is absent or null.
fn text(value: &Value, pointer: &str) -> Option<String> {
    match value.pointer(pointer)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
