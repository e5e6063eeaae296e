//! `check`: every effective setting with its origin, and every mistake. Secrets are shown as set or unset, never as text.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{Failure, FromFile, print, say_notes};
use crate::settings::{Effective, Loaded, Note, source::Origin};

/// The longest value on a line of the table.
const SHOWN: usize = 60;

/// `keyringd check`.
pub fn check(from: &FromFile, as_json: bool) -> Result<ExitCode, Failure> {
    let loaded = from.load();
    if as_json {
        let text = format!("{:#}\n", json_report(&loaded));
        print(text)?;
        return Ok(if loaded.settings.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(78) });
    }
    print(table(&loaded.effective, io::stdout().is_terminal()))?;
    say_notes("warning", &loaded.warnings);
    loaded.settings.map(|_| ExitCode::SUCCESS).map_err(Failure::Configuration)
}

/// Columns on a terminal; elsewhere, tabs.
fn table(effective: &[Effective], terminal: bool) -> String {
    let rows: Vec<_> = effective
        .iter()
        .map(|one| [one.key.name.to_owned(), shown(one, terminal), one.origin.to_string()])
        .collect();
    if !terminal {
        return rows.iter().map(|row| row.join("\t") + "\n").collect();
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (keys, values) = (width(0), width(1));
    rows.iter().fold(String::new(), |mut table, [key, value, origin]| {
        let _ = writeln!(table, "{key:keys$}  {value:values$}  \x1b[2m{origin}\x1b[0m");
        table
    })
}

fn shown(one: &Effective, terminal: bool) -> String {
    let text = match &one.value {
        Some(value) => value.replace(['\n', '\r', '\t'], " "),
        None if one.secret && one.origin != Origin::Default => "[set, not shown]".to_owned(),
        None => "[unset]".to_owned(),
    };
    if terminal && text.chars().count() > SHOWN {
        return text.chars().take(SHOWN - 1).chain(['…']).collect();
    }
    text
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
