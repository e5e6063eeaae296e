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

/// `keyringd sync`: what the sync came to, if this user may read the status. A failure if the newest version was rejected.
pub(super) fn sync(daemon: &Daemon) -> Result<ExitCode, Failure> {
    let client = daemon.client()?;
    wait(client.sync())??;
    let Ok(status) = wait(client.status())? else { return Ok(ExitCode::SUCCESS) };
    print(outcome(&status))?;
    let current = status.pointer("/sync/current_version");
    let is_rejected = array(&status, "/sync/rejected").any(|rejected| rejected.get("version") == current);
    Ok(exit_code(!is_rejected))
}

/// The outcome of a sync: the active key, what was rejected, and other warnings.
fn outcome(status: &Value) -> String {
    let mut out = String::new();
    let (active, keys) = (text(status, "/keyring/active"), array(status, "/keyring/keys").count());
    let version = array(status, "/keyring/keys").find(|key| text(key, "/id") == active);
    let version = version.and_then(|key| text(key, "/version"));
    if let (Some(active), Some(version)) = (active, version) {
        let plural = if keys == 1 { "" } else { "s" };
        let _ = writeln!(out, "active {active} (version {version}), {keys} key{plural}");
    }
    let mut reasons = Vec::new();
    for rejected in array(status, "/sync/rejected") {
        let [version, reason] =
            ["/version", "/reason"].map(|field| text(rejected, field).unwrap_or_default());
        let _ = writeln!(out, "rejected: version {version}: {reason}");
        reasons.push(reason);
    }
    for warning in array(status, "/sync/warnings").filter_map(Value::as_str) {
        if !reasons.iter().any(|reason| warning.ends_with(reason.as_str())) {
            let _ = writeln!(out, "warning: {warning}");
        }
    }
    out
}

fn array<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// `--json`
pub(super) fn json(status: &Value) -> String {
    format!("{status:#}\n")
}

/// The status as lines `name: value`.
pub(super) fn lines(status: &Value) -> String {
    let text = |pointer| text(status, pointer);
    let array = |pointer| array(status, pointer);
    let mut out = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "{name:<13} {value}");
        }
    };
    line("state:", Some(text("/reason").unwrap_or_else(|| ready(status))));
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
        let fields = ["/id", "/state", "/version", "/creation_time", "/fingerprint"].map(field);
        if let [Some(id), Some(state), Some(version), Some(created), Some(fingerprint)] = fields {
            let place = format!("version {version} of {created}");
            line("key:", Some(format!("{id}  {state}  {place}  fingerprint {fingerprint}")));
        }
    }
    for session in array("/source/sessions") {
        let state = match self::text(session, "/login_error") {
            _ if session.pointer("/logged_in") == Some(&Value::Bool(true)) => "logged in".to_owned(),
            Some(error) => format!("not logged in: {error}"),
            None => "not logged in yet".to_owned(),
        };
        line("session:", self::text(session, "/name").map(|name| format!("{name}  {state}")));
    }
    for key in array("/kms/keys") {
        let fields = ["/key_id_hash", "/id", "/version"].map(|field| self::text(key, field));
        if let [Some(hash), Some(id), Some(version)] = fields {
            line("kms key_id:", Some(format!("{hash}  {id}  version {version}")));
        }
    }
    line(
        "kms moved:",
        text("/kms/moved_key_decrypts").filter(|count| count != "0").map(|count| format!("{count} decrypts")),
    );
    let shown = array("/keyring/keys").count();
    let total = status.pointer("/keyring/keys_total").and_then(Value::as_u64);
    let more = total.and_then(|total| total.checked_sub(shown as u64)).filter(|more| *more > 0);
    line("more keys:", more.map(|more| more.to_string()));
    for (name, pointer) in [("warning:", "/sync/warnings"), ("not reloaded:", "/source/reload_mistakes")] {
        for message in array(pointer) {
            line(name, message.as_str().map(str::to_owned));
        }
    }
    out
}

/// What a daemon that is ready serves.
fn ready(status: &Value) -> String {
    let Some(id) = text(status, "/keyring/active") else {
        return "ready, serving references only".to_owned();
    };
    let age = status.pointer("/sync/seconds_since_success").and_then(Value::as_u64);
    match (text(status, "/keyring/source").as_deref(), age) {
        (Some("copy"), Some(age)) => format!("ready, from the copy of {} ago, active key {id}", coarse(age)),
        _ => format!("ready, active key {id}"),
    }
}

/// A time in its largest unit: `3h`.
fn coarse(seconds: u64) -> String {
    let units = [(172_800, 86_400, "d"), (3600, 3600, "h"), (60, 60, "m")];
    let unit = units.iter().find(|(from, _, _)| seconds >= *from);
    unit.map_or_else(|| format!("{seconds}s"), |(_, unit, name)| format!("{}{name}", seconds / unit))
}

/// A field of the status as text; `None` if it is absent or null.
fn text(value: &Value, pointer: &str) -> Option<String> {
    match value.pointer(pointer)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
