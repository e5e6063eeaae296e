//! Blind indexes, HMACs in both forms, contexts, and the options in a secret's custom metadata.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::{
    keyrings::put,
    support::{Daemon, OpenBao, http, wait_for},
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const ID: &str = "8zgITLQh";

fn hmac(daemon: &Daemon, body: &Value) -> http::Answer {
    daemon.post("/v1/transit/hmac/keyring", body)
}

/// A request for the index of the vectors, with this width and `more`.
fn index(daemon: &Daemon, bits: u64, more: &Value) -> http::Answer {
    let mut body = json!({
        "input": BASE64_STANDARD.encode("alice@example.org"),
        "associated_data": BASE64_STANDARD.encode("users.email"),
        "bits": bits,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    hmac(daemon, &body)
}

/// Sets the custom metadata of `secret/keyring`.
fn set_options(server: &OpenBao, options: &Value) {
    server.api("POST", "secret/metadata/keyring", &json!({ "custom_metadata": options }));
}

#[test]
fn an_index_is_that_of_the_vectors_under_the_chosen_record_whatever_is_active() {
    let server = OpenBao::shared();
    server.put_record(ID, KEY);
    server.put_record("newer", "another key text of thirty-two characters");
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_INDEX_KEY", ID)]);
    for (bits, expected) in [(24, "a00574"), (20, "a00570"), (12, "a000")] {
        let answer = index(&daemon, bits, &json!({}));
        assert_eq!(
            (answer.at("/data/index"), answer.at("/data/key_id")),
            (expected.to_owned(), ID.to_owned())
        );
        assert_eq!(answer.at("/data/key_version"), "1");
    }
    assert_eq!(index(&daemon, 24, &json!({ "key_version": 1 })).at("/data/index"), "a00574");
    assert_ne!(index(&daemon, 24, &json!({ "key_version": 2 })).at("/data/index"), "a00574");
    assert_ne!(index(&daemon, 24, &json!({ "context": "dGVuYW50" })).at("/data/index"), "a00574");

    // While a column is indexed again, both values find a row.
    let input = BASE64_STANDARD.encode("alice@example.org");
    let label = BASE64_STANDARD.encode("users.email");
    let batch = json!({
        "associated_data": label,
        "bits": 24,
        "batch_input": [{ "input": input, "key_version": 1 }, { "input": input, "key_version": 2 }, { "input": input }],
    });
    let results = hmac(&daemon, &batch).json()["data"]["batch_results"].clone();
    assert_eq!((&results[0]["index"], &results[2]["index"]), (&json!("a00574"), &json!("a00574")));
    assert_eq!((&results[1]["key_id"], &results[1]["key_version"]), (&json!("newer"), &json!(2)));
}

#[test]
fn an_index_without_a_chosen_record_or_with_half_of_its_fields_is_refused() {
    let server = OpenBao::shared();
    server.put_record(ID, KEY);
    let daemon = Daemon::start(&server, &[]);
    let refused = |answer: http::Answer| {
        assert_eq!(answer.status, 400, "{answer:?}");
        answer.at("/errors/0")
    };
    let message = refused(index(&daemon, 24, &json!({})));
    assert!(message.contains("keyring_index_key") && message.contains("keyringd_index_key"), "{message}");
    assert!(message.contains("key_version"), "{message}");
    for bits in [7, 257, 0] {
        assert!(refused(index(&daemon, bits, &json!({ "key_version": 1 }))).contains("from 8 to 256"));
    }
    let half = |name: &str, value: Value| hmac(&daemon, &json!({ "input": "YQ==", name: value }));
    assert!(refused(half("bits", json!(24))).contains("needs both"));
    assert!(refused(half("associated_data", json!("YQ=="))).contains("needs both"));
    let more = json!({ "key_version": 1, "algorithm": "sha2-512" });
    assert!(refused(index(&daemon, 24, &more)).contains("sha2-256 only"));
    assert!(refused(index(&daemon, 24, &json!({ "key_version": 7 }))).contains("does not exist"));
    let convergent = json!({ "plaintext": "YQ==", "context": "YQ==", "convergent_encryption": true });
    let message = refused(daemon.post("/v1/transit/encrypt/keyring", &convergent));
    assert!(message.contains("blind index"), "{message}");
}

#[test]
fn options_in_the_custom_metadata_come_before_the_settings_and_bad_ones_are_warnings() {
    let server = OpenBao::shared();
    server.put_record(ID, KEY);
    let daemon = Daemon::start(&server, &[]);
    assert!(daemon.encrypt("x").starts_with("kr1:"));
    set_options(
        &server,
        &json!({
            "keyringd_format": "transit", "keyringd_index_key": ID, "keyringd_derivation": "raw", "owner": "payments",
        }),
    );
    daemon.sync();
    let sealed = daemon.encrypt("in transit's format");
    assert!(sealed.starts_with("vault:v1:"), "{sealed}");
    assert_eq!(daemon.opened(&sealed), "in transit's format");
    assert_eq!(index(&daemon, 24, &json!({})).at("/data/index"), "ba3112", "the vector of raw");
    assert_eq!(daemon.get("/status").at("/sync/warnings"), "[]");

    set_options(
        &server,
        &json!({ "keyringd_format": "jwe", "keyringd_colour": "red", "keyringd_index_key": "gone" }),
    );
    daemon.sync();
    assert!(daemon.encrypt("x").starts_with("kr1:"), "the settings hold");
    let warnings = daemon.get("/status").at("/sync/warnings");
    for part in ["native or transit", "keyringd_colour", "the record gone that makes blind indexes is not"] {
        assert!(warnings.contains(part), "{part} in {warnings}");
    }
    assert!(index(&daemon, 24, &json!({})).at("/errors/0").contains("gone"));
}

#[test]
fn doctor_and_status_warn_before_the_record_of_the_index_is_pruned() {
    let server = OpenBao::shared();
    server.put_record(ID, KEY);
    server.api("POST", "secret/metadata/keyring", &json!({ "max_versions": 4 }));
    for newer in ["a", "b"] {
        put(&server, "keyring", newer);
    }
    let settings = [("KONG_KEYRING_INDEX_KEY", ID)];
    let daemon = Daemon::start(&server, &settings);
    let warnings = daemon.get("/status").at("/sync/warnings");
    assert!(
        warnings.contains("makes blind indexes is in version 1, which Vault destroys after 1 more"),
        "{warnings}"
    );
    let printed = crate::support::daemon::run_for(&server, "doctor", &settings);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("makes blind indexes is in version 1"), "{printed}");
}

#[test]
fn hmacs_have_the_form_of_the_format_and_both_forms_verify() {
    let server = OpenBao::shared();
    server.put_record(ID, KEY);
    let daemon = Daemon::start(&server, &[]);
    let input = BASE64_STANDARD.encode("alice@example.org");
    let native = hmac(&daemon, &json!({ "input": input })).at("/data/hmac");
    assert!(
        native.starts_with(&format!("krm1:{ID}:cixTpllq+J+hqtiG3mbPqMgHarMmz/XjOMVrTXVmklY=")),
        "{native}"
    );
    let transit = native.replace(&format!("krm1:{ID}:"), "vault:v1:");
    for text in [&native, &transit] {
        let verified = daemon.post("/v1/transit/verify/keyring", &json!({ "input": input, "hmac": text }));
        assert_eq!(verified.at("/data/valid"), "true", "{text}");
    }
    let other = Daemon::start(&server, &[("KONG_KEYRING_CIPHERTEXT_FORMAT", "transit")]);
    assert_eq!(hmac(&other, &json!({ "input": input })).at("/data/hmac"), transit);

    let in_context = json!({ "input": input, "context": "dGVuYW50" });
    let made = hmac(&daemon, &in_context).at("/data/hmac");
    let verify = |body: &Value| daemon.post("/v1/transit/verify/keyring", body).at("/data/valid");
    assert_eq!(verify(&json!({ "input": input, "context": "dGVuYW50", "hmac": made })), "true");
    assert_eq!(verify(&json!({ "input": input, "hmac": made })), "false");
}

/// An OpenBao with a derived Transit key, and a daemon that holds its exported key in the transit format.
fn with_derived_key() -> (OpenBao, Daemon) {
    let server = OpenBao::shared();
    server.api("POST", "sys/mounts/transit", &json!({ "type": "transit" }));
    server.api("POST", "transit/keys/derived", &json!({ "derived": true, "exportable": true }));
    let exported =
        server.api("GET", "transit/export/encryption-key/derived", &Value::Null).at("/data/keys/1");
    server.put(&json!({ "id": "exported", "key": exported }));
    set_options(&server, &json!({ "keyringd_derivation": "raw", "keyringd_format": "transit" }));
    let daemon = Daemon::start(&server, &[]);
    wait_for("the key", || (daemon.active() == "exported").then_some(()));
    (server, daemon)
}

#[test]
fn transits_derived_keys_open_each_others_ciphertexts_with_the_same_context() {
    let (server, daemon) = with_derived_key();
    let plain = BASE64_STANDARD.encode("of tenant 1");
    let context = BASE64_STANDARD.encode("tenant 1");
    let clear = json!({ "plaintext": plain, "context": context });
    let here = daemon.post("/v1/transit/encrypt/keyring", &clear).at("/data/ciphertext");
    let there = server.api("POST", "transit/encrypt/derived", &clear).at("/data/ciphertext");
    for sealed in [&here, &there] {
        let body = json!({ "ciphertext": sealed, "context": context });
        assert_eq!(daemon.post("/v1/transit/decrypt/keyring", &body).at("/data/plaintext"), plain);
        assert_eq!(server.api("POST", "transit/decrypt/derived", &body).at("/data/plaintext"), plain);
        let rewrapped = daemon.post("/v1/transit/rewrap/keyring", &body).at("/data/ciphertext");
        let body = json!({ "ciphertext": rewrapped, "context": context });
        assert_eq!(server.api("POST", "transit/decrypt/derived", &body).at("/data/plaintext"), plain);
        for other in
            [json!({ "ciphertext": sealed }), json!({ "ciphertext": sealed, "context": "dGVuYW50IDI=" })]
        {
            assert_eq!(daemon.post("/v1/transit/decrypt/keyring", &other).status, 400);
        }
    }
    let key = daemon.post("/v1/transit/datakey/plaintext/keyring", &json!({ "context": context })).json();
    let body = json!({ "ciphertext": key["data"]["ciphertext"], "context": context });
    let opened = server.api("POST", "transit/decrypt/derived", &body).at("/data/plaintext");
    assert_eq!(opened, key["data"]["plaintext"].as_str().unwrap());
}

#[test]
fn a_context_separates_native_ciphertexts_too_also_in_a_batch() {
    let server = OpenBao::shared();
    server.put_record(ID, KEY);
    let daemon = Daemon::start(&server, &[]);
    let batch = json!({ "batch_input": [
        { "plaintext": "YQ==", "context": "MQ==" }, { "plaintext": "YQ==", "context": "Mg==" }, { "plaintext": "YQ==" },
    ] });
    let sealed = daemon.post("/v1/transit/encrypt/keyring", &batch).json()["data"]["batch_results"].clone();
    let contexts = [Some("MQ=="), Some("Mg=="), None];
    for (at, own) in contexts.iter().enumerate() {
        for context in contexts {
            let body = json!({ "ciphertext": sealed[at]["ciphertext"], "context": context });
            let status = daemon.post("/v1/transit/decrypt/keyring", &body).status;
            assert_eq!(status, if *own == context { 200 } else { 400 }, "{own:?} {context:?}");
        }
    }
}

#[test]
fn options_that_make_ciphertexts_or_indexes_useless_are_a_warning_in_the_log() {
    let server = OpenBao::shared();
    server.put_record("first", &BASE64_STANDARD.encode([7; 32]));
    let daemon = Daemon::start(&server, &[]);
    let sealed = daemon.encrypt("before");
    set_options(
        &server,
        &json!({ "keyringd_derivation": "raw", "keyringd_index_key": "first", "keyringd_format": "transit" }),
    );
    daemon.sync();
    assert_eq!(daemon.decrypt(&sealed).status, 400);
    let log = daemon.log();
    for (message, fields) in [
        ("the keys are derived otherwise", "former=\"sha256\" now=\"raw\""),
        ("another record makes blind indexes", "now=\"first\""),
        ("encrypt writes another format", "now=\"transit\""),
    ] {
        let line = log.lines().find(|line| line.contains(message));
        let line = line.unwrap_or_else(|| panic!("{message} in {log}"));
        assert!(
            line.contains("WARN") && line.contains(fields) && line.contains("keyring=\"keyring\""),
            "{line}"
        );
    }
    set_options(&server, &json!({}));
    daemon.sync();
    assert_eq!(daemon.opened(&sealed), "before");
}
