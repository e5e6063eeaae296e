//! Kubernetes KMS v2 as an API server uses it: each of its rules, over rotations, restarts and outages of Vault.

mod grpcio;
mod load;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use nix::sys::signal::Signal;
use prost::Message as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use keyringd::api::kms::messages::{DecryptResponse, EncryptResponse, StatusResponse};

use crate::support::{
    Daemon, OpenBao,
    kms::{
        ApiServer, Connection, INVALID_ARGUMENT, Kms, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED,
        Refused, UNAVAILABLE, UNIMPLEMENTED, decrypt_request, encrypt_request, framed,
    },
    wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const OTHER_KEY: &str = "another key of thirty-two characters";

fn started(more: &[(&str, &str)]) -> (OpenBao, Daemon, Kms) {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, more);
    let kms = Kms::connect(&daemon.socket());
    (server, daemon, kms)
}

/// The documented form of the key_id, from Vault's metadata of a version.
fn documented_key_id(server: &OpenBao, id: &str, version: u64) -> String {
    let metadata = server.api("GET", "secret/metadata/keyring", &Value::Null).json();
    let created = metadata["data"]["versions"][version.to_string()]["created_time"].as_str().unwrap();
    let created = humantime::parse_rfc3339(created).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    let parts = ["secret", "keyring", id, &version.to_string(), &created.as_nanos().to_string()];
    let hashed = parts.map(|part| [&(part.len() as u64).to_be_bytes(), part.as_bytes()].concat()).concat();
    format!("kr1.{}", BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(hashed)))
}

#[test]
fn status_is_v2_ok_and_the_documented_key_id() {
    let (server, daemon, kms) = started(&[]);
    let expected = StatusResponse {
        version: "v2".to_owned(),
        healthz: "ok".to_owned(),
        key_id: documented_key_id(&server, "first", 1),
    };
    assert_eq!(kms.status().as_ref(), Ok(&expected));
    assert_eq!(kms.status().as_ref(), Ok(&expected), "the second Status is the same");
    let hash = hex_simd::encode_to_string(Sha256::digest(&expected.key_id), hex_simd::AsciiCase::Lower);
    let log = daemon.log();
    assert_eq!(log.matches(&format!("key_id_hash=\"sha256:{hash}\"")).count(), 1, "{log}");
}

#[test]
fn a_ciphertext_decrypts_under_its_own_key_id_only() {
    let (_server, daemon, kms) = started(&[]);
    let (one, two) = (kms.encrypt(b"a data key").unwrap(), kms.encrypt(b"a data key").unwrap());
    assert_ne!(one.ciphertext, two.ciphertext, "equal plaintexts give different ciphertexts");
    assert!(one.ciphertext.starts_with(b"KR1\x05first"), "the native format");
    assert_eq!(kms.decrypt(&one.ciphertext, &one.key_id).unwrap(), b"a data key");
    let octets = ("content-type", "application/octet-stream");
    let of_an_application = daemon.request_with("POST", "/v1/transit/encrypt/keyring", &[octets], b"x").body;
    for at in [0, 4, 12, one.ciphertext.len() - 1] {
        let mut changed = one.ciphertext.to_vec();
        changed[at] ^= 1;
        assert_eq!(kms.decrypt(&changed, &one.key_id).unwrap_err().code, INVALID_ARGUMENT, "{at}");
    }
    let refused = kms.decrypt(&of_an_application, &one.key_id).unwrap_err();
    assert_eq!(refused.code, INVALID_ARGUMENT);
    assert!(refused.message.contains("decryption failed"), "{refused:?}");
    let elsewhere = daemon.request_with("POST", "/v1/transit/decrypt/keyring", &[octets], &one.ciphertext);
    assert_eq!(elsewhere.status, 400, "an application cannot decrypt Kubernetes' ciphertexts");
}

#[test]
fn each_field_beyond_its_limit_is_refused_by_name() {
    let (_server, _daemon, kms) = started(&[]);
    let sealed = kms.encrypt(b"x").unwrap();
    let refused = |call: &str, message: &[u8]| {
        kms.raw::<EncryptResponse>(&format!("/v2.KeyManagementService/{call}"), framed(message)).unwrap_err()
    };
    let decrypt = |ciphertext: &[u8], key_id: &str| decrypt_request(ciphertext, key_id);
    let without_uid = |mut message: keyringd::api::kms::messages::DecryptRequest| {
        message.uid.clear();
        message
    };
    let mut annotated = decrypt(&sealed.ciphertext, &sealed.key_id);
    annotated.annotations.insert("a.example".to_owned(), vec![0; 32 << 10].into());
    let mut without_a_uid = encrypt_request(b"x");
    without_a_uid.uid.clear();
    for (call, message, named) in [
        ("Encrypt", without_a_uid.encode_to_vec(), "uid:"),
        ("Encrypt", encrypt_request(&[0; 976]).encode_to_vec(), "plaintext: 976 bytes, and at most 975 fit"),
        ("Decrypt", without_uid(decrypt(&sealed.ciphertext, &sealed.key_id)).encode_to_vec(), "uid:"),
        ("Decrypt", decrypt(b"", &sealed.key_id).encode_to_vec(), "ciphertext:"),
        ("Decrypt", decrypt(&[0; 1025], &sealed.key_id).encode_to_vec(), "ciphertext:"),
        ("Decrypt", decrypt(&sealed.ciphertext, "").encode_to_vec(), "key_id:"),
        ("Decrypt", decrypt(&sealed.ciphertext, &"k".repeat(1025)).encode_to_vec(), "key_id:"),
        ("Decrypt", annotated.encode_to_vec(), "annotations:"),
    ] {
        let refused = refused(call, &message);
        assert_eq!(refused.code, INVALID_ARGUMENT, "{refused:?}");
        assert!(refused.message.starts_with(named), "{named}: {refused:?}");
    }
    let largest = kms.encrypt(&[7; 975]).unwrap();
    assert_eq!(largest.ciphertext.len(), 1024);
    assert_eq!(kms.decrypt(&largest.ciphertext, &largest.key_id).unwrap(), [7; 975]);
    assert_eq!(refused("Encrypt", &vec![0; 70_000]).code, RESOURCE_EXHAUSTED, "a message of 70 kB");
}

#[test]
fn unknown_calls_are_refused_in_grpc_and_plain_h2_in_http() {
    let (_server, daemon, kms) = started(&[]);
    for path in [
        "/v2.KeyManagementService/Fly",
        "/v1beta1.KeyManagementService/Version",
        "/grpc.health.v1.Health/Check",
    ] {
        let refused = kms.raw::<StatusResponse>(path, framed(b"")).unwrap_err();
        assert_eq!(refused.code, UNIMPLEMENTED, "{path}");
        assert!(refused.message.contains("/v2.KeyManagementService/Encrypt"), "{refused:?}");
    }
    for garbage in [&b""[..], b"\0", b"\0\0\0\0\x05ab", b"\x01\0\0\0\0", &framed(b"\xff\xff\xff")] {
        assert!(kms.raw::<EncryptResponse>("/v2.KeyManagementService/Encrypt", garbage.to_vec()).is_err());
    }
    assert_eq!(kms.get("/livez"), 404);
    assert_eq!(daemon.request("POST", "/v2.KeyManagementService/Status", &framed(b"")).status, 404);
    assert_eq!(kms.status().unwrap().healthz, "ok");
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
}

#[test]
fn an_api_server_reads_everything_after_rotations_reloads_a_restart_and_an_outage() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("kms.sock");
    let mut server = OpenBao::durable();
    server.put_record("first", KEY);
    let mut daemon = Daemon::start_at(Some(&socket), &server, &[]);
    daemon.wait_until_ready();
    let kms = Kms::connect(&socket);
    let mut api = ApiServer::default();
    let mut names = vec![api.poll(&kms)];
    assert_eq!(api.write(&kms, b"under the first"), names[0]);
    for id in ["second", "third"] {
        server.put_record(id, &format!("{id}: {OTHER_KEY}"));
        daemon.sync();
        assert_eq!(daemon.active(), id);
        daemon.reload("success");
        // Applications get the new key at once, Kubernetes after the next Status.
        assert_eq!(&api.write(&kms, b"before a Status"), names.last().unwrap());
        names.push(api.poll(&kms));
        assert_eq!(&api.write(&kms, b"after it"), names.last().unwrap());
        assert_eq!(daemon.get("/livez").status, 200, "and the same socket serves HTTP/1.1");
    }
    assert_eq!(
        names,
        [("first", 1), ("second", 2), ("third", 3)].map(|(id, at)| documented_key_id(&server, id, at))
    );
    assert_eq!(api.read_all(&kms), 5);

    daemon.signal(Signal::SIGTERM);
    assert!(daemon.ended().success());
    let daemon = Daemon::start_at(Some(&socket), &server, &[]);
    daemon.wait_until_ready();
    let kms = Kms::connect(&socket);
    assert_eq!(&api.poll(&kms), names.last().unwrap(), "the same key has the same key_id");
    server.stop();
    let sync = daemon.request("POST", "/keyring/vault/sync", b"");
    assert_eq!(sync.status, 500, "Vault is down");
    assert_eq!(api.read_all(&kms), 5);
    api.poll(&kms);
    api.write(&kms, b"with Vault down");
    assert_eq!(api.read_all(&kms), 6);
}

#[test]
fn before_any_status_and_after_a_removal_the_active_key_encrypts() {
    let (server, daemon, kms) = started(&[]);
    assert_eq!(kms.encrypt(b"x").unwrap().key_id, documented_key_id(&server, "first", 1));
    server.put_record("second", OTHER_KEY);
    daemon.sync();
    assert_eq!(kms.encrypt(b"x").unwrap().key_id, documented_key_id(&server, "second", 2));
    kms.status().unwrap();
    server.versions("destroy", &[2]);
    daemon.sync();
    assert_eq!(kms.encrypt(b"x").unwrap().key_id, documented_key_id(&server, "first", 1));
}

#[test]
fn a_rewritten_record_has_a_new_key_id_and_keeps_the_earlier_ones() {
    let (server, daemon, kms) = started(&[]);
    let before = kms.encrypt(b"a data key").unwrap();
    server.put_record("second", OTHER_KEY);
    server.put_record("first", KEY);
    daemon.sync();
    let again = kms.encrypt(b"another").unwrap();
    assert_eq!(
        [&before.key_id, &again.key_id],
        [&documented_key_id(&server, "first", 1), &documented_key_id(&server, "first", 3)]
    );
    assert_eq!(kms.decrypt(&before.ciphertext, &before.key_id).unwrap(), b"a data key");
    assert_eq!(kms.decrypt(&again.ciphertext, &again.key_id).unwrap(), b"another");
    let swapped = kms.decrypt(&before.ciphertext, &again.key_id).unwrap_err();
    assert_eq!(swapped.code, INVALID_ARGUMENT, "the same key, and not the key_id that sealed this");
    // The same key is held in another version, and authentication proves that it sealed this under this key_id.
    server.versions("destroy", &[1]);
    daemon.sync();
    assert_eq!(kms.decrypt(&before.ciphertext, &before.key_id).unwrap(), b"a data key");
    server.versions("destroy", &[3]);
    daemon.sync();
    assert_eq!(daemon.keyring(), "second of second");
    assert_eq!(kms.decrypt(&before.ciphertext, &before.key_id).unwrap_err().code, NOT_FOUND);
}

#[test]
fn on_kv_v1_a_key_id_outlives_the_daemon() {
    let server = OpenBao::shared();
    server.api("POST", "sys/mounts/kv1", &json!({ "type": "kv", "options": { "version": "1" } }));
    server.api("POST", "kv1/keyring", &json!({ "id": "first", "key": KEY }));
    let settings = [("KONG_KEYRING_VAULT_KV", "v1"), ("KONG_KEYRING_VAULT_MOUNT", "kv1")];
    let kms = |daemon: &Daemon| Kms::connect(&daemon.socket());
    let daemon = Daemon::start(&server, &settings);
    let sealed = kms(&daemon).encrypt(b"a data key").unwrap();
    drop(daemon);
    let daemon = Daemon::start(&server, &settings);
    assert_eq!(kms(&daemon).decrypt(&sealed.ciphertext, &sealed.key_id).unwrap(), b"a data key");
    server.api("POST", "kv1/keyring", &json!({ "id": "second", "key": OTHER_KEY }));
    daemon.sync();
    assert_ne!(kms(&daemon).status().unwrap().key_id, sealed.key_id);
    assert_eq!(kms(&daemon).decrypt(&sealed.ciphertext, &sealed.key_id).unwrap(), b"a data key");
}

#[test]
fn status_sends_vault_no_request_and_an_unknown_key_id_one() {
    let server = OpenBao::dev_with_audit();
    server.put_record("first", KEY);
    let settings = [("KONG_KEYRING_SYNC_INTERVAL", "3600")];
    let (daemon, other) = (Daemon::start(&server, &settings), Daemon::start(&server, &settings));
    let (kms, others) = (Kms::connect(&daemon.socket()), Kms::connect(&other.socket()));
    server.put_record("second", OTHER_KEY);
    other.sync();
    let syncs = || server.requests_for("secret/metadata/keyring");
    let before = syncs();
    for _ in 0..200 {
        kms.status().unwrap();
    }
    assert_eq!(syncs(), before);
    // The daemon of another API server has the new key already: this one loads it on demand.
    let sealed = others.encrypt(b"a data key").unwrap();
    assert_eq!(kms.decrypt(&sealed.ciphertext, &sealed.key_id).unwrap(), b"a data key");
    assert_eq!(syncs(), before + 1);
    for round in 0..50 {
        let refused = kms.decrypt(&sealed.ciphertext, &format!("kr1.unknown-{round}")).unwrap_err();
        assert_eq!(refused.code, NOT_FOUND);
        assert!(refused.message.starts_with("key_id: no key of this name"), "{refused:?}");
    }
    assert_eq!(syncs(), before + 1, "no second sync right after the first");
}

#[test]
fn without_keys_healthz_has_the_reason_and_calls_are_unavailable() {
    let server = OpenBao::shared();
    let daemon = Daemon::start_unready(&server, &[]);
    let kms = Kms::connect(&daemon.socket());
    let status = wait_for("a reason", || {
        let status = kms.status().unwrap();
        (!status.healthz.contains("under way")).then_some(status)
    });
    assert_eq!((status.version.as_str(), status.key_id.as_str()), ("v2", ""));
    assert!(status.healthz.starts_with("no keys yet: "), "{status:?}");
    assert!(!status.healthz.contains(server.token()));
    for refused in [kms.encrypt(b"x").map(|_| ()), kms.decrypt(b"x", "kr1.x").map(|_| ())] {
        let Err(Refused { code, message }) = refused else { panic!("without a key") };
        assert_eq!((code, message.starts_with("no keys yet: ")), (UNAVAILABLE, true), "{message}");
    }
    server.put_record("first", KEY);
    daemon.sync();
    assert_eq!(kms.status().unwrap().healthz, "ok");
}

#[test]
fn a_peer_needs_kms_and_kms_grants_nothing_else() {
    let us = nix::unistd::geteuid().as_raw();
    let (_server, daemon, kms) =
        started(&[("KONG_KEYRING_ACCESS", &format!("uid:{us}=encrypt+decrypt+status+metrics"))]);
    let refusals =
        [kms.status().unwrap_err(), kms.encrypt(b"x").unwrap_err(), kms.decrypt(b"x", "kr1.x").unwrap_err()];
    for refused in refusals {
        assert_eq!(refused.code, PERMISSION_DENIED);
        assert!(
            refused.message.contains(&format!("keyring_access would allow it with the entry uid:{us}=kms"))
        );
    }
    assert_eq!(daemon.metric("keyringd_requests_total{operation=\"kms_status\",outcome=\"denied\"}"), 1);
    let (_server, daemon, kms) = started(&[("KONG_KEYRING_ACCESS", &format!("uid:{us}=kms"))]);
    assert_eq!(kms.status().unwrap().healthz, "ok");
    let refused = daemon.post("/v1/transit/encrypt/keyring", &json!({ "plaintext": "YQ==" }));
    assert_eq!(refused.status, 403);
}

#[test]
fn calls_are_counted_audited_and_logged_without_payloads() {
    const SETTINGS: [(&str, &str); 3] =
        [("KONG_LOG_LEVEL", "debug"), ("KONG_KEYRING_AUDIT", "all"), ("KONG_KEYRING_LOG_FORMAT", "json")];
    let (_server, daemon, kms) = started(&SETTINGS);
    kms.status().unwrap();
    let mut request = encrypt_request(b"a planted plaintext");
    request.uid = "planted\nuid".to_owned();
    let sealed: EncryptResponse = kms.call("Encrypt", &request).unwrap();
    kms.decrypt(&sealed.ciphertext, &sealed.key_id).unwrap();
    let mut refused = decrypt_request(&sealed.ciphertext, "kr1.unknown");
    refused.uid = "u".repeat(1000);
    assert!(kms.call::<DecryptResponse>("Decrypt", &refused).is_err());
    let count = |operation: &str, outcome: &str| {
        let labels = format!("{{operation=\"kms_{operation}\",outcome=\"{outcome}\"}}");
        daemon.metric(&format!("keyringd_requests_total{labels}"))
    };
    assert_eq!((count("status", "success"), count("encrypt", "success")), (1, 1));
    assert_eq!((count("decrypt", "success"), count("decrypt", "missing_key")), (1, 1));
    // h2 drops a response a moment after its client has it.
    wait_for("all bytes to be given back", || (daemon.metric("keyringd_inflight_bytes") == 0).then_some(()));
    let log = daemon.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let is_kms = |line: &&Value| {
        let is_of_kms = |operation: &str| operation.starts_with("kms_");
        line["target"] == "audit" && line["operation"].as_str().is_some_and(is_of_kms)
    };
    let seen: Vec<_> = lines
        .iter()
        .filter(is_kms)
        .map(|line| format!("{} {} {}", line["operation"], line["status"], line["key_id"]).replace('"', ""))
        .collect();
    assert_eq!(
        seen,
        ["kms_status 200 first", "kms_encrypt 200 first", "kms_decrypt 200 first", "kms_decrypt 404 null"]
    );
    let hash = hex_simd::encode_to_string(Sha256::digest(&sealed.key_id), hex_simd::AsciiCase::Lower);
    let calls: Vec<_> = lines.iter().filter(|line| line["call"].is_string()).collect();
    assert_eq!((&calls[0]["call"], &calls[0]["uid"]), (&json!("encrypt"), &json!("planted?uid")));
    assert_eq!(calls[1]["key_id_hash"], format!("sha256:{hash}"));
    assert_eq!((&calls[2]["uid"], &calls[2]["code"]), (&json!("u".repeat(64)), &json!("NotFound")));
    assert!(!log.contains("planted plaintext"), "{log}");
}

#[test]
fn no_plaintext_and_no_key_is_in_the_log_at_trace() {
    let (_server, daemon, kms) = started(&[("KONG_LOG_LEVEL", "trace")]);
    let sealed = kms.encrypt(b"a planted plaintext").unwrap();
    kms.decrypt(&sealed.ciphertext, &sealed.key_id).unwrap();
    kms.decrypt(&sealed.ciphertext[1..], &sealed.key_id).unwrap_err();
    let log = daemon.log();
    for planted in ["planted", "706c616e746564", "112, 108, 97, 110, 116, 101, 100", KEY] {
        assert!(!log.contains(planted), "{planted} in {log}");
    }
}

#[test]
fn a_thousand_calls_at_once_on_one_connection_are_all_answered() {
    let (_server, daemon, kms) = started(&[]);
    let sealed = kms.encrypt(b"a data key").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let opened = runtime.block_on(async {
        let connection = Connection::open(&daemon.socket()).await;
        let request = decrypt_request(&sealed.ciphertext, &sealed.key_id);
        let calls = (0..1000).map(|_| connection.clone().call::<DecryptResponse>("Decrypt", &request));
        futures_util::future::join_all(calls).await
    });
    assert!(
        opened.into_iter().all(|opened| opened.is_ok_and(|opened| opened.plaintext == b"a data key"[..]))
    );
}

#[test]
fn an_open_connection_of_an_api_server_does_not_delay_the_shutdown() {
    let (_server, mut daemon, kms) = started(&[]);
    kms.status().unwrap();
    let begun = std::time::Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.ended().success());
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!daemon.log().contains("were cut"), "{}", daemon.log());
}
