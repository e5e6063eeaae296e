//! `check`: every effective setting with its origin, and every error. The value of a secret is never shown.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{
    arguments::{SettingsFile, valid_settings},
    process::{Failure, print},
};
use crate::settings::{Effective, Loaded, Note, source::Origin};

/// The length of a value in the table on a terminal.
const MAX_WIDTH: usize = 60;

/// `keyringd check`
pub fn check(file: &SettingsFile) -> Result<ExitCode, Failure> {
    let loaded = file.load();
    let rows: Vec<_> = loaded
        .effective
        .iter()
        .map(|one| [one.key.name.to_owned(), value_text(one), one.origin.to_string()])
        .collect();
    if io::stdout().is_terminal() {
        print(table(rows))?;
    } else {
        print(rows.iter().map(|row| row.join("\t") + "\n").collect::<String>())?;
    }
    valid_settings(loaded).map(|_| ExitCode::SUCCESS)
}

/// `keyringd check --json`
pub fn check_json(file: &SettingsFile) -> Result<ExitCode, Failure> {
    let loaded = file.load();
    print(format!("{:#}\n", json_report(&loaded)))?;
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
        let _ = writeln!(table, "{key:keys$}  {value:values$}  \x1b[2m{origin}\x1b[0m");
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

fn json_report(loaded: &Loaded) -> Value {
    let setting = |one: &Effective| {
        json!({
            "key": one.key.name,
            "value": one.value,
            "origin": one.origin.to_string(),
            "secret": one.secret,
        })
    };
    let note =
        |note: &Note| json!({ "origin": note.origin.to_string(), "key": note.key, "message": note.message });
    let errors = loaded.settings.as_ref().err().map(Vec::as_slice).unwrap_or_default();
    json!({
        "settings": loaded.effective.iter().map(setting).collect::<Vec<_>>(),
        "errors": errors.iter().map(note).collect::<Vec<_>>(),
        "warnings": loaded.warnings.iter().map(note).collect::<Vec<_>>(),
    })
}
