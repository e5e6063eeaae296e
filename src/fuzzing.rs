//! What the fuzz targets in `fuzz/` call: each takes bytes from outside, as the daemon's own callers do, and checks what must
//! hold for all of them.
//!
//! Compiled for them and for tests only: a test runs each target on its corpus. `fuzz/README.md` says how to run them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a fuzz target fails by panicking"
)]

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use crate::{
    api::{self, Api, kms::messages, testing},
    cipher::{self, Batch, Format, KongFields, copy::CopyKey, stream},
    keyring::{
        HeldKey, Key, KeyDerivation, KeyId, Keyring, SecretLocation, copy::CopyContents, record::Contents,
    },
    metrics::Metrics,
    secret::Secret,
    server,
    settings::fuzzing as settings,
    vault::{self, kv},
};

/// How long the server may take for all that a client sends. Its own timeouts are shorter than this.
const CONNECTION_TIME: Duration = Duration::from_secs(20);

static KEYRING: LazyLock<Keyring> = LazyLock::new(keyring);

static API: LazyLock<Arc<Api>> = LazyLock::new(|| {
    let config = testing::config();
    let published = &config.keyrings.default().unwrap().published;
    published.publish(keyring());
    Arc::new(Api::new(config, Arc::new(Metrics::default()), Arc::new(testing::Nowhere)))
});

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
}

fn keyring() -> Keyring {
    let id = KeyId::parse("key").unwrap();
    let key = Key::new(id.clone(), Secret::new([7; 32]));
    Keyring::new([HeldKey::new(key.into(), 1, SystemTime::UNIX_EPOCH)], &id).unwrap()
}

/// All that a client sends on a connection, HTTP/1.1 or h2. The server answers in the same protocol, and ends.
pub fn connection(sent: &[u8]) {
    let served = async { tokio::time::timeout(CONNECTION_TIME, server::fuzzing::serve(&API, sent)).await };
    let received = RUNTIME.with(|runtime| runtime.block_on(served)).expect("the server ends");
    let is_h2 = sent.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // The first frame of h2 is SETTINGS.
    let is_right = if is_h2 { received.get(3) == Some(&4) } else { received.starts_with(b"HTTP/1.") };
    assert!(received.is_empty() || is_right, "{}", received.escape_ascii());
}

/// The answers of a Vault that lies, from the login on.
pub fn vault_answers(answers: &[u8]) {
    RUNTIME.with(|runtime| runtime.block_on(vault::fuzzing::answers(answers)));
}

/// A file in the place of the sealed copy, or the content of one.
pub fn sealed_copy(bytes: &[u8]) {
    let key =
        CopyKey::derive(&Secret::new("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned())).unwrap();
    let location = SecretLocation::default();
    assert!(key.open(bytes.to_vec(), &location).is_err());
    let Ok(contents) = CopyContents::parse(bytes, &location) else { return };
    let mut written = Vec::new();
    contents.write_to(&mut written);
    let again = CopyContents::parse(&written, &location).unwrap();
    assert_eq!(again.keyrings.len(), contents.keyrings.len());
    for (one, other) in contents.keyrings.iter().zip(&again.keyrings) {
        assert_eq!((&one.name, one.synced), (&other.name, other.synced));
        assert_eq!(one.keyring.key_count(), other.keyring.key_count());
        assert!(one.keyring.active().key.same_key(&other.keyring.active().key));
    }
}

/// The fields of a secret, as Vault answers them.
pub fn record(json: &[u8]) {
    for derivation in [KeyDerivation::Sha256, KeyDerivation::Raw] {
        let contents = Contents::parse(json, derivation);
        assert!(contents.same_as(&Contents::parse(json, derivation)), "the same text is the same content");
    }
}

/// A ciphertext of any form that this key did not make. Only Kong's fields, which nothing authenticates, may open.
pub fn ciphertext(sealed: &[u8]) {
    let open = |fields, data: &[u8]| {
        let mut sealed = sealed.to_vec();
        cipher::open_bytes(&KEYRING, &mut sealed, 0, data, fields).map(|opened| opened.format)
    };
    assert!(open(KongFields::Refuse, b"").is_err());
    assert!(open(KongFields::Accept, b"data").is_err());
    assert!(!open(KongFields::Accept, b"").is_ok_and(|format| format != Format::Kong));
}

/// What is sealed opens as it was, and not with other associated data. The first byte is the length of the associated data.
pub fn round_trip(bytes: &[u8]) {
    let Some((len, rest)) = bytes.split_first() else { return };
    let (associated_data, plaintext) = rest.split_at(rest.len().min((*len).into()));
    for format in [Format::Native, Format::Transit] {
        let (mut batch, mut out) = (Batch::to_seal(1).unwrap(), Vec::new());
        let mut buffer = plaintext.to_vec();
        cipher::seal_text(KEYRING.active(), format, &mut buffer, &mut batch, associated_data, &mut out)
            .unwrap();
        let open = |data: &[u8]| {
            let mut text = out.clone();
            let opened = cipher::open_text(&KEYRING, &mut text, data, KongFields::Refuse);
            opened.map(|opened| text[opened.plaintext].to_vec())
        };
        assert_eq!(open(associated_data).unwrap(), plaintext);
        assert!(open(&[associated_data, b"x"].concat()).is_err());
    }
}

/// A stream that this key did not seal.
pub fn stream(mut sealed: &[u8]) {
    let Ok(header) = stream::Header::read(&mut sealed) else { return };
    let key = Secret::new([7; 32]);
    let mut written = Vec::new();
    assert!(stream::open(&key, &header, sealed, &mut written, &mut |_| {}).is_err());
    assert!(written.is_empty(), "nothing is written before it is authentic");
    let mut again = Vec::new();
    header.write(&mut again).unwrap();
    assert_eq!(stream::Header::read(&*again).unwrap().wrapped(), header.wrapped());
}

/// A kong.conf.
pub fn kong_conf(bytes: &[u8]) {
    settings::kong_conf(bytes);
}

/// The texts that settings may have: references, permissions, certificates and keys.
pub fn setting(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    settings::reference(text);
    settings::access_list(text);
    settings::pem(text);
}

/// Version metadata, as Vault answers it.
pub fn metadata(json: &[u8]) {
    kv::fuzz_metadata(json);
}

/// The body of a Transit request.
pub fn transit_request(body: &[u8]) {
    api::fuzzing::request(body);
}

/// The frame of a KMS call.
pub fn kms_frame(frame: &[u8]) {
    let frame = hyper::body::Bytes::copy_from_slice(frame);
    let _ = messages::decode::<messages::EncryptRequest>(frame.clone());
    if let Ok(request) = messages::decode::<messages::DecryptRequest>(frame) {
        let (sealed, id) = (request.ciphertext.to_vec(), request.key_id.as_bytes());
        assert!(cipher::open_kms(KEYRING.active(), sealed, id).is_err());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 12] = [
        ("ciphertext", ciphertext),
        ("connection", connection),
        ("kms_frame", kms_frame),
        ("kong_conf", kong_conf),
        ("metadata", metadata),
        ("record", record),
        ("round_trip", round_trip),
        ("sealed_copy", sealed_copy),
        ("setting", setting),
        ("stream", stream),
        ("transit_request", transit_request),
        ("vault_answers", vault_answers),
    ];

    /// Targets that take a millisecond: of their samples, not every prefix is tried.
    const SLOW: [&str; 2] = ["connection", "vault_answers"];

    fn samples(target: &str) -> Vec<Vec<u8>> {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut paths: Vec<_> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// Some of: a changed byte, a part left out, a part twice, and the end of another sample.
    fn changed(sample: &[u8], other: &[u8], choices: &[(u8, prop::sample::Index, u8)]) -> Vec<u8> {
        let mut bytes = sample.to_vec();
        for (kind, at, byte) in choices {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + usize::from(*byte) % 16);
            match kind % 4 {
                0 => bytes.iter_mut().skip(at).take(1).for_each(|one| *one = *byte),
                1 => drop(bytes.drain(at..end)),
                2 => bytes.extend_from_within(at..end),
                _ => {
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[other.len().min(at)..]);
                }
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn each_target_passes_on_changed_samples(
            choices in proptest::collection::vec(any::<(u8, prop::sample::Index, u8)>(), 1..6),
            other: prop::sample::Index,
        ) {
            for (name, target) in TARGETS {
                let samples = samples(name);
                for sample in &samples {
                    target(&changed(sample, other.get::<Vec<u8>>(&samples), &choices));
                }
            }
        }
    }

    #[test]
    fn each_target_passes_on_its_corpus_and_on_prefixes_of_it() {
        for (name, target) in TARGETS {
            let samples = samples(name);
            assert!(samples.len() >= 3, "{name}: a fuzzer starts best from valid samples");
            for sample in samples {
                let step = if SLOW.contains(&name) { 1 + sample.len() / 64 } else { 1 };
                (0..=sample.len()).step_by(step).for_each(|len| target(&sample[..len]));
                target(&sample);
            }
        }
    }
}
