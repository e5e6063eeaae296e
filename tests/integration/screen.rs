//! What a terminal shows: colours, lines that fit its width, pages.

use std::{fs, io::Read as _, os::unix::fs::PermissionsExt as _};

use crate::support::{
    Daemon,
    daemon::{PROGRAM, run},
    process::Running,
    success,
    terminal::{on_terminal, terminal},
};

/// What begins each screen of `status --watch`.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The column of the values in a status.
const INDENT: usize = 14;

fn status(daemon: &Daemon) -> String {
    format!("{PROGRAM} status --socket {}", daemon.socket().display())
}

/// The text without colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').unwrap().1)
}

/// The values by name, without the line breaks and blanks of wrapped ones.
fn values(text: &str) -> Vec<(String, String)> {
    let mut values: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let (name, value) = line.split_at(INDENT);
        match values.last_mut() {
            Some((_, last)) if name.trim().is_empty() => {
                last.push(' ');
                last.push_str(value);
            }
            _ => values.push((name.trim().to_owned(), value.to_owned())),
        }
    }
    for (_, value) in &mut values {
        *value = value.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    values.retain(|(name, _)| name != "version:"); // it has the time since the start
    values
}

/// That no line is wider, unless it is one word.
fn assert_fits(text: &str, width: usize) {
    for line in text.lines() {
        let is_one_word = !line.get(INDENT..).unwrap_or_default().trim_end().contains(' ');
        assert!(line.trim_end().chars().count() <= width || is_one_word, "{line:?} in {text}");
    }
}

#[test]
fn a_status_is_aligned_and_coloured_on_a_terminal_only() {
    let daemon = Daemon::dev();
    let (code, shown) = on_terminal(&status(&daemon), b"");
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("state:        \x1b[32mready, active key dev-"), "{shown:?}");
    assert!(shown.contains("  \x1b[32mactive\x1b[0m  version 1"), "{shown:?}");
    for line in plain(&shown).lines() {
        let (name, value) = line.split_at(INDENT);
        assert!(name.trim_end().ends_with(':') && name.ends_with(' ') && !value.starts_with(' '), "{line:?}");
    }
    let piped = success(&daemon.command(&["status"], b""));
    assert!(!piped.contains('\x1b'), "{piped:?}");
    assert_eq!(values(&plain(&shown)), values(&piped));
    for off in ["NO_COLOR=1", "TERM=dumb"] {
        let (_, shown) = on_terminal(&format!("{off} {}", status(&daemon)), b"");
        assert!(shown.contains("ready, active key dev-") && !shown.contains('\x1b'), "{off}: {shown:?}");
    }
}

#[test]
fn a_failure_in_the_status_is_red() {
    let settings = crate::support::daemon::kongs_settings_of_nobody();
    let daemon = Daemon::start_with(&settings);
    let (code, shown) = on_terminal(&status(&daemon), b"");
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("state:        \x1b[31mno keys yet"), "{shown:?}");
    let (_, shown) = on_terminal(&format!("stty rows 24 cols 50; {}", status(&daemon)), b"");
    let shown = plain(&shown);
    assert_fits(&shown, 50);
    assert_eq!(
        values(&shown).iter().filter(|(_, value)| value.contains("127.0.0.1:1")).count(),
        2,
        "{shown}"
    );
}

#[test]
fn a_narrow_terminal_gets_lines_that_fit() {
    let daemon = Daemon::dev();
    let wide = success(&daemon.command(&["status"], b""));
    for width in [40, 60, 20] {
        let (_, shown) = on_terminal(&format!("stty rows 24 cols {width}; {}", status(&daemon)), b"");
        let shown = plain(&shown);
        assert_fits(&shown, width);
        assert_eq!(values(&shown), values(&wide), "{width}");
        assert!(shown.lines().count() > wide.lines().count(), "{shown}");
    }
}

/// The first screens of a watched status.
fn watched(line: &str, count: usize) -> Vec<String> {
    let mut running = Running(terminal(line).spawn().unwrap());
    let mut output = running.0.stdout.take().unwrap();
    let (mut shown, mut buffer) = (String::new(), [0; 4096]);
    while shown.matches(CLEAR).count() <= count {
        let read = output.read(&mut buffer).unwrap();
        assert!(read > 0, "it ended: {shown:?}");
        shown += &String::from_utf8_lossy(&buffer[..read]).replace("\r\n", "\n");
    }
    let screens: Vec<_> = shown.split(CLEAR).skip(1).take(count).map(str::to_owned).collect();
    screens
}

#[test]
fn a_watched_status_clears_a_narrow_terminal_and_keeps_its_colours() {
    let daemon = Daemon::dev();
    let watch = format!("stty rows 24 cols 40; {} --watch", status(&daemon));
    for screen in watched(&watch, 2) {
        assert!(screen.starts_with("state:        \x1b[32mready, active key"), "{screen:?}");
        assert_fits(&plain(&screen), 40);
    }
    for screen in watched(&format!("export NO_COLOR=1; {watch}"), 2) {
        assert!(screen.starts_with("state:        ready, active") && !screen.contains('\x1b'), "{screen:?}");
    }
}

#[test]
fn a_watched_status_shows_its_top_on_a_low_terminal() {
    let daemon = Daemon::dev();
    let watch = format!("stty rows 6 cols 40; {} --watch", status(&daemon));
    for screen in watched(&watch, 2) {
        assert!(screen.starts_with("state:        \x1b[32mready, active key"), "{screen:?}");
        let lines: Vec<_> = screen.lines().collect();
        assert_eq!(lines.len(), 5, "{screen:?}");
        assert!(lines[4].starts_with("\x1b[0m… ") && lines[4].ends_with(" more lines"), "{screen:?}");
    }
}

#[test]
fn check_and_doctor_have_colours_on_a_terminal_only() {
    let socket = "KONG_KEYRING_SOCKET_PATH=/no/such/s";
    let (_, shown) = on_terminal(&format!("{socket} {PROGRAM} check"), b"");
    assert!(shown.contains("\x1b[2mdefault\x1b[0m"), "{shown:?}");
    let settings: Vec<_> = crate::support::daemon::kongs_settings_of_nobody()
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let doctor = format!("{} {socket} {PROGRAM} doctor", settings.join(" "));
    let (code, shown) = on_terminal(&doctor, b"");
    assert!(code == Some(1) && shown.contains("\x1b[31mFAIL\x1b[0m  "), "{shown:?}");
    for line in [format!("{socket} {PROGRAM} check"), doctor] {
        let (_, shown) = on_terminal(&format!("export NO_COLOR=1; {line}"), b"");
        assert!(!shown.contains('\x1b'), "{shown:?}");
    }
}

#[test]
fn a_terminal_gets_a_man_page_formatted_and_never_roff() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let man = |script: &str| {
        fs::write(folder.path().join("man"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(folder.path().join("man"), fs::Permissions::from_mode(0o755)).unwrap();
        on_terminal(&format!("PATH={path} {PROGRAM} man rotate"), b"")
    };
    let (code, shown) = man("echo \"man $*\"; exec /bin/cat");
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.starts_with("man -l -\n") && shown.contains(".TH keyringd-rotate 1"), "{shown}");
    assert_eq!(man("exit 0"), (Some(0), String::new()), "the reader may quit at once");
    let (code, shown) = man("exit 3");
    assert!(
        code == Some(1) && shown.contains("could not show the page (exit status: 3): write it"),
        "{shown}"
    );
    fs::remove_file(folder.path().join("man")).unwrap();
    let (code, shown) = on_terminal(&format!("PATH={path} {PROGRAM} man"), b"");
    assert!(code == Some(1) && shown.contains("there is no `man` to show it: write it to a file"), "{shown}");
    assert!(!shown.contains(".TH"), "{shown}");
}

#[test]
fn the_help_of_each_command_is_one_screen_of_any_width() {
    for command in crate::docs::commands() {
        let words: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let piped = success(&run(&words, &[], b""));
        assert!(piped.lines().count() <= 40, "{piped}");
        assert!(piped.lines().all(|line| line.chars().count() <= 100), "{piped}");
        let (code, shown) =
            on_terminal(&format!("stty rows 24 cols 80; NO_COLOR=1 {PROGRAM} {command} --help"), b"");
        assert!(code == Some(0) && shown.lines().count() <= 40, "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    }
    let (_, shown) = on_terminal(&format!("stty rows 24 cols 60; {PROGRAM} help settings"), b"");
    let mut meanings = shown.lines().filter(|line| line.starts_with(' '));
    assert!(meanings.all(|line| line.chars().count() <= 60), "{shown}");
}
