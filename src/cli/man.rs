//! `man`: the page keyringd(1) in roff, from the command line's definition and the table of keys.
//!
//! What neither of them says stands here: the variables, the files, the signals. The output is ASCII, so that every
//! formatter reads it alike.

use std::{fmt::Write as _, process::ExitCode};

use clap::{Arg, Command, CommandFactory as _};
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::{
    Arguments, Failure,
    docs::{EXIT_CODES, meaning},
    print,
};
use crate::settings::{
    keys::{self, Key},
    source::DEFAULT_FILES,
};

const DESCRIPTION: [&str; 3] = [
    "keyringd reads Kong's keyring settings, logs in to HashiCorp Vault or OpenBao, keeps the <id,key> records of one KV \
     secret in memory, and serves encrypt and decrypt on a Unix socket, always sealing under the active key ID. Vault is \
     asked once per interval and never per operation, so applications go on working while it is down.",
    "The socket speaks the HTTP API of Vault's Transit, so that the clients of Vault and OpenBao are clients of keyringd, \
     and Kong's /keyring API for operators.",
    "Other secrets are named in the notations of Kong, {vault://hcv/<path>/<key>}, and of APISIX, \
     $secret://vault/<ID>/<path>/<field>. keyringd vault get and keyringd exec have the running daemon resolve them, which \
     does so for those alone to whom keyring_access grants the operation secrets.",
];

const SETTINGS: [&str; 2] = [
    "Settings come from a kong.conf and from variables, which win. A kong.conf may hold all of Kong's own settings: what is \
     not below is passed over. keyringd check shows every value with where it comes from, and every mistake at once.",
    "The value of any setting may be a reference: {vault://env/NAME} is what the variable NAME holds, with _ for - and \
     capitals for small letters, and {vault://env/NAME/FIELD} is the text FIELD of the JSON object in it. The whole value \
     is the reference, then. What came by a reference is shown nowhere.",
];

const ENVIRONMENT: [(&str, &str); 5] = [
    ("KONG_<KEY>", "The setting <key>, taken as it stands. Set to nothing, it is unset."),
    (
        "KONG_<KEY>_FILE",
        "A file that holds the value instead. The file of a secret is read anew at each login, and a secret is given \
         either way and not both.",
    ),
    (
        "CREDENTIALS_DIRECTORY",
        "systemd's folder of credentials: files in it that are named like the keys of secrets hold these.",
    ),
    ("XDG_RUNTIME_DIR", "Where keyringd dev serves unless told otherwise."),
    (
        "KEYRINGD_ENV_<NAME>",
        "Set by keyringd run for itself: where in memory the variable NAME is. It moves there, before anything else, the \
         variables of secret settings and those that settings refer to, so that they do not stay in its environment.",
    ),
];

const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGTERM, SIGINT",
        "Stop accepting, finish what is in flight, and exit. A second one ends the daemon at once.",
    ),
    (
        "SIGHUP",
        "Load the settings anew, check them, and swap them in. Bad ones change nothing, and are told in the log and the \
         status.",
    ),
    ("SIGUSR1", "Sync with Vault now."),
];

/// `keyringd man`.
pub fn man() -> Result<ExitCode, Failure> {
    print(page()).map(|()| ExitCode::SUCCESS)
}

fn page() -> String {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let commands = ends_of(&command);
    let mut page = Roff::new();
    // A blank for the date: an argument that is empty would get lost, and the next take its place.
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
    for key in keys::ALL {
        of_key(&mut page, key);
    }
    table(&mut page, "ENVIRONMENT", &ENVIRONMENT);
    let conf = DEFAULT_FILES.join(", ");
    let socket = keys::SOCKET_PATH.default.unwrap_or_default();
    let files = [
        (conf.as_str(), "The kong.conf that is read if none is named: the first that exists."),
        (socket, "The socket, unless keyring_socket_path is set."),
    ];
    table(&mut page, "FILES", &files);
    table(&mut page, "SIGNALS", &SIGNALS);
    table(&mut page, "EXIT STATUS", &EXIT_CODES);
    ascii(&page.render())
}

/// The commands that do something, at whatever depth.
fn ends_of(command: &Command) -> Vec<&Command> {
    if command.has_subcommands() {
        command.get_subcommands().flat_map(ends_of).collect()
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

/// `keyringd run [OPTIONS]`, with the words to type in bold.
fn usage(command: &Command) -> Vec<Inline> {
    let usage = command.clone().render_usage().to_string();
    let rest = usage.split_once(name(command)).map_or("", |(_, rest)| rest).to_owned();
    vec![bold(name(command)), italic(rest)]
}

/// The words to type.
fn name(command: &Command) -> &str {
    command.get_bin_name().unwrap_or_else(|| command.get_name())
}

fn about(command: &Command) -> String {
    command.get_about().map_or_else(String::new, ToString::to_string)
}

/// The arguments of a command. Only the first of all says that there is help: every command has that.
fn arguments(page: &mut Roff, command: &Command) {
    let shown = |argument: &&Arg| {
        !argument.is_hide_set() && (argument.get_id() != "help" || command.has_subcommands())
    };
    for argument in command.get_arguments().filter(shown) {
        let short = argument.get_short().map_or_else(String::new, |short| format!("-{short}, "));
        item(page, &format!("{short}{argument}"), &of_argument(argument));
    }
}

fn of_argument(argument: &Arg) -> String {
    let help = argument.get_help().map_or_else(String::new, ToString::to_string);
    let words = argument.get_possible_values();
    let takes_words = argument.get_action().takes_values() && !words.is_empty();
    let words: Vec<_> = words.iter().map(clap::builder::PossibleValue::get_name).collect();
    if takes_words { format!("{help}: {}.", words.join(", ")) } else { format!("{help}.") }
}

fn of_key(page: &mut Roff, key: &Key) {
    let default = key.default.map_or_else(|| "Unset by default.".into(), |text| format!("Default: {text}."));
    item(page, key.name, &format!("{} {default}", meaning(key)));
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

/// A paragraph below what it is about.
fn item(page: &mut Roff, name: &str, meaning: &str) {
    page.control("TP", []);
    page.text([bold(name)]);
    page.text([roman(meaning)]);
}

/// The same page with every character beyond ASCII by its number (groff_char(7), mandoc_char(7)).
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
