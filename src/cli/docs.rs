//! What the program says of itself: the ends of its help, and shell completions. All of it comes from the command line's
//! definition and from the table of keys, so that nothing here has to follow them.
//!
//! The man page is in `man`.

use std::{fmt::Write as _, process::ExitCode};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Arguments, Failure, print};
use crate::settings::{
    keys::{self, Key},
    source::DEFAULT_FILES,
};

/// The exit codes, for people. `Failure` gives them.
pub const EXIT_CODES: [(&str, &str); 4] = [
    ("0", "success"),
    ("1", "the operation failed"),
    ("2", "wrong command line"),
    ("78", "bad configuration"),
];

/// How long a line of the long help may get.
const WIDTH: usize = 100;

/// The end of `-h`.
pub fn after_help() -> String {
    let files = DEFAULT_FILES.join(" or ");
    let codes = EXIT_CODES.map(|(code, meaning)| format!("{code} {meaning}")).join(", ");
    [
        &*folded(
            &format!(
                "Settings come from the file given with -c, else {files} if there is one, and from KONG_* variables, \
                 which win. `keyringd check` shows them all, and `keyringd --help` what there is to set."
            ),
            0,
        ),
        &folded(&format!("Exit codes: {codes}."), 0),
    ]
    .join("\n")
}

/// The end of `--help`: the same, and every setting.
pub fn after_long_help() -> String {
    let mut text = after_help();
    text += "\nSettings:\n";
    for key in keys::ALL {
        let _ = writeln!(text, "  {}{}", key.name, default(key));
        text += &folded(&meaning(key), 10);
    }
    text
}

fn default(key: &Key) -> String {
    key.default.map_or_else(String::new, |default| format!(" [default: {default}]"))
}

/// What a key means and accepts.
pub fn meaning(key: &Key) -> String {
    let alias = key.alias.map_or_else(String::new, |alias| format!(" Also spelt {alias}."));
    format!("{} Accepts {}.{alias}", key.about, key.accepts)
}

/// A text in lines that are not too long, each behind as many blanks.
fn folded(text: &str, indent: usize) -> String {
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

/// `keyringd completions`.
pub fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), env!("CARGO_PKG_NAME"), &mut script);
    print(script).map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_folded_between_words() {
        let text = format!("one {} two {} three", "x".repeat(93), "y".repeat(120));
        let lines = format!("  one {}\n  two\n  {}\n  three\n", "x".repeat(93), "y".repeat(120));
        assert_eq!(folded(&text, 2), lines);
    }
}
