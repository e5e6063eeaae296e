//! Every link between files leads to a file and a heading, and the contents have every page once. No network is used.

use std::path::{Component, Path, PathBuf};

use super::page::{Page, pages, root, text_of};

/// Pages outside of the book whose links are tested too.
const OTHERS: [&str; 5] =
    ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benches/README.md", "fuzz/README.md"];

/// The targets of the links of a text, outside of code.
fn targets(prose: &str) -> Vec<String> {
    // Every second part is between backquotes.
    let without_code: String = prose.split('`').step_by(2).collect::<Vec<_>>().join("code");
    let links = without_code.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    links.map(|(target, _)| target.to_owned()).collect()
}

/// `docs/../README.md` as `README.md`.
fn normalised(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts
}

/// Why a link of the page of this path leads nowhere.
fn broken(from: &str, target: &str) -> Option<String> {
    if target.starts_with("https://") {
        return None;
    }
    let (file, id) = target.split_once('#').map_or((target, None), |(file, id)| (file, Some(id)));
    let path = match file {
        "" => PathBuf::from(from),
        file => normalised(&Path::new(from).with_file_name(file)),
    };
    let name = path.display().to_string();
    if from.starts_with("docs/") && !name.starts_with("docs/") {
        return Some("the built book has docs only: name the file without a link".to_owned());
    }
    if !root().join(&path).exists() {
        return Some(format!("there is no {name}"));
    }
    let id = id?;
    let known = Page::read(&name).anchors();
    (!known.iter().any(|anchor| anchor == id)).then(|| format!("{name} has {known:?}"))
}

#[test]
fn every_link_leads_to_a_heading() {
    let others = OTHERS.iter().map(|path| Page::read(path));
    let mut count = 0;
    for page in pages().into_iter().chain(others) {
        for target in page.sections.iter().flat_map(|section| targets(&section.prose)) {
            let wrong = broken(&page.path, &target);
            assert!(wrong.is_none(), "{}: {target}: {}", page.path, wrong.unwrap());
            count += 1;
        }
    }
    assert!(count > 50, "{count} links");
}

#[test]
fn a_broken_link_is_found() {
    assert_eq!(targets("[a](b.md#c), `[d](e)` and [f](g)"), ["b.md#c", "g"]);
    for target in ["no-such.md", "rotate.md#no-such", "#no-such", "../README.md"] {
        assert!(broken("docs/access.md", target).is_some(), "{target}");
    }
    assert!(
        broken("README.md", "docs/access.md").is_none() && broken("docs/access.md", "rotate.md").is_none()
    );
}

#[test]
fn the_contents_have_every_page_once() {
    let mut listed: Vec<_> =
        targets(&text_of("docs/SUMMARY.md")).iter().map(|name| format!("docs/{name}")).collect();
    listed.sort();
    let pages: Vec<_> =
        pages().into_iter().map(|page| page.path).filter(|path| path != "README.md").collect();
    assert_eq!(listed, pages);
}

#[test]
fn no_heading_of_a_page_has_the_anchor_of_another() {
    for page in pages() {
        let mut anchors = page.anchors();
        anchors.sort();
        let count = anchors.len();
        anchors.dedup();
        assert_eq!(anchors.len(), count, "{}: {anchors:?}", page.path);
    }
}
