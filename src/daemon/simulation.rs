//! The sync, the session and the sealed copy against a model of Vault, in virtual time: days of rotations, faults, clock
//! jumps, reloads and restarts within seconds. Each run follows from its seed.
//!
//! `vault` is the model with its faults, `folder` and `wrapping` two parts of it, `operator` what is done to the secret, `oracle` what the keyring must be, `life` one
//! life of the daemon, from a start to a stop or a kill. `KEYRINGD_SIMULATION=<first seed>,<seeds>,<days>` makes other runs than the short ones; one seed
//! alone is logged.

mod configuration;
mod folder;
mod life;
mod message;
mod operator;
mod oracle;
mod random;
mod vault;
mod wrapping;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, SystemTime},
};

use life::{Ended, Life};
use random::Random;
use vault::Vault;

use crate::{clock::simulated as clock, settings::KvVersion, vault::transport::simulated as transport};

const DAY: Duration = Duration::from_secs(86_400);

/// Runs of the ordinary tests: the first seed, how many, and the days of each.
const SHORT: [u64; 3] = [1, 24, 1];

/// What a run came to, which is the same for the same seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    lives: u64,
    syncs: u64,
    requests: u64,
    events: u64,
    /// The most requests of one hour.
    busiest_hour: u64,
    /// The longest time from the end of the last fault to a good sync.
    slowest_recovery: Duration,
}

impl Summary {
    fn add(&mut self, other: Self) {
        self.lives += other.lives;
        self.syncs += other.syncs;
        self.requests += other.requests;
        self.events += other.events;
        self.busiest_hour = self.busiest_hour.max(other.busiest_hour);
        self.slowest_recovery = self.slowest_recovery.max(other.slowest_recovery);
    }
}

/// Simulates a daemon from this seed.
fn simulate(seed: u64, days: u64) -> Summary {
    let folder = tempfile::tempdir().unwrap();
    let mut summary = Summary::default();
    let mut random = Random::new(seed);
    let mut wall_ahead = 0;
    let (mut before, end) = (Duration::ZERO, DAY * u32::try_from(days).unwrap());
    let mut model = None;
    while before < end {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let ended = runtime.unwrap().block_on(async {
            let model = model.get_or_insert_with(|| {
                let mut vault = Vault::new(Random::new(random.next()));
                operator::write_key(&mut vault, "first", None);
                Arc::new(Mutex::new(vault))
            });
            vault::lock(model).resume(before);
            transport::install(Some(vault::network(model)));
            let mut life = Life::start(model, &mut random, folder.path(), &mut wall_ahead);
            life.run(end, &mut summary).await
        });
        let Ended { at, keeps_copy } = ended;
        before = at;
        if !keeps_copy {
            let _ = std::fs::remove_file(copy_path(folder.path())); // there may be none
        }
    }
    transport::install(None);
    clock::set(None);
    let model = model.unwrap();
    let requests = &vault::lock(&model).requests;
    summary.requests = requests.values().sum();
    summary.busiest_hour = requests.values().copied().max().unwrap_or_default();
    summary
}

fn copy_path(folder: &Path) -> std::path::PathBuf {
    folder.join("copies/keyring.copy")
}

/// Simulates with each seed, on all processors. Says which seeds failed.
#[expect(clippy::print_stdout, reason = "at once: a long run may be stopped")]
fn simulate_all([first, seeds, days]: [u64; 3]) -> Summary {
    let next = Mutex::new(first..first + seeds);
    let (total, failed) = <(Mutex<Summary>, Mutex<Vec<u64>>)>::default();
    let work = || {
        while let Some(seed) = { next.lock().unwrap().next() } {
            match std::panic::catch_unwind(|| simulate(seed, days)) {
                Ok(summary) => total.lock().unwrap().add(summary),
                Err(_) => {
                    println!("seed {seed} fails");
                    failed.lock().unwrap().push(seed);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "these seeds fail: {failed:?}; one of them alone: KEYRINGD_SIMULATION={},1,{days}",
        failed[0]
    );
    total.into_inner().unwrap()
}

/// A run other than the short one, by the environment.
fn chosen() -> Option<[u64; 3]> {
    #[expect(clippy::disallowed_methods, reason = "a choice of the person who runs the tests")]
    let text = std::env::var("KEYRINGD_SIMULATION").ok()?;
    let numbers: Vec<u64> = text.split(',').map(|number| number.trim().parse().unwrap()).collect();
    Some(numbers.try_into().expect("KEYRINGD_SIMULATION=<first seed>,<seeds>,<days>"))
}

#[test]
#[expect(clippy::print_stdout, reason = "the seeds, for a person who repeats the run")]
fn no_schedule_of_faults_breaks_a_rule_of_the_keyring_or_of_the_session() {
    let runs = chosen().unwrap_or(SHORT);
    if runs[1] == 1 {
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).init();
    }
    let begun = SystemTime::now();
    let summary = simulate_all(runs);
    let [first, seeds, days] = runs;
    println!(
        "seeds {first} to {}, {days} days each: {summary:?} in {:?}",
        first + seeds - 1,
        begun.elapsed()
    );
    assert!(summary.syncs > seeds * days * 10, "{summary:?}: hardly anything happened");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_clock_of_this_machine_neither_keeps_nor_drops_a_version() {
    for mut ahead in [-7 * 86_400, 7 * 86_400] {
        let folder = tempfile::tempdir().unwrap();
        let mut random = Random::new(1);
        let mut vault = Vault::new(random.clone());
        vault.kv = KvVersion::V2;
        operator::write_key(&mut vault, "first", None);
        operator::write_key(&mut vault, "for-a-day", Some(DAY));
        let vault = Arc::new(Mutex::new(vault));
        transport::install(Some(vault::network(&vault)));
        let life = Life::start(&vault, &mut random, folder.path(), &mut ahead);
        assert_eq!(life.synced().await, "for-a-day");
        vault::lock(&vault).delete(2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(life.synced().await, "first");
    }
    transport::install(None);
    clock::set(None);
}

#[test]
fn a_seed_gives_the_same_run_again() {
    assert_eq!(simulate(7, 1), simulate(7, 1));
    assert_ne!(simulate(7, 1), simulate(8, 1));
}
