//! Tables and lists of the pages that the program or another file determines.

use std::{fs, path::Path};

use keyringd::settings::keys::{self, SOCKET_PATH};

use super::page::{pages, root, text_of};
use crate::docs::commands;

#[test]
fn the_settings_table_is_up_to_date() {
    const MARKS: [&str; 2] = ["<!-- settings -->\n", "<!-- /settings -->\n"];
    const PAGE: &str = "docs/settings.md";
    let text = text_of(PAGE);
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (table, after) = rest.split_once(MARKS[1]).unwrap();
    let expected = keys::table();
    #[expect(clippy::disallowed_methods, reason = "as expect-test does for whole files")]
    if table != expected && std::env::var_os("UPDATE_EXPECT").is_some() {
        let updated = [before, MARKS[0], &expected, MARKS[1], after].concat();
        fs::write(root().join(PAGE), updated).unwrap();
        return;
    }
    assert_eq!(table, expected, "UPDATE_EXPECT=1 cargo test updates it");
}

#[test]
fn the_kubernetes_files_name_the_default_socket() {
    let static_pod = text_of("kubernetes/static-pod.yaml").replace("{path", "{ path");
    let text = text_of("docs/kms.md") + &static_pod;
    let default = Path::new(SOCKET_PATH.key.default.unwrap());
    assert!(text.contains(&format!("endpoint: unix://{}\n", default.display())));
    let folder = default.parent().unwrap().display().to_string();
    assert_eq!(text.matches(&format!("mountPath: {folder}")).count(), 3);
    assert_eq!(text.matches(&format!("hostPath: {{ path: {folder},")).count(), 3);
}

#[test]
fn the_readme_is_short() {
    let lines = text_of("README.md").lines().count();
    assert!(lines <= 90, "{lines} lines: what is longer belongs to docs");
}

#[test]
fn the_pages_name_commands_that_exist() {
    let commands = commands();
    let exists =
        |word: &str| word == "help" || commands.iter().any(|name| name.split(' ').next() == Some(word));
    let mut count = 0;
    for page in pages() {
        let codes = page.sections.iter().flat_map(|section| section.prose.split('`').skip(1).step_by(2));
        let words = codes.filter_map(|code| code.strip_prefix("keyringd ")?.split_whitespace().next());
        // Not options, nor the infos of derivations such as `keyringd kr1 context`.
        for word in words.filter(|word| word.starts_with(char::is_alphabetic) && !word.starts_with("kr")) {
            assert!(exists(word), "{}: keyringd has no command {word}", page.path);
            count += 1;
        }
    }
    assert!(count > 50, "{count} commands");
}
