//! The effect of a client with large requests on others: the latency of small requests, compared with their latency while an
//! equally loaded echo uses the processors.

use std::thread;

use crate::{
    Effort, Fact, echo,
    load::{self, LoadRequest, Target},
    servers::Servers,
};

const SMALL: usize = 64;
const LARGE: usize = 1 << 20;

/// The number of clients with small requests. One more client has large requests.
const CLIENTS: usize = 4;

pub fn measure(servers: &Servers, effort: Effort) -> Vec<Fact> {
    let (keyringd, echo) = (servers.keyringd.target(), servers.echo.target());
    let mut facts = Vec::new();
    for (thousandths, name) in [(500, "p50"), (990, "p99"), (999, "p99.9")] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..effort.rounds {
            for (times, busy) in times.iter_mut().zip([&keyringd, &echo]) {
                times.push(f64::from(under_load(busy, &keyringd, effort).percentile(thousandths)));
            }
        }
        let [with_keyringd, with_echo] = times.map(crate::median);
        let fact = |name, value, unit| Fact { name, value, unit };
        facts.extend([
            fact(format!("{SMALL} B with one client of 1 MiB, {name}"), with_keyringd, "µs"),
            fact(format!("{SMALL} B with a busy echo of 1 MiB, {name}"), with_echo, "µs"),
            fact(format!("ratio of these, {name}"), with_keyringd / with_echo, ""),
        ]);
    }
    facts
}

/// Sends small requests to `server` while one client sends large requests to `busy`.
fn under_load(busy: &Target<'_>, server: &Target<'_>, effort: Effort) -> load::Measured {
    thread::scope(|scope| {
        let large = scope.spawn(|| busy.load(&octets(LARGE), 1, effort.time));
        let small = server.load(&octets(SMALL), CLIENTS, effort.time);
        large.join().unwrap();
        small
    })
}

/// A request that keyringd encrypts, and to which the echo responds with as many bytes.
fn octets(bytes: usize) -> LoadRequest {
    let len = bytes.to_string();
    let headers = [("content-type", "application/octet-stream"), (echo::ANSWER, &len)];
    load::post("transit/encrypt/keyring", &headers, vec![b'p'; bytes])
}
