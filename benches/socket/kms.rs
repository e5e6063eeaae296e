//! The start of an API server, which decrypts thousands of keys at once by KMS v2.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyringd::api::kms::messages::{DecryptRequest, DecryptResponse};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Effort, Fact,
    servers::Servers,
    support::kms::{Connection, Kms, decrypt_request},
};

const CONNECTIONS: usize = 16;
const DECRYPTS: usize = 10_000;

pub fn measure(servers: &Servers, effort: Effort) -> Vec<Fact> {
    let keyringd = servers.keyringd.target();
    let sealed = Kms::connect(keyringd.socket).encrypt(&[7; 32]).unwrap();
    let request = Arc::new(decrypt_request(&sealed.ciphertext, &sealed.key_id));
    let (mut whole, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let begun = Instant::now();
        let mut times = Runtime::new().unwrap().block_on(async {
            let mut clients = JoinSet::new();
            for _ in 0..CONNECTIONS {
                clients.spawn(decrypts(Connection::open(keyringd.socket).await, Arc::clone(&request)));
            }
            clients.join_all().await.concat()
        });
        whole.push(begun.elapsed().as_secs_f64() * 1e3);
        times.sort_unstable();
        p99.push(times[times.len() * 99 / 100].as_secs_f64() * 1e3);
    }
    let name = format!("{DECRYPTS} decrypts of KMS v2 from {CONNECTIONS} connections");
    vec![
        Fact { name: format!("{name}, p99"), value: crate::median(p99), unit: "ms" },
        Fact { name, value: crate::median(whole), unit: "ms" },
    ]
}

/// The latency of each call of one connection, which has one call at a time.
async fn decrypts(connection: Connection, request: Arc<DecryptRequest>) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..DECRYPTS / CONNECTIONS {
        let sent = Instant::now();
        let opened: DecryptResponse = connection.clone().call("Decrypt", request.as_ref()).await.unwrap();
        times.push(sent.elapsed());
        assert_eq!(opened.plaintext, [7; 32][..]);
    }
    times
}
