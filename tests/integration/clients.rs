//! Third-party clients with the running daemon: OpenBao's CLI, Python's hvac, curl.

use std::process::Command;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::support::{Daemon, OpenBao, openbao, python, success, tool};

#[path = "../clients/examples/client.rs"]
#[expect(
    dead_code,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test gives the socket, and does not call `main`"
)]
mod example;

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// A daemon, and a ciphertext under an older key than the active one.
fn rotated() -> (OpenBao, Daemon, String) {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[]);
    let old = daemon.encrypt("hello");
    server.put_record("second", "another key of thirty-two characters");
    daemon.sync();
    (server, daemon, old)
}

#[test]
fn openbaos_cli_uses_all_of_transit() {
    let (_server, daemon, old) = rotated();
    let bao = |arguments: &[&str]| {
        let output = Command::new(openbao::program())
            .args(arguments)
            .env("HOME", daemon.folder())
            .env("BAO_ADDR", format!("unix://{}", daemon.socket().display()))
            .env("VAULT_ADDR", format!("unix://{}", daemon.socket().display()))
            .env("BAO_FORMAT", "json")
            .env("VAULT_FORMAT", "json")
            .output()
            .unwrap();
        serde_json::from_str::<Value>(&success(&output)).unwrap()
    };
    let write = |path: &str, field: &str| bao(&["write", path, field])["data"].clone();
    let sealed = write("transit/encrypt/keyring", "plaintext=aGVsbG8=");
    assert_eq!(sealed["key_id"], "second");
    let rewrapped = write("transit/rewrap/keyring", &format!("ciphertext={old}"));
    assert_eq!(rewrapped["key_version"], 2);
    for ciphertext in [&sealed, &rewrapped] {
        let field = format!("ciphertext={}", ciphertext["ciphertext"].as_str().unwrap());
        assert_eq!(write("transit/decrypt/keyring", &field)["plaintext"], "aGVsbG8=");
    }
    let made = write("transit/datakey/plaintext/keyring", "bits=128");
    assert_eq!(BASE64_STANDARD.decode(made["plaintext"].as_str().unwrap()).unwrap().len(), 16);
    let wrapped = bao(&["write", "-f", "transit/datakey/wrapped/keyring"])["data"].clone();
    assert!(wrapped["plaintext"].is_null() && wrapped["ciphertext"].is_string(), "{wrapped}");
    let keys = bao(&["read", "transit/keys/keyring"])["data"].clone();
    assert_eq!((&keys["latest_version"], &keys["key_info"]["1"]["id"]), (&json!(2), &json!("first")));
    assert_eq!(bao(&["list", "transit/keys"]), json!(["keyring"]));
}

#[test]
fn pythons_hvac_uses_all_of_transit() {
    const SCRIPT: &str = r#"
import base64, sys, urllib.parse
import hvac, requests_unixsocket

socket, old = sys.argv[1:]
vault = hvac.Client(url="http+unix://" + urllib.parse.quote(socket, safe=""), token="ignored", session=requests_unixsocket.Session())
assert vault.is_authenticated() and vault.sys.is_initialized() and not vault.sys.is_sealed()
transit = vault.secrets.transit
text = base64.b64encode(b"hello").decode()
aad = base64.b64encode(b"row 7").decode()

sealed = transit.encrypt_data(name="keyring", plaintext=text, associated_data=aad)["data"]
assert sealed["key_id"] == "second", sealed
assert transit.decrypt_data(name="keyring", ciphertext=sealed["ciphertext"], associated_data=aad)["data"]["plaintext"] == text
try:
    transit.decrypt_data(name="keyring", ciphertext=sealed["ciphertext"])
    raise SystemExit("opened without its associated data")
except hvac.exceptions.InvalidRequest as refused:
    assert "decryption failed" in str(refused), refused

rewrapped = transit.rewrap_data(name="keyring", ciphertext=old)["data"]
assert rewrapped["key_version"] == 2, rewrapped
batch = transit.decrypt_data(name="keyring", batch_input=[{"ciphertext": old}, {"ciphertext": rewrapped["ciphertext"]}])
assert [item["plaintext"] for item in batch["data"]["batch_results"]] == [text, text], batch
batch = transit.encrypt_data(name="keyring", plaintext=None, batch_input=[{"plaintext": text}] * 3)
assert len(batch["data"]["batch_results"]) == 3, batch
batch = transit.rewrap_data(name="keyring", ciphertext=None, batch_input=[{"ciphertext": old}])
assert batch["data"]["batch_results"][0]["key_id"] == "second", batch

for bits in (128, 256, 512):
    made = transit.generate_data_key(name="keyring", key_type="plaintext", bits=bits)["data"]
    assert len(base64.b64decode(made["plaintext"])) * 8 == bits, made
    opened = transit.decrypt_data(name="keyring", ciphertext=made["ciphertext"])["data"]
    assert opened["plaintext"] == made["plaintext"]
assert "plaintext" not in transit.generate_data_key(name="keyring", key_type="wrapped")["data"]

key = transit.read_key(name="keyring")["data"]
assert key["latest_version"] == 2 and key["key_info"]["2"]["state"] == "active", key
assert transit.list_keys()["data"]["keys"] == ["keyring"]

mac = transit.generate_hmac(name="keyring", hash_input=text, key_version=1, algorithm="sha2-512")["data"]["hmac"]
for given, valid in ((text, True), (aad, False)):
    verified = transit.verify_signed_data(name="keyring", hash_input=given, hash_algorithm="sha2-512", hmac=mac)
    assert verified["data"]["valid"] is valid, verified
assert len(transit.generate_random_bytes(n_bytes=20, output_format="hex")["data"]["random_bytes"]) == 40
assert transit.hash_data(hash_input=text)["data"]["sum"].startswith("2cf24dba"), "hello by SHA-256"
print("done")
"#;
    let (_server, daemon, old) = rotated();
    let output = tool("python3")
        .args(["-c", SCRIPT])
        .arg(daemon.socket())
        .arg(old)
        .env("PYTHONPATH", python::packages("hvac-requirements.txt"))
        .output();
    assert_eq!(success(&output.unwrap()), "done\n");
}

#[test]
fn curl_encrypts_and_decrypts_raw_bytes() {
    let (_server, daemon, _) = rotated();
    let folder = daemon.folder();
    let path = |name: &str| folder.join(name).display().to_string();
    let plaintext: Vec<_> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    std::fs::write(path("plain"), &plaintext).unwrap();
    let curl = |operation: &str, from: &str, to: &str| {
        let output = tool("curl")
            .args(["-sS", "--fail-with-body", "--unix-socket"])
            .arg(daemon.socket())
            .args(["-H", "Content-Type: application/octet-stream", "-H", "Keyring-Associated-Data: cm93IDc="])
            .args(["--data-binary", &format!("@{}", path(from)), "-o", &path(to)])
            .arg(format!("http://localhost/v1/transit/{operation}/keyring"))
            .output();
        success(&output.unwrap());
    };
    curl("encrypt", "plain", "sealed");
    curl("decrypt", "sealed", "opened");
    assert_eq!(std::fs::read(path("opened")).unwrap(), plaintext);
    assert!(std::fs::read(path("sealed")).unwrap().starts_with(b"KR1\x06second"));
}

/// The book shows it, and runs the programs in other languages.
#[test]
fn the_example_in_rust_does_what_the_others_do() {
    let (_server, daemon, _) = rotated();
    // Another test of this program may have done so.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let lines = tokio::runtime::Runtime::new().unwrap().block_on(example::run(&daemon.socket())).unwrap();
    assert_eq!(lines[0], "4111 1111 1111 1111");
    assert!(lines[1].starts_with("decryption failed: "), "{lines:?}");
    assert_eq!(lines[2..], ["alice@example.org bob@example.org"]);
}
