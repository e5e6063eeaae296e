//! `docs/glossary.md` has each term once, and every page for users links to a term where it first uses it.

use std::collections::BTreeSet;

use super::page::{Page, anchor, pages};

const GLOSSARY: &str = "docs/glossary.md";

/// The first page, which has to be short, one that the program generates, and those for who works on keyringd.
const WITHOUT_LINKS: [&str; 6] = [
    "README.md",
    "docs/settings.md",
    "docs/architecture.md",
    "docs/audits.md",
    "docs/release.md",
    "docs/testing.md",
];

/// What a page says outside of code, headings and links to other pages; blanks and line breaks are one blank.
fn text(page: &Page) -> String {
    let prose = page.sections.iter().flat_map(|section| section.prose.lines());
    let prose = prose.filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" ");
    // Every second part is between backquotes.
    let prose: Vec<_> = prose.split('`').step_by(2).collect();
    let mut text = String::new();
    for (at, part) in prose.join("·").split('[').enumerate() {
        let link = part.split_once("](").filter(|_| at > 0);
        match link.and_then(|(_, rest)| rest.split_once(')')) {
            Some((target, behind)) if !target.starts_with("glossary.md#") => text += behind,
            _ if at > 0 => text = text + "[" + part,
            _ => text += part,
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where a word or words begin in a text, alone or in the plural.
fn first_use(text: &str, term: &str) -> Option<usize> {
    let is_letter =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '-');
    text.match_indices(term).map(|(at, _)| at).find(|at| {
        let behind = &text[at + term.len()..];
        let behind = behind.strip_prefix("es").or_else(|| behind.strip_prefix('s')).unwrap_or(behind);
        !is_letter(text[..*at].chars().next_back()) && !is_letter(behind.chars().next())
    })
}

fn terms() -> Vec<String> {
    Page::read(GLOSSARY).sections[1..].iter().map(|section| section.title.to_lowercase()).collect()
}

#[test]
fn a_page_links_to_a_term_where_it_first_uses_it() {
    let mut missing = Vec::new();
    for page in pages() {
        if page.path == GLOSSARY || WITHOUT_LINKS.contains(&page.path.as_str()) {
            continue;
        }
        let text = text(&page).to_lowercase();
        for term in terms() {
            let Some(at) = first_use(&text, &term) else { continue };
            let link = format!("](glossary.md#{})", anchor(&term));
            let behind = text[at..].split_once(']').map(|(_, behind)| format!("]{behind}"));
            if !text[..at].ends_with('[') || !behind.is_some_and(|behind| behind.starts_with(&link)) {
                missing.push(format!(
                    "{}: {term:?} in {:?}",
                    page.path,
                    &text[at..].chars().take(60).collect::<String>()
                ));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn each_term_is_there_once_and_used() {
    let terms = terms();
    assert_eq!(terms.iter().collect::<BTreeSet<_>>().len(), terms.len());
    let texts: Vec<_> =
        pages().iter().filter(|page| page.path != GLOSSARY).map(|page| text(page).to_lowercase()).collect();
    for term in terms {
        assert!(texts.iter().any(|text| first_use(text, &term).is_some()), "no page uses {term:?}");
    }
}

#[test]
fn the_first_use_is_a_word_of_its_own() {
    assert_eq!(first_use("resyncs async a sync", "sync"), Some(16));
    assert_eq!(first_use("blind indexes", "blind index"), Some(0));
    assert_eq!(first_use("syncing", "sync"), None);
}
