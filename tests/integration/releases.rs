//! What earlier releases wrote opens: ciphertexts of every format, HMACs, indexes, streams, sealed copies, and the key of `dev`.
//!
//! `tests/vectors/releases` has a folder for each release, and the program that made them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, OpenBao, kms::Kms, success};

#[derive(Deserialize)]
struct Release {
    made_by: String,
    host: String,
    /// The versions of each secret, oldest first.
    records: BTreeMap<String, Vec<Value>>,
    daemons: BTreeMap<String, Written>,
    dev: Request,
    #[serde(skip)]
    folder: PathBuf,
}

/// What a daemon with these settings wrote.
#[derive(Deserialize)]
struct Written {
    settings: BTreeMap<String, String>,
    requests: Vec<Request>,
    #[serde(default)]
    octets: Vec<Octets>,
    #[serde(default)]
    kms: Vec<KmsSecret>,
}

#[derive(Deserialize)]
struct Request {
    path: String,
    body: Value,
    /// The fields that `data` must have.
    answer: Map<String, Value>,
}

#[derive(Deserialize)]
struct Octets {
    sealed: String,
    associated_data: String,
    plaintext: String,
}

#[derive(Deserialize)]
struct KmsSecret {
    ciphertext: String,
    key_id: String,
    plaintext: String,
}

fn releases() -> Vec<Release> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/releases");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort_unstable();
    assert!(!folders.is_empty());
    let read = |folder: PathBuf| {
        let text = fs::read_to_string(folder.join("release.json")).unwrap();
        Release { folder, ..serde_json::from_str(&text).unwrap() }
    };
    folders.into_iter().map(read).collect()
}

fn bytes(base64: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(base64).unwrap()
}

impl Release {
    /// A server with its records.
    fn server(&self) -> OpenBao {
        let server = OpenBao::shared();
        for (path, versions) in &self.records {
            for data in versions {
                server.api("POST", &format!("secret/data/{path}"), &json!({ "data": data }));
            }
        }
        server
    }

    /// A daemon that has nothing but the sealed copy, if this release has one of these settings.
    fn daemon_on_copy(&self, name: &str, written: &Written) -> Option<(Daemon, TempDir)> {
        let copy = fs::read(self.folder.join(format!("{name}.copy"))).ok()?;
        let key = fs::read(self.folder.join(format!("{name}.copy-key"))).unwrap();
        let host = tempfile::tempdir().unwrap();
        let [state, credentials] = ["state", "credentials"].map(|name| host.path().join(name));
        for folder in [&state, &credentials] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
        for (path, content) in
            [(state.join("keyring.copy"), copy), (credentials.join("keyring_cache_key"), key)]
        {
            fs::write(&path, content).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let [path, credentials] =
            [state.join("keyring.copy"), credentials].map(|path| path.display().to_string());
        let mut settings = vec![
            ("KONG_KEYRING_ENABLED", "on"),
            ("KONG_KEYRING_STRATEGY", "vault"),
            ("KONG_KEYRING_VAULT_HOST", &self.host),
            ("KONG_KEYRING_VAULT_MOUNT", "secret"),
            ("KONG_KEYRING_VAULT_PATH", "keyring"),
            ("KONG_KEYRING_VAULT_TOKEN", "none"),
            ("KONG_KEYRING_CACHE_PATH", &path),
            ("KONG_KEYRING_CACHE_WAIT", "0"),
            ("CREDENTIALS_DIRECTORY", &credentials),
        ];
        settings.extend(written.settings());
        let daemon = Daemon::start_with(&settings);
        daemon.wait_until_ready();
        assert_eq!(daemon.get("/status").at("/keyring/source"), "copy");
        Some((daemon, host))
    }
}

impl Written {
    fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn opens_in(&self, daemon: &Daemon) {
        assert!(!self.requests.is_empty());
        for request in &self.requests {
            request.is_answered_by(daemon);
        }
        for Octets { sealed, associated_data, plaintext } in &self.octets {
            let kind = ("content-type", "application/octet-stream");
            let headers = [kind, ("keyring-associated-data", associated_data.as_str())];
            let opened = daemon.request_with("POST", "/v1/transit/decrypt/keyring", &headers, &bytes(sealed));
            assert_eq!((opened.status, opened.body), (200, bytes(plaintext)), "{sealed}");
        }
        let kms = Kms::connect(&daemon.socket());
        for KmsSecret { ciphertext, key_id, plaintext } in &self.kms {
            assert_eq!(kms.decrypt(&bytes(ciphertext), key_id).unwrap(), bytes(plaintext), "{ciphertext}");
        }
    }
}

impl Request {
    fn is_answered_by(&self, daemon: &Daemon) {
        let answer = daemon.post(&self.path, &self.body);
        for (field, expected) in &self.answer {
            assert_eq!(
                &answer.json()["data"][field],
                expected,
                "{}: {}: {}",
                self.path,
                self.body,
                answer.text()
            );
        }
    }
}

/// Byte i of a stream's plaintext is i mod 251.
fn opens_stream(daemon: &Daemon, stream: &Path) {
    let out = daemon.folder().join("opened").display().to_string();
    let arguments = ["decrypt", "--aad", "host 3", "--force", "-i", stream.to_str().unwrap(), "-o", &out];
    success(&daemon.command(&arguments, b""));
    let expected: Vec<u8> = (0..=250).cycle().take(251 * 530).collect();
    assert!(fs::read(out).unwrap() == expected, "{}", stream.display());
}

#[test]
fn everything_that_a_release_wrote_opens_with_keys_of_vault_and_with_its_own_sealed_copy() {
    for release in releases() {
        let server = release.server();
        let (mut streams, mut copies) = (0, 0);
        for (name, written) in &release.daemons {
            let daemon = Daemon::start(&server, &written.settings());
            written.opens_in(&daemon);
            let on_copy = release.daemon_on_copy(name, written);
            if let Some((on_copy, _)) = &on_copy {
                written.opens_in(on_copy);
                copies += 1;
            }
            let stream = release.folder.join(format!("{name}.stream"));
            if stream.exists() {
                opens_stream(&daemon, &stream);
                if let Some((on_copy, _)) = &on_copy {
                    opens_stream(on_copy, &stream);
                }
                streams += 1;
            }
        }
        assert_eq!((streams, copies), (2, 2), "{}", release.made_by);
    }
}

#[test]
fn a_changed_ciphertext_or_key_of_a_release_opens_nowhere() {
    let release = releases().remove(0);
    let written = &release.daemons["native"];
    let daemon = Daemon::start(&release.server(), &written.settings());
    let sealed = &written.octets[0];
    let mut changed = bytes(&sealed.sealed);
    *changed.last_mut().unwrap() ^= 1;
    let headers = [("content-type", "application/octet-stream")];
    assert_eq!(daemon.request_with("POST", "/v1/transit/decrypt/keyring", &headers, &changed).status, 400);
    // Under the same IDs, other keys.
    let other = Daemon::start(&release.server(), &[("KONG_KEYRING_KEY_DERIVATION", "raw")]);
    let opened = other.request_with("POST", "/v1/transit/decrypt/keyring", &headers, &bytes(&sealed.sealed));
    assert_eq!(opened.status, 400);
}

#[test]
fn the_key_that_dev_of_a_release_kept_opens_its_ciphertext() {
    for release in releases() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("dev.key");
        fs::copy(release.folder.join("dev.key"), &key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let daemon = Daemon::dev_keeping(&key);
        daemon.wait_until_ready();
        release.dev.is_answered_by(&daemon);
    }
}
