//! Latency at the start of an API server, which decrypts thousands of keys and waits at most 10 ms for each.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyringd::api::kms::messages::DecryptResponse;

use crate::support::{
    Daemon,
    kms::{Connection, Kms, decrypt_request},
    wait_for,
};

const CONNECTIONS: usize = 16;
const DECRYPTS: usize = 10_000;

/// The bound of Kubernetes for a release build. A debug build next to all other tests is much slower.
const BOUND: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1000 } else { 10 });

#[test]
fn ten_thousand_decrypts_at_once_are_fast_and_curl_is_served_meanwhile() {
    let daemon = Daemon::dev();
    let kms = Kms::connect(&daemon.socket());
    let sealed = kms.encrypt(&[7; 32]).unwrap();
    let request = Arc::new(decrypt_request(&sealed.ciphertext, &sealed.key_id));
    let socket = daemon.socket();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let begun = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (socket, request) = (socket.clone(), Arc::clone(&request));
            runtime.spawn(async move {
                let connection = Connection::open(&socket).await;
                let mut took = Vec::new();
                for _ in 0..DECRYPTS / CONNECTIONS {
                    let begun = Instant::now();
                    let opened: DecryptResponse =
                        connection.clone().call("Decrypt", request.as_ref()).await.unwrap();
                    took.push(begun.elapsed());
                    assert_eq!(opened.plaintext, [7; 32][..]);
                }
                took
            })
        })
        .collect();
    let mut served = 0;
    wait_for("the decrypts", || {
        assert_eq!(daemon.get("/readyz").status, 200);
        served += 1;
        clients.iter().all(tokio::task::JoinHandle::is_finished).then_some(())
    });
    let mut took: Vec<_> = clients.into_iter().flat_map(|client| runtime.block_on(client).unwrap()).collect();
    let whole = begun.elapsed();
    took.sort_unstable();
    let at = |hundredths: usize| took[took.len() * hundredths / 100 - 1];
    let (middle, p99, worst) = (at(50), at(99), at(100));
    eprintln!(
        "{DECRYPTS} decrypts from {CONNECTIONS} connections in {whole:?}: half within {middle:?}, p99 {p99:?}, worst \
         {worst:?}; {served} requests in HTTP/1.1 meanwhile"
    );
    assert!(p99 < BOUND, "p99 {p99:?}");
    assert!(served > 0);
}
