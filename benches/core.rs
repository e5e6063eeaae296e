//! The pure core by itself: seal and open in the native format and in Transit's, text by text, without a socket.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::{hint::black_box, sync::Arc, time::SystemTime};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keyringd::{
    cipher::{self, Format, Message, Nonces},
    keyring::{HeldKey, Key, KeyId, Keyring},
    secret::Secret,
};

fn keyring() -> Keyring {
    let id = KeyId::parse("key").unwrap();
    let key = Arc::new(Key::new(id.clone(), Secret::new([7; 32])));
    Keyring::new([HeldKey::new(key, 1, SystemTime::UNIX_EPOCH)], &id).unwrap()
}

fn seal(keyring: &Keyring, format: Format, plaintext: &[u8], out: &mut Vec<u8>) {
    let mut nonces = Nonces::draw(1, format).unwrap();
    let message = Message::new(format, plaintext.len(), |buffer| {
        buffer.extend_from_slice(plaintext);
        Ok::<_, ()>(())
    });
    message.unwrap().seal_text(keyring.active(), &mut nonces, b"", out).unwrap();
}

fn texts(criterion: &mut Criterion) {
    let keyring = keyring();
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
                bencher.iter(|| black_box(cipher::open_text(&keyring, sealed, b"", false).unwrap()));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, texts);
criterion_main!(benches);
