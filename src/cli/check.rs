//! `check` and `doctor`: the settings with their origins and errors, and the steps from DNS to the keys.
//!
//! The value of a secret is never shown.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{
    command::{Failure, SettingsFile, print, print_error, print_notes, valid_settings, wait},
    terminal::{Tone, tinted},
};
use crate::{
    doctor::{self, Finding, SecretIds, State},
    settings::{Effective, Keyrings, Loaded, Note, Settings, keys::CACHE_KEY, source::Origin},
    vault::kv,
};

/// The length of a value in the table on a terminal.
const MAX_WIDTH: usize = 60;

/// Which settings to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    All,
    /// Those whose value is not the default.
    Changed,
}

impl Shown {
    fn includes(self, one: &Effective) -> bool {
        let is_changed = one.secret || one.value.as_deref() != one.key.default;
        self == Self::All || one.origin != Origin::Default && is_changed
    }
}

/// `keyringd check`
pub(super) fn check(file: &SettingsFile, shown: Shown) -> Result<ExitCode, Failure> {
    let loaded = file.load();
    let rows: Vec<_> = loaded
        .effective
        .iter()
        .filter(|one| shown.includes(one))
        .map(|one| [one.key.name.to_owned(), value_text(one), one.origin.to_string()])
        .collect();
    if io::stdout().is_terminal() {
        print(table(rows))?;
    } else {
        print(rows.iter().map(|row| row.join("\t") + "\n").collect::<String>())?;
    }
    print_notes("warning", &loaded.warnings);
    let Err(errors) = loaded.settings else { return Ok(ExitCode::SUCCESS) };
    print_notes("error", &errors);
    print_error("keyringd: invalid settings; correct them at the places named above");
    Ok(ExitCode::from(78))
}

/// `keyringd check --json`
pub(super) fn check_json(file: &SettingsFile, shown: Shown) -> Result<ExitCode, Failure> {
    let loaded = file.load();
    print(format!("{:#}\n", json_report(&loaded, shown)))?;
    Ok(if loaded.settings.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(78) })
}

/// Aligned columns, with long values cut.
fn table(mut rows: Vec<[String; 3]>) -> String {
    for [_, value, _] in &mut rows {
        if value.chars().count() > MAX_WIDTH {
            *value = value.chars().take(MAX_WIDTH - 1).chain(['…']).collect();
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (keys, values) = (width(0), width(1));
    rows.iter().fold(String::new(), |mut table, [key, value, origin]| {
        let _ = writeln!(table, "{key:keys$}  {value:values$}  {}", tinted(origin, Tone::Minor));
        table
    })
}

fn value_text(one: &Effective) -> String {
    match &one.value {
        Some(value) => value.replace(['\n', '\r', '\t'], " "),
        None if one.secret && one.origin != Origin::Default => "[set, not shown]".to_owned(),
        None => "[unset]".to_owned(),
    }
}

fn json_report(loaded: &Loaded, shown: Shown) -> Value {
    let setting = |one: &Effective| {
        let (key, origin) = (one.key.name, one.origin.to_string());
        json!({ "key": key, "value": one.value, "origin": origin, "secret": one.secret })
    };
    let note =
        |note: &Note| json!({ "origin": note.origin.to_string(), "key": note.key, "message": note.message });
    let errors = loaded.settings.as_ref().err().map(Vec::as_slice).unwrap_or_default();
    json!({
        "settings": loaded.effective.iter().filter(|one| shown.includes(one)).map(setting).collect::<Vec<_>>(),
        "errors": errors.iter().map(note).collect::<Vec<_>>(),
        "warnings": loaded.warnings.iter().map(note).collect::<Vec<_>>(),
    })
}

/// `keyringd doctor`
pub(super) fn doctor(file: &SettingsFile, secret_ids: SecretIds) -> Result<ExitCode, Failure> {
    let loaded = file.load();
    let is_of_key = |note: &Note| note.key.as_deref() == Some(CACHE_KEY.key.name);
    let needs_key = match &loaded.settings {
        Ok(settings) => doctor::needs_key(&settings.cache),
        Err(mistakes) => mistakes.iter().any(is_of_key),
    };
    let key = if needs_key { key_command() } else { String::new() };
    let settings = valid_settings(loaded).inspect_err(|_| drop(print(&key)))?;
    let policy = policy(&settings);
    let (mut failed, mut printed) = (false, Ok(()));
    let report = |finding: Finding| {
        failed |= finding.state == State::Failed;
        if let Err(failure) = print(line(&finding)) {
            printed = Err(failure);
        }
    };
    wait(doctor::examine(settings, secret_ids, report))?;
    printed?;
    print(key)?;
    if let Some(policy) = policy {
        print(format!("\nThe token's policy must allow:\n\n{policy}"))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `keyringd doctor --json`
pub(super) fn doctor_json(file: &SettingsFile, secret_ids: SecretIds) -> Result<ExitCode, Failure> {
    let settings = valid_settings(file.load())?;
    let policy = policy(&settings);
    let mut findings = Vec::new();
    wait(doctor::examine(settings, secret_ids, |finding| findings.push(finding)))?;
    print(format!("{:#}\n", json!({ "findings": findings, "policy": policy })))?;
    let failed = findings.iter().any(|finding| finding.state == State::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the daemon's token must be allowed, if it serves keyrings.
fn policy(settings: &Settings) -> Option<String> {
    let Keyrings { server, default } = settings.keyrings.as_ref()?;
    let usage = kv::Use::Daemon(server.auth.method());
    Some(kv::least_privilege(&default.secret, &default.further, usage))
}

fn key_command() -> String {
    let command = doctor::KEY_COMMAND;
    format!("\nA key for the sealed copy of the keys (keyring_cache_path), for systemd:\n\n{command}\n")
}

fn line(finding: &Finding) -> String {
    let state = match finding.state {
        State::Good => tinted("ok  ", Tone::Good),
        State::Warning => tinted("warn", Tone::Warning),
        State::Failed => tinted("FAIL", Tone::Failed),
    };
    format!("{state}  {:<9} {}\n", finding.step, finding.message)
}
