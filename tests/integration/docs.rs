//! Help, man page and completions name every command and every setting.

use std::{fs, process::Command};

use clap::CommandFactory as _;
use keyringd::{
    cli::Arguments,
    settings::{keys, setting::Row},
};

use crate::support::{daemon::run, success};

/// Every command without subcommands, such as `vault get`.
fn commands() -> Vec<String> {
    fn leaf_commands(command: &clap::Command) -> Vec<String> {
        let named = |below: &clap::Command| {
            let name = below.get_name().to_owned();
            let further = leaf_commands(below);
            if further.is_empty() {
                vec![name]
            } else {
                further.iter().map(|leaf| format!("{name} {leaf}")).collect()
            }
        };
        command.get_subcommands().flat_map(named).collect()
    }
    leaf_commands(&Arguments::command())
}

#[test]
fn only_the_long_help_lists_every_setting() {
    let (long, short) = (success(&run(&["--help"], &[], b"")), success(&run(&["-h"], &[], b"")));
    for key in keys::all().map(Row::key) {
        let first = key.about.split(' ').take(3).collect::<Vec<_>>().join(" ");
        let default = key.default.map_or_else(String::new, |default| format!(" [default: {default}]"));
        let entry = format!("\n  {}{default}\n          {first}", key.name);
        assert!(long.contains(&entry), "{entry} in {long}");
        assert!(!short.contains(key.name), "{} in {short}", key.name);
    }
    for text in [&long, &short] {
        assert!(text.contains("Exit codes: 0 success, 1") && text.contains("/etc/kong/kong.conf"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
    }
}

#[test]
fn the_man_page_has_all_sections_commands_and_settings() {
    let page = success(&run(&["man"], &[], b""));
    let sections: Vec<_> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
    let expected = [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "SETTINGS",
        "ENVIRONMENT",
        "FILES",
        "SIGNALS",
        "\"EXIT STATUS\"",
    ];
    assert_eq!(sections, expected);
    assert!(page.is_ascii(), "formatters differ in their support of other characters");
    assert!(page.contains("\n.TH keyringd 1 \" \" \"keyringd "), "{page}");
    assert!(page.contains("\n.SH NAME\nkeyringd \\- "), "{page}");
    for command in commands() {
        assert!(page.contains(&format!("\n.SS \"keyringd {command}\"\n")), "{command} in {page}");
        assert!(
            page.contains(&format!("\n\\fBkeyringd {command}\\fR")),
            "{command} in the synopsis of {page}"
        );
    }
    for key in keys::all().map(Row::key) {
        assert!(page.contains(&format!("\n.TP\n\\fB{}\\fR\n", key.name)), "{} in {page}", key.name);
    }
    for one in ["\\-\\-aad <TEXT>", "\\-c, \\-\\-conf <FILE>", "elvish", "SIGHUP", "CREDENTIALS_DIRECTORY"] {
        assert!(page.contains(one), "{one} in {page}");
    }
}

#[test]
fn the_completions_of_every_shell_contain_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = success(&run(&["completions", shell], &[], b""));
        for command in commands() {
            let words = command.split(' ').all(|word| script.contains(word));
            assert!(words, "{command} for {shell}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keyringd.bash");
    fs::write(&path, success(&run(&["completions", "bash"], &[], b""))).unwrap();
    let complete = ". \"$0\"; COMP_WORDS=(keyringd che); COMP_CWORD=1; _keyringd keyringd che keyringd; echo ${COMPREPLY[@]}";
    success(&Command::new("bash").arg("-n").arg(&path).output().unwrap());
    let completed = Command::new("bash").args(["-c", complete]).arg(&path).output().unwrap();
    assert_eq!(success(&completed).trim(), "check");
    assert_eq!(run(&["completions", "tcsh"], &[], b"").status.code(), Some(2));
}
