//! The example of an encrypted, searchable column, with 10,000 rows: `docs/columns.md` shows it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    keyrings::put,
    support::{Daemon, OpenBao, ending_with_us, wait_for},
};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/columns"))
}

#[test]
fn ten_thousand_rows_are_searched_rotated_indexed_again_and_rewrapped_while_writers_go_on() {
    let server = OpenBao::shared();
    server.put_record("first", "a key text of at least thirty-two characters");
    put(&server, "users", "u1");
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_VAULT_PATHS", "users")]);
    wait_for("the keyring", || (daemon.get("/readyz?name=users").status == 200).then_some(()));
    let table = tempfile::tempdir().unwrap();
    let mut command: Command = ending_with_us(Path::new("python3"));
    command.arg(folder().join("run.py")).arg(daemon.socket()).arg(table.path());
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut example = command.spawn().unwrap();
    let mut lines = BufReader::new(example.stdout.take().unwrap()).lines();
    let mut next = || lines.next().expect("the example goes on").unwrap();
    assert_eq!(next(), "rotate");
    put(&server, "users", "u2");
    assert_eq!(daemon.request("POST", "/keyring/vault/sync?name=users", b"").status, 204);
    writeln!(example.stdin.take().unwrap(), "2").unwrap();
    assert!(next().starts_with("done "));
    assert!(example.wait().unwrap().success());
}

#[test]
fn the_docs_page_shows_the_example_that_is_tested() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/columns.md")).unwrap();
    let example = fs::read_to_string(folder().join("columns.py")).unwrap();
    assert!(
        page.contains(&format!("```python file=columns.py\n{example}```\n")),
        "docs/columns.md shows another columns.py"
    );
}
