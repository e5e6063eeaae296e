//! Help, man page and completions name every command and every setting.

use std::{fs, process::Command};

use clap::CommandFactory as _;
use keyringd::{
    cli::Arguments,
    settings::{keys, setting::Row},
};

use crate::support::{daemon::run, success};

/// Every command without subcommands, such as `vault get`.
pub fn commands() -> Vec<String> {
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
fn every_setting_is_in_the_help_of_the_settings() {
    let all = success(&run(&["help", "settings"], &[], b""));
    for key in keys::all().map(Row::key) {
        let first = key.about.split(' ').take(3).collect::<Vec<_>>().join(" ");
        let default = key.default.map_or_else(String::new, |default| format!(" [default: {default}]"));
        let entry = format!("{}{default}\n        {first}", key.name);
        assert!(all.contains(&entry), "{entry} in {all}");
        assert!(success(&run(&["help", key.name], &[], b"")).starts_with(&entry));
    }
    assert!(all.lines().all(|line| line.chars().count() <= 110), "{all}");
    let help = success(&run(&["--help"], &[], b""));
    assert!(help.contains("Exit codes: 0 success, 1") && help.contains("/etc/kong/kong.conf"), "{help}");
    assert_eq!(
        success(&run(&["help", "vault", "get"], &[], b"")),
        success(&run(&["vault", "get", "--help"], &[], b""))
    );
    assert_eq!(run(&["help", "frobnicate"], &[], b"").status.code(), Some(1));
}

#[test]
fn the_main_page_has_all_sections_and_leads_to_every_command() {
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
        "\"SEE ALSO\"",
    ];
    assert_eq!(sections, expected);
    assert!(page.contains("\n.TH keyringd 1 \" \" \"keyringd "), "{page}");
    assert!(page.contains("\n.SH NAME\nkeyringd \\- "), "{page}");
    for command in commands() {
        let entry = format!("\n\\fBkeyringd {command}\\fR\n");
        assert!(page.contains(&entry), "{entry} in {page}");
    }
    for one in ["SIGHUP", "CREDENTIALS_DIRECTORY", "NO_COLOR", "VAULT_TOKEN"] {
        assert!(page.contains(one), "{one} in {page}");
    }
}

#[test]
fn each_command_and_the_settings_have_a_page() {
    let folder = tempfile::tempdir().unwrap();
    success(&run(&["man", "--all", &folder.path().display().to_string()], &[], b""));
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_else(|_| panic!("{name}"));
    for command in commands() {
        let name = format!("keyringd-{}", command.replace(' ', "-"));
        let page = read(&format!("{name}.1"));
        assert!(page.is_ascii(), "formatters differ in their support of other characters");
        assert!(page.contains("\n.SH EXAMPLES\n.TP\n") && page.contains("\n.SH OPTIONS\n"), "{page}");
        let words: Vec<_> = std::iter::once("man").chain(command.split(' ')).collect();
        assert_eq!(success(&run(&words, &[], b"")), page, "{command}");
    }
    assert!(read("keyringd-encrypt.1").contains("\\-\\-aad <TEXT>"));
    assert!(read("keyringd-run.1").contains("\\-c, \\-\\-conf <FILE>"));
    assert!(read("keyringd-completions.1").contains("elvish"));
    let settings = read("keyringd-settings.5");
    for key in keys::all().map(Row::key) {
        assert!(settings.contains(&format!("\n.TP\n\\fB{}\\fR\n", key.name)), "{} in {settings}", key.name);
    }
    assert_eq!(success(&run(&["man", "vault-get"], &[], b"")), read("keyringd-vault-get.1"));
}

/// Each command without subcommands, with the name of its page.
fn with_pages(command: &clap::Command, name: &str) -> Vec<(String, clap::Command)> {
    let below: Vec<_> = command
        .get_subcommands()
        .flat_map(|below| with_pages(below, &format!("{name}-{}", below.get_name())))
        .collect();
    if below.is_empty() { vec![(name.to_owned(), command.clone())] } else { below }
}

#[test]
fn the_pages_have_every_default_and_go_to_a_folder_that_is_made() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("share/man/man1");
    success(&run(&["man", "--all", &folder.display().to_string()], &[], b""));
    let mut found = 0;
    for (name, command) in with_pages(&Arguments::command(), "keyringd") {
        let page = fs::read_to_string(folder.join(format!("{name}.1"))).unwrap();
        for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
            for default in argument.get_default_values().iter().filter(|value| !value.is_empty()) {
                let default = default.to_str().unwrap().replace('-', "\\-");
                let option = format!("\\-\\-{}", argument.get_long().unwrap().replace('-', "\\-"));
                let entry = page.split(".TP").find(|entry| entry.contains(&option)).unwrap();
                assert!(entry.contains(&format!("[default: {default}]")), "{default} in {entry}");
                found += 1;
            }
        }
    }
    assert!(found >= 6, "{found}");
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = run(&["man", "--all", &file.display().to_string()], &[], b"");
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains(&format!("cannot make the folder {}: ", file.display())), "{message}");
}

#[test]
fn the_page_of_exec_has_its_exit_codes() {
    let page = success(&run(&["man", "exec"], &[], b""));
    for code in ["126", "127", "any other", "141"] {
        assert!(page.contains(&format!("\n.TP\n\\fB{code}\\fR\n")), "{code} in {page}");
    }
}

#[test]
fn no_example_has_a_secret_in_the_arguments_of_a_program() {
    const FIELDS: [&str; 5] = [" key=", " pass=", " password=", " token=", " secret_id="];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut checked = 0;
    for folder in ["", "docs", "kubernetes", "systemd", "debian", "monitoring"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let is_text = !folder.is_empty() || path.file_name().is_some_and(|name| name == "README.md");
            for line in text.replace("\\\n", " ").lines().filter(|_| is_text) {
                checked += 1;
                let shows_field = FIELDS.iter().any(|field| {
                    let value = line.split_once(field).map(|(_, value)| value);
                    value.is_some_and(|value| !value.starts_with(['@', '-', '<']))
                });
                let is_program = ["bao ", "vault ", "curl "].iter().any(|program| line.contains(program));
                let sends_token = line.contains("curl ") && line.contains("Token: $");
                let sends_key = line.contains("curl ") && line.contains("\"key\":");
                assert!(
                    !(is_program && shows_field || sends_token || sends_key),
                    "{}: {line}",
                    path.display()
                );
            }
        }
    }
    assert!(checked > 2000, "{checked}");
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
