//! The architecture, held by a test: which module may import which, no cycles between sibling files, a core without I/O.
//!
//! Whole files count, their tests included; only I/O is free to tests. Paths inside macro calls are read from the macro's
//! tokens.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use syn::visit::{self, Visit};

/// The layers, lowest first. A module imports only modules of lower layers, and among its own layer none.
const LAYERS: &[&[&str]] = &[
    &["clock", "secret", "operation", "logging", "signals", "systemd", "hardening"],
    &["metrics", "keyring"],
    &["cipher", "settings", "supervise"],
    &["vault"],
    &["sync", "references", "api"],
    &["server", "client"],
    &["daemon", "doctor"],
    &["cli"],
    &["main", "fuzzing"],
];

/// What a module may not import although it is in a lower layer, with the reason.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("keyring", "logging", "the core does no output"),
    ("cipher", "settings", "formats know keys, not how they are configured"),
    ("api", "vault", "the API asks the Vault side through its trait"),
    ("server", "keyring", "the server moves bytes; it knows no endpoint"),
    ("server", "cipher", "the server moves bytes; it knows no endpoint"),
    ("server", "settings", "the server gets its limits from the daemon"),
    ("client", "api", "the command line speaks HTTP to a daemon of any version"),
    ("metrics", "keyring", "metrics count what they are given"),
];

/// Modules without I/O, and the paths that would be I/O. Reading files and the environment is for `settings::source`.
const CORE: &[&str] = &["secret", "operation", "keyring", "cipher", "settings"];
const IO: &[&str] = &[
    "tokio",
    "tokio_util",
    "futures_util",
    "hyper",
    "hyper_util",
    "reqwest",
    "std::fs",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::os::unix::net",
    "std::env",
    "nix",
];
const CORE_MAY_READ: &str = "settings::source";

/// A module's path below the crate: `["api", "transit", "fields"]`.
type Module = Vec<String>;

struct Source {
    module: Module,
    imports: BTreeSet<Module>,
    /// Paths into other crates, as written.
    foreign: BTreeSet<String>,
}

/// Collects what one file imports, resolved to modules of this crate.
struct Imports<'a> {
    /// The module that the code at hand is in, inline modules included.
    here: Module,
    known: &'a BTreeSet<Module>,
    found: BTreeSet<Module>,
    foreign: BTreeSet<String>,
    in_tests: bool,
}

impl Imports<'_> {
    fn add(&mut self, path: &[String]) {
        let mut rest = path;
        let mut base = self.here.clone();
        match rest.first().map(String::as_str) {
            Some("crate" | "keyringd") => (base, rest) = (Vec::new(), &rest[1..]),
            Some("self") => rest = &rest[1..],
            Some("super") => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            Some(first) if self.known.contains(&[base.as_slice(), &[first.to_owned()]].concat()) => {}
            _ => {
                if !self.in_tests {
                    self.foreign.insert(path.join("::"));
                }
                return;
            }
        }
        let whole = [base, rest.to_vec()].concat();
        let module =
            (0..=whole.len()).rev().map(|len| whole[..len].to_vec()).find(|m| self.known.contains(m));
        self.found.extend(module);
    }

    fn add_tree(&mut self, tree: &syn::UseTree, before: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_tree(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Name(name) => self.add_with(before, &name.ident.to_string()),
            syn::UseTree::Rename(name) => self.add_with(before, &name.ident.to_string()),
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree, before)),
        }
    }

    fn add_with(&mut self, before: &[String], last: &str) {
        let last = if last == "self" { None } else { Some(last.to_owned()) };
        self.add(&before.iter().cloned().chain(last).collect::<Vec<_>>());
    }

    /// Paths in a macro's tokens: identifiers joined by `::`.
    fn add_tokens(&mut self, tokens: proc_macro2::TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                proc_macro2::TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                proc_macro2::TokenTree::Ident(ident) => {
                    self.add_path(&std::mem::replace(&mut path, vec![ident.to_string()]));
                    colons = 0;
                }
                proc_macro2::TokenTree::Group(group) => {
                    self.add_path(&std::mem::take(&mut path));
                    colons = 0;
                    self.add_tokens(group.stream());
                }
                _ => {
                    self.add_path(&std::mem::take(&mut path));
                    colons = 0;
                }
            }
        }
        self.add_path(&path);
    }

    /// A path with at least one `::`.
    fn add_path(&mut self, path: &[String]) {
        if path.len() > 1 {
            self.add(path);
        }
    }
}

impl<'ast> Visit<'ast> for Imports<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add_path(&segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.content.is_some() {
            let outside = self.in_tests;
            self.in_tests |= module.ident == "tests";
            self.here.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.here.pop();
            self.in_tests = outside;
        }
    }
}

pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => rust_files(&path),
            Some("rs") => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn module_of(file: &Path, src: &Path) -> Module {
    let below = file.strip_prefix(src).unwrap().with_extension("");
    let parts = below.iter().map(|part| part.to_str().unwrap().to_owned());
    parts.filter(|part| part != "lib").collect()
}

fn read(module: Module, text: &str, known: &BTreeSet<Module>) -> Source {
    let (found, foreign) = Default::default();
    let mut imports = Imports { here: module.clone(), known, found, foreign, in_tests: false };
    imports.visit_file(&syn::parse_file(text).unwrap());
    let Imports { mut found, foreign, .. } = imports;
    found.remove(&module);
    Source { module, imports: found, foreign }
}

fn sources() -> &'static [Source] {
    static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
        let src = root().join("src");
        let files = rust_files(&src);
        let known: BTreeSet<_> = files.iter().map(|file| module_of(file, &src)).collect();
        let read = |file: &PathBuf| read(module_of(file, &src), &fs::read_to_string(file).unwrap(), &known);
        files.iter().map(read).collect()
    });
    &SOURCES
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn each_module_imports_only_lower_layers() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(from) = source.module.first() else { continue };
        let Some(above) = layer(from) else {
            wrong.push(format!("{from}: not in any layer"));
            continue;
        };
        for import in source.imports.iter().filter(|import| !import.is_empty() && import[0] != *from) {
            let forbidden = FORBIDDEN.iter().find(|(who, what, _)| who == from && *what == import[0]);
            let name = source.module.join("::");
            if layer(&import[0]).is_none_or(|below| below >= above) {
                wrong.push(format!("{name} imports {}, which is not in a lower layer", import.join("::")));
            } else if let Some((_, what, why)) = forbidden {
                wrong.push(format!("{name} imports {what}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_server_knows_only_the_entry_of_the_api() {
    let deep: Vec<_> = sources()
        .iter()
        .filter(|source| source.module.first().is_some_and(|module| module == "server"))
        .flat_map(|source| source.imports.iter().filter(|import| import.len() > 1 && import[0] == "api"))
        .collect();
    assert!(deep.is_empty(), "the server imports {deep:?}; only what api.rs itself exports is for it");
}

#[test]
fn the_core_does_no_input_or_output() {
    let mut wrong = Vec::new();
    for source in
        sources().iter().filter(|source| source.module.first().is_some_and(|m| CORE.contains(&m.as_str())))
    {
        let name = source.module.join("::");
        let of = |path: &str, crate_path: &&str| {
            path.strip_prefix(*crate_path).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let io = source.foreign.iter().filter(|path| IO.iter().any(|io| of(path, io)));
        if !name.starts_with(CORE_MAY_READ) {
            wrong.extend(io.map(|path| format!("{name} uses {path}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first cycle of a graph, as the nodes on it.
fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        node: &str,
        graph: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(at) = path.iter().position(|before| before == node) {
            return Some(path[at..].to_vec());
        }
        if done.contains(node) {
            return None;
        }
        path.push(node.to_owned());
        let found = graph.get(node).into_iter().flatten().find_map(|next| walk(next, graph, path, done));
        path.pop();
        done.insert(node.to_owned());
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|node| walk(node, graph, &mut Vec::new(), &mut done))
}

/// For each folder, which of its files imports which. A file and the folder of its name are one node.
fn sibling_graphs(sources: &[Source]) -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut folders: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for source in sources {
        for import in &source.imports {
            let shared = source.module.iter().zip(import).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (source.module.get(shared), import.get(shared)) {
                let folder = folders.entry(source.module[..shared].join("::")).or_default();
                folder.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    folders
}

#[test]
fn sibling_files_import_each_other_in_no_cycle() {
    let cycles: Vec<_> = sibling_graphs(sources())
        .into_iter()
        .filter_map(|(folder, graph)| Some(format!("{folder}: {}", cycle(&graph)?.join(" -> "))))
        .collect();
    assert!(cycles.is_empty(), "{}", cycles.join("\n"));
}

#[test]
fn a_long_file_says_why_it_is_not_split() {
    const LIMIT: usize = 280;
    let mut unexplained = Vec::new();
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().lines().count();
        let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        if code > LIMIT && !head.contains("longer than") {
            unexplained.push(format!("{}: {code} lines", file.display()));
        }
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
}

#[test]
fn every_file_opens_with_a_description() {
    let files: Vec<_> =
        ["src", "tests", "benches"].iter().flat_map(|folder| rust_files(&root().join(folder))).collect();
    assert!(files.len() > 30);
    let without = |file: &&PathBuf| !fs::read_to_string(file).unwrap().starts_with("//! ");
    let wrong: Vec<_> = files.iter().filter(without).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let known = ["a", "d", "e", "g", "h", "x", "x::y", "x::z", "i"];
    let known = known.map(|module| module.split("::").map(str::to_owned).collect()).into();
    let code = "use crate::{a::{b, c}, d, e::f as k};\nfn m() { crate::h::i(); println!(\"{}\", crate::g::N) }\n\
                pub use y::Thing;\nmod tests { use super::*; use super::super::i; }";
    let source = read(vec!["x".to_owned()], code, &known);
    let imports: Vec<_> = source.imports.iter().map(|import| import.join("::")).collect();
    assert_eq!(imports, ["a", "d", "e", "g", "h", "i", "x::y"]);
}

#[test]
fn a_cycle_is_found_and_named() {
    let graph = |edges: &[(&str, &str)]| {
        edges.iter().fold(BTreeMap::<String, BTreeSet<String>>::new(), |mut graph, (from, to)| {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            graph
        })
    };
    assert_eq!(cycle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(
        cycle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])),
        Some(vec!["b".to_owned(), "c".to_owned()])
    );
}
