//! The layers of the architecture: each module imports only from what stands below it.

use std::{collections::BTreeSet, fs, path::Path};

/// What each module may import of ours. A module that is not here does not belong to the architecture yet.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // 0
    ("secret", &[]),
    ("operation", &[]),
    // 1
    ("keyring", &["secret"]),
    ("cipher", &["secret", "keyring"]),
    ("settings", &["secret", "operation", "keyring"]),
    // 2
    ("vault", &["secret", "keyring", "settings", "metrics"]),
    // 3: never each other
    ("sync", &["secret", "keyring", "settings", "vault", "metrics"]),
    ("references", &["secret", "settings", "vault", "metrics"]),
    ("api", &["secret", "operation", "keyring", "cipher", "settings", "metrics", "logging"]),
    // leaves
    ("signals", &[]),
    ("logging", &[]),
    ("metrics", &["operation"]),
    ("hardening", &[]),
    ("systemd", &[]),
    // 4
    ("server", &["api", "metrics"]),
    ("client", &["secret"]),
    (
        "daemon",
        &[
            "secret",
            "keyring",
            "cipher",
            "settings",
            "vault",
            "sync",
            "references",
            "api",
            "server",
            "metrics",
            "logging",
            "signals",
            "systemd",
        ],
    ),
    ("doctor", &["keyring", "settings", "vault", "server", "metrics"]),
    // 5
    (
        "cli",
        &[
            "cipher",
            "client",
            "daemon",
            "doctor",
            "vault",
            "settings",
            "keyring",
            "logging",
            "signals",
            "hardening",
            "systemd",
            "secret",
        ],
    ),
    ("main", &["cli"]),
];

/// Crates that the pure core must not know.
const NOT_IN_THE_CORE: &[&str] = &["tokio", "hyper", "reqwest", "futures_util", "tokio_util", "hyper_util"];
const CORE: &[&str] = &["secret", "keyring", "cipher", "settings"];

fn sources(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                return sources(&path);
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap().to_owned();
            let without_comments = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            vec![(path.display().to_string(), without_comments)]
        })
        .collect()
}

/// The module that a file belongs to: the first name below `src`.
fn module_of(file: &str) -> String {
    let below = file.split("/src/").last().unwrap();
    below.split(['/', '.']).next().unwrap().to_owned()
}

/// The top-level modules of ours that a text names, in `crate::x` and in `use crate::{x, y::z}`.
fn imports(code: &str) -> BTreeSet<String> {
    let names =
        |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned();
    let mut found = BTreeSet::new();
    for root in ["crate::", "keyringd::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            let Some(group) = rest.strip_prefix('{') else {
                found.insert(names(rest));
                continue;
            };
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '}' if depth == 0 => break,
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.extend([names(std::mem::take(&mut item).trim())]),
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            found.insert(names(item.trim()));
        }
    }
    found.remove("");
    found
}

#[test]
fn each_module_imports_only_what_stands_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (file, code) in sources(&src) {
        let module = module_of(&file);
        if module == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{file}: the module {module} stands in no layer"));
            continue;
        };
        for import in imports(&code) {
            if import != module && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{file}: {module} may not import {import}"));
            }
        }
        if CORE.contains(&module.as_str()) {
            for library in NOT_IN_THE_CORE {
                if code.contains(&format!("{library}::")) {
                    wrong.push(format!("{file}: the core does no input or output, and this uses {library}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_by_saying_what_lives_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "tests"].map(|folder| root.join(folder));
    let files: Vec<_> = folders.iter().flat_map(|folder| rust_files(folder)).collect();
    assert!(files.len() > 30);
    let headless: Vec<_> =
        files.iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(headless.is_empty(), "{headless:?}");
}

fn rust_files(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => rust_files(&path),
            Some("rs") => vec![(path.display().to_string(), fs::read_to_string(&path).unwrap())],
            _ => Vec::new(),
        })
        .collect()
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let code = "use crate::{a::{b, c}, d, e::f};\nuse crate::g;\ncrate::h::i();";
    assert_eq!(imports(code).into_iter().collect::<Vec<_>>(), ["a", "d", "e", "g", "h"]);
}
