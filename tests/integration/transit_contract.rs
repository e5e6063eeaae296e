//! The Transit contract, row by row: the same request to a real OpenBao and to the socket gives the same status and the
//! same JSON shape, unless the row names a documented difference.
//!
//! The rows are in `tests/vectors/transit-requests.txt`, which explains its own form. Both sides hold the same keys, so one
//! ciphertext or HMAC opens on both.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use serde_json::{Value, json};

use crate::support::{Daemon, OpenBao, http};

/// Fields that the socket adds to what OpenBao answers. `docs/transit.md` lists them.
const ADDITIONS: [&str; 8] = [
    "algorithm",
    "key_id",
    "key_info",
    "key_version",
    "mount_type",
    "needs_rewrap",
    "performance_standby",
    "valid",
];

/// One request, and the name of the difference that `docs/transit.md` documents for it.
struct Row {
    line: usize,
    text: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    difference: Option<(u16, String)>,
}

struct Table {
    rows: Vec<Row>,
    /// The text of each difference, by its name.
    reasons: BTreeMap<String, String>,
}

fn table(values: &[(&str, &str)]) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/transit-requests.txt");
    let text = fs::read_to_string(path).unwrap();
    let mut table = Table { rows: Vec::new(), reasons: BTreeMap::new() };
    for (at, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(difference) = line.strip_prefix("    = ") {
            let (status, reason) = difference.split_once(' ').unwrap();
            let row = table.rows.last_mut().unwrap();
            row.difference = Some((status.parse().unwrap(), reason.to_owned()));
        } else if let Some(reason) = line.strip_prefix("reason ") {
            let (name, text) = reason.split_once(": ").unwrap();
            table.reasons.insert(name.to_owned(), text.to_owned());
        } else {
            table.rows.push(Row::parse(at + 1, line, values));
        }
    }
    table
}

impl Row {
    fn parse(line: usize, text: &str, values: &[(&str, &str)]) -> Self {
        let (method, mut rest) = text.split_once(' ').unwrap();
        let mut headers = Vec::new();
        while let Some((header, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            let (name, value) = header.split_once(": ").unwrap();
            headers.push((name.to_owned(), value.to_owned()));
            rest = after;
        }
        let (path, body) = rest.split_once(' ').unwrap_or((rest, ""));
        let body = match body.strip_prefix("hex:") {
            Some(hex) => unhex(hex),
            None => {
                let fill = |text: String, (name, value): &(&str, &str)| text.replace(name, value);
                values.iter().fold(body.to_owned(), fill).into_bytes()
            }
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/v1/transit/{path}") };
        let (text, method) = (text.to_owned(), method.to_owned());
        Self { line, text, method, path, headers, body, difference: None }
    }

    /// Status, content type and JSON; the JSON is `null` where there is no body.
    fn ask(&self, mut stream: impl Read + Write, token: Option<&str>) -> (u16, Value) {
        let mut headers: Vec<_> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        headers.extend(token.map(|token| ("x-vault-token", token)));
        if self.method == "HEAD" {
            // The answer has a length and no body.
            write!(stream, "HEAD {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n", self.path).unwrap();
            for (name, value) in headers {
                write!(stream, "{name}: {value}\r\n").unwrap();
            }
            stream.write_all(b"\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(body, "", "{}", self.text);
            return (head.split(' ').nth(1).unwrap().parse().unwrap(), Value::Null);
        }
        let answer = http::exchange(stream, &self.method, &self.path, &headers, &self.body);
        let answer = answer.unwrap_or_else(|| panic!("no answer to {}", self.text));
        let json = if answer.body.is_empty() { Value::Null } else { answer.json() };
        (answer.status, json)
    }

    /// What is wrong with what was found: a difference that is not documented, or a documented one that is none.
    fn wrong(
        &self,
        found: Option<String>,
        our_status: u16,
        reasons: &BTreeMap<String, String>,
    ) -> Option<String> {
        match &self.difference {
            None => found,
            Some((_, reason)) if !reasons.contains_key(reason) => Some(format!("no reason {reason}")),
            Some(_) if found.is_none() => Some("no difference here: take the line out".to_owned()),
            Some((expected, _)) => found.filter(|_| *expected != our_status),
        }
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Where the shape of `ours` is another than that of `theirs`: a path in the JSON and what differs there.
fn differs(theirs: &Value, ours: &Value, at: &str) -> Option<String> {
    match (theirs, ours) {
        // How many messages there are, and what they say, is each server's own.
        (Value::Array(theirs), Value::Array(ours)) if at == "/errors" || at == "/warnings" => {
            let texts = |list: &[Value]| list.iter().all(Value::is_string);
            (!texts(theirs) || !texts(ours)).then(|| format!("{at}: not texts"))
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            if theirs.len() != ours.len() {
                return Some(format!("{at}: {} items, here {}", theirs.len(), ours.len()));
            }
            let mut items = theirs.iter().zip(ours).enumerate();
            items.find_map(|(number, (theirs, ours))| differs(theirs, ours, &format!("{at}/{number}")))
        }
        (Value::Object(theirs), Value::Object(ours)) => {
            let missing = theirs.keys().find(|name| !ours.contains_key(*name));
            if let Some(name) = missing {
                return Some(format!("{at}/{name}: missing here"));
            }
            let more =
                ours.keys().find(|name| !theirs.contains_key(*name) && !ADDITIONS.contains(&name.as_str()));
            if let Some(name) = more {
                return Some(format!("{at}/{name}: only here"));
            }
            theirs.iter().find_map(|(name, value)| differs(value, &ours[name], &format!("{at}/{name}")))
        }
        _ if kind(theirs) == kind(ours) => None,
        _ => Some(format!("{at}: {}, here {}", kind(theirs), kind(ours))),
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A Transit key of two versions in OpenBao, and a daemon that holds the same keys and HMAC keys.
fn both() -> (OpenBao, Daemon) {
    let server = OpenBao::dev();
    server.api("POST", "sys/mounts/transit", &json!({ "type": "transit" }));
    server.api("POST", "transit/keys/keyring", &json!({ "exportable": true }));
    server.api("POST", "transit/keys/keyring/rotate", &json!({}));
    let exported = |kind: &str, version: u64| {
        let path = format!("transit/export/{kind}/keyring/{version}");
        server.api("GET", &path, &Value::Null).at(&format!("/data/keys/{version}"))
    };
    for version in 1..=2 {
        server.put(&json!({
            "id": format!("transit-{version}"),
            "key": exported("encryption-key", version),
            "hmac_key": exported("hmac-key", version),
        }));
    }
    let settings = [("KONG_KEYRING_KEY_DERIVATION", "raw"), ("KONG_KEYRING_CIPHERTEXT_FORMAT", "transit")];
    let daemon = Daemon::start(&server, &settings);
    (server, daemon)
}

#[test]
fn each_odd_request_gets_openbaos_status_and_shape_or_a_documented_difference() {
    let (server, daemon) = both();
    let made = |path: &str, body: &Value, field: &str| {
        server.api("POST", &format!("transit/{path}/keyring"), body).at(&format!("/data/{field}"))
    };
    let text = "aGVsbG8=";
    let values = [
        ("$NEW", made("encrypt", &json!({ "plaintext": text }), "ciphertext")),
        ("$OLD", made("encrypt", &json!({ "plaintext": text, "key_version": 1 }), "ciphertext")),
        ("$AAD", made("encrypt", &json!({ "plaintext": text, "associated_data": "cm93IDc=" }), "ciphertext")),
        ("$HMAC512", made("hmac", &json!({ "input": text, "algorithm": "sha2-512" }), "hmac")),
        ("$HMAC1", made("hmac", &json!({ "input": text, "key_version": 1 }), "hmac")),
        ("$HMAC", made("hmac", &json!({ "input": text }), "hmac")),
    ];
    let values = values.each_ref().map(|(name, value)| (*name, value.as_str()));
    let Table { rows, reasons } = table(&values);
    assert!(rows.len() >= 300, "{} rows", rows.len());

    let mut report = String::new();
    for row in &rows {
        let stream = TcpStream::connect(server.address().strip_prefix("http://").unwrap()).unwrap();
        let (status, theirs) = row.ask(stream, Some(server.token()));
        let (our_status, ours) = row.ask(daemon.connect(), None);
        let found = if status == our_status {
            differs(&theirs, &ours, "")
        } else {
            Some(format!("{status}, here {our_status}"))
        };
        let Some(wrong) = row.wrong(found, our_status, &reasons) else { continue };
        let _ = writeln!(
            report,
            "{}: {}\n    {wrong}\n    theirs {theirs}\n    ours   {ours}",
            row.line, row.text
        );
    }
    assert!(report.is_empty(), "{} of {} rows:\n{report}", report.matches("theirs").count(), rows.len());
}

#[test]
fn the_page_lists_every_difference_and_nothing_that_is_none() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/transit.md")).unwrap();
    let Table { rows, reasons } = table(&[]);
    for (name, text) in &reasons {
        assert!(page.contains(&format!("- {text}\n")), "docs/transit.md has no line `- {text}`");
        let used = rows.iter().any(|row| row.difference.as_ref().is_some_and(|(_, reason)| reason == name));
        assert!(used, "no row has the difference {name}");
    }
    for field in ADDITIONS {
        assert!(page.contains(&format!("`{field}`")), "docs/transit.md does not list {field}");
    }
}

#[test]
fn hmacs_and_hashes_are_openbaos_byte_for_byte() {
    let (server, daemon) = both();
    let same = |path: &str, body: &Value, field: &str| {
        let theirs = server.api("POST", &format!("transit/{path}"), body).at(&format!("/data/{field}"));
        let ours = daemon.post(&format!("/v1/transit/{path}"), body).at(&format!("/data/{field}"));
        assert_eq!(ours, theirs, "{path} {body}");
    };
    for family in ["sha2", "sha3"] {
        for bits in [224, 256, 384, 512] {
            for input in ["", "aGVsbG8="] {
                same(&format!("hash/{family}-{bits}"), &json!({ "input": input }), "sum");
                same(&format!("hash/{family}-{bits}"), &json!({ "input": input, "format": "base64" }), "sum");
                for version in [0, 1, 2] {
                    let body = json!({ "input": input, "key_version": version });
                    same(&format!("hmac/keyring/{family}-{bits}"), &body, "hmac");
                }
            }
        }
    }
    let body = json!({ "input": "aGVsbG8=", "batch_input": [{ "input": "YQ==" }] });
    assert_eq!(daemon.post("/v1/transit/hmac/keyring", &body).status, 400);
}
