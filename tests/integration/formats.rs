//! The ciphertext formats on the socket: a real Transit key's, Kong's own fields, raw bytes, and rewraps between them.

use std::io::Read as _;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::support::{Daemon, OpenBao, http};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const ENCRYPT: &str = "/v1/transit/encrypt/keyring";
const DECRYPT: &str = "/v1/transit/decrypt/keyring";
const REWRAP: &str = "/v1/transit/rewrap/keyring";

fn encode(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// A server with an exportable Transit key, whose versions are copied to the keyring's secret.
fn with_transit_key(versions: u64) -> OpenBao {
    let server = OpenBao::shared();
    server.api("POST", "sys/mounts/transit", &json!({ "type": "transit" }));
    server.api("POST", "transit/keys/keyring", &json!({ "exportable": true }));
    (1..versions).for_each(|_| drop(server.api("POST", "transit/keys/keyring/rotate", &json!({}))));
    let exported = server.api("GET", "transit/export/encryption-key/keyring", &Value::Null);
    for version in 1..=versions {
        let key = exported.at(&format!("/data/keys/{version}"));
        assert_eq!(server.put_record(&format!("transit-{version}"), &key), version);
    }
    server
}

const RAW: (&str, &str) = ("KONG_KEYRING_KEY_DERIVATION", "raw");
const TRANSIT: (&str, &str) = ("KONG_KEYRING_CIPHERTEXT_FORMAT", "transit");

#[test]
fn transits_ciphertexts_decrypt_here_and_ours_decrypt_there() {
    let server = with_transit_key(2);
    let daemon = Daemon::start(&server, &[RAW, TRANSIT]);
    for associated_data in ["", "row 7"] {
        for plaintext in ["", "hello", &"long ".repeat(10_000)] {
            let (plaintext, associated_data) = (encode(plaintext), encode(associated_data));
            let seal = json!({ "plaintext": plaintext, "associated_data": associated_data });
            let open = |sealed: String| json!({ "ciphertext": sealed, "associated_data": associated_data });

            let theirs = server.api("POST", "transit/encrypt/keyring", &seal).at("/data/ciphertext");
            assert!(theirs.starts_with("vault:v2:"), "{theirs}");
            let opened = daemon.post(DECRYPT, &open(theirs));
            assert_eq!(opened.at("/data/plaintext"), plaintext);
            assert_eq!(
                (opened.at("/data/key_id"), opened.at("/data/needs_rewrap")),
                ("transit-2".into(), "false".into())
            );

            let ours = daemon.post(ENCRYPT, &seal).at("/data/ciphertext");
            assert!(ours.starts_with("vault:v2:"), "{ours}");
            let opened = server.api("POST", "transit/decrypt/keyring", &open(ours));
            assert_eq!(opened.at("/data/plaintext"), plaintext);
        }
    }
}

#[test]
fn an_older_version_of_a_transit_key_is_rewrapped_and_an_unknown_one_named() {
    let server = with_transit_key(2);
    let older = json!({ "plaintext": encode("old"), "key_version": 1 });
    let older = server.api("POST", "transit/encrypt/keyring", &older).at("/data/ciphertext");
    assert!(older.starts_with("vault:v1:"), "{older}");
    let daemon = Daemon::start(&server, &[RAW, TRANSIT]);
    let opened = daemon.decrypt(&older);
    assert_eq!(
        (opened.at("/data/key_id"), opened.at("/data/needs_rewrap")),
        ("transit-1".into(), "true".into())
    );
    let rewrapped = daemon.post(REWRAP, &json!({ "ciphertext": older }));
    assert_eq!(rewrapped.at("/data/key_version"), "2");
    let opened = server.api(
        "POST",
        "transit/decrypt/keyring",
        &json!({ "ciphertext": rewrapped.at("/data/ciphertext") }),
    );
    assert_eq!(opened.at("/data/plaintext"), encode("old"));
    let unknown = daemon.decrypt(&older.replace("vault:v1:", "vault:v9:"));
    assert_eq!(unknown.status, 400);
    assert!(unknown.at("/errors/0").contains("version 9 is not in the keyring"), "{unknown:?}");
}

#[test]
fn a_new_version_of_a_transit_key_is_loaded_on_demand() {
    let server = with_transit_key(2);
    let daemon = Daemon::start(&server, &[RAW, ("KONG_KEYRING_SYNC_INTERVAL", "3600")]);
    server.api("POST", "transit/keys/keyring/rotate", &json!({}));
    let exported = server.api("GET", "transit/export/encryption-key/keyring", &Value::Null);
    server.put_record("transit-3", &exported.at("/data/keys/3"));
    let sealed = server.api("POST", "transit/encrypt/keyring", &json!({ "plaintext": encode("new") }));
    assert_eq!(daemon.opened(&sealed.at("/data/ciphertext")), "new");
}

#[test]
fn messages_under_a_transit_key_are_counted_in_status_and_metrics() {
    let server = with_transit_key(1);
    let daemon = Daemon::start(&server, &[RAW, TRANSIT]);
    let batch = json!({ "batch_input": vec![json!({ "plaintext": "YQ==" }); 7] });
    assert_eq!(daemon.post(ENCRYPT, &batch).status, 200);
    daemon.post("/v1/transit/datakey/wrapped/keyring", &json!({}));
    assert_eq!(daemon.metric("keyringd_messages{slot=\"active\"}"), 8);
    assert_eq!(daemon.get("/status").at("/keyring/keys/0/messages"), "8");
    assert_eq!(daemon.metric("keyringd_messages_budget"), 1 << 32);
    server.put_record("next", &BASE64_STANDARD.encode([9; 32]));
    daemon.sync();
    assert_eq!(daemon.metric("keyringd_messages{slot=\"active\"}"), 0);
    assert_eq!(daemon.metric("keyringd_messages{slot=\"other\"}"), 8, "a rotation keeps the counts");
}

fn with_kong_fields(on: &str) -> (OpenBao, Daemon) {
    let server = OpenBao::shared();
    server.put_record("8zgITLQh", KEY);
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_KONG_FIELDS", on)]);
    (server, daemon)
}

/// A computed vector of `vectors/kong-fields.json`.
const FIELD: &str = "$ke$1$-8zgITLQh-000102030405060708090a0b-438188bd8d";

#[test]
fn a_field_of_kongs_is_decrypted_rewrapped_and_written_only_on_request() {
    let (_server, daemon) = with_kong_fields("on");
    let opened = daemon.decrypt(FIELD);
    assert_eq!(
        (opened.at("/data/plaintext"), opened.at("/data/needs_rewrap")),
        (encode("hello"), "true".into())
    );
    let rewrapped = daemon.post(REWRAP, &json!({ "ciphertext": FIELD })).at("/data/ciphertext");
    assert!(rewrapped.starts_with("kr1:8zgITLQh:"), "{rewrapped}");
    assert_eq!(daemon.opened(&rewrapped), "hello");
    assert!(daemon.encrypt("x").starts_with("kr1:"));

    let seal = json!({ "plaintext": encode("hello"), "format": "kong" });
    let written = daemon.post(ENCRYPT, &seal).at("/data/ciphertext");
    assert!(written.starts_with("$ke$1$-8zgITLQh-"), "{written}");
    assert_eq!(daemon.opened(&written), "hello");
    let batch =
        json!({ "format": "kong", "batch_input": [{ "ciphertext": rewrapped }, { "ciphertext": "kr1:" }] });
    let given_back = daemon.post(REWRAP, &batch);
    let given_back = given_back.at("/data/batch_results/0/ciphertext");
    assert!(given_back.starts_with("$ke$1$-8zgITLQh-") && given_back != FIELD, "{given_back}");
    assert_eq!(daemon.opened(&given_back), "hello");
    assert_eq!(daemon.metric("keyringd_messages{slot=\"active\"}"), 2);
}

#[test]
fn fields_of_kongs_are_off_by_default_and_have_no_associated_data() {
    let (_server, daemon) = with_kong_fields("off");
    for (path, body, message) in [
        (DECRYPT, json!({ "ciphertext": FIELD }), "keyring_kong_fields = on"),
        (REWRAP, json!({ "ciphertext": FIELD }), "keyring_kong_fields = on"),
        (ENCRYPT, json!({ "plaintext": "YQ==", "format": "kong" }), "keyring_kong_fields = on"),
        (ENCRYPT, json!({ "plaintext": "YQ==", "format": "transit" }), "keyring_ciphertext_format = transit"),
        (ENCRYPT, json!({ "plaintext": "YQ==", "format": "rot13" }), "native, transit or kong"),
        (DECRYPT, json!({ "ciphertext": "kr1:", "format": "native" }), "decrypt reads every format"),
    ] {
        let refused = daemon.post(path, &body);
        assert_eq!(refused.status, 400, "{body}");
        assert!(refused.at("/errors/0").contains(message), "{refused:?}");
    }
    let (_server, daemon) = with_kong_fields("on");
    for (path, body) in [
        (ENCRYPT, json!({ "plaintext": "YQ==", "format": "kong", "associated_data": "YQ==" })),
        (DECRYPT, json!({ "ciphertext": FIELD, "associated_data": "YQ==" })),
    ] {
        let refused = daemon.post(path, &body);
        assert_eq!(refused.status, 400, "{body}");
        assert!(refused.at("/errors/0").contains("associated data"), "{refused:?}");
    }
}

const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

fn started() -> (OpenBao, Daemon) {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[]);
    (server, daemon)
}

#[test]
fn raw_bytes_round_trip_in_the_binary_form() {
    let (server, daemon) = started();
    let mut large = vec![0; 5 << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut large).unwrap();
    for plaintext in [b"".as_slice(), b"\0\xffhello", &large] {
        let sealed = daemon.request_with("POST", ENCRYPT, &[OCTETS], plaintext);
        assert_eq!((sealed.status, sealed.header("content-type")), (200, Some("application/octet-stream")));
        assert_eq!(sealed.header("keyring-key-id"), Some("first"));
        assert_eq!(sealed.header("keyring-key-version"), Some("1"));
        assert!(sealed.body.starts_with(b"KR1\x05first"));
        assert_eq!(sealed.body.len(), 3 + 1 + 5 + 24 + plaintext.len() + 16);
        let opened = daemon.request_with("PUT", DECRYPT, &[OCTETS], &sealed.body);
        assert_eq!((opened.status, opened.body.as_slice()), (200, plaintext));
        assert_eq!(opened.header("keyring-needs-rewrap"), Some("false"));
    }
    let sealed = daemon.request_with("POST", ENCRYPT, &[OCTETS], b"x").body;
    server.put_record("second", "another key of thirty-two characters");
    daemon.sync();
    let opened = daemon.request_with("POST", DECRYPT, &[OCTETS], &sealed);
    assert_eq!(
        (opened.header("keyring-key-id"), opened.header("keyring-needs-rewrap")),
        (Some("first"), Some("true"))
    );
}

#[test]
fn raw_bytes_authenticate_their_associated_data_and_every_bit() {
    let (_server, daemon) = started();
    let aad = encode("row 7");
    let bound = [OCTETS, ("keyring-associated-data", aad.as_str())];
    let sealed = daemon.request_with("POST", ENCRYPT, &bound, b"hello").body;
    assert_eq!(daemon.request_with("POST", DECRYPT, &bound, &sealed).body, b"hello");
    let refused = |headers: &[(&str, &str)], body: &[u8]| {
        let answer = daemon.request_with("POST", DECRYPT, headers, body);
        assert_eq!(answer.status, 400, "{answer:?}");
        answer.at("/errors/0")
    };
    let changed = |at: usize| {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        changed
    };
    let mut messages = vec![refused(&[OCTETS], &sealed), refused(&bound, &sealed[..sealed.len() - 1])];
    messages.extend([9, 32, 33, sealed.len() - 1].map(|at| refused(&bound, &changed(at))));
    assert!(messages.iter().all(|one| *one == messages[0]), "{messages:?}");
    assert!(messages[0].starts_with("decryption failed"), "{messages:?}");
    for formless in [b"".as_slice(), b"\xff\xff", &changed(0), &changed(2)] {
        let message = refused(&bound, formless);
        assert!(message.starts_with("not a ciphertext: expected kr1:"), "{message}");
    }
    for headers in [
        [OCTETS, ("keyring-associated-data", "planted"), ("x", "y")],
        [OCTETS, ("keyring-associated-data", "YQ=="), ("keyring-associated-data", "Yg==")],
    ] {
        let refused = daemon.request_with("POST", ENCRYPT, &headers, b"hello");
        assert_eq!(refused.status, 400);
        let message = refused.at("/errors/0");
        assert!(message.contains("Keyring-Associated-Data") && !message.contains("planted"), "{message}");
    }
    let refused = daemon.request_with("POST", REWRAP, &[OCTETS], &sealed);
    assert_eq!(refused.status, 415);
}

#[test]
fn text_forms_decrypt_as_raw_bytes_and_an_unknown_key_is_loaded_on_demand() {
    let (server, daemon) = started();
    let text = daemon.encrypt("hello") + "\n";
    let opened = daemon.request_with("POST", DECRYPT, &[OCTETS], text.as_bytes());
    assert_eq!((opened.status, opened.body.as_slice()), (200, b"hello".as_slice()));
    let patient = Daemon::start(&server, &[("KONG_KEYRING_SYNC_INTERVAL", "3600")]);
    server.put_record("second", "another key of thirty-two characters");
    daemon.sync();
    let sealed = daemon.request_with("POST", ENCRYPT, &[OCTETS], b"new").body;
    assert!(sealed.starts_with(b"KR1\x06second"));
    assert_eq!(patient.request_with("POST", DECRYPT, &[OCTETS], &sealed).body, b"new");
    let unknown = [b"KR1\x07missing".as_slice(), &sealed[10..]].concat();
    let answer = patient.request_with("POST", DECRYPT, &[OCTETS], &unknown);
    assert!(answer.at("/errors/0").contains("key \"missing\" is not in the keyring"), "{answer:?}");
}

#[test]
fn a_rewrap_of_a_batch_has_a_result_per_item() {
    let (server, daemon) = started();
    let aad = encode("row 7");
    let bound = json!({ "plaintext": encode("bound"), "associated_data": aad });
    let bound = daemon.post(ENCRYPT, &bound).at("/data/ciphertext");
    let old = daemon.encrypt("old");
    server.put_record("second", "another key of thirty-two characters");
    daemon.sync();
    let batch = json!({ "batch_input": [
        { "ciphertext": old, "reference": "a" },
        { "ciphertext": bound, "associated_data": aad, "reference": "b" },
        { "ciphertext": bound, "reference": "c" },
    ] });
    let answer: http::Answer = daemon.post(REWRAP, &batch);
    assert_eq!(answer.status, 200);
    let rewrapped = answer.at("/data/batch_results/0/ciphertext");
    assert!(rewrapped.starts_with("kr1:second:"), "{rewrapped}");
    assert_eq!(daemon.opened(&rewrapped), "old");
    let again =
        json!({ "ciphertext": answer.at("/data/batch_results/1/ciphertext"), "associated_data": aad });
    assert_eq!(daemon.post(DECRYPT, &again).at("/data/plaintext"), encode("bound"));
    assert_eq!(answer.at("/data/batch_results/2/reference"), "c");
    assert!(answer.at("/data/batch_results/2/error").starts_with("decryption failed"));
}

#[test]
fn data_keys_are_random_of_the_size_asked_for_and_open_again() {
    let (_server, daemon) = started();
    let mut seen = std::collections::HashSet::new();
    for (body, len) in [
        (json!({}), 32),
        (json!({ "bits": 128 }), 16),
        (json!({ "bits": "512", "associated_data": "YQ==" }), 64),
        (json!({ "bits": 256, "type": "x", "nonce": "" }), 32),
    ] {
        let made = daemon.post("/v1/transit/datakey/plaintext/keyring", &body);
        let key = made.at("/data/plaintext");
        assert_eq!(BASE64_STANDARD.decode(&key).unwrap().len(), len);
        assert_eq!((made.at("/data/key_id"), made.at("/data/key_version")), ("first".into(), "1".into()));
        let open =
            json!({ "ciphertext": made.at("/data/ciphertext"), "associated_data": body["associated_data"] });
        assert_eq!(daemon.post(DECRYPT, &open).at("/data/plaintext"), key);
        assert!(seen.insert(key));
    }
    let wrapped = daemon.request("POST", "/v1/transit/datakey/wrapped/keyring", b"");
    assert!(wrapped.json().pointer("/data/plaintext").is_none(), "{wrapped:?}");
    assert_eq!(daemon.decrypt(&wrapped.at("/data/ciphertext")).status, 200);
    for (body, message) in [
        (json!({ "bits": 192 }), "bits must be 128, 256 or 512"),
        (json!({ "bits": "many" }), "\"bits\" must be a number"),
        (json!({ "context": "x" }), "context is not base64"),
        (json!({ "associated_data": "!" }), "associated_data is not base64"),
    ] {
        let refused = daemon.post("/v1/transit/datakey/plaintext/keyring", &body);
        assert_eq!(refused.status, 400, "{body}");
        assert!(refused.at("/errors/0").contains(message), "{refused:?}");
    }
}

#[test]
fn the_description_of_keys_has_transits_shape_and_no_key_material() {
    let (server, daemon) = started();
    server.put_record("second", "another key of thirty-two characters");
    daemon.sync();
    let described = daemon.get("/v1/transit/keys/keyring");
    assert_eq!(
        (described.at("/data/name"), described.at("/data/latest_version")),
        ("keyring".into(), "2".into())
    );
    assert_eq!(
        (described.at("/data/type"), described.at("/data/algorithm")),
        ("aes256-gcm96".into(), "XAES-256-GCM".into())
    );
    for (version, id, state) in [("1", "first", "live"), ("2", "second", "active")] {
        assert!(described.json()["data"]["keys"][version].as_u64().unwrap() > 1_700_000_000);
        assert_eq!(described.at(&format!("/data/key_info/{version}/id")), id);
        assert_eq!(described.at(&format!("/data/key_info/{version}/state")), state);
        assert!(described.at(&format!("/data/key_info/{version}/creation_time")).ends_with('Z'));
    }
    assert!(!described.text().contains(KEY) && !described.text().contains("thirty-two"), "{described:?}");
    let names = daemon.request("LIST", "/v1/transit/keys", b"");
    assert_eq!(names.json()["data"], json!({ "keys": ["keyring"] }));
    server.put(&json!({ "active": "b", "keys": { "b": KEY, "c": "one more key of thirty-two characters" } }));
    daemon.sync();
    let described = daemon.get("/v1/transit/keys/keyring");
    assert_eq!(described.at("/data/key_info/3/id"), "b");
    assert_eq!(described.json()["data"]["key_info"]["3"]["ids"].as_array().unwrap().len(), 2);
}

#[test]
fn a_text_in_another_format_needs_a_rewrap_in_json_and_as_raw_bytes() {
    let server = with_transit_key(1);
    let native = Daemon::start(&server, &[RAW]).encrypt("hello");
    let daemon = Daemon::start(&server, &[RAW, TRANSIT]);
    assert_eq!(daemon.decrypt(&native).at("/data/needs_rewrap"), "true");
    let opened = daemon.request_with("POST", DECRYPT, &[OCTETS], native.as_bytes());
    assert_eq!(opened.header("keyring-needs-rewrap"), Some("true"));
    let sealed = daemon.request_with("POST", ENCRYPT, &[OCTETS], b"hello").body;
    let opened = daemon.request_with("POST", DECRYPT, &[OCTETS], &sealed);
    assert_eq!(opened.header("keyring-needs-rewrap"), Some("false"), "the binary form has one format");
}

#[test]
fn transits_format_refuses_a_key_in_a_map() {
    let server = with_transit_key(1);
    let daemon = Daemon::start(&server, &[RAW, TRANSIT]);
    let sealed = daemon.encrypt("hello");
    let key = server.api("GET", "transit/export/encryption-key/keyring", &Value::Null).at("/data/keys/1");
    let other = BASE64_STANDARD.encode([9; 32]);
    server.put(&json!({ "active": "transit-1", "keys": { "transit-1": key, "other": other } }));
    daemon.sync();
    let refused = daemon.post(ENCRYPT, &json!({ "plaintext": "YQ==" }));
    assert_eq!(refused.status, 400);
    assert!(refused.at("/errors/0").contains("is in the map form"), "{refused:?}");
    assert_eq!(daemon.opened(&sealed), "hello", "earlier ciphertexts still decrypt");
}
