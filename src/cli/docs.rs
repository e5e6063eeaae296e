//! The documentation of the command line and the settings: the end of the help texts, completions, and keyringd(1).
//!
//! The man page is ASCII in roff, which all formatters read alike. Its text about variables, files and signals is here.

use std::{fmt::Write as _, process::ExitCode};

use clap::{Arg, Command};
use clap_complete::Shell;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::command::{Failure, print};
use crate::settings::{keys, setting::Row, source::DEFAULT_FILES};

/// The exit codes of [`Failure`] and clap.
pub(super) const EXIT_CODES: [(&str, &str); 4] = [
    ("0", "success"),
    ("1", "the operation failed"),
    ("2", "wrong command line"),
    ("78", "bad configuration"),
];

/// The line width of the help.
const WIDTH: usize = 100;

/// The end of `-h`.
pub(super) fn after_help() -> String {
    let files = DEFAULT_FILES.join(" or ");
    let codes = EXIT_CODES.map(|(code, meaning)| format!("{code} {meaning}")).join(", ");
    let settings = format!(
        "Settings come from the file of -c, else from {files}, and from KONG_* variables, which override the file. \
         `keyringd check` shows all values, and `keyringd --help` lists all settings."
    );
    [wrapped(&settings, 0), wrapped(&format!("Exit codes: {codes}."), 0)].join("\n")
}

/// The end of `--help`: the end of `-h`, and every setting.
pub(super) fn after_long_help() -> String {
    let mut text = after_help();
    text += "\nSettings:\n";
    for row in keys::all() {
        let default = row.key().default.map_or_else(String::new, |default| format!(" [default: {default}]"));
        let _ = writeln!(text, "  {}{default}", row.key().name);
        text += &wrapped(&meaning(row), 10);
    }
    text
}

/// The help of a setting, and what it accepts.
pub(super) fn meaning(row: &dyn Row) -> String {
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
pub(super) fn completions(shell: Shell, mut command: Command) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, env!("CARGO_PKG_NAME"), &mut script);
    print(script).map(|()| ExitCode::SUCCESS)
}

const DESCRIPTION: [&str; 3] = [
    "keyringd reads Kong's keyring settings, logs in to HashiCorp Vault or OpenBao, and keeps the <id,key> records of one \
     KV secret in memory. It serves encrypt and decrypt on a Unix socket and always encrypts under the active key ID. It \
     reads Vault once per interval and never per operation, so applications keep working while Vault is down.",
    "The socket serves the HTTP API of Vault's Transit engine, so clients of Vault and OpenBao work with keyringd. For \
     operators it serves Kong's /keyring API.",
    "References name other secrets in the notations of Kong, {vault://hcv/<path>/<key>}, and of APISIX, \
     $secret://vault/<ID>/<path>/<field>. keyringd vault get and keyringd exec send them to the running daemon, which \
     resolves them for users to whom keyring_access grants the permission secrets.",
];

const SETTINGS: [&str; 2] = [
    "Settings come from a kong.conf and from variables, which override the file. A kong.conf may contain all of Kong's \
     settings: keyringd ignores those not listed here. keyringd check shows every value with its origin, and all errors.",
    "The value of any setting may be a reference: {vault://env/NAME} is the value of the variable NAME, in capitals and \
     with _ for -, and {vault://env/NAME/FIELD} is the string FIELD of the JSON object in it. The reference must be the \
     whole value. A value from a reference is never shown.",
];

const ENVIRONMENT: [(&str, &str); 5] = [
    ("KONG_<KEY>", "The setting <key>, taken literally. An empty value unsets the setting."),
    (
        "KONG_<KEY>_FILE",
        "A file with the value. The file of a secret is read again at each login. A secret is set by value or by file, not \
         by both.",
    ),
    (
        "CREDENTIALS_DIRECTORY",
        "systemd's folder of credentials: a file with the name of a secret setting contains its value.",
    ),
    ("XDG_RUNTIME_DIR", "The default folder for the socket of keyringd dev."),
    (
        "KEYRINGD_ENV_<NAME>",
        "Set by keyringd run for itself: the pipe with the value of the variable NAME. At its start it moves the \
         variables of secret settings and of references there, so that they do not stay in its environment.",
    ),
];

const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGTERM, SIGINT",
        "Stop accepting, drain requests, and exit. A second one terminates the daemon immediately.",
    ),
    (
        "SIGHUP",
        "Reload the settings. Invalid settings change nothing; the log and the status report the errors.",
    ),
    ("SIGUSR1", "Sync with Vault now."),
];

/// `keyringd man`
pub(super) fn man(command: Command) -> Result<ExitCode, Failure> {
    print(page(command)).map(|()| ExitCode::SUCCESS)
}

fn page(command: Command) -> String {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let commands = leaf_commands(&command);
    let mut page = Roff::new();
    // A blank for the date, because roff drops an empty argument.
    page.control("TH", ["keyringd", "1", " ", concat!("keyringd ", env!("CARGO_PKG_VERSION"))]);
    section(&mut page, "NAME", &[&format!("keyringd - {}", about(&command))]);
    synopsis(&mut page, &commands);
    section(&mut page, "DESCRIPTION", &DESCRIPTION);
    page.control("SH", ["OPTIONS"]);
    arguments(&mut page, &command);
    page.control("SH", ["COMMANDS"]);
    for command in commands {
        page.control("SS", [name(command)]);
        page.text([roman(format!("{}.", about(command)))]);
        arguments(&mut page, command);
    }
    section(&mut page, "SETTINGS", &SETTINGS);
    for row in keys::all() {
        let default =
            row.key().default.map_or_else(|| "Unset by default.".into(), |text| format!("Default: {text}."));
        item(&mut page, row.key().name, &format!("{} {default}", meaning(row)));
    }
    table(&mut page, "ENVIRONMENT", &ENVIRONMENT);
    let conf = DEFAULT_FILES.join(", ");
    let socket = keys::SOCKET_PATH.key.default.unwrap_or_default();
    let files = [
        (conf.as_str(), "The default kong.conf: the first of these files that exists."),
        (socket, "The default socket."),
    ];
    table(&mut page, "FILES", &files);
    table(&mut page, "SIGNALS", &SIGNALS);
    table(&mut page, "EXIT STATUS", &EXIT_CODES);
    ascii(&page.render())
}

/// The commands without subcommands, at any depth.
fn leaf_commands(command: &Command) -> Vec<&Command> {
    if command.has_subcommands() {
        command.get_subcommands().flat_map(leaf_commands).collect()
    } else {
        vec![command]
    }
}

fn synopsis(page: &mut Roff, commands: &[&Command]) {
    page.control("SH", ["SYNOPSIS"]);
    for (at, command) in commands.iter().enumerate() {
        if at > 0 {
            page.control("br", []);
        }
        page.text(usage(command));
    }
}

/// `keyringd run [OPTIONS]`, with the name in bold.
fn usage(command: &Command) -> Vec<Inline> {
    let usage = command.clone().render_usage().to_string();
    let rest = usage.split_once(name(command)).map_or("", |(_, rest)| rest).to_owned();
    vec![bold(name(command)), italic(rest)]
}

/// The full name, such as `keyringd vault get`.
fn name(command: &Command) -> &str {
    command.get_bin_name().unwrap_or_else(|| command.get_name())
}

fn about(command: &Command) -> String {
    command.get_about().map_or_else(String::new, ToString::to_string)
}

/// The arguments of a command. Only the main command lists `--help`.
fn arguments(page: &mut Roff, command: &Command) {
    let shown = |argument: &&Arg| {
        !argument.is_hide_set() && (argument.get_id() != "help" || command.has_subcommands())
    };
    for argument in command.get_arguments().filter(shown) {
        let short = argument.get_short().map_or_else(String::new, |short| format!("-{short}, "));
        item(page, &format!("{short}{argument}"), &argument_help(argument));
    }
}

fn argument_help(argument: &Arg) -> String {
    let help = argument.get_help().map_or_else(String::new, ToString::to_string);
    let values = argument.get_possible_values();
    if values.is_empty() || !argument.get_action().takes_values() {
        return format!("{help}.");
    }
    let values: Vec<_> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
    format!("{help}: {}.", values.join(", "))
}

fn section(page: &mut Roff, title: &str, paragraphs: &[&str]) {
    page.control("SH", [title]);
    for (at, paragraph) in paragraphs.iter().enumerate() {
        if at > 0 {
            page.control("PP", []);
        }
        page.text([roman(*paragraph)]);
    }
}

fn table(page: &mut Roff, title: &str, rows: &[(&str, &str)]) {
    page.control("SH", [title]);
    for (name, meaning) in rows {
        item(page, name, meaning);
    }
}

/// A tagged paragraph.
fn item(page: &mut Roff, name: &str, meaning: &str) {
    page.control("TP", []);
    page.text([bold(name)]);
    page.text([roman(meaning)]);
}

/// Escapes every other character than ASCII by its number (groff_char(7), mandoc_char(7)).
fn ascii(page: &str) -> String {
    page.chars().fold(String::with_capacity(page.len()), |mut ascii, character| {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            let _ = write!(ascii, "\\[u{:04X}]", u32::from(character));
        }
        ascii
    })
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
