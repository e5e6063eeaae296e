//! Compares keyringd with a bare hyper echo (the limit) and a real OpenBao's Transit (the alternative), on Unix sockets, in
//! one run, with the same bytes.
//!
//! `cargo bench --bench socket` prints a table and writes `target/bench-socket.json`. `-- --short` is a smoke test;
//! `-- 'encrypt JSON'` selects cases by name. Machines differ, so compare the ratios. `benches/README.md` has the results.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench fails by panicking"
)]
#![expect(
    unreachable_pub,
    reason = "a program of its own exports nothing: `pub` is enough between its files"
)]

mod cases;
mod echo;
mod fairness;
mod footprint;
mod kms;
mod load;
mod report;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

/// The duration of a round, and the number of rounds per server.
#[derive(Clone, Copy)]
pub struct Effort {
    pub time: Duration,
    pub rounds: usize,
}

/// A measured value with its unit.
pub struct Fact {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [first, socket] = arguments.as_slice()
        && first == "--echo"
    {
        return echo::serve(socket.as_ref());
    }
    let (options, wanted): (Vec<_>, Vec<_>) = arguments.iter().partition(|one| one.starts_with("--"));
    let effort = if options.iter().any(|option| *option == "--short") {
        Effort { time: Duration::from_millis(50), rounds: 1 }
    } else {
        Effort { time: Duration::from_secs(1), rounds: 3 }
    };
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let folder = tempfile::tempdir().unwrap();
    let servers = servers::Servers::start(folder.path());
    let cases = cases::all().into_iter().filter(|case| is_wanted(&case.to_string()));
    let outcomes: Vec<_> = cases.map(|case| cases::run(&case, &servers, effort)).collect();
    print!("{}", report::table(&outcomes));
    let mut facts = Vec::new();
    if is_wanted("fairness") {
        facts.extend(fairness::measure(&servers, effort));
    }
    if is_wanted("KMS") {
        facts.extend(kms::measure(&servers, effort));
    }
    if effort.rounds > 1 && is_wanted("memory after the load") {
        facts.push(footprint::after_load(&servers));
    }
    if is_wanted("footprint") {
        facts.extend(footprint::measure(&servers, effort));
    }
    print!("\n{}", report::facts(&facts));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("../bench-socket.json");
    std::fs::write(&path, report::json(&outcomes, &facts)).unwrap();
}
