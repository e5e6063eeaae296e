//! The daemon's own concurrent code under a scheduler that chooses who goes on after each use of a lock, an atomic or a
//! channel: models [EXECUTIONS] [SEED]
//!
//! The modules are those of the daemon, unchanged: here the names `std`, `tokio`, `tokio_util` and `arc_swap` are other crates,
//! in which locks, tasks and time are the scheduler's. Each model runs under two schedulers, a random one and PCT, which finds
//! rare orders. A failure prints the schedule, and the same seed gives it again.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "modules of the daemon, of which a model uses a part"
)]

extern crate models_std as std;
extern crate models_tokio as arc_swap;
extern crate models_tokio as tokio;
extern crate models_tokio as tokio_util;

mod login;
mod published;

// The daemon's, by symbolic links.
mod clock;
mod keyring;
mod logging;
mod metrics;
mod operation;
mod secret;
mod settings;
mod supervise;
mod vault;

#[path = "../../../src/references"]
mod references {
    mod cache;
    mod cache_entry;
    mod engines;
    #[path = "../../tests/models/src/cache.rs"]
    pub(crate) mod model;
    mod name;
}

#[path = "../../../src/api"]
mod api {
    mod budget;
    #[path = "../../tests/models/src/budget.rs"]
    pub(crate) mod model;
}

use shuttle::{
    Config, Runner,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
};

/// Each may be run many times, in one thread.
const MODELS: [(&str, fn()); 7] = [
    ("published: keys from Vault replace those of a copy, and stay", published::copy_and_vault),
    ("published: a keyring is found by its own name only", published::names),
    ("login: requests that come together log in once", login::single_flight),
    ("login: a refused token is replaced once, and none is left behind", login::refused_token),
    ("budget: the limit holds, and all bytes come back", api::model::limit),
    ("budget: a user below the share gets its bytes", api::model::share),
    ("cache: one read of a secret at a time, by the current settings", references::model::one_read),
];

/// The preemptions that PCT looks for.
const DEPTH: usize = 4;

fn run(name: &str, model: fn(), scheduler: impl Scheduler + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    let begun = ::std::time::Instant::now();
    let executions = Runner::new(scheduler, config).run(move || {
        tokio::time::reset();
        model();
    });
    println!("{name}: {executions} executions in {} s", begun.elapsed().as_secs());
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().expect("models [EXECUTIONS] [SEED]"));
    let (executions, seed) = (numbers.next().unwrap_or(1000), numbers.next().unwrap_or(1));
    let seed = u64::try_from(seed).expect("a seed");
    println!("seed {seed}");
    for (name, model) in MODELS {
        run(name, model, RandomScheduler::new_from_seed(seed, executions));
        run(name, model, PctScheduler::new_from_seed(seed, DEPTH, executions));
    }
}
