//! Runs the examples of the README and of `docs`: every `sh` block of a section, in order, in one shell, with a real server.

use std::{fmt::Write as _, fs, path::Path, process::Command, sync::Arc};

use keyringd::settings::keys::SOCKET_PATH;

use crate::support::{Proxy, daemon::PROGRAM, free_port, jwt::Issuer, openbao, python, success};

fn readme() -> String {
    page("README.md")
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The blocks of one section, each with the output that the page shows below it.
fn blocks(text: &str, section: &str) -> Vec<(String, Option<String>)> {
    let section = text.split("\n## ").find(|part| part.starts_with(section)).expect("the section exists");
    let mut blocks: Vec<(String, Option<String>)> = Vec::new();
    for part in section.split("\n```").skip(1) {
        if let Some(code) = part.strip_prefix("sh\n") {
            blocks.push((code.to_owned(), None));
        } else if let (Some(answer), Some(last)) = (part.strip_prefix("text\n"), blocks.last_mut()) {
            last.1 = Some(answer.to_owned());
        }
    }
    blocks
}

/// Runs the blocks of a section of the README in one shell and compares each output.
fn run_section(section: &str, prologue: &str, replace: &[(&str, &str)]) {
    run_section_of(&readme(), section, prologue, replace);
}

/// The same for another page.
fn run_section_of(page: &str, section: &str, prologue: &str, replace: &[(&str, &str)]) {
    let page = replace.iter().fold(page.to_owned(), |page, (from, to)| page.replace(from, to));
    let folder = tempfile::tempdir().unwrap();
    let programs = [Path::new(PROGRAM), openbao::program()]
        .map(|program| program.parent().unwrap().display().to_string());
    let mut script = format!(
        "set -euo pipefail\nPATH={}:$PATH\nexport HOME=$PWD\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n\
         until_it() {{ for _ in $(seq 1500); do if \"$@\" >/dev/null 2>&1; then return; fi; sleep 0.02; done; echo timeout: \"$@\" >&2; return 1; }}\n{prologue}\n",
        programs.join(":")
    );
    let blocks = blocks(&page, section);
    assert!(!blocks.is_empty(), "{section} has no blocks");
    for (at, (code, _)) in blocks.iter().enumerate() {
        let _ = writeln!(script, "exec > block-{at}.out\n{code}");
        if code.contains("bao server") {
            script += "until_it curl -sf -H \"X-Vault-Token: $VAULT_TOKEN\" $VAULT_ADDR/v1/secret/config\n";
        }
        if code.contains("keyringd run") || code.contains("keyringd dev") {
            script += "until_it curl -sf --unix-socket \"$SOCKET\" http://localhost/livez\n";
        }
    }
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "--", "timeout", "120", "bash", "-c", &script])
        .current_dir(folder.path())
        .output()
        .unwrap();
    success(&output);
    for (at, (code, answer)) in blocks.iter().enumerate() {
        if let Some(expected) = answer {
            let got = fs::read_to_string(folder.path().join(format!("block-{at}.out"))).unwrap();
            assert!(
                matches(expected.trim(), got.trim()),
                "{code}\nprinted\n{got}\nthe page shows\n{expected}"
            );
        }
    }
}

/// Compares an output with a page, where `…` matches any text.
fn matches(expected: &str, got: &str) -> bool {
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
fn the_examples_of_kongs_how_to_work() {
    let port = free_port().to_string();
    run_section("Kong's how-to", "", &[("8200", &port)]);
}

#[test]
fn the_examples_of_encrypt_and_decrypt_work() {
    let packages = python::packages("hvac-requirements.txt");
    let prologue = format!("SOCKET=$PWD/keyringd.sock\nexport PYTHONPATH={}", packages.display());
    run_section("Encrypt and decrypt", &prologue, &[]);
}

#[test]
fn the_examples_of_settings_by_reference_work() {
    run_section("Settings by reference", "", &[]);
}

#[test]
fn the_examples_of_secrets_by_reference_work() {
    let port = free_port().to_string();
    run_section("Other secrets by reference", "", &[("8200", &port)]);
}

/// A how-to of `docs/references.md`, with ports that are free.
fn run_how_to(section: &str, more: &[(&str, &str)]) {
    let ports = ["8200", "8443", "8444"].map(|port| (port, free_port().to_string()));
    let ports = ports.each_ref().map(|(from, to)| (*from, to.as_str()));
    run_section_of(&page("docs/references.md"), section, "", &[ports.as_slice(), more].concat());
}

#[test]
fn the_how_to_with_a_token_works() {
    run_how_to("A token and KV version 2", &[]);
}

#[test]
fn the_how_to_with_a_certificate_works() {
    run_how_to("A certificate and KV version 1", &[]);
}

#[test]
fn the_how_to_with_oauth2_works() {
    let issuer = Arc::new(Issuer::new());
    let idp = Proxy::playing(move |request, body| {
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
    });
    run_how_to("OAuth2", &[("https://idp.example.com", &idp.address())]);
}

#[test]
fn the_how_to_with_nginx_works() {
    run_how_to("APISIX's TLS pair in nginx", &[]);
}

#[test]
fn every_example_of_the_how_tos_runs() {
    let text = page("docs/references.md");
    let with_examples = text.split("\n## ").skip(1).filter(|section| section.contains("\n```sh"));
    let titles: Vec<_> = with_examples.filter_map(|section| section.lines().next()).collect();
    let how_tos = [
        "A token and KV version 2",
        "A certificate and KV version 1",
        "OAuth2",
        "APISIX's TLS pair in nginx",
    ];
    assert_eq!(titles, how_tos);
}

#[test]
fn the_examples_of_migration_work() {
    let port = free_port().to_string();
    run_section("Move from Transit", "", &[("8200", &port)]);
}

#[test]
fn the_examples_of_kubernetes_work() {
    let packages = python::packages("grpcio-requirements.txt");
    run_section("Encrypt Kubernetes' storage", &format!("export PYTHONPATH={}", packages.display()), &[]);
}

#[test]
fn the_kubernetes_files_name_the_default_socket() {
    let static_pod = page("kubernetes/static-pod.yaml").replace("{path", "{ path");
    let text = readme() + &static_pod;
    let default = Path::new(SOCKET_PATH.key.default.unwrap());
    assert!(text.contains(&format!("endpoint: unix://{}\n", default.display())));
    let folder = default.parent().unwrap().display().to_string();
    assert_eq!(text.matches(&format!("mountPath: {folder}")).count(), 3);
    assert_eq!(text.matches(&format!("hostPath: {{ path: {folder},")).count(), 3);
}

#[test]
fn the_examples_of_access_work() {
    run_section("Who may do what", "", &[]);
}

#[test]
fn the_examples_of_login_work() {
    let port = free_port().to_string();
    run_section("Log in", "", &[("8200", &port)]);
}

#[test]
fn the_settings_table_is_up_to_date() {
    const MARKS: [&str; 2] = ["<!-- settings -->\n", "<!-- /settings -->\n"];
    let text = readme();
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (table, after) = rest.split_once(MARKS[1]).unwrap();
    let expected = keyringd::settings::keys::table();
    #[expect(clippy::disallowed_methods, reason = "as expect-test does for whole files")]
    if table != expected && std::env::var_os("UPDATE_EXPECT").is_some() {
        let updated = [before, MARKS[0], &expected, MARKS[1], after].concat();
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"), updated).unwrap();
        return;
    }
    assert_eq!(table, expected, "UPDATE_EXPECT=1 cargo test updates it");
}

#[test]
fn an_ellipsis_matches_any_text() {
    assert!(matches("a…c", "abbc") && matches("a…", "a") && matches("…", "x") && matches("abc", "abc"));
    assert!(!matches("a…c", "ab") && !matches("abc", "abcd") && !matches("a…b…c", "acb"));
}
