//! The audit: which requests get a line, its fields, and that no client can flood the log.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Daemon, OpenBao, wait_for};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const ENCRYPT: &str = "/v1/transit/encrypt/keyring";
const DECRYPT: &str = "/v1/transit/decrypt/keyring";
const JSON: (&str, &str) = ("KONG_KEYRING_LOG_FORMAT", "json");

/// All fields that a line may have.
const FIELDS: [&str; 19] = [
    "timestamp",
    "level",
    "target",
    "message",
    "operation",
    "keyring",
    "outcome",
    "status",
    "uid",
    "gid",
    "pid",
    "path",
    "key_id",
    "items",
    "failed_items",
    "received",
    "sent",
    "microseconds",
    "repeated",
];

fn started(more: &[(&str, &str)]) -> (OpenBao, Daemon) {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, more);
    (server, daemon)
}

/// The audit's lines so far.
fn lines(daemon: &Daemon) -> Vec<Value> {
    let log = daemon.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "audit").collect()
}

#[test]
fn with_all_each_request_is_one_line_without_a_payload() {
    let (_server, daemon) = started(&[JSON, ("KONG_KEYRING_AUDIT", "all"), ("KONG_LOG_LEVEL", "error")]);
    let sealed = daemon.post(ENCRYPT, &json!({ "plaintext": "cGxhbnRlZA==" })).at("/data/ciphertext");
    daemon.decrypt(&sealed);
    let batch =
        json!({ "batch_input": [{ "ciphertext": sealed }, { "ciphertext": "kr1:planted:AAAA" }, {}] });
    daemon.post(DECRYPT, &batch);
    daemon.get("/status");
    daemon.get("/unserved-path?planted=1");
    daemon.get("/livez");
    let lines = wait_for("five lines", || Some(lines(&daemon)).filter(|lines| lines.len() >= 5));
    let seen: Vec<_> = lines
        .iter()
        .map(|line| format!("{} {} {}", line["operation"], line["outcome"], line["status"]).replace('"', ""))
        .collect();
    assert_eq!(
        seen,
        [
            "encrypt success 200",
            "decrypt success 200",
            "decrypt partial 400",
            "status success 200",
            "other invalid 404"
        ]
    );
    let us = nix::unistd::geteuid().as_raw();
    for line in &lines {
        let fields: BTreeSet<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(fields.iter().all(|field| FIELDS.contains(field)), "{line}");
        assert_eq!(line["uid"], us);
        assert!(
            line["pid"].as_i64().unwrap() > 0 && line["received"].is_u64() && line["sent"].is_u64(),
            "{line}"
        );
    }
    assert_eq!((&lines[0]["key_id"], &lines[1]["key_id"]), (&json!("first"), &json!("first")));
    assert_eq!(lines[4]["path"], "/unserved-path");
    assert_eq!((&lines[2]["items"], &lines[2]["failed_items"]), (&json!(3), &json!(2)));
    let log = daemon.log();
    let payload = sealed.rsplit(':').next().unwrap();
    for secret in ["planted", "cGxhbnRlZA", payload] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[test]
fn with_all_results_are_never_folded_and_aborted_requests_are_logged() {
    let (_server, mut daemon) = started(&[JSON, ("KONG_KEYRING_AUDIT", "all")]);
    let sealed = daemon.encrypt("x");
    let batch =
        json!({ "batch_input": [{ "ciphertext": sealed }, {}], "partial_failure_response_code": 200 });
    for _ in 0..20 {
        assert_eq!(daemon.post(DECRYPT, &batch).status, 200);
    }
    let all_bad = json!({ "batch_input": [{}, {}] });
    assert_eq!(daemon.post(DECRYPT, &all_bad).status, 400);
    // A client that disconnects during its request.
    let mut stream = daemon.connect();
    let head = format!("POST {DECRYPT} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{{");
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    let handled = || daemon.metric("keyringd_requests_in_flight") == 2;
    wait_for("it to be handled", || handled().then_some(()));
    drop(stream);
    let aborted = "keyringd_requests_total{operation=\"decrypt\",outcome=\"aborted\"}";
    let invalid = "keyringd_requests_total{operation=\"decrypt\",outcome=\"invalid\"}";
    wait_for("it to be counted", || (daemon.metric(aborted) + daemon.metric(invalid) == 2).then_some(()));
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.ended();
    let lines = lines(&daemon);
    let decrypts: Vec<_> = lines.iter().filter(|line| line["operation"] == "decrypt").collect();
    assert_eq!(decrypts.iter().filter(|line| line["outcome"] == "partial").count(), 20);
    assert_eq!(decrypts.len(), 22, "{decrypts:?}");
}

#[test]
fn failures_are_logged_by_default_and_nothing_with_off() {
    let (_server, daemon) = started(&[JSON]);
    daemon.encrypt("x");
    daemon.decrypt("kr1:first:AAAA");
    let lines = wait_for("a line", || Some(lines(&daemon)).filter(|lines| !lines.is_empty()));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["operation"], &lines[0]["level"]), (&json!("decrypt"), &json!("WARN")));

    let (_server, mut daemon) = started(&[JSON, ("KONG_KEYRING_AUDIT", "off")]);
    daemon.decrypt("kr1:first:AAAA");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.ended();
    assert!(!daemon.log().contains("audit"), "{}", daemon.log());
}

#[test]
fn failures_of_one_kind_are_folded_into_one_line_with_their_count() {
    let (_server, mut daemon) = started(&[]);
    for _ in 0..500 {
        assert_eq!(daemon.decrypt("kr1:first:AAAA").status, 400);
        assert_eq!(daemon.get("/nowhere").status, 404);
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.ended();
    let log = daemon.log();
    // How many failures each line covers.
    let counts = |operation: &str| -> Vec<u64> {
        let named = format!("operation=\"{operation}\"");
        let lines = log.lines().filter(|line| line.contains(&named));
        let repeated = |line: &str| line.split("repeated=").nth(1)?.trim().parse().ok();
        lines.map(|line| repeated(line).unwrap_or(1)).collect()
    };
    for operation in ["decrypt", "other"] {
        assert_eq!(counts(operation).iter().sum::<u64>(), 500, "every failure is logged or counted: {log}");
        assert!(counts(operation).len() < 10, "{log}");
    }
}
