//! Every format against an independent implementation in Python, `tests/formats/formats.py`: each opens what the other seals,
//! and refuses it once a bit is changed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Daemon, OpenBao, kms::Kms, python, success, tool};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

/// The other implementation, with K of the one record in version 1.
struct Independent {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    key: Vec<u8>,
}

impl Independent {
    fn new(key: Vec<u8>) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/formats.py");
        let mut child = tool("python3")
            .arg(script)
            .env("PYTHONPATH", python::packages("cryptography-requirements.txt"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output, key }
    }

    fn ask(&mut self, request: &Value) -> Option<Vec<u8>> {
        writeln!(self.input, "{request}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{request}: {line}"));
        answer["output"].as_str().map(|output| BASE64_STANDARD.decode(output).unwrap())
    }

    fn request(&self, action: &str, format: &str, input: &[u8], aad: &[u8]) -> Value {
        json!({
            "do": action, "format": format, "key": BASE64_STANDARD.encode(&self.key), "id": "first", "version": 1,
            "input": BASE64_STANDARD.encode(input), "aad": BASE64_STANDARD.encode(aad)
        })
    }

    fn seal(&mut self, format: &str, plaintext: &[u8], aad: &[u8]) -> Vec<u8> {
        self.ask(&self.request("seal", format, plaintext, aad)).unwrap()
    }

    fn open(&mut self, format: &str, sealed: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
        self.ask(&self.request("open", format, sealed, aad))
    }
}

impl Drop for Independent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn plaintexts() -> [Vec<u8>; 5] {
    [0, 1, 15, 1024, 200_000].map(|len| (0..len).map(|at: u32| at.to_le_bytes()[0] ^ 0x5a).collect())
}

/// The K of `KEY`, by each derivation.
fn derivations() -> [(&'static str, Vec<u8>); 2] {
    [("raw", BASE64_STANDARD.decode(KEY).unwrap()), ("sha256", Sha256::digest(KEY).to_vec())]
}

fn changed(sealed: &[u8]) -> Vec<u8> {
    let mut changed = sealed.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    changed
}

#[test]
fn texts_of_each_format_open_on_the_other_side() {
    for (derivation, k) in derivations() {
        let mut independent = Independent::new(k);
        for (configured, format) in [("native", "native"), ("transit", "transit"), ("native", "kong")] {
            let server = OpenBao::shared();
            server.put_record("first", KEY);
            let kong = if format == "kong" { "on" } else { "off" };
            let settings = [
                ("KONG_KEYRING_KEY_DERIVATION", derivation),
                ("KONG_KEYRING_CIPHERTEXT_FORMAT", configured),
                ("KONG_KEYRING_KONG_FIELDS", kong),
            ];
            let daemon = Daemon::start(&server, &settings);
            for plaintext in plaintexts() {
                let aad: &[u8] = if format == "kong" { b"" } else { b"users.email.7" };
                exchange_text(&daemon, &mut independent, format, &plaintext, aad);
            }
        }
    }
}

fn exchange_text(daemon: &Daemon, independent: &mut Independent, format: &str, plaintext: &[u8], aad: &[u8]) {
    let [plaintext64, aad64] = [plaintext, aad].map(|bytes| BASE64_STANDARD.encode(bytes));
    let seal = json!({ "plaintext": plaintext64, "associated_data": aad64, "format": format });
    let ours = daemon.post("/v1/transit/encrypt/keyring", &seal).at("/data/ciphertext");
    assert_eq!(independent.open(format, ours.as_bytes(), aad).as_deref(), Some(plaintext), "{format}");

    let theirs = String::from_utf8(independent.seal(format, plaintext, aad)).unwrap();
    let open = json!({ "ciphertext": theirs, "associated_data": aad64 });
    assert_eq!(
        daemon.post("/v1/transit/decrypt/keyring", &open).at("/data/plaintext"),
        plaintext64,
        "{format}"
    );
    if format != "kong" {
        let other = json!({ "ciphertext": theirs, "associated_data": BASE64_STANDARD.encode("other") });
        let refused = daemon.request("POST", "/v1/transit/decrypt/keyring", other.to_string().as_bytes());
        assert_eq!(refused.status, 400, "{format}");
        assert_eq!(independent.open(format, ours.as_bytes(), b"other"), None, "{format}");
    }
}

#[test]
fn bytes_kubernetes_secrets_and_hmacs_are_the_same_on_the_other_side() {
    for (derivation, k) in derivations() {
        let server = OpenBao::shared();
        server.put_record("first", KEY);
        let daemon = Daemon::start(&server, &[("KONG_KEYRING_KEY_DERIVATION", derivation)]);
        let mut independent = Independent::new(k);
        let kms = Kms::connect(&daemon.socket());
        for plaintext in plaintexts() {
            exchange_bytes(&daemon, &mut independent, &plaintext);
            let input = json!({ "input": BASE64_STANDARD.encode(&plaintext) });
            let hmac = daemon.post("/v1/transit/hmac/keyring", &input).at("/data/hmac");
            assert_eq!(independent.seal("hmac", &plaintext, b""), hmac.into_bytes());
        }
        exchange_kms(&kms, &mut independent, b"a DEK seed of Kubernetes");
    }
}

fn exchange_bytes(daemon: &Daemon, independent: &mut Independent, plaintext: &[u8]) {
    let aad = BASE64_STANDARD.encode("row 7");
    let headers = [OCTETS, ("keyring-associated-data", aad.as_str())];
    let ours = daemon.request_with("POST", "/v1/transit/encrypt/keyring", &headers, plaintext).body;
    assert_eq!(independent.open("binary", &ours, b"row 7").as_deref(), Some(plaintext));
    assert_eq!(independent.open("binary", &changed(&ours), b"row 7"), None);

    let theirs = independent.seal("binary", plaintext, b"row 7");
    let decrypt = |bytes: &[u8]| daemon.request_with("POST", "/v1/transit/decrypt/keyring", &headers, bytes);
    assert_eq!(decrypt(&theirs).body, plaintext);
    assert_eq!(decrypt(&changed(&theirs)).status, 400);
}

fn exchange_kms(kms: &Kms, independent: &mut Independent, plaintext: &[u8]) {
    let ours = kms.encrypt(plaintext).unwrap();
    let key_id = ours.key_id.as_str();
    let opened = independent.open("kms", &ours.ciphertext, key_id.as_bytes());
    assert_eq!(opened.as_deref(), Some(plaintext));
    assert_eq!(independent.open("binary", &ours.ciphertext, key_id.as_bytes()), None, "a key of its own");

    let theirs = independent.seal("kms", plaintext, key_id.as_bytes());
    assert_eq!(kms.decrypt(&theirs, key_id).unwrap(), plaintext);
    assert!(kms.decrypt(&changed(&theirs), key_id).is_err());
}

#[test]
fn streams_open_on_the_other_side() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    // What fits into a request would be a text.
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_MAX_REQUEST_SIZE", "4k")]);
    let mut independent = Independent::new(Sha256::digest(KEY).to_vec());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for len in [10_000, 64 << 10, (64 << 10) + 1, 200_000] {
        let plaintext: Vec<u8> = (0..len).map(|at: u32| at.to_le_bytes()[0]).collect();
        fs::write(path("plain"), &plaintext).unwrap();
        success(&daemon.command(&["encrypt", "--force", "-i", &path("plain"), "-o", &path("ours")], b""));
        let ours = fs::read(path("ours")).unwrap();
        let wrapped_len = usize::from(u16::from_be_bytes([ours[4], ours[5]]));
        let wrapped = String::from_utf8(ours[6..6 + wrapped_len].to_vec()).unwrap();
        let data_key = independent.open("native", wrapped.as_bytes(), b"").unwrap();

        let mut request = independent.request("open", "stream", &ours, b"");
        request["key"] = BASE64_STANDARD.encode(&data_key).into();
        request["id"] = wrapped.as_str().into();
        assert_eq!(independent.ask(&request).as_deref(), Some(plaintext.as_slice()), "{len}");
        request["input"] = BASE64_STANDARD.encode(changed(&ours)).into();
        assert_eq!(independent.ask(&request), None, "{len}");

        let theirs_key = [7; 32];
        let wrapped = String::from_utf8(independent.seal("native", &theirs_key, b"")).unwrap();
        let mut request = independent.request("seal", "stream", &plaintext, b"");
        request["key"] = BASE64_STANDARD.encode(theirs_key).into();
        request["id"] = wrapped.into();
        fs::write(path("theirs"), independent.ask(&request).unwrap()).unwrap();
        success(&daemon.command(&["decrypt", "--force", "-i", &path("theirs"), "-o", &path("opened")], b""));
        assert_eq!(fs::read(path("opened")).unwrap(), plaintext, "{len}");
    }
}
