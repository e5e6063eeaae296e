//! The load of a fleet on one Vault: some hundred sessions in this process with one real OpenBao, at the start, at rest, at a
//! rotation, and after an outage.
//!
//! `cargo bench --bench fleet` prints the requests and their peaks, then the numbers for fleets of other sizes. `-- --short`
//! is a smoke test. All requests pass through `counter`.

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

mod counter;
#[path = "../support/mod.rs"]
mod support;

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use keyringd::{
    keyring::{Keyrings, Published},
    metrics::Metrics,
    settings::{self, source},
    sync::Syncs,
    vault::{SessionName, Sessions},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use counter::{Counter, Counts};
use support::openbao::OpenBao;

/// The size of the fleet and the sync interval. The TTL of a token is [`TOKEN_LIFE`] intervals.
#[derive(Clone, Copy)]
struct Fleet {
    hosts: usize,
    interval: Duration,
}

/// The TTL of a token in intervals: an hour for an interval of a minute.
const TOKEN_LIFE: u32 = 60;

/// The number of versions at the start.
const VERSIONS: usize = 3;

/// A daemon without a socket.
struct Host(Keyrings);

impl Host {
    fn published(&self) -> Arc<Published> {
        Arc::clone(&self.0.default().unwrap().published)
    }

    fn is_under(&self, id: &str) -> bool {
        self.published().keyring().is_some_and(|keyring| keyring.active().key.id().as_str() == id)
    }

    fn has_synced_since(&self, at: SystemTime) -> bool {
        self.published().report().last_success.is_some_and(|last| last > at)
    }
}

fn main() {
    let short = std::env::args().any(|argument| argument == "--short");
    let fleet = if short {
        Fleet { hosts: 20, interval: Duration::from_secs(2) }
    } else {
        Fleet { hosts: 300, interval: Duration::from_secs(20) }
    };
    let mut server = OpenBao::durable();
    for at in 0..VERSIONS {
        server.put_record(&format!("key-{at}"), "a key text of at least thirty-two characters");
    }
    let folder = tempfile::tempdir().unwrap();
    let counter = Counter::start(&server.address());
    let settings = settings(&server, &counter.address(), folder.path(), fleet);
    let (runtime, stop) = (Runtime::new().unwrap(), CancellationToken::new());
    let hosts: Vec<_> = (0..fleet.hosts).map(|_| host(&runtime, &settings, &stop)).collect();
    let sleep = |time| runtime.block_on(async { tokio::time::sleep(time).await });
    let until = |what: &str, reached: &dyn Fn(&Host) -> bool| {
        let begun = Instant::now();
        while !hosts.iter().all(reached) {
            assert!(begun.elapsed() < 20 * fleet.interval, "timeout: {what}");
            sleep(Duration::from_millis(20));
        }
    };
    let all_under = |id: &str| until("all hosts have it", &|host| host.is_under(id));
    let wait = |intervals| sleep(fleet.interval * intervals);

    println!("{} hosts, an interval of {} s\n", fleet.hosts, fleet.interval.as_secs());
    println!(
        "| phase | requests | per host | per second | peak second | / mean |\n|---|---|---|---|---|---|"
    );
    let show = |phase: &str, counts: &Counts| show(phase, counts, fleet);
    all_under(&format!("key-{}", VERSIONS - 1));
    show("start, all at once", &counter.since_last());
    wait(1); // the requests of the start end here
    counter.since_last();
    wait(3);
    show("at rest, 3 intervals", &counter.since_last());
    server.put_record("rotated", "another text of at least thirty-two characters");
    all_under("rotated");
    show("a rotation, until all hosts have it", &counter.since_last());
    server.stop();
    wait(1);
    counter.since_last();
    let returning = SystemTime::now();
    server.start();
    until("all hosts have synced", &|host| host.has_synced_since(returning));
    show("Vault returns after an interval, until all hosts have synced", &counter.since_last());
    wait(2);
    show("the next 2 intervals", &counter.since_last());
    stop.cancel();
    let on_paper = on_paper();
    println!("\n{on_paper}");
    assert!(
        include_str!("../../docs/speed.md").contains(&on_paper),
        "docs/speed.md has another table of fleets"
    );
}

/// Starts a host's sync.
fn host(runtime: &Runtime, settings: &Path, stop: &CancellationToken) -> Host {
    let loaded = settings::load(&[Box::new(source::File(settings.to_owned()))]);
    let settings = loaded.settings.unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    let metrics = Arc::new(Metrics::default());
    let sessions = Sessions::new(Arc::clone(&metrics), stop.clone());
    let keyrings = settings.keyrings.expect("the settings have a keyring");
    let _runtime = runtime.enter();
    let client = sessions.client(SessionName::Keyring, keyrings.server).unwrap();
    Host(Syncs::start(&client, keyrings.default, metrics, stop.clone()).keyrings().clone())
}

/// A kong.conf with a login by AppRole, through the counter.
fn settings(server: &OpenBao, address: &str, folder: &Path, fleet: Fleet) -> std::path::PathBuf {
    server.allow_reading();
    server.enable("approle");
    let life = format!("{}s", (fleet.interval * TOKEN_LIFE).as_secs());
    let role = json!({ "token_policies": ["keyring"], "token_ttl": life, "token_max_ttl": life });
    server.api("POST", "auth/approle/role/fleet", &role);
    let role_id = server.api("GET", "auth/approle/role/fleet/role-id", &Value::Null).at("/data/role_id");
    let secret_id = server.api("POST", "auth/approle/role/fleet/secret-id", &json!({})).at("/data/secret_id");
    let path = folder.join("kong.conf");
    let text = format!(
        "keyring_enabled = on\nkeyring_strategy = vault\nkeyring_vault_host = {address}\nkeyring_vault_mount = secret\n\
         keyring_vault_path = keyring\nkeyring_vault_auth_method = approle\nkeyring_vault_approle_role_id = {role_id}\n\
         keyring_vault_approle_secret_id = {secret_id}\nkeyring_sync_interval = {}\n",
        fleet.interval.as_secs()
    );
    fs::write(&path, text).unwrap();
    path
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand requests")]
fn show(phase: &str, counts: &Counts, fleet: Fleet) {
    let (all, seconds) = (counts.all() as f64, counts.time.as_secs_f64());
    let (most, mean) = (counts.most_in_a_second() as f64, all / seconds);
    let (a_host, of_mean) = (all / fleet.hosts as f64, most / mean);
    println!("| {phase} | {all} | {a_host:.2} | {mean:.1} | {most} | {of_mean:.1} |");
}

/// The requests per second of fleets of other sizes, with a token TTL of an hour and ten versions.
fn on_paper() -> String {
    let mut text = String::from(
        "| hosts | `keyring_sync_interval` | at rest | a rotation | Vault's return | all start within a minute |\n\
         |---|---|---|---|---|---|\n",
    );
    for hosts in [100.0, 10_000.0, 1_000_000.0] {
        for interval in [60.0, 600.0] {
            // A renewal happens after half to two thirds of the token's TTL. The engine's limit is requested every hour.
            let rest = hosts * (1.0 / interval + 1.0 / (3600.0 * 7.0 / 12.0) + 1.0 / 3600.0);
            // One more request per host within an interval.
            let rotation = rest + hosts / interval;
            // All hosts within half an interval, and some of them twice.
            let back = hosts * 1.3 / (interval / 2.0);
            // The login, the metadata, the engine's limit and the versions.
            let start = hosts * (3.0 + 10.0) / 60.0;
            let rounded = [rest, rotation, back, start]
                .map(|rate| if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") });
            let _ = writeln!(text, "| {hosts} | {interval} | {} |", rounded.join(" | "));
        }
    }
    text
}
