//! What a client with large requests costs the others: the time of small requests beside it, against the time that the same
//! requests take while an equally busy echo has the processors.

use std::thread;

use crate::{
    Effort, Fact, echo,
    load::{self, Asking, Target},
    servers::Servers,
};

const SMALL: usize = 64;
const LARGE: usize = 1 << 20;

/// How many clients have small requests. One has large ones.
const CLIENTS: usize = 4;

pub fn measure(servers: &Servers, effort: Effort) -> Vec<Fact> {
    let (keyringd, echo) = (servers.keyringd.target(), servers.echo.target());
    let mut facts = Vec::new();
    for (thousandths, name) in [(500, "p50"), (990, "p99"), (999, "p99.9")] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..effort.rounds {
            for (times, busy) in times.iter_mut().zip([&keyringd, &echo]) {
                times.push(f64::from(beside(busy, &keyringd, effort).percentile(thousandths)));
            }
        }
        let [beside_itself, beside_echo] = times.map(crate::median);
        let fact = |name, value, unit| Fact { name, value, unit };
        facts.extend([
            fact(format!("{SMALL} B beside one client with 1 MiB, {name}"), beside_itself, "µs"),
            fact(format!("{SMALL} B beside an echo with 1 MiB, {name}"), beside_echo, "µs"),
            fact(format!("ratio of these, {name}"), beside_itself / beside_echo, ""),
        ]);
    }
    facts
}

/// Small requests of some clients to `server`, while `busy` has large ones of one client.
fn beside(busy: &Target<'_>, server: &Target<'_>, effort: Effort) -> load::Measured {
    thread::scope(|scope| {
        let large = scope.spawn(|| busy.load(&octets(LARGE), 1, effort.time));
        let small = server.load(&octets(SMALL), CLIENTS, effort.time);
        large.join().unwrap();
        small
    })
}

/// A request that keyringd seals, and that the echo answers with as many bytes.
fn octets(bytes: usize) -> Asking {
    let len = bytes.to_string();
    let headers = [("content-type", "application/octet-stream"), (echo::ANSWER, &len)];
    load::post("transit/encrypt/keyring", &headers, vec![b'p'; bytes])
}
