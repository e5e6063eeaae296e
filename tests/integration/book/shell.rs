//! Runs the blocks of a section in one shell, with real servers, and compares what they print with the page.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use super::page::{Block, Page, Section};
use crate::support::{
    Proxy, daemon::PROGRAM, free_port, go, jwt::Issuer, node, openbao, python, success, tool,
    tools::require_those_of,
};

/// The functions that wait for the servers that a page starts in the background.
const PROLOGUE: &str = "set -euo pipefail
export HOME=$PWD GOGC=off GOMEMLIMIT=256MiB
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
until_it() { for _ in $(seq 1200); do if \"$@\" >/dev/null 2>&1; then return; fi; sleep 0.1; done; echo timeout: \"$@\" >&2; return 1; }
";
const ISSUER: &str = "https://idp.example.com";
const PORTS: [&str; 4] = ["8200", "8443", "8444", "9187"];
/// What the pages install, below the folder of the shell.
const SYSTEM_FOLDERS: [&str; 4] =
    ["/usr/share/bash-completion/", "/usr/share/zsh/", "/usr/share/fish/", "/usr/local/share/"];

/// Runs every section of a page.
pub fn run(path: &str) {
    let page = Page::read(path);
    thread::scope(|scope| {
        for section in page.sections.iter().filter(|section| section.is_run()) {
            scope.spawn(|| run_section(&page, section));
        }
    });
}

fn run_section(page: &Page, section: &Section) {
    let place = format!("{}, {}", page.path, section.title);
    let mut blocks = section.all_blocks(page);
    let _issuer = adapt(&mut blocks);
    let folder = tempfile::tempdir().unwrap();
    let script = script(&blocks, folder.path());
    let mut command = tool("setpriv");
    command.args(["--pdeathsig", "TERM", "--", "timeout", "600", "bash", "-c", &script]);
    command.current_dir(folder.path());
    eprintln!("{place}:\n{script}");
    success(&command.output().unwrap());
    for (at, pair) in blocks.windows(2).enumerate() {
        if pair[0].is_run() && pair[1].language == "text" {
            let got = fs::read_to_string(folder.path().join(format!("block-{at}.out"))).unwrap();
            let (code, expected) = (&pair[0].text, &pair[1].text);
            let same = matches(expected.trim(), got.trim());
            assert!(same, "{place}: {code}\nprinted\n{got}\nthe page shows\n{expected}");
        }
    }
}

/// Puts what this machine has free in the place of what the page names. The issuer serves until it is dropped.
fn adapt(blocks: &mut [Block]) -> Option<Proxy> {
    let issuer = blocks.iter().any(|block| block.text.contains(ISSUER)).then(issuer);
    let mut replaced: Vec<_> = PORTS.iter().map(|port| (*port, free_port().to_string())).collect();
    replaced.extend(issuer.iter().map(|issuer| (ISSUER, issuer.address())));
    replaced.extend(SYSTEM_FOLDERS.iter().map(|folder| (*folder, folder[1..].to_owned())));
    for block in blocks {
        for (from, to) in &replaced {
            block.text = block.text.replace(from, to);
        }
    }
    issuer
}

/// An OAuth 2.0 token endpoint with its keys.
fn issuer() -> Proxy {
    let issuer = Arc::new(Issuer::new());
    Proxy::playing(move |request, body| {
        if request.starts_with("GET /jwks") {
            return (200, issuer.jwks().to_string());
        }
        let has_audience =
            url::form_urlencoded::parse(body).any(|pair| pair == ("audience".into(), "vault".into()));
        if !has_audience {
            return (400, r#"{"error": "invalid_request"}"#.to_owned());
        }
        let jwt = issuer.sign(&Issuer::claims("kong", "vault", 0));
        (200, serde_json::json!({ "access_token": jwt, "token_type": "Bearer" }).to_string())
    })
}

fn script(blocks: &[Block], folder: &Path) -> String {
    let mut script = environment(blocks) + PROLOGUE;
    for (at, block) in blocks.iter().enumerate() {
        if let Some(name) = block.file_name() {
            fs::write(folder.join(name), &block.text).unwrap();
        }
        if !block.is_run() {
            continue;
        }
        let code = &block.text;
        let _ = writeln!(script, "exec > block-{at}.out\n{code}");
        if code.contains("bao server -dev") {
            script += "until_it curl -sf -H \"X-Vault-Token: $VAULT_TOKEN\" $VAULT_ADDR/v1/secret/config\n";
        }
        if code.contains("keyringd run") || code.contains("keyringd dev") {
            script += "until_it curl -sf --unix-socket \"$SOCKET\" http://localhost/livez\n";
        }
    }
    script
}

/// The assignments with which the shell finds the programs and packages that the blocks need, each fetched once.
fn environment(blocks: &[Block]) -> String {
    let lines = || blocks.iter().filter(|block| block.is_run()).flat_map(|block| block.text.lines());
    require_those_of(lines());
    let uses = |program: &str| lines().any(|line| line.split([' ', '(']).any(|word| word == program));
    let mut path: Vec<_> = [Path::new(PROGRAM), openbao::program()]
        .iter()
        .map(|program| program.parent().unwrap().into())
        .collect();
    let mut variables = String::new();
    if uses("python3") {
        let packages = ["hvac-requirements.txt", "grpcio-requirements.txt", "columns-requirements.txt"];
        let packages = packages.map(python::packages);
        let _ = writeln!(variables, "export PYTHONPATH={}", joined(&packages));
    }
    if uses("node") {
        path.push(node::programs());
    }
    if uses("go") {
        path.push(go::programs());
        let _ = writeln!(variables, "export {}", go::ENVIRONMENT);
    }
    let _ = writeln!(variables, "export PATH={}:$PATH", joined(&path));
    variables
}

fn joined(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(":")
}

/// Compares an output with a page, where `…` matches any text.
pub fn matches(expected: &str, got: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = got.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let parts: Vec<_> = parts.collect();
    for (at, part) in parts.iter().enumerate() {
        if at + 1 == parts.len() {
            return rest.ends_with(part);
        }
        let Some(found) = rest.find(part) else { return false };
        rest = &rest[found + part.len()..];
    }
    rest.is_empty()
}

#[test]
fn an_ellipsis_matches_any_text() {
    assert!(matches("a…c", "abbc") && matches("a…", "a") && matches("…", "x") && matches("abc", "abc"));
    assert!(!matches("a…c", "ab") && !matches("abc", "abcd") && !matches("a…b…c", "acb"));
}
