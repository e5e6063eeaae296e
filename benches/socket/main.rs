//! keyringd beside a bare hyper echo (the limit) and a real OpenBao's Transit (what people would use instead), on Unix
//! sockets, in one run, on the same bytes.
//!
//! `cargo bench --bench socket` prints a table and writes `target/bench-socket.json`; `-- --short` runs everything for a
//! moment, to see that it runs. Machines differ: the ratios are what counts. What was found is in `benches/README.md`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench fails by panicking"
)]

mod cases;
mod echo;
mod footprint;
mod load;
mod report;
mod servers;
mod support;

use std::time::Duration;

/// How long each server is under load, and how often in turn.
#[derive(Clone, Copy)]
pub struct Effort {
    pub time: Duration,
    pub rounds: usize,
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [first, socket] = arguments.as_slice()
        && first == "--echo"
    {
        return echo::serve(socket.as_ref());
    }
    let short = arguments.iter().any(|argument| argument == "--short");
    let effort = if short {
        Effort { time: Duration::from_millis(50), rounds: 1 }
    } else {
        Effort { time: Duration::from_secs(1), rounds: 3 }
    };
    let folder = tempfile::tempdir().unwrap();
    let servers = servers::Servers::start(folder.path());
    let results: Vec<_> = cases::all().iter().map(|case| cases::run(case, &servers, effort)).collect();
    print!("{}", report::table(&results));
    drop(servers);
    let facts = footprint::measure(effort);
    print!("\n{}", report::facts(&facts));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("../bench-socket.json");
    std::fs::write(&path, report::json(&results, &facts)).unwrap();
}
