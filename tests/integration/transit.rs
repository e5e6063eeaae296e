//! Encrypt and decrypt as Transit's clients use them: OpenBao's command line, and responses compared with a real Transit.

use std::process::Command;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::support::{Daemon, OpenBao, openbao, success, tool};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const ENCRYPT: &str = "/v1/transit/encrypt/keyring";
const DECRYPT: &str = "/v1/transit/decrypt/keyring";

fn started() -> (OpenBao, Daemon) {
    let server = OpenBao::shared();
    server.put_record("8zgITLQh", KEY);
    let daemon = Daemon::start(&server, &[]);
    (server, daemon)
}

#[test]
fn openbaos_command_line_round_trips() {
    let (_server, daemon) = started();
    let bao = |arguments: &[&str]| {
        let output = Command::new(openbao::program())
            .args(arguments)
            .env("HOME", daemon.folder())
            .env("BAO_ADDR", format!("unix://{}", daemon.socket().display()))
            .env("VAULT_ADDR", format!("unix://{}", daemon.socket().display()))
            .output()
            .unwrap();
        success(&output).trim().to_owned()
    };
    let plaintext = format!("plaintext={}", BASE64_STANDARD.encode("hello"));
    let sealed = bao(&["write", "-field=ciphertext", "transit/encrypt/keyring", &plaintext]);
    assert!(sealed.starts_with("kr1:8zgITLQh:"), "{sealed}");
    let opened =
        bao(&["write", "-field=plaintext", "transit/decrypt/keyring", &format!("ciphertext={sealed}")]);
    assert_eq!(opened, "aGVsbG8=");
    let table = bao(&["write", "transit/decrypt/keyring", &format!("ciphertext={sealed}")]);
    assert!(table.contains("needs_rewrap") && table.contains("8zgITLQh"), "{table}");
}

#[test]
fn curl_round_trips_and_put_is_the_same_as_post() {
    let (_server, daemon) = started();
    for method in ["POST", "PUT"] {
        let curl = |path: &str, body: &Value| {
            let output = tool("curl")
                .args(["-sS", "--fail-with-body", "-X", method, "--unix-socket"])
                .arg(daemon.socket())
                .arg(format!("http://localhost{path}"))
                .args(["-H", "X-Vault-Token: ignored", "-d", &body.to_string()])
                .output()
                .unwrap();
            serde_json::from_str::<Value>(&success(&output)).unwrap()
        };
        let sealed = curl(ENCRYPT, &json!({ "plaintext": "aGVsbG8=", "type": "aes256-gcm96" }));
        let opened = curl(DECRYPT, &json!({ "ciphertext": sealed["data"]["ciphertext"] }));
        assert_eq!(opened["data"]["plaintext"], "aGVsbG8=");
    }
}

#[test]
fn a_batch_with_one_bad_item_answers_like_transit() {
    let (server, daemon) = started();
    server.api("POST", "sys/mounts/transit", &json!({ "type": "transit" }));
    server.api("POST", "transit/keys/keyring", &json!({}));
    // The shape of a response: its status, and whether each item is a result or an error, with its reference.
    let shape = |status: u16, body: &Value| {
        let results = body["data"]["batch_results"].as_array().unwrap().clone();
        let fields = |item: &Value| {
            let kind = if item.get("error").is_some() { "error" } else { "result" };
            format!("{kind} {}", item["reference"])
        };
        (status, results.iter().map(fields).collect::<Vec<_>>())
    };
    let good = json!({ "plaintext": "aGVsbG8=", "reference": "good \"one\"" });
    let bad = json!({ "plaintext": "!!", "reference": "bad" });
    for body in [
        json!({ "batch_input": [good, bad, good] }),
        json!({ "plaintext": null, "batch_input": [good, bad], "partial_failure_response_code": 207 }),
        json!({ "batch_input": [bad, bad], "partial_failure_response_code": 207 }),
        json!({ "batch_input": [good, good], "partial_failure_response_code": 207 }),
        json!({ "batch_input": [{ "plaintext": "" }] }),
    ] {
        let theirs = server.try_api("POST", "transit/encrypt/keyring", &body).unwrap();
        let ours = daemon.post(ENCRYPT, &body);
        assert_eq!(shape(ours.status, &ours.json()), shape(theirs.status, &theirs.json()), "{body}");
    }

    let sealed = daemon.encrypt("hello");
    let batch = json!({ "batch_input": [{ "ciphertext": sealed, "reference": "a" }, { "ciphertext": "kr1:8zgITLQh:AAAA" }, {}] });
    let answer = daemon.post(DECRYPT, &batch);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.at("/data/batch_results/0/plaintext"), "aGVsbG8=");
    assert_eq!(answer.at("/data/batch_results/0/reference"), "a");
    assert!(answer.at("/data/batch_results/1/error").starts_with("decryption failed"));
    assert_eq!(answer.at("/data/batch_results/2/error"), "missing ciphertext");
}

#[test]
fn an_empty_plaintext_is_encrypted_as_in_transit() {
    let (_server, daemon) = started();
    assert_eq!(daemon.opened(&daemon.encrypt("")), "");
    let answer = daemon.post(ENCRYPT, &json!({ "plaintext": null }));
    assert_eq!((answer.status, answer.at("/errors/0")), (400, "missing plaintext".to_owned()));
    assert_eq!(daemon.post(ENCRYPT, &json!({ "batch_input": [] })).status, 400);
}

#[test]
fn damaged_and_foreign_ciphertexts_get_one_message() {
    let (_server, daemon) = started();
    let body = json!({ "plaintext": "aGVsbG8=", "associated_data": BASE64_STANDARD.encode("row 7") });
    let sealed = daemon.post(ENCRYPT, &body).at("/data/ciphertext");
    let decrypt = |ciphertext: &str, associated_data: &str| {
        let body =
            json!({ "ciphertext": ciphertext, "associated_data": BASE64_STANDARD.encode(associated_data) });
        daemon.post(DECRYPT, &body)
    };
    assert_eq!(decrypt(&sealed, "row 7").at("/data/plaintext"), "aGVsbG8=");

    let mut messages = std::collections::BTreeSet::new();
    let mut refused = |ciphertext: &str, associated_data: &str| {
        let answer = decrypt(ciphertext, associated_data);
        assert_eq!(answer.status, 400, "{ciphertext}");
        messages.insert(answer.at("/errors/0"));
    };
    let body_at = "kr1:8zgITLQh:".len();
    for at in body_at..sealed.len() {
        let flipped = if &sealed[at..=at] == "A" { "B" } else { "A" };
        refused(&[&sealed[..at], flipped, &sealed[at + 1..]].concat(), "row 7");
        refused(&sealed[..at], "row 7");
    }
    refused(&sealed, "row 8");
    refused(&sealed, "");
    refused(&format!("{sealed}AAAA"), "row 7");
    refused("vault:v1:AAAA", "row 7");
    refused("kr1:no good id:AAAA", "row 7");
    assert_eq!(messages.len(), 1, "{messages:?}");
}

#[test]
fn what_transit_ignores_is_ignored_here() {
    let (server, daemon) = started();
    server.api("POST", "sys/mounts/transit", &json!({ "type": "transit" }));
    server.api("POST", "transit/keys/keyring", &json!({}));
    let lines = BASE64_STANDARD
        .encode(vec![7; 100])
        .as_bytes()
        .chunks(76)
        .map(<[u8]>::to_vec)
        .collect::<Vec<_>>()
        .join(&b"\n"[..]);
    for body in [
        json!({ "plaintext": String::from_utf8(lines).unwrap() }),
        json!({ "plaintext": "YQ==", "context": "", "nonce": null }),
        json!({ "batch_input": [{ "plaintext": "YQ==", "nonce": "" }], "partial_failure_response_code": "202" }),
    ] {
        let theirs = server.try_api("POST", "transit/encrypt/keyring", &body).unwrap();
        assert_eq!((daemon.post(ENCRYPT, &body).status, theirs.status), (200, 200), "{body}");
    }
    let sealed = daemon.post(ENCRYPT, &json!({ "plaintext": "aGVs\nbG8=\r\n" })).at("/data/ciphertext");
    assert_eq!(daemon.opened(&sealed), "hello");
}

#[test]
fn fields_that_would_change_the_meaning_are_refused_by_name() {
    let (_server, daemon) = started();
    for field in ["nonce", "iv", "context", "convergent_encryption", "derived", "key_version"] {
        let answer = daemon.post(ENCRYPT, &json!({ "plaintext": "aGVsbG8=", field: "x" }));
        assert_eq!(answer.status, 400);
        assert!(answer.at("/errors/0").contains(field), "{answer:?}");
    }
    let answer = daemon.post("/v1/transit/encrypt/other", &json!({ "plaintext": "aGVsbG8=" }));
    assert_eq!(answer.status, 404);
    assert!(answer.at("/errors/0").contains("called keyring"), "{answer:?}");
    let answer = daemon.get(ENCRYPT);
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST, PUT")));
}

#[test]
fn kongs_cluster_endpoints_name_the_alternative() {
    let (_server, daemon) = started();
    for path in ["generate", "activate", "remove", "import", "import/raw", "export", "recover"] {
        let answer = daemon.post(&format!("/keyring/{path}"), &json!({}));
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.at("/error").contains("write a new version of the secret"), "{answer:?}");
    }
}
