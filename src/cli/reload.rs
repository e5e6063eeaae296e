//! `reload`: asks the running daemon to load its settings again, and prints what changed and the outcome of the sync, or why nothing did.

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use serde_json::Value;

use super::{
    command::{Daemon, Failure, print, print_error, wait},
    status,
};
use crate::client::ClientError;

/// The exit code of bad settings, as that of `run`.
const BAD_SETTINGS: u8 = 78;

#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    daemon: Daemon,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `keyringd reload`
pub(super) fn reload(Reload { daemon, json }: &Reload) -> Result<ExitCode, Failure> {
    match wait(daemon.client()?.reload())? {
        Ok(changes) => {
            print(if *json { status::json(&changes) } else { describe(&changes) })?;
            for error in lines(&changes, "sync_errors") {
                print_error(&format!("keyringd: the sync failed, the keys stay as they were: {error}"));
            }
            Ok(if changes["sync"] == "failure" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Err(ClientError::Invalid(mistakes)) => {
            for mistake in mistakes.lines() {
                print_error(&format!("keyringd: error: {mistake}"));
            }
            print_error("keyringd: not reloaded: the daemon keeps its settings");
            Ok(ExitCode::from(BAD_SETTINGS))
        }
        Err(error) => Err(error.into()),
    }
}

fn lines<'a>(changes: &'a Value, name: &str) -> Vec<&'a str> {
    changes[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn describe(changes: &Value) -> String {
    let lines = |name| lines(changes, name);
    let mut text = String::new();
    for warning in lines("warnings") {
        let _ = writeln!(text, "warning: {warning}");
    }
    let changed = lines("changed");
    text += if changed.is_empty() { "reloaded; no setting has another value\n" } else { "reloaded\n" };
    for change in changed {
        let _ = writeln!(text, "  {change}");
    }
    for session in lines("logins") {
        let _ = writeln!(
            text,
            "session {session} logs in with the new settings; until then the previous one serves (keyringd status)"
        );
    }
    match changes["sync"].as_str() {
        Some("success") => text += "synced with Vault\n",
        Some("pending") => text += "the sync with Vault is still under way (keyringd status)\n",
        _ => {}
    }
    text
}
