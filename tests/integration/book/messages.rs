//! `docs/messages.md` explains every message: each text of an error type, and each warning and error of the log.

use std::{fs, sync::LazyLock};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::page::{root, text_of};
use crate::layers::rust_files;

/// A shorter quotation must be a whole message: as a part, it would be one of too many.
const LEAST_PART: usize = 12;

/// Texts of the sources, with `…` for what differs.
#[derive(Default)]
struct Texts {
    messages: Vec<String>,
    all: Vec<String>,
}

impl Visit<'_> for Texts {
    fn visit_item_mod(&mut self, module: &syn::ItemMod) {
        if module.ident != "tests" {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_attribute(&mut self, attribute: &syn::Attribute) {
        if attribute.path().is_ident("error")
            && let syn::Meta::List(list) = &attribute.meta
        {
            self.messages.extend(literals(list.tokens.clone()).into_iter().next());
        }
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        let found = literals(call.tokens.clone());
        let name = call.path.segments.last().map(|segment| segment.ident.to_string());
        if matches!(name.as_deref(), Some("warn" | "error")) {
            self.messages.extend(found.last().cloned());
        }
        self.all.extend(found);
    }

    fn visit_lit_str(&mut self, text: &syn::LitStr) {
        self.all.push(shape(&text.value()));
    }
}

fn literals(tokens: TokenStream) -> Vec<String> {
    let texts = tokens.into_iter().flat_map(|token| match token {
        TokenTree::Group(group) => literals(group.stream()),
        TokenTree::Literal(literal) => match syn::Lit::new(literal) {
            syn::Lit::Str(text) => vec![shape(&text.value())],
            _ => Vec::new(),
        },
        _ => Vec::new(),
    });
    texts.collect()
}

/// The text of a format with `…` for each argument.
fn shape(format: &str) -> String {
    let mut shape = String::new();
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        shape += &rest[..at];
        let (brace, behind) = rest[at..].split_at(1);
        rest = behind;
        if let Some(escaped) = rest.strip_prefix(brace) {
            shape += brace;
            rest = escaped;
        } else {
            shape.push('…');
            rest = rest.split_once('}').map_or("", |(_, behind)| behind);
        }
    }
    shape + rest
}

static TEXTS: LazyLock<Texts> = LazyLock::new(|| {
    let mut texts = Texts::default();
    for file in rust_files(&root().join("src")) {
        texts.visit_file(&syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap());
    }
    let says_nothing = |text: &String| !text.chars().any(char::is_alphabetic);
    texts.messages.retain(|text| !says_nothing(text));
    texts.all.extend(texts.messages.iter().cloned());
    texts
});

/// The first column of the tables.
fn quotations() -> Vec<String> {
    let page = text_of("docs/messages.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split_once(" | ").unwrap().0.trim());
    cells.map(|cell| cell.strip_prefix("``").unwrap_or(cell)).map(unfenced).collect()
}

/// Without the backquotes that end a quotation, one or three.
fn unfenced(cell: &str) -> String {
    let text = cell.strip_suffix("```").or_else(|| cell.strip_suffix('`')).unwrap();
    text.trim().to_owned()
}

fn is_part(quotation: &str, message: &str) -> bool {
    let part = quotation.trim_matches(['…', ' ']);
    quotation == message || (part.len() >= LEAST_PART && message.contains(part))
}

#[test]
fn every_message_is_explained() {
    let (texts, quotations) = (&TEXTS, quotations());
    assert!(texts.messages.len() > 180, "{}", texts.messages.len());
    let is_explained = |message: &&String| quotations.iter().any(|quotation| is_part(quotation, message));
    let missing: Vec<_> = texts.messages.iter().filter(|message| !is_explained(message)).collect();
    assert!(missing.is_empty(), "docs/messages.md does not explain {missing:#?}");
}

#[test]
fn every_message_that_is_explained_exists() {
    let exists = |quotation: &&String| TEXTS.all.iter().any(|text| is_part(quotation, text));
    let gone: Vec<_> = quotations().into_iter().filter(|quotation| !exists(&quotation)).collect();
    assert!(gone.is_empty(), "keyringd has no message {gone:#?}");
}

#[test]
#[expect(clippy::literal_string_with_formatting_args, reason = "it stands for one in the source")]
fn a_message_has_a_shape() {
    assert_eq!(shape("a {b:?} {{c}} {} d"), "a … {c} … d");
    assert!(is_part("names no Vault: …", "it names no Vault: …") && is_part("a", "a") && !is_part("a", "ab"));
}
