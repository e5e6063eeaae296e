//! The help: the end of its first screen, the settings, and completions. The man pages are in `man`.

use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

use super::{
    command::{Failure, print},
    terminal,
};
use crate::settings::{keys, setting::Row, source::DEFAULT_FILES};

/// The exit codes of [`Failure`] and clap that every command has.
pub(super) const EXIT_CODES: [(&str, &str); 4] = [
    ("0", "success"),
    ("1", "the operation failed"),
    ("2", "wrong command line"),
    ("78", "bad configuration"),
];

/// The line width of the help, on a wider terminal or none.
const WIDTH: usize = 100;

/// The topic of `help` that is no command.
pub(super) const SETTINGS: &str = "settings";

#[derive(Debug, Args)]
pub(super) struct Help {
    /// A command, a setting, or `settings` for all of them
    #[arg(value_name = "TOPIC")]
    topic: Vec<String>,
}

/// The end of the help.
pub(super) fn after_help() -> String {
    let files = DEFAULT_FILES.join(" or ");
    let codes = EXIT_CODES.map(|(code, meaning)| format!("{code} {meaning}")).join(", ");
    format!(
        "Settings: {files}, or -c FILE; KONG_* variables override it.\n`keyringd help settings` lists them, `keyringd \
         man COMMAND` has examples.\nExit codes: {codes}.\n"
    )
}

/// `keyringd help`
pub(super) fn help(help: &Help, mut command: Command) -> Result<ExitCode, Failure> {
    command.build();
    let text = match help.topic.as_slice() {
        [topic] if topic == SETTINGS => keys::all().fold(String::new(), |text, row| text + &setting(row)),
        topic => match keys::all().find(|row| topic == [row.key().name]) {
            Some(row) => setting(row),
            None => find(&mut command, topic)?.render_help().to_string(),
        },
    };
    print(text).map(|()| ExitCode::SUCCESS)
}

/// The command of these words, such as `vault get`.
pub(super) fn find<'c>(command: &'c mut Command, words: &[String]) -> Result<&'c mut Command, Failure> {
    let mut found = command;
    for word in words {
        found = found.find_subcommand_mut(word).ok_or_else(|| {
            Failure::Operation(format!(
                "no help on {:?}: it is neither a command nor a setting, nor `{SETTINGS}`",
                words.join(" ")
            ))
        })?;
    }
    Ok(found)
}

/// A setting with its default and its help.
fn setting(row: &dyn Row) -> String {
    let default = row.key().default.map_or_else(String::new, |default| format!(" [default: {default}]"));
    let width = terminal::width().map_or(WIDTH, |width| width.min(WIDTH));
    format!("{}{default}\n{}", row.key().name, terminal::wrapped(&meaning(row), 8, width))
}

/// The help of a setting, and what it accepts.
pub(super) fn meaning(row: &dyn Row) -> String {
    let key = row.key();
    let alias = key.alias.map_or_else(String::new, |alias| format!(" Another name is {alias}."));
    format!("{} Accepts {}.{alias}", key.about, row.accepts())
}

/// `keyringd completions`
pub(super) fn completions(shell: Shell, mut command: Command) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, env!("CARGO_PKG_NAME"), &mut script);
    print(script).map(|()| ExitCode::SUCCESS)
}
