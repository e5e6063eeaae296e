//! No block of a page is left untested: each has a form of the table in `page`, and is what that form promises.

use keyringd::settings::keys;
use serde_json::Value;

use super::page::{Block, Section, Tested, pages, text_of};

/// Commands that a page needs and no test runs, by their start, with the reason.
const NOT_RUN: [(&str, &str); 6] = [
    ("cargo run --release -- dev", "the pages run `keyringd dev` of the debug build"),
    ("cargo install --path .", "it builds what CI builds anyway"),
    ("apt install", "the script installs the package by dpkg, without network"),
    ("editor", "the script writes the file"),
    ("docker", "the script makes the image's root filesystem, without a container engine"),
    ("podman", "the script makes the image's root filesystem, without a container engine"),
];

#[test]
fn every_block_is_tested() {
    let mut count = 0;
    for page in pages() {
        for section in &page.sections {
            for (at, block) in section.blocks.iter().enumerate() {
                let later = &section.blocks[at + 1..];
                if let Err(wrong) = check(block, later) {
                    panic!("{}, {}: {wrong}:\n{}", page.path, section.title, block.text);
                }
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count} blocks");
}

/// `later` are the blocks of the section behind this one.
fn check(block: &Block, later: &[Block]) -> Result<(), String> {
    match (&block.tested, block.language.as_str()) {
        (Tested::Plain, "sh" | "text") => Ok(()),
        (Tested::Plain, "json") => {
            serde_json::from_str::<Value>(&block.text).map(drop).map_err(|error| error.to_string())
        }
        (Tested::Plain, "yaml") => parses_as_yaml(&block.text),
        (Tested::Plain, "ini") => settings_are_valid(&block.text),
        (Tested::By(script), "sh") => runs_all(&text_of(script), block),
        (Tested::File(name), _) => {
            let stem = name.split('.').next().unwrap_or_default();
            let used = later.iter().any(|block| block.text.contains(stem));
            used.then_some(()).ok_or_else(|| format!("no later block uses {name}"))
        }
        (Tested::From(file), _) if text_of(file) == block.text => Ok(()),
        (Tested::From(file), _) => Err(format!("{file} has another text")),
        (_, language) => Err(format!("a block of the language {language:?} needs a test, see `page`")),
    }
}

fn parses_as_yaml(text: &str) -> Result<(), String> {
    serde_saphyr::from_multiple::<Value>(text).map(drop).map_err(|error| error.to_string())
}

/// A kong.conf, or part of one. Units of systemd have sections.
fn settings_are_valid(text: &str) -> Result<(), String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    for line in lines.take_while(|line| !line.starts_with('[')) {
        let (name, value) = line.split_once('=').ok_or_else(|| format!("{line} has no ="))?;
        let row = keys::all().find(|row| row.key().name == name.trim());
        let row = row.ok_or_else(|| format!("{name} is no setting"))?;
        if !row.is_valid(value.trim()) {
            return Err(format!("{line}: {} is accepted", row.accepts()));
        }
    }
    Ok(())
}

/// Whether a script runs the programs of a block, each with its subcommand.
fn runs_all(script: &str, block: &Block) -> Result<(), String> {
    let text = block.text.replace("\\\n", " ");
    let missing = text.lines().flat_map(|line| line.split(" | ")).find(|command| {
        let mut words = command.split(' ');
        let mut called = words.next().unwrap_or_default().to_owned();
        let is_subcommand = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        if let Some(subcommand) = words.next().filter(is_subcommand) {
            called = format!("{called} {subcommand}");
        }
        let excepted = NOT_RUN.iter().any(|(start, _)| command.starts_with(start));
        !excepted && !script.contains(called.trim())
    });
    missing.map_or(Ok(()), |line| Err(format!("the script does not run {line:?}")))
}

#[test]
fn a_block_that_nothing_tests_is_refused() {
    let block = |language: &str, tested: Tested, text: &str| Block {
        language: language.to_owned(),
        tested,
        text: text.to_owned(),
    };
    let plain = |language, text| block(language, Tested::Plain, text);
    let run = plain("sh", "python3 a.py");
    let file = |name: &str| block("python", Tested::File(name.to_owned()), "1");
    assert!(check(&file("a.py"), std::slice::from_ref(&run)).is_ok());
    for (block, later) in [
        (file("b.py"), vec![run]),
        (plain("python", "1"), vec![]),
        (plain("", "ls"), vec![]),
        (plain("yaml", "a: [1"), vec![]),
        (plain("ini", "keyring_enabledd = on"), vec![]),
        (plain("ini", "keyring_enabled = maybe"), vec![]),
        (block("sh", Tested::By(".ci/run".to_owned()), "frobnicate"), vec![]),
        (block("python", Tested::From("build.rs".to_owned()), "1"), vec![]),
    ] {
        assert!(check(&block, &later).is_err(), "{}", block.text);
    }
}

/// An indented block has no language, so nothing would test it.
#[test]
fn no_page_has_an_indented_block() {
    for page in pages() {
        for Section { title, prose, .. } in &page.sections {
            let lines: Vec<_> = prose.lines().collect();
            let found = lines.windows(2).find(|pair| pair[0].is_empty() && pair[1].starts_with("    "));
            assert!(found.is_none(), "{}, {title}: {:?} needs ```", page.path, found.unwrap()[1]);
        }
    }
}
