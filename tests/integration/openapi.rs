//! `docs/openapi.yaml` describes what a running daemon answers. `tests/openapi/check.py` has the rules; every operation and
//! every status of the file needs an exchange here.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    references::everything,
    support::{Daemon, OpenBao, python, success, tool, wait_for},
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const ENCRYPT: &str = "/v1/transit/encrypt/{name}";
const DECRYPT: &str = "/v1/transit/decrypt/{name}";
const REWRAP: &str = "/v1/transit/rewrap/{name}";
const HMAC: &str = "/v1/transit/hmac/{name}";
const VERIFY: &str = "/v1/transit/verify/{name}";
const RESOLVE: &str = "/v1/resolve";
const RAW: &str = "application/octet-stream";
const JSON: &str = "application/json";

/// Requests with their answers, as lines for `check.py`.
struct Recorder {
    lines: String,
}

impl Recorder {
    /// Sends JSON, or nothing.
    fn send(&mut self, daemon: &Daemon, method: &str, path: &str, body: &Value) -> Value {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.send_as(daemon, method, path, &[("content-type", JSON)], &text)
    }

    /// `path` is one of the file. Returns the answer's body.
    fn send_as(
        &mut self,
        daemon: &Daemon,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Value {
        let (template, query) = path.split_once('?').unwrap_or((path, ""));
        let real = [
            ("{name}", "keyring"),
            ("{mount}", "transit"),
            ("{algorithm}", "sha2-512"),
            ("{source}", "all"),
            ("{bytes}", "16"),
            ("{sourceOrBytes}", "16"),
        ];
        let real = real.iter().fold(path.to_owned(), |path, (from, to)| path.replace(from, to));
        let answer = daemon.request_with(method, &real, headers, body.as_bytes());
        let as_value = |text: &str, kind: Option<&str>| match kind {
            _ if text.is_empty() => Value::Null,
            Some(JSON) => serde_json::from_str(text).unwrap(),
            _ => text.into(),
        };
        let request_type = headers.iter().find(|(name, _)| *name == "content-type").map(|(_, kind)| *kind);
        let kind = answer.header("content-type").unwrap_or_default();
        let body_of_answer = as_value(&answer.text(), Some(kind));
        self.push(&json!({
            "path": template, "method": method, "query": query, "request_type": request_type,
            "request": as_value(body, request_type), "status": answer.status, "type": kind, "answer": &body_of_answer,
        }));
        body_of_answer
    }

    /// The answer has the length of a body, and none.
    fn send_head(&mut self, daemon: &Daemon, path: &str) {
        let mut stream = daemon.connect();
        write!(stream, "HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        self.push(&json!({
            "path": path, "method": "HEAD", "query": "", "request_type": null, "request": null,
            "status": status, "type": null, "answer": null,
        }));
    }

    fn push(&mut self, exchange: &Value) {
        writeln!(self.lines, "{exchange}").unwrap();
    }
}

#[test]
fn the_openapi_file_describes_the_answers_of_a_daemon() {
    let mut server = OpenBao::dev();
    server.put_record("first", KEY);
    let access = everything();
    let sizes = [("KONG_KEYRING_MAX_REQUEST_SIZE", "4m"), ("KONG_KEYRING_MAX_INFLIGHT_SIZE", "16m")];
    let daemon = Daemon::start(&server, &[sizes.as_slice(), &[("KONG_KEYRING_ACCESS", &access)]].concat());
    let mut recorder = Recorder { lines: String::new() };
    payloads(&mut recorder, &daemon);
    tools(&mut recorder, &daemon);
    references(&mut recorder, &daemon, &server);
    operators(&mut recorder, &daemon);
    refusals(&mut recorder, &daemon);
    let denying = Daemon::start(&server, &[("KONG_KEYRING_ACCESS", "uid:65533=encrypt")]);
    server.stop();
    let without_keys = Daemon::start_unready(&server, &[]);
    failures(&mut recorder, &denying, &without_keys);
    check(&recorder.lines);
}

/// Encrypt, decrypt and rewrap: one, a batch, a batch that fails in part, and raw bytes.
fn payloads(recorder: &mut Recorder, daemon: &Daemon) {
    let with =
        |field: &str, value: &Value| json!({ field: value, "associated_data": "YQ==", "context": "Yg==" });
    let plaintext = with("plaintext", &"aGVsbG8=".into());
    let sealed = recorder.send(daemon, "POST", ENCRYPT, &plaintext)["data"]["ciphertext"].clone();
    let (opens, fails) = (with("ciphertext", &sealed), json!({ "ciphertext": "kr1:first:AAAA" }));
    for (path, good, bad) in [
        (ENCRYPT, plaintext, json!({ "plaintext": "A" })),
        (DECRYPT, opens.clone(), fails.clone()),
        (REWRAP, opens, fails),
    ] {
        recorder.send(daemon, "POST", path, &good);
        recorder.send(
            daemon,
            "POST",
            path,
            &json!({ "batch_input": [good], "partial_failure_response_code": 200 }),
        );
        recorder.send(daemon, "POST", path, &json!({ "batch_input": [good, bad] }));
        recorder.send(daemon, "POST", path, &json!({}));
    }
    let headers = [("content-type", RAW), ("keyring-associated-data", "YQ==")];
    recorder.send_as(daemon, "POST", ENCRYPT, &headers, "hello");
    recorder.send(daemon, "POST", "/v1/transit/datakey/plaintext/{name}", &json!({ "bits": 128 }));
    recorder.send(
        daemon,
        "POST",
        "/v1/transit/datakey/wrapped/{name}",
        &json!({ "associated_data": "YQ==" }),
    );
}

/// HMACs, hashes and random bytes.
fn tools(recorder: &mut Recorder, daemon: &Daemon) {
    let input = json!({ "input": "aGVsbG8=" });
    let index = json!({ "input": "aGVsbG8=", "associated_data": "YQ==", "bits": 10, "key_version": 1 });
    let mac = recorder.send(daemon, "POST", HMAC, &input)["data"]["hmac"].clone();
    recorder.send(daemon, "POST", HMAC, &index);
    recorder.send(daemon, "POST", HMAC, &json!({ "batch_input": [input, index, { "input": "A" }] }));
    recorder.send_as(
        daemon,
        "POST",
        HMAC,
        &[("content-type", "application/x-www-form-urlencoded")],
        "input=aGVsbG8=",
    );
    let long =
        recorder.send(daemon, "POST", "/v1/transit/hmac/{name}/{algorithm}", &input)["data"]["hmac"].clone();
    let verified = |mac: &Value| json!({ "input": "aGVsbG8=", "hmac": mac });
    recorder.send(daemon, "POST", VERIFY, &verified(&mac));
    recorder.send(
        daemon,
        "POST",
        VERIFY,
        &json!({ "batch_input": [verified(&mac), verified(&"krm1:no:AAAA".into())] }),
    );
    recorder.send(daemon, "POST", "/v1/transit/verify/{name}/{algorithm}", &verified(&long));
    for tools in ["/v1/transit", "/v1/sys/tools"] {
        recorder.send(daemon, "POST", &format!("{tools}/random"), &json!({ "bytes": 4, "format": "hex" }));
        for rest in ["random/{sourceOrBytes}", "random/{source}/{bytes}"] {
            recorder.send(daemon, "POST", &format!("{tools}/{rest}"), &Value::Null);
        }
        for rest in ["hash", "hash/{algorithm}"] {
            recorder.send(daemon, "POST", &format!("{tools}/{rest}"), &input);
        }
    }
}

fn references(recorder: &mut Recorder, daemon: &Daemon, server: &OpenBao) {
    server.api("POST", "secret/data/customer", &json!({ "data": { "name": "ACME" } }));
    let [good, bad] =
        ["name", "city"].map(|field| json!({ "reference": format!("{{vault://hcv/customer/{field}}}") }));
    recorder.send(daemon, "POST", RESOLVE, &good);
    recorder.send(daemon, "POST", RESOLVE, &bad);
    recorder.send(daemon, "POST", RESOLVE, &json!({ "batch_input": [good] }));
    recorder.send(daemon, "POST", RESOLVE, &json!({ "batch_input": [good, bad] }));
}

/// What has no body, or a small one.
fn operators(recorder: &mut Recorder, daemon: &Daemon) {
    for path in [
        "/v1/transit/keys/{name}",
        "/v1/transit/keys?list=true",
        "/v1/sys/health",
        "/v1/sys/seal-status",
        "/v1/sys/init",
        "/v1/sys/leader",
        "/v1/sys/internal/ui/mounts/{mount}",
        "/v1/auth/token/lookup-self",
        "/livez",
        "/readyz",
        "/readyz?name=other",
        "/metrics",
        "/status?page=1",
        "/keyring",
        "/keyring/active?name=keyring",
    ] {
        recorder.send_as(daemon, "GET", path, &[], "");
    }
    recorder.send_head(daemon, "/v1/sys/health");
    for path in ["/v1/auth/token/renew-self", "/reload", "/keyring/vault/sync"] {
        recorder.send_as(daemon, "POST", path, &[], "");
    }
    recorder.send(daemon, "POST", "/keyring/vault/sync", &json!({ "token": "wrong" }));
}

/// Each status of a request that the daemon refuses.
fn refusals(recorder: &mut Recorder, daemon: &Daemon) {
    let body = json!({ "plaintext": "aGVsbG8=" });
    let large = json!({ "plaintext": "A".repeat(2 << 20) });
    recorder.send(daemon, "POST", ENCRYPT, &json!({ "plaintext": "A".repeat(5 << 20) }));
    recorder.send_as(daemon, "DELETE", ENCRYPT, &[], "");
    recorder.send_as(
        daemon,
        "POST",
        ENCRYPT,
        &[("content-type", JSON), ("content-encoding", "gzip")],
        &body.to_string(),
    );
    let stalled: Vec<_> = (0..4).map(|_| stalled(daemon, 3 << 20)).collect();
    wait_for("the bodies to be held", || {
        (daemon.metric("keyringd_inflight_bytes") >= 12 << 20).then_some(())
    });
    recorder.send(daemon, "POST", ENCRYPT, &large);
    drop(stalled);
}

/// A request whose body lacks one byte.
fn stalled(daemon: &Daemon, bytes: usize) -> impl Sized + use<> {
    let mut stream = daemon.connect();
    let length = bytes + 1;
    write!(
        stream,
        "POST /v1/transit/encrypt/keyring HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
    )
    .unwrap();
    stream.write_all(&vec![b'A'; bytes]).unwrap();
    stream
}

/// A peer without a permission, and a daemon without keys.
fn failures(recorder: &mut Recorder, denying: &Daemon, without_keys: &Daemon) {
    for daemon in [denying, without_keys] {
        recorder.send(daemon, "POST", ENCRYPT, &json!({ "plaintext": "aGVsbG8=" }));
        recorder.send(daemon, "POST", DECRYPT, &json!({ "ciphertext": "kr1:first:AAAA" }));
        recorder.send(daemon, "POST", RESOLVE, &json!({ "reference": "{vault://hcv/customer/name}" }));
        for path in ["/v1/sys/health", "/v1/sys/seal-status", "/readyz", "/metrics", "/status", "/keyring"] {
            recorder.send_as(daemon, "GET", path, &[], "");
        }
        recorder.send_head(daemon, "/v1/sys/health");
    }
}

fn check(lines: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let [file, exchanges] = ["openapi.json", "exchanges"].map(|name| folder.path().join(name));
    let text = fs::read_to_string(root.join("docs/openapi.yaml")).unwrap();
    fs::write(&file, serde_saphyr::from_str::<Value>(&text).unwrap().to_string()).unwrap();
    fs::write(&exchanges, lines).unwrap();
    let mut command = tool("python3");
    command.arg(root.join("tests/openapi/check.py")).arg(file).arg(exchanges);
    command.env("PYTHONPATH", python::packages("openapi-requirements.txt"));
    success(&command.output().unwrap());
}
