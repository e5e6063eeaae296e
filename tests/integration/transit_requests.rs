//! What a Transit request may be beyond a name and a plaintext: key versions, mounts, headers, associated data of any size,
//! and the questions before it. The comparison with OpenBao is in `transit_contract`.

use std::{collections::HashSet, io::Write as _};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::{
    limits::started,
    support::{Daemon, OpenBao, http},
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const ENCRYPT: &str = "/v1/transit/encrypt/keyring";
const DECRYPT: &str = "/v1/transit/decrypt/keyring";

#[test]
fn every_success_has_an_envelope_with_an_id_of_its_own() {
    let (_server, daemon) = started(&[]);
    let plaintext = json!({ "plaintext": "aGVsbG8=" });
    let sealed = daemon.post(ENCRYPT, &plaintext).at("/data/ciphertext");
    let mut ids = HashSet::new();
    for answer in [
        daemon.post(ENCRYPT, &plaintext),
        daemon.post(ENCRYPT, &json!({ "batch_input": [plaintext] })),
        daemon.post(DECRYPT, &json!({ "ciphertext": sealed })),
        daemon.post("/v1/transit/datakey/plaintext/keyring", &Value::Null),
        daemon.post("/v1/transit/random", &json!({})),
        daemon.get("/v1/transit/keys/keyring"),
        daemon.request("LIST", "/v1/transit/keys", b""),
        daemon.get("/v1/auth/token/lookup-self"),
    ] {
        assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
        let mut json = answer.json();
        let id = json["request_id"].take();
        assert_eq!(id.as_str().map(str::len), Some(36), "{answer:?}");
        assert!(ids.insert(id.as_str().unwrap().to_owned()), "{id} twice");
        json["data"].take();
        let expected = json!({
            "request_id": null, "lease_id": "", "renewable": false, "lease_duration": 0, "data": null,
            "wrap_info": null, "warnings": null, "auth": null, "mount_type": "transit",
        });
        assert_eq!(json, expected);
    }
}

#[test]
fn a_key_version_seals_under_that_version_while_vault_lists_it() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[]);
    for id in ["second", "third"] {
        server.put_record(id, &format!("{id}{KEY}"));
    }
    daemon.sync();
    let sealed =
        |version: u64| daemon.post(ENCRYPT, &json!({ "plaintext": "aGVsbG8=", "key_version": version }));
    for (version, id) in [(0, "third"), (1, "first"), (2, "second"), (3, "third")] {
        let answer = sealed(version);
        assert_eq!(answer.at("/data/key_id"), id, "{answer:?}");
        assert!(answer.at("/data/ciphertext").starts_with(&format!("kr1:{id}:")));
        assert_eq!(daemon.opened(&answer.at("/data/ciphertext")), "hello");
    }
    let old = sealed(1).at("/data/ciphertext");
    let rewrapped = json!({ "ciphertext": old, "key_version": 2 });
    assert_eq!(daemon.post("/v1/transit/rewrap/keyring", &rewrapped).at("/data/key_id"), "second");
    let made = daemon.post("/v1/transit/datakey/wrapped/keyring", &json!({ "key_version": "1" }));
    assert_eq!(made.at("/data/key_id"), "first");
    assert!(sealed(4).at("/errors/0").contains("latest key version is 3"));

    // Vault prunes the first version: what it sealed opens, and it seals no more.
    server.api("POST", "secret/metadata/keyring", &json!({ "max_versions": 3 }));
    server.put_record("fourth", &format!("fourth{KEY}"));
    daemon.sync();
    assert!(daemon.log().contains("retired") || daemon.get("/status").text().contains("retired"));
    let refused = sealed(1);
    assert_eq!(refused.status, 400);
    assert!(refused.at("/errors/0").contains("only decrypts"), "{refused:?}");
    assert_eq!(daemon.opened(&old), "hello");
    let key = daemon.get("/v1/transit/keys/keyring").json();
    assert_eq!(
        (&key["data"]["min_decryption_version"], &key["data"]["min_encryption_version"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(key["data"]["key_info"]["1"]["state"], "retired");
}

#[test]
fn any_mount_serves_transit_and_others_name_those() {
    let (_server, daemon) = started(&[("KONG_KEYRING_TRANSIT_MOUNTS", "transit, teams/billing/cipher")]);
    let plaintext = json!({ "plaintext": "aGVsbG8=" });
    for mount in ["transit", "teams/billing/cipher"] {
        assert_eq!(daemon.post(&format!("/v1/{mount}/encrypt/keyring"), &plaintext).status, 200, "{mount}");
        let described = daemon.get(&format!("/v1/sys/internal/ui/mounts/{mount}"));
        assert_eq!(described.at("/data/path"), format!("{mount}/"));
    }
    for mount in ["other", "teams", "transitx"] {
        let answer = daemon.post(&format!("/v1/{mount}/encrypt/keyring"), &plaintext);
        assert_eq!(answer.status, 404, "{mount}");
        let message = answer.at("/errors/0");
        assert!(
            message.contains("teams/billing/cipher") && message.contains("keyring_transit_mounts"),
            "{message}"
        );
    }
    let (_server, daemon) = started(&[("KONG_KEYRING_TRANSIT_MOUNTS", "only")]);
    assert_eq!(daemon.post("/v1/only/encrypt/keyring", &plaintext).status, 200);
    assert_eq!(daemon.post(ENCRYPT, &plaintext).status, 404);
}

#[test]
fn headers_that_would_change_the_meaning_are_refused_by_name() {
    let (_server, daemon) = started(&[]);
    let ask =
        |headers: &[(&str, &str)], body: &str| daemon.request_with("POST", ENCRYPT, headers, body.as_bytes());
    let body = r#"{"plaintext": "cGxhbnRlZA=="}"#;
    for (name, value, status) in [
        ("X-Vault-Wrap-TTL", "60s", 400),
        ("Content-Encoding", "gzip", 415),
        ("X-Vault-Namespace", "team", 404),
    ] {
        let answer = ask(&[(name, value)], body);
        assert_eq!(answer.status, status, "{name}");
        assert!(answer.at("/errors/0").contains(name), "{answer:?}");
        assert!(!answer.text().contains("ciphertext\""), "{answer:?}");
    }
    assert_eq!(ask(&[("X-Vault-Namespace", "root/"), ("Content-Encoding", "identity")], body).status, 200);
}

#[test]
fn forms_and_the_files_of_our_own_command_line_are_read() {
    let (_server, daemon) = started(&[]);
    let form = ("content-type", "application/x-www-form-urlencoded");
    let sealed = daemon.request_with("POST", ENCRYPT, &[form], b"plaintext=aGVsbG8%3D&key_version=1");
    let sealed = sealed.at("/data/ciphertext");
    assert_eq!(daemon.opened(&sealed), "hello");
    let file = daemon.command(&["encrypt"], b"hello").stdout;
    assert!(file.ends_with(b"\n"));
    let text = String::from_utf8(file).unwrap();
    assert_eq!(daemon.opened(&text), "hello", "a file with its line break");
    let body = b64_lines(&text);
    assert_eq!(daemon.opened(&body), "hello", "wrapped lines");
    for body in [b"" as &[u8], b"null", b"{}"] {
        let answer = daemon.request("POST", ENCRYPT, body);
        assert_eq!((answer.status, answer.at("/errors/0")), (400, "missing plaintext".to_owned()));
    }
    let missing = daemon.request("POST", DECRYPT, b"");
    assert_eq!((missing.status, missing.at("/errors/0")), (400, "missing ciphertext".to_owned()));
}

/// The same ciphertext with a line break every 20 characters of its base64.
fn b64_lines(text: &str) -> String {
    let (head, base64) = text.trim_end().rsplit_once(':').unwrap();
    let lines: Vec<_> = base64.as_bytes().chunks(20).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("{head}:{}", lines.join("\r\n"))
}

#[test]
fn associated_data_of_raw_bodies_may_fill_a_head_of_64_kib_and_more_is_a_431_in_json() {
    let (_server, daemon) = started(&[]);
    let octets = |operation: &str, associated_data: &str, body: &[u8]| {
        let headers =
            [("content-type", "application/octet-stream"), ("keyring-associated-data", associated_data)];
        daemon.request_with("POST", &format!("/v1/transit/{operation}/keyring"), &headers, body)
    };
    let large = BASE64_STANDARD.encode(vec![b'a'; 47 << 10]);
    let sealed = octets("encrypt", &large, b"hello");
    assert_eq!(sealed.status, 200, "{}", sealed.text());
    assert_eq!(octets("decrypt", &large, &sealed.body).body, b"hello");

    let too_large = BASE64_STANDARD.encode(vec![b'a'; 60 << 10]);
    let mut stream = daemon.connect();
    let head = format!("POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\nkeyring-associated-data: {too_large}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    let answer = http::read(stream).unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (431, Some("application/json")));
    assert!(answer.at("/errors/0").contains("65536"), "{answer:?}");
    // In JSON they may be as large as the request.
    let body = json!({ "plaintext": "aGVsbG8=", "associated_data": too_large });
    let sealed = daemon.post(ENCRYPT, &body).at("/data/ciphertext");
    let opened = daemon.post(DECRYPT, &json!({ "ciphertext": sealed, "associated_data": too_large }));
    assert_eq!(opened.at("/data/plaintext"), "aGVsbG8=");
}

#[test]
fn operations_on_the_keys_themselves_say_what_to_do_instead() {
    let (_server, daemon) = started(&[]);
    for (method, path, status) in [
        ("POST", "keys/keyring/rotate", 404),
        ("POST", "keys/keyring/config", 404),
        ("POST", "sign/keyring", 404),
        ("GET", "export/encryption-key/keyring", 404),
        ("GET", "backup/keyring", 404),
        ("POST", "keys/keyring", 405),
        ("DELETE", "keys/keyring", 405),
    ] {
        let answer = daemon.request(method, &format!("/v1/transit/{path}"), b"");
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(answer.at("/errors/0").contains("write a new record"), "{answer:?}");
    }
}

#[test]
fn a_long_input_has_the_hash_of_its_bytes_and_an_hmac_that_verifies() {
    let (_server, daemon) = started(&[]);
    let input = BASE64_STANDARD.encode(vec![b'a'; 5 << 20]);
    let answer = daemon.post("/v1/transit/hash/sha2-256", &json!({ "input": input, "format": "base64" }));
    let sum = <sha2::Sha256 as sha2::Digest>::digest(vec![b'a'; 5 << 20]);
    assert_eq!(answer.at("/data/sum"), BASE64_STANDARD.encode(sum));
    let made = daemon.post("/v1/transit/hmac/keyring", &json!({ "input": input })).at("/data/hmac");
    let verified = daemon.post("/v1/transit/verify/keyring", &json!({ "input": input, "hmac": made }));
    assert_eq!(verified.at("/data/valid"), "true");
}

#[test]
fn lookup_self_shows_the_peer_and_its_permissions_and_hmac_needs_its_own() {
    let uid = nix::unistd::getuid();
    let (_server, daemon) = started(&[("KONG_KEYRING_ACCESS", &format!("uid:{uid}=encrypt+decrypt"))]);
    let token = daemon.get("/v1/auth/token/lookup-self").json();
    assert_eq!(token["data"]["policies"], json!(["encrypt", "decrypt", "status", "metrics"]));
    assert_eq!(token["data"]["meta"]["uid"], uid.to_string());
    for path in ["hmac/keyring", "verify/keyring", "random", "hash"] {
        let answer = daemon.post(&format!("/v1/transit/{path}"), &json!({ "input": "" }));
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.at("/errors/0").contains(&format!("uid:{uid}=hmac")), "{answer:?}");
    }
    let (_server, daemon) = started(&[("KONG_KEYRING_ACCESS", "uid:1=all")]);
    assert_eq!(
        daemon.get("/v1/auth/token/lookup-self").json()["data"]["policies"],
        json!(["status", "metrics"])
    );
    assert_eq!(daemon.get("/v1/sys/health").status, 200);
}

#[test]
fn health_and_seal_status_say_sealed_until_there_are_keys() {
    let server = OpenBao::dev();
    let daemon = Daemon::start_unready(&server, &[]);
    let health = daemon.get("/v1/sys/health");
    assert_eq!((health.status, health.at("/sealed")), (503, "true".to_owned()));
    assert_eq!(daemon.get("/v1/sys/seal-status").at("/sealed"), "true");
    assert_eq!(daemon.get("/v1/sys/init").json(), json!({ "initialized": true }));
    server.put_record("first", KEY);
    daemon.request("POST", "/keyring/vault/sync", b"");
    daemon.wait_until_ready();
    let health = daemon.get("/v1/sys/health");
    assert_eq!((health.status, health.at("/sealed")), (200, "false".to_owned()));
}

#[test]
fn a_malformed_hmac_key_rejects_its_record_by_itself() {
    let (server, daemon) = started(&[]);
    for bad in [json!("planted"), json!(7), json!(BASE64_STANDARD.encode([7; 15]))] {
        server.put(&json!({ "id": "second", "key": "a key of thirty-two characters!!", "hmac_key": bad }));
        daemon.sync();
        assert_eq!(daemon.keyring(), "first of first", "{bad}");
        let status = daemon.get("/status").text();
        assert!(status.contains("hmac_key") && !status.contains("planted"), "{status}");
    }
    let given = BASE64_STANDARD.encode([7; 32]);
    server.put(&json!({ "id": "second", "key": "a key of thirty-two characters!!", "hmac_key": given }));
    daemon.sync();
    assert_eq!(daemon.active(), "second");
}
