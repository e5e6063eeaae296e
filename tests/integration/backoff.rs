//! How many requests Vault gets while it fails. The test takes a minute by itself: by its name it is one of the first that run, so
//! that none waits for it at the end.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    session::through,
    support::{Daemon, Fault, OpenBao, Proxy, wait_for},
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

#[test]
fn requests_a_minute_stay_few_under_permanent_faults() {
    // 1 + 2 + 4 + 8 + 16 s of backoff, less half at most, and 11 s or more from then on without keys, leave 11 attempts
    // in a minute. A denied one asks for the secret, looks the token up, logs in, revokes the token before and asks again.
    // To keep alive a token of 20 s takes ten requests at most; and as long as such a token lives, it may sync every second.
    const MOST: usize = 11 * 5 + 10 + 22;
    let server = OpenBao::durable();
    server.put_record("first", KEY);
    server.enable("approle");
    let role = json!({ "token_policies": ["keyring"], "token_ttl": "20s", "token_max_ttl": "1h", "token_no_default_policy": true });
    server.api("POST", "auth/approle/role/app", &role);
    let role_id = server.role_id("app");
    let secret_id = server.secret_id("app");
    let by_role = [
        ("KONG_KEYRING_SYNC_INTERVAL", "1"),
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role_id.as_str()),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", secret_id.as_str()),
    ];
    let by_token = [("KONG_KEYRING_SYNC_INTERVAL", "1")];
    // Where the fault is, and what it is; each with a token that was given and with one that is logged in for.
    let too_many = Fault::Answer(429, "retry-after: 300\r\n".to_owned(), String::new());
    let faults = [
        ("/", Fault::status(403)),
        ("/", Fault::status(500)),
        ("/", Fault::Cut),
        ("/", Fault::Silence),
        ("/", too_many),
        ("/v1/secret/", Fault::status(403)),
        ("/v1/auth/", Fault::status(400)),
    ];
    let mut all = Vec::new();
    for (path, fault) in &faults {
        for settings in [by_token.as_slice(), &by_role] {
            for held in [true, false] {
                let proxy = Proxy::before(&server.address());
                if !held {
                    proxy.set(path, fault.clone());
                }
                let daemon = through(&server, &proxy, settings);
                let name = format!("{path} {fault:?}, {} settings, keys held: {held}", settings.len());
                all.push((name, proxy, daemon, held, (*path, fault.clone())));
            }
        }
    }
    for (_, proxy, daemon, held, (path, fault)) in &all {
        if *held {
            daemon.wait_until_ready();
            proxy.set(path, fault.clone());
        }
    }
    let unreachable =
        Daemon::start_unready(&server, &[("KONG_KEYRING_VAULT_HOST", "http://127.0.0.1:1"), by_token[0]]);
    let before: Vec<_> = all.iter().map(|(_, proxy, ..)| proxy.seen().len()).collect();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Hostile clients name unknown keys all the while, and stop waiting before they are answered.
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                for (_, _, daemon, ..) in &all {
                    let mut stream = daemon.connect();
                    let body = r#"{"ciphertext": "kr1:unknown:AAAA"}"#;
                    let length = body.len();
                    let request = format!("POST /v1/transit/decrypt/keyring HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
                    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
                }
                wait_for_the_clock(Instant::now() + Duration::from_millis(500));
            }
        });
        wait_for_the_clock(Instant::now() + Duration::from_secs(60));
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for ((name, proxy, daemon, ..), before) in all.iter().zip(before) {
        let seen = proxy.seen().split_off(before);
        // While the token is valid, a denied login does not stop the syncs.
        let healthy = daemon.get("/status").at("/sync/failures") == "0";
        assert!(healthy || seen.len() <= MOST, "{name}: {} requests: {seen:?}", seen.len());
        let logins = seen.iter().filter(|request| request.contains("/login")).count();
        assert!(logins <= 11, "{name}: {logins} logins");
    }
    let attempts = unreachable.log().matches("sync failed").count();
    assert!((4..=11).contains(&attempts), "{attempts} attempts on a refused connection");
}

fn wait_for_the_clock(until: Instant) {
    while Instant::now() < until {
        wait_for("the clock", {
            let step = until.min(Instant::now() + Duration::from_secs(1));
            move || (Instant::now() >= step).then_some(())
        });
    }
}
