//! Seal and open in the native format and in Transit's, without a socket.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::{hint::black_box, sync::Arc, time::SystemTime};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keyringd::{
    cipher::{self, Batch, Format, KongFields},
    keyring::{HeldKey, Key, KeyId, Keyring},
    secret::Secret,
};

/// A keyring with this number of keys; the first is active.
fn keyring(keys: u16) -> Keyring {
    let id = |at: u16| KeyId::parse(&format!("key-{at}")).unwrap();
    let held = |at: u16| {
        let key = Arc::new(Key::new(id(at), Secret::new([at.to_le_bytes()[0]; 32])));
        HeldKey::new(key, u64::from(at) + 1, SystemTime::UNIX_EPOCH)
    };
    Keyring::new((0..keys).map(held), &id(0)).unwrap()
}

fn seal(keyring: &Keyring, format: Format, plaintext: &[u8], out: &mut Vec<u8>) {
    let mut batch = Batch::to_seal(1).unwrap();
    let mut plaintext = plaintext.to_vec();
    cipher::seal_text(keyring.active(), format, &mut plaintext, &mut batch, b"", out).unwrap();
}

/// Opens a copy: texts are opened in place.
fn open(keyring: &Keyring, sealed: &str) {
    let mut text = sealed.as_bytes().to_vec();
    black_box(cipher::open_text(keyring, &mut text, b"", KongFields::Refuse).unwrap());
    black_box(text);
}

fn texts(criterion: &mut Criterion) {
    let keyring = keyring(1);
    for format in [Format::Native, Format::Transit] {
        let mut group = criterion.benchmark_group(format.name());
        for bytes in [64, 1 << 10, 64 << 10, 1 << 20] {
            let plaintext = vec![b'p'; bytes];
            group.throughput(Throughput::Bytes(bytes as u64));
            let mut out = Vec::new();
            group.bench_with_input(BenchmarkId::new("seal", bytes), &plaintext, |bencher, plaintext| {
                bencher.iter(|| {
                    out.clear();
                    seal(&keyring, format, plaintext, &mut out);
                });
            });
            let sealed = String::from_utf8(out).unwrap();
            group.bench_with_input(BenchmarkId::new("open", bytes), &sealed, |bencher, sealed| {
                bencher.iter(|| open(&keyring, sealed));
            });
        }
        group.finish();
    }
}

/// The time of open must not depend on the number of keys.
fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open 1 KiB, keys held");
    for keys in [1, 100, 1000] {
        let keyring = keyring(keys);
        let mut out = Vec::new();
        seal(&keyring, Format::Native, &[b'p'; 1024], &mut out);
        let sealed = String::from_utf8(out).unwrap();
        group.bench_with_input(BenchmarkId::from_parameter(keys), &sealed, |bencher, sealed| {
            bencher.iter(|| open(&keyring, sealed));
        });
    }
}

criterion_group!(benches, texts, keys);
criterion_main!(benches);
