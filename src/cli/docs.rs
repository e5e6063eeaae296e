//! The end of the help texts, and shell completions: generated from the command line and the table of settings.
//!
//! The man page is in `man`.

use std::{fmt::Write as _, process::ExitCode};

use clap::Command;
use clap_complete::Shell;

use super::process::{Failure, print};
use crate::settings::{
    keys,
    setting::{Key, Row},
    source::DEFAULT_FILES,
};

/// The exit codes of [`Failure`] and clap.
pub const EXIT_CODES: [(&str, &str); 4] = [
    ("0", "success"),
    ("1", "the operation failed"),
    ("2", "wrong command line"),
    ("78", "bad configuration"),
];

/// The line width of the help.
const WIDTH: usize = 100;

/// The end of `-h`.
pub fn after_help() -> String {
    let files = DEFAULT_FILES.join(" or ");
    let codes = EXIT_CODES.map(|(code, meaning)| format!("{code} {meaning}")).join(", ");
    [
        &*wrapped(
            &format!(
                "Settings come from the file of -c, else from {files}, and from KONG_* variables, which override \
                 the file. `keyringd check` shows all values, and `keyringd --help` lists all settings."
            ),
            0,
        ),
        &wrapped(&format!("Exit codes: {codes}."), 0),
    ]
    .join("\n")
}

/// The end of `--help`: the end of `-h`, and every setting.
pub fn after_long_help() -> String {
    let mut text = after_help();
    text += "\nSettings:\n";
    for row in keys::all() {
        let _ = writeln!(text, "  {}{}", row.key().name, default(row.key()));
        text += &wrapped(&meaning(row), 10);
    }
    text
}

fn default(key: &Key) -> String {
    key.default.map_or_else(String::new, |default| format!(" [default: {default}]"))
}

/// The help of a setting, and what it accepts.
pub fn meaning(row: &dyn Row) -> String {
    let key = row.key();
    let alias = key.alias.map_or_else(String::new, |alias| format!(" Another name is {alias}."));
    format!("{} Accepts {}.{alias}", key.about, row.accepts())
}

/// Wraps a text to indented lines.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let len = word.chars().count();
        if width > 0 && width + 1 + len <= WIDTH {
            lines.push(' ');
            width += 1 + len;
        } else {
            let end = if width > 0 { "\n" } else { "" };
            let _ = write!(lines, "{end}{:indent$}", "");
            width = indent + len;
        }
        lines += word;
    }
    lines + "\n"
}

/// `keyringd completions`
pub fn completions(shell: Shell, mut command: Command) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, env!("CARGO_PKG_NAME"), &mut script);
    print(script).map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_between_words() {
        let text = format!("one {} two {} three", "x".repeat(93), "y".repeat(120));
        let lines = format!("  one {}\n  two\n  {}\n  three\n", "x".repeat(93), "y".repeat(120));
        assert_eq!(wrapped(&text, 2), lines);
    }
}
