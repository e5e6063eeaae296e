//! A page of the book as sections and blocks. A section goes from one heading of the first or second level to the next; its
//! `sh` blocks run in order in one shell.
//!
//! The words after the language of a block say how it is tested:
//!
//! | block | test |
//! |---|---|
//! | `sh` | is run |
//! | `sh by=PATH` | the script of that path runs these programs |
//! | `text` behind `sh` | is what that block prints, where `…` is any text |
//! | `LANGUAGE file=NAME` | is written into the folder of the section's shell, whose blocks use it |
//! | `LANGUAGE from=PATH` | is the file of that path, which has a test of its own, or blocks of the section that use it there |
//! | `json`, `yaml`, `ini` | parses; settings of keyringd are known, and their values valid |

use std::{fs, path::Path};

/// The start of a line that names the section whose blocks come first in the same shell.
const FIRST: &str = "First run [";

pub struct Page {
    /// From the root of the repository.
    pub path: String,
    pub sections: Vec<Section>,
}

pub struct Section {
    pub title: String,
    /// Everything outside of blocks, without the title.
    pub prose: String,
    pub blocks: Vec<Block>,
}

#[derive(Clone)]
pub struct Block {
    pub language: String,
    pub tested: Tested,
    pub text: String,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Tested {
    /// By its language alone.
    Plain,
    By(String),
    File(String),
    From(String),
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of the repository.
pub fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README.md and every page in `docs`.
pub fn pages() -> Vec<Page> {
    let entries = fs::read_dir(root().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut paths: Vec<_> = names
        .filter(|name| name != "SUMMARY.md" && Path::new(name).extension().is_some_and(|kind| kind == "md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    paths.push("README.md".to_owned());
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

/// The anchor that GitHub and mdBook give to a heading.
pub fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || " _-".contains(*letter));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

impl Page {
    pub fn read(path: &str) -> Self {
        Self { path: path.to_owned(), sections: sections(path, &text_of(path)) }
    }

    /// The section that a link to this page means.
    pub fn section(&self, id: &str) -> &Section {
        let found = self.sections.iter().find(|section| anchor(&section.title) == id);
        found.unwrap_or_else(|| panic!("{} has no section #{id}", self.path))
    }

    /// The anchors of all headings.
    pub fn anchors(&self) -> Vec<String> {
        let titles = self.sections.iter().map(|section| section.title.as_str());
        let below = self.sections.iter().flat_map(|section| section.prose.lines());
        let below = below.filter(|line| line.starts_with("###")).map(|line| line.trim_start_matches('#'));
        titles.chain(below).map(|title| anchor(title.trim())).collect()
    }
}

impl Section {
    pub fn is_run(&self) -> bool {
        self.blocks.iter().any(Block::is_run)
    }

    /// The blocks of this section in the order in which they run, behind those that it names as first.
    pub fn all_blocks(&self, page: &Page) -> Vec<Block> {
        let mut blocks = Vec::new();
        for line in self.prose.lines().filter_map(|line| line.strip_prefix(FIRST)) {
            let (_, rest) = line.split_once("](").expect("a link");
            let (target, _) = rest.split_once(')').expect("a link");
            let (file, id) = target.split_once('#').expect("an anchor");
            let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            if file.is_empty() {
                blocks.extend(page.section(id).all_blocks(page));
            } else {
                let other = Page::read(format!("{folder}/{file}").trim_start_matches('/'));
                blocks.extend(other.section(id).all_blocks(&other));
            }
        }
        blocks.extend(self.blocks.iter().cloned());
        blocks
    }
}

impl Block {
    /// The name of the file that the block is, in the folder of the section's shell.
    pub fn file_name(&self) -> Option<&str> {
        match &self.tested {
            Tested::File(name) => Some(name),
            Tested::From(path) => path.rsplit('/').next(),
            Tested::Plain | Tested::By(_) => None,
        }
    }

    pub fn is_run(&self) -> bool {
        self.language == "sh" && self.tested == Tested::Plain
    }
}

fn sections(path: &str, text: &str) -> Vec<Section> {
    let mut sections = Vec::<Section>::new();
    let mut fence: Option<Block> = None;
    for line in text.lines() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            match fence.take() {
                None => fence = Some(block(path, info)),
                Some(block) => sections.last_mut().expect("a heading first").blocks.push(block),
            }
        } else if let Some(block) = &mut fence {
            block.text += line;
            block.text.push('\n');
        } else if let Some(title) = line.strip_prefix("# ").or_else(|| line.strip_prefix("## ")) {
            sections.push(Section { title: title.to_owned(), prose: String::new(), blocks: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.prose += line;
            section.prose.push('\n');
        }
    }
    assert!(fence.is_none(), "{path}: a block does not end");
    sections
}

fn block(path: &str, info: &str) -> Block {
    let mut words = info.split(' ');
    let language = words.next().unwrap_or_default().to_owned();
    let tested = words.next().map_or(Tested::Plain, |word| match word.split_once('=') {
        Some(("by", script)) => Tested::By(script.to_owned()),
        Some(("file", name)) => Tested::File(name.to_owned()),
        Some(("from", file)) => Tested::From(file.to_owned()),
        _ => panic!("{path}: {info}: by=, file= or from= is expected behind the language"),
    });
    Block { language, tested, text: String::new() }
}

#[test]
fn a_page_has_sections_and_blocks() {
    let text = "# A b, c's\nFirst run [this](x.md#y).\n```sh\n# no heading\n```\n## D\n```yaml file=e.yaml\na: 1\n```\n";
    let found = sections("page", text);
    assert_eq!((found.len(), anchor(&found[0].title).as_str()), (2, "a-b-cs"));
    assert_eq!((found[0].blocks[0].text.as_str(), found[0].is_run()), ("# no heading\n", true));
    assert!(found[1].blocks[0].tested == Tested::File("e.yaml".to_owned()) && !found[1].is_run());
}
