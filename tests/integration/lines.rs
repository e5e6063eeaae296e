//! Many values, one per line: in order, in batches, and only what changed.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Daemon, OpenBao, success};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn values_keep_their_order_and_a_rewrap_prints_only_what_changed() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    // Smaller batches than the command sends, so that it has to split them.
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_MAX_BATCH", "300")]);
    let plain: Vec<_> = (0..2000).map(|at| format!("value {at}\n")).collect();
    let plain = plain.concat();
    let sealed = success(&daemon.command(&["encrypt", "--lines", "--aad", "t"], plain.as_bytes()));
    assert_eq!(sealed.lines().count(), 2000);
    assert!(sealed.lines().all(|line| line.starts_with("kr1:first:")));
    assert_eq!(success(&daemon.command(&["decrypt", "--lines", "--aad", "t"], sealed.as_bytes())), plain);

    let before = daemon.metric("keyringd_requests_total{operation=\"rewrap\",outcome=\"success\"}");
    let unchanged = daemon.command(&["rewrap", "--lines", "--aad", "t"], sealed.as_bytes());
    assert_eq!(success(&unchanged), "");
    assert!(
        errors(&unchanged).contains("rewrapped 0 of 2000 values, 2000 were under first already"),
        "{unchanged:?}"
    );
    assert_eq!(daemon.metric("keyringd_requests_total{operation=\"rewrap\",outcome=\"success\"}"), before);

    server.put_record("second", KEY);
    daemon.sync();
    let rewrapped = daemon.command(&["rewrap", "--lines", "--aad", "t"], sealed.as_bytes());
    let pairs = success(&rewrapped);
    let mut new = Vec::new();
    for (pair, old) in pairs.lines().zip(sealed.lines()) {
        let (before, after) = pair.split_once('\t').unwrap();
        assert!(before == old && after.starts_with("kr1:second:"), "{pair}");
        new.push(format!("{after}\n"));
    }
    let new = new.concat();
    assert_eq!(success(&daemon.command(&["decrypt", "--lines", "--aad", "t"], new.as_bytes())), plain);
    let resumed = daemon.command(&["rewrap", "--lines", "--aad", "t", "--start", "1999"], sealed.as_bytes());
    assert_eq!(success(&resumed).lines().count(), 2);
}

#[test]
fn a_census_counts_every_key_and_asks_for_nothing_secret() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[]);
    let old = daemon.encrypt("a");
    server.put_record("second", KEY);
    daemon.sync();
    let input = format!("{old}\n{old}\n{}\nkr1:gone:AAAA\nnonsense\n", daemon.encrypt("b"));
    let census = success(&daemon.command(&["rewrap", "--lines", "--census"], input.as_bytes()));
    let lines: Vec<_> = census.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "1  second  version 2  active",
            "2  first  version 1  live",
            "1  no ciphertext",
            "1  gone: the daemon has no such key"
        ]
    );
    assert_eq!(daemon.metric("keyringd_requests_total{operation=\"rewrap\",outcome=\"success\"}"), 0);
}

#[test]
fn a_census_is_json_for_programs_and_knows_every_key_of_a_large_keyring() {
    let server = OpenBao::shared();
    // More than one page of the status, and no more per version than OpenBao takes.
    for from in (0..1500).step_by(300) {
        let keys = (from..from + 300).map(|at| (format!("k{at}"), json!(KEY)));
        let keys: serde_json::Map<_, _> = keys.collect();
        server.put(&json!({ "active": format!("k{}", from + 299), "keys": keys }));
    }
    let daemon = Daemon::start(&server, &[]);
    let lines: Vec<_> = (0..1500).map(|at| format!("kr1:k{at}:AAAA\n")).collect();
    let input = lines.concat() + "kr1:gone:AAAA\nnonsense\n$ke$1$-k7-00-00\n";
    let census = success(&daemon.command(&["rewrap", "--census", "--json"], input.as_bytes()));
    let census: Value = serde_json::from_str(&census).unwrap();
    let counted = census["keys"].as_array().unwrap();
    assert_eq!(counted.len(), 1500);
    for key in counted {
        let count = if key["id"] == "k7" { 2 } else { 1 };
        assert_eq!(key["count"], count, "{key}");
    }
    assert_eq!(counted.iter().filter(|key| key["state"] == "active").count(), 1);
    assert_eq!(census["others"], json!([{ "key": "gone", "count": 1 }]));
    assert_eq!(census["no_ciphertext"], 1);
    let text = success(&daemon.command(&["rewrap", "--census"], input.as_bytes()));
    assert_eq!(text.lines().count(), 1502);
    assert_eq!(daemon.command(&["rewrap", "--json"], b"").status.code(), Some(2));
    assert_eq!(success(&daemon.command(&["sync"], b"")), "active k1499 (version 5), 1500 keys\n");
}

#[test]
fn json_lines_have_their_ids_and_associated_data_and_their_own_errors() {
    let daemon = Daemon::dev();
    let input = format!(
        "{}\n{}\n",
        json!({ "id": 1, "plaintext": "größe", "aad": "row 1" }),
        json!({ "id": "two", "plaintext_base64": "AP8=" })
    );
    let sealed = success(&daemon.command(&["encrypt", "--ndjson"], input.as_bytes()));
    let opened = success(&daemon.command(&["decrypt", "--lines"], sealed.as_bytes()));
    let values: Vec<Value> = opened.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        values,
        [
            json!({ "id": 1, "plaintext": "größe", "aad": "row 1" }),
            json!({ "id": "two", "plaintext_base64": "AP8=" })
        ]
    );

    let wrong = sealed.replace("row 1", "row 2");
    let partly = daemon.command(&["decrypt", "--lines"], wrong.as_bytes());
    assert_eq!(partly.status.code(), Some(1));
    let lines = String::from_utf8(partly.stdout.clone()).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert!(first["id"] == 1 && first["error"].is_string() && lines.lines().count() == 2, "{lines}");
    assert!(
        errors(&partly).contains("line 1: ") && errors(&partly).contains("decrypted 1 of 2 values, 1 failed")
    );
}

#[test]
fn text_lines_stop_at_the_first_failure_and_say_where_to_go_on() {
    let daemon = Daemon::dev();
    let input = format!("{}\nnonsense\n{}\n", daemon.encrypt("one"), daemon.encrypt("three"));
    let stopped = daemon.command(&["decrypt", "--lines"], input.as_bytes());
    assert_eq!((stopped.status.code(), stopped.stdout.as_slice()), (Some(1), b"one\n".as_slice()));
    assert!(errors(&stopped).contains("line 2: ") && errors(&stopped).contains("--start 2"), "{stopped:?}");
    let rest = daemon.command(&["decrypt", "--lines", "--start", "3"], input.as_bytes());
    assert_eq!(success(&rest), "three\n");
    // A rewrap has pairs, so it goes on.
    let rewrapped = daemon.command(&["rewrap", "--lines"], b"nonsense\n");
    assert_eq!((rewrapped.status.code(), rewrapped.stdout.as_slice()), (Some(1), b"".as_slice()));
    assert_eq!(daemon.command(&["decrypt", "--start", "3"], b"").status.code(), Some(1));
    // What is not even a line of the form: the values before it are done.
    let input = b"{\"plaintext\": \"one\"}\n{\"plaintext\": \"two\"}\nnonsense\n{\"plaintext\": \"four\"}\n";
    let stopped = daemon.command(&["encrypt", "--ndjson"], input);
    assert_eq!(stopped.status.code(), Some(1));
    let lines = String::from_utf8(stopped.stdout.clone()).unwrap();
    assert_eq!(lines.matches("kr1:").count(), 2, "{lines}");
    assert!(errors(&stopped).contains("line 3: expected JSON of the form"), "{stopped:?}");
    assert!(errors(&stopped).contains("the lines before are done: go on with --start 3"), "{stopped:?}");
}

#[test]
fn a_start_beyond_the_end_of_the_lines_is_an_error() {
    let daemon = Daemon::dev();
    let input = format!("{}\n{}\n", daemon.encrypt("one"), daemon.encrypt("two"));
    let out = daemon.folder().join("out").display().to_string();
    for command in
        [["encrypt"].as_slice(), &["decrypt"], &["decrypt", "-o", &out], &["rewrap"], &["rewrap", "--census"]]
    {
        let from = |start: &str| {
            daemon.command(&[command, &["--lines", "--start", start]].concat(), input.as_bytes())
        };
        success(&from("2"));
        let _ = std::fs::remove_file(&out);
        let beyond = from("3");
        assert_eq!(
            (beyond.status.code(), beyond.stdout.as_slice()),
            (Some(1), b"".as_slice()),
            "{command:?}"
        );
        let message = errors(&beyond);
        let expected = "--start 3 is beyond the end of standard input, which has 2 lines: nothing was done";
        assert!(message.contains(expected) && !std::path::Path::new(&out).exists(), "{message}");
    }
    assert!(errors(&daemon.command(&["encrypt", "--lines", "--start", "2"], b"")).contains("has 0 lines"));
    success(&daemon.command(&["encrypt", "--lines"], b""));
}

#[test]
fn a_file_for_the_output_is_complete_or_stays_as_it_was() {
    let daemon = Daemon::dev();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let input = format!("{}\nnonsense\n", daemon.encrypt("one"));
    std::fs::write(path("in"), &input).unwrap();
    std::fs::write(path("out"), "precious").unwrap();
    let stopped =
        daemon.command(&["decrypt", "--lines", "-i", &path("in"), "-o", &path("out"), "--force"], b"");
    assert_eq!(stopped.status.code(), Some(1));
    let message = errors(&stopped);
    assert!(message.contains("line 2: ") && message.contains("out was not written"), "{message}");
    assert_eq!(std::fs::read_to_string(path("out")).unwrap(), "precious");
    for command in ["encrypt", "decrypt", "rewrap"] {
        let same =
            daemon.command(&[command, "--lines", "-i", &path("in"), "-o", &path("in"), "--force"], b"");
        assert!(
            errors(&same).contains("is the input and the output: with lines, choose another"),
            "{same:?}"
        );
        assert_eq!(std::fs::read_to_string(path("in")).unwrap(), input);
    }
    let unknown = ["encrypt", "--lines", "--name", "nope", "-i", &path("in"), "-o", &path("out"), "--force"];
    assert_eq!(daemon.command(&unknown, b"").status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(path("out")).unwrap(), "precious");
}
