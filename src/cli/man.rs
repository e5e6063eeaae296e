//! The man pages: keyringd(1), one per command with examples, and keyringd-settings(5).
//!
//! They are ASCII in roff, which all formatters read alike. The text about variables, files and signals is here.
//! The file is longer than most: it is mostly that text.

mod examples;
mod pager;

use std::{
    fmt::Write as _,
    fs,
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Arg, Args, Command};
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::{
    command::{Failure, io_failure, print},
    docs::{EXIT_CODES, SETTINGS as SETTINGS_TOPIC, find, meaning},
};
use crate::settings::{keys, source::DEFAULT_FILES};

#[derive(Debug, Args)]
pub(super) struct Man {
    /// The page of a command, or of `settings` [default: that of keyringd]
    #[arg(value_name = "TOPIC", conflicts_with = "all")]
    topic: Vec<String>,
    /// Write all pages into this folder, which is made if it is missing
    #[arg(long, value_name = "FOLDER")]
    all: Option<PathBuf>,
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

const ENVIRONMENT: [(&str, &str); 7] = [
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
        "BAO_TOKEN, VAULT_TOKEN",
        "The operator's token of keyringd rotate; without them that of ~/.vault-token.",
    ),
    ("NO_COLOR", "If it is set, a terminal gets no colours."),
    (
        "KEYRINGD_ENV_<NAME>",
        "Set by keyringd run for itself: the pipe with the value of the variable NAME. At its start it moves the \
         variables of secret settings and of references there, so that they do not stay in its environment.",
    ),
];

const CLOSED_PIPE: (&str, &str) = ("141", "the reader of the output closed it");

/// As those of env(1) and shells.
const EXIT_CODES_OF_EXEC: [(&str, &str); 3] = [
    ("126", "the command was found, and cannot be executed"),
    ("127", "the command was not found"),
    ("any other", "that of the command, or 128 plus the number of the signal that ended it"),
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
pub(super) fn man(man: &Man, command: Command) -> Result<ExitCode, Failure> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    if let Some(folder) = &man.all {
        fs::create_dir_all(folder).map_err(io_failure("make the folder", folder))?;
        for (name, page) in pages(&command) {
            let path = folder.join(name);
            fs::write(&path, page).map_err(io_failure("write", &path))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let page = match man.topic.as_slice() {
        [] => main_page(&command),
        [topic] if topic == SETTINGS_TOPIC => settings_page(),
        // `vault-get`, as in the name of the page, is `vault get`, too.
        topic => {
            let words: Vec<_> = topic.iter().flat_map(|word| word.split('-')).map(str::to_owned).collect();
            command_page(find(&mut command, &words)?)
        }
    };
    if io::stdout().is_terminal() { pager::show(&page) } else { print(page).map(|()| ExitCode::SUCCESS) }
}

/// Every page with the name of its file.
fn pages(command: &Command) -> Vec<(String, String)> {
    let of_commands =
        leaf_commands(command).into_iter().map(|command| (file_name(command), command_page(command)));
    let other =
        [("keyringd.1".to_owned(), main_page(command)), ("keyringd-settings.5".to_owned(), settings_page())];
    other.into_iter().chain(of_commands).collect()
}

/// `keyringd-vault-get`
fn page_name(command: &Command) -> String {
    name(command).replace(' ', "-")
}

fn file_name(command: &Command) -> String {
    format!("{}.1", page_name(command))
}

fn new_page(name: &str, section: &str) -> Roff {
    let mut page = Roff::new();
    // A blank for the date, because roff drops an empty argument.
    page.control("TH", [name, section, " ", concat!("keyringd ", env!("CARGO_PKG_VERSION"))]);
    page
}

fn main_page(command: &Command) -> String {
    let mut page = new_page("keyringd", "1");
    section(&mut page, "NAME", &[&format!("keyringd - {}", about(command))]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("keyringd"), italic(" COMMAND [OPTIONS]")]);
    section(&mut page, "DESCRIPTION", &DESCRIPTION);
    page.control("SH", ["OPTIONS"]);
    arguments(&mut page, command);
    page.control("SH", ["COMMANDS"]);
    for command in leaf_commands(command) {
        item(&mut page, name(command), &format!("{}. See {}(1).", about(command), page_name(command)));
    }
    section(&mut page, "SETTINGS", &SETTINGS);
    table(&mut page, "ENVIRONMENT", &ENVIRONMENT);
    let conf = DEFAULT_FILES.join(", ");
    let socket = keys::SOCKET_PATH.key.default.unwrap_or_default();
    let files = [
        (conf.as_str(), "The default kong.conf: the first of these files that exists."),
        (socket, "The default socket."),
    ];
    table(&mut page, "FILES", &files);
    table(&mut page, "SIGNALS", &SIGNALS);
    exit_status(&mut page, &[]);
    section(&mut page, "SEE ALSO", &["keyringd-settings(5)"]);
    ascii(&page.render())
}

fn command_page(command: &Command) -> String {
    let page_name = page_name(command);
    let mut page = new_page(&page_name, "1");
    section(&mut page, "NAME", &[&format!("{page_name} - {}", about(command))]);
    page.control("SH", ["SYNOPSIS"]);
    page.text(usage(command));
    page.control("SH", ["OPTIONS"]);
    arguments(&mut page, command);
    page.control("SH", ["EXAMPLES"]);
    for (what, line) in examples::of(name(command)) {
        page.control("TP", []);
        page.text([roman(format!("{what}:"))]);
        page.text([bold(*line)]);
    }
    let own: &[_] = if name(command) == "keyringd exec" { &EXIT_CODES_OF_EXEC } else { &[] };
    exit_status(&mut page, own);
    section(&mut page, "SEE ALSO", &["keyringd(1), keyringd-settings(5)"]);
    ascii(&page.render())
}

fn settings_page() -> String {
    let mut page = new_page("keyringd-settings", "5");
    section(&mut page, "NAME", &["keyringd-settings - the settings of keyringd"]);
    section(&mut page, "DESCRIPTION", &SETTINGS);
    page.control("SH", ["SETTINGS"]);
    for row in keys::all() {
        let default =
            row.key().default.map_or_else(|| "Unset by default.".into(), |text| format!("Default: {text}."));
        item(&mut page, row.key().name, &format!("{} {default}", meaning(row)));
    }
    section(&mut page, "SEE ALSO", &["keyringd(1), keyringd-check(1)"]);
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

/// The arguments of a command. Only the main page lists `--help`.
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
    if !argument.get_action().takes_values() {
        return format!("{help}.");
    }
    let values: Vec<_> =
        argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let values = if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = defaults.join(", ");
    let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
    format!("{help}{values}{default}.")
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

/// The exit codes of every command, and further ones of one.
fn exit_status(page: &mut Roff, own: &[(&str, &str)]) {
    table(page, "EXIT STATUS", &[&EXIT_CODES, own, &[CLOSED_PIPE]].concat());
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
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_has_examples_of_itself() {
        let mut command = super::super::Arguments::command();
        command.build();
        for command in leaf_commands(&command) {
            let name = name(command);
            let examples = examples::of(name);
            assert!(!examples.is_empty(), "{name} has no example");
            assert!(examples.iter().all(|(_, line)| line.contains(name)), "{name}: {examples:?}");
        }
    }
}
