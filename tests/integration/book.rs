//! The book: README.md and the pages of `docs`. Every block of every page is tested, and every link leads somewhere.
//!
//! `page` says which blocks there are and how each is tested, and `shell` runs them.

use std::collections::BTreeSet;

mod blocks;
mod evidence;
mod links;
mod messages;
mod page;
mod runbook;
mod shell;
mod tables;
mod terms;

/// A test for each page with blocks to run, and the list of these pages.
macro_rules! pages {
    ($($name:ident: $path:literal,)*) => {
        const RUN: &[&str] = &[$($path),*];
        $(
            #[test]
            fn $name() {
                shell::run($path);
            }
        )*
    };
}

pages! {
    readme: "README.md",
    quick_start: "docs/quick-start.md",
    clients: "docs/clients.md",
    columns: "docs/columns.md",
    kong: "docs/kong.md",
    rotate: "docs/rotate.md",
    login: "docs/login.md",
    keyrings: "docs/keyrings.md",
    access: "docs/access.md",
    migrate: "docs/migrate.md",
    settings_by_reference: "docs/settings-by-reference.md",
    references: "docs/references.md",
    install: "docs/install.md",
    kms: "docs/kms.md",
}

#[test]
fn every_page_with_blocks_to_run_is_run() {
    let pages = page::pages();
    let with_blocks = pages.iter().filter(|page| page.sections.iter().any(page::Section::is_run));
    let with_blocks: BTreeSet<_> = with_blocks.map(|page| page.path.as_str()).collect();
    assert_eq!(with_blocks, RUN.iter().copied().collect(), "`pages!` lists the pages that are run");
}
