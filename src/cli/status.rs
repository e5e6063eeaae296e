//! `status`, `health` and `sync`: commands on the state of the running daemon. `text` shows it to people.

mod text;

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    command::{Failure, OneKeyring, print, wait, with_hint},
    terminal,
};

/// The time between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Clears a terminal and goes to its start (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    keyring: OneKeyring,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print it every two seconds, until it is interrupted
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct Sync {
    #[command(flatten)]
    keyring: OneKeyring,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `keyringd status`
pub(super) fn status(Status { keyring, json, watch }: &Status) -> Result<ExitCode, Failure> {
    let client = keyring.client()?;
    let format = if *json { self::json } else { text::lines };
    if !*watch {
        let status = wait(client.status())??;
        print(format(&status))?;
        return Ok(exit_code(status.pointer("/ready") == Some(&Value::Bool(true))));
    }
    let is_terminal = io::stdout().is_terminal();
    wait(async {
        let mut ticks = tokio::time::interval(WATCH_INTERVAL);
        loop {
            ticks.tick().await;
            let text = match client.status().await {
                Ok(status) => format(&status),
                Err(error) => format!("{}\n", with_hint(&error)), // a restart
            };
            print(if is_terminal { format!("{CLEAR}{}", terminal::top(&text)) } else { text + "\n" })?;
        }
    })?
}

/// `keyringd health`, for container engines and load balancers.
pub(super) fn health(keyring: &OneKeyring) -> Result<ExitCode, Failure> {
    let (ready, message) = wait(keyring.client()?.health())??;
    print(message)?;
    Ok(exit_code(ready))
}

const fn exit_code(ready: bool) -> ExitCode {
    if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `keyringd sync`: what the sync came to, if this user may read the status. A failure if the newest version was rejected.
pub(super) fn sync(Sync { keyring, json }: &Sync) -> Result<ExitCode, Failure> {
    let client = keyring.client()?;
    wait(client.sync())??;
    let Ok(status) = wait(client.status())? else { return Ok(ExitCode::SUCCESS) };
    print(if *json { self::json(&outcome_json(&status)) } else { outcome(&status) })?;
    let current = status.pointer("/sync/current_version");
    let is_rejected = array(&status, "/sync/rejected").any(|rejected| rejected.get("version") == current);
    Ok(exit_code(!is_rejected))
}

/// The active key's ID and version, if there is one.
fn active(status: &Value) -> Option<(String, u64)> {
    let active = field(status, "/keyring/active")?;
    let key = array(status, "/keyring/keys").find(|key| field(key, "/id").as_ref() == Some(&active))?;
    let version = key.pointer("/version")?.as_u64()?;
    Some((active, version))
}

/// The number of all keys, of which the status lists the newest.
fn key_count(status: &Value) -> u64 {
    status.pointer("/keyring/keys_total").and_then(Value::as_u64).unwrap_or(0)
}

/// The outcome of a sync as JSON.
pub(super) fn outcome_json(status: &Value) -> Value {
    let list = |pointer| status.pointer(pointer).cloned().unwrap_or_else(|| json!([]));
    let (id, version) = active(status).unzip();
    json!({
        "active": id,
        "version": version,
        "keys": key_count(status),
        "rejected": list("/sync/rejected"),
        "warnings": list("/sync/warnings"),
    })
}

/// The outcome of a sync: the active key, what was rejected, and other warnings.
pub(super) fn outcome(status: &Value) -> String {
    let mut out = String::new();
    if let Some((active, version)) = active(status) {
        let keys = key_count(status);
        let plural = if keys == 1 { "" } else { "s" };
        let _ = writeln!(out, "active {active} (version {version}), {keys} key{plural}");
    }
    let mut reasons = Vec::new();
    for rejected in array(status, "/sync/rejected") {
        let [version, reason] =
            ["/version", "/reason"].map(|field| self::field(rejected, field).unwrap_or_default());
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

/// A field of the status as text; `None` if it is absent or null.
fn field(value: &Value, pointer: &str) -> Option<String> {
    match value.pointer(pointer)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
