//! The tests that `docs/threat-model.md` names as evidence exist.

use std::fs;

use super::page::{root, text_of};

/// `limits::a_test` in `tests/integration/limits.rs`, or `cipher::stream::a_test` in `src/cipher/stream.rs`.
fn exists(test: &str) -> bool {
    let (module, name) = test.rsplit_once("::").unwrap();
    let file = format!("{}.rs", module.replace("::", "/"));
    let signature = format!("#[test]\nfn {name}() {{");
    ["tests/integration", "src"].iter().any(|folder| {
        let text = fs::read_to_string(root().join(folder).join(&file)).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        lines.join("\n").contains(&signature)
    })
}

#[test]
fn the_threat_model_names_tests_that_exist() {
    let page = text_of("docs/threat-model.md");
    let tests: Vec<_> = page.split('`').skip(1).step_by(2).filter(|code| code.contains("::")).collect();
    let gone: Vec<_> = tests.iter().filter(|test| !exists(test)).collect();
    assert!(tests.len() > 50 && gone.is_empty(), "{} tests, of which are gone: {gone:#?}", tests.len());
}

#[test]
fn each_threat_has_a_mitigation_and_says_what_remains() {
    let page = text_of("docs/threat-model.md");
    let rows: Vec<Vec<_>> = page
        .lines()
        .filter(|line| {
            line.matches(" | ").count() == 4 && line[2..].starts_with(|c: char| c.is_ascii_uppercase())
        })
        .map(|line| line.trim_matches(['|', ' ']).split(" | ").map(str::trim).collect())
        .collect();
    assert!(rows.len() > 30, "{}", rows.len());
    for row in rows {
        assert!(row.len() == 5 && !row[2].is_empty() && !row[4].is_empty(), "{row:?}");
    }
}
