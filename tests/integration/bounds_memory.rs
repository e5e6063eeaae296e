//! Memory is bounded, and the bound is true: whatever users send, and whatever they leave open. They run under other users, so
//! these tests run as root.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::support::{
    OpenBao,
    attack::{
        Attack, ENCRYPT, HONEST, HOSTILE, MIB, Open, RESTING, alone, attack, only, open, open_by, resident,
    },
    cgroup::MemoryGroup,
    daemon::{PROGRAM, kongs_settings, kongs_settings_of_nobody},
    http,
    kms::Kms,
    passed_as_root, success, wait_for,
};

/// What a connection that sends a body takes besides, in KiB: its read buffer, and for a second the buffers that its body has
/// outgrown.
const CONNECTION: u64 = 256;

/// The peak of an attack, over what the daemon had before it, in KiB.
fn peak_of(open: &Open, name: &str, numbers: &[u64]) -> (u64, Value) {
    let before = open.daemon.peak_memory();
    let result = attack(HONEST, &open.socket, name, numbers);
    (open.daemon.peak_memory().saturating_sub(before), result)
}

#[test]
fn no_mix_of_formats_and_operations_takes_more_than_the_limit() {
    let _alone = alone();
    if passed_as_root() {
        return;
    }
    let limit = 32;
    let sizes = [("KONG_KEYRING_MAX_INFLIGHT_SIZE", "32m"), ("KONG_KEYRING_MAX_REQUEST_SIZE", "16m")];
    for (name, numbers) in [
        ("json_bodies", [5, 5 << 20]),
        ("escaped_bodies", [7, 3 << 20]),
        ("raw_bodies", [5, 8 << 20]),
        ("batches", [10, 10_000]),
        ("mixed", [3, 2 << 20]),
        ("raw_bodies", [40, 1 << 20]),
        ("json_bodies", [30, 1 << 20]),
    ] {
        let open = open(&sizes);
        let (peak, result) = peak_of(&open, name, &numbers);
        // A refused body is received and dropped for 5 s. A slow client has not sent it by then.
        only(&result["statuses"], &["200", "429", "BrokenPipeError", "ConnectionResetError"]);
        assert!(result["statuses"]["200"].as_u64().is_some(), "{name}: {result}");
        let [connections, _] = numbers;
        let allowed = limit * MIB * 115 / 100 + connections * CONNECTION;
        assert!(peak <= allowed, "{name}: {peak} KiB over the start, {allowed} allowed, {result}");
        assert_eq!(open.daemon.opened(&open.daemon.encrypt("alive")), "alive");
        wait_for("memory to be given back", || (resident(&open.daemon) <= RESTING).then_some(()));
    }
}

#[test]
fn the_default_limit_holds_for_the_largest_bodies_and_batches() {
    let _alone = alone();
    if passed_as_root() {
        return;
    }
    let sizes = [("KONG_KEYRING_MAX_INFLIGHT_SIZE", "256m")];
    for (name, numbers) in [("json_bodies", [7, 23 << 20]), ("batches", [10, 10_000])] {
        let open = open(&sizes);
        let (peak, result) = peak_of(&open, name, &numbers);
        // A refused body is received and dropped for 5 s. A slow client has not sent it by then.
        only(&result["statuses"], &["200", "429", "BrokenPipeError", "ConnectionResetError"]);
        assert!(result["statuses"]["200"].as_u64().is_some(), "{name}: {result}");
        assert!(peak <= 256 * MIB * 115 / 100, "{name}: {peak} KiB over the start, {result}");
        let begun = Instant::now();
        wait_for("memory to be given back", || (resident(&open.daemon) <= RESTING).then_some(()));
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}: {:?}", begun.elapsed());
    }
}

/// The body and an answer of its length; a little more for the connection and the allocator.
#[test]
fn json_costs_twice_its_body() {
    let _alone = alone();
    if passed_as_root() {
        return;
    }
    let open = open(&[]);
    let size = 4 << 20;
    let clear = format!(r#"{{"plaintext":"{}"}}"#, "A+/9".repeat(size / 4));
    let sealed = open.daemon.request("POST", ENCRYPT, clear.as_bytes()).at("/data/ciphertext");
    let ciphertext = json!({ "ciphertext": sealed }).to_string();
    let escaped = clear.replace('/', "\\/").replace('+', "\\u002b");
    let (_, encoded) = clear.split_once(':').unwrap();
    let both = format!(r#"{{"plaintext":"YQ==","associated_data":{encoded}"#);
    for (what, operation, body) in [
        ("encrypt", "encrypt", clear),
        ("encrypt, as PHP and .NET write JSON", "encrypt", escaped),
        ("encrypt with long associated data", "encrypt", both),
        ("decrypt", "decrypt", ciphertext.clone()),
        ("rewrap", "rewrap", ciphertext),
    ] {
        wait_for("memory to be given back", || (resident(&open.daemon) <= RESTING).then_some(()));
        // Resets the peak (proc_pid_clear_refs(5)).
        fs::write(format!("/proc/{}/clear_refs", open.daemon.pid()), "5").unwrap();
        let before = open.daemon.peak_memory();
        let answer =
            open.daemon.request("POST", &format!("/v1/transit/{operation}/keyring"), body.as_bytes());
        assert_eq!(answer.status, 200, "{what}: {}", answer.text().chars().take(200).collect::<String>());
        let peak = open.daemon.peak_memory().saturating_sub(before) * 1024;
        let percent = peak * 100 / body.len() as u64;
        eprintln!("{what}: {percent} % of its body");
        assert!(percent <= 210, "{what}: {percent} % of its body");
    }
}

#[test]
fn the_allocators_options_are_linked_into_the_program() {
    let output =
        Command::new(PROGRAM).arg("--version").env("_RJEM_MALLOC_CONF", "stats_print:true").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    for option in [
        "opt.retain: false",
        "opt.dirty_decay_ms: 1000",
        "opt.muzzy_decay_ms: 0",
        "opt.oversize_threshold: 262144",
        "opt.narenas: 1",
    ] {
        assert!(text.contains(option), "{option}: {text}");
    }
    assert!(
        text.contains(r#"config.malloc_conf: "background_thread:true""#),
        "not by the environment of the build: {text}"
    );
}

/// The memory limit of the Kubernetes examples, in MiB.
fn limit_of_the_examples() -> u64 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes");
    let limits: BTreeSet<u64> = fs::read_dir(folder)
        .unwrap()
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .flat_map(|text| {
            let limits = text.split("limits: {memory: ").skip(1);
            limits.map(|rest| rest.split_once("Mi}").unwrap().0.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(limits.len(), 1, "{limits:?}");
    limits.into_iter().next().unwrap()
}

#[test]
fn a_daemon_serves_on_in_a_control_group_of_little_memory() {
    let _alone = alone();
    if passed_as_root() {
        return;
    }
    // The size of the bodies in MiB, and whether one alone is served.
    for (limit, size, is_served) in [(limit_of_the_examples(), 17, true), (64, 3, true), (64, 17, false)] {
        let group = MemoryGroup::new(limit << 20);
        let open = open_by(group.command(PROGRAM), OpenBao::shared(), &[]);
        let result = attack(HONEST, &open.socket, "json_bodies", &[6, size << 20]);
        only(&result["statuses"], if is_served { &["200", "429"] } else { &["413"] });
        let served = result["statuses"]["200"].as_u64();
        assert_eq!(served.is_some(), is_served, "{limit} MiB, bodies of {size}: {result}");
        assert_eq!(open.daemon.opened(&open.daemon.encrypt("alive")), "alive");
        group.held(&open.daemon);
    }
}

#[test]
fn heads_of_h2_calls_take_little_memory_whoever_sends_them() {
    if passed_as_root() {
        return;
    }
    for access in ["uid:0=all", "uid:0=all, uid:40002=kms"] {
        let open = open(&[("KONG_KEYRING_ACCESS", access)]);
        let before = open.daemon.peak_memory();
        let mut attack = Attack::by(HOSTILE[0], &open.socket, "h2_heads", &[100, 128]);
        attack.report();
        let peak = open.daemon.peak_memory().saturating_sub(before);
        assert!(peak <= 64 * MIB, "{access}: {peak} KiB");
        drop(attack);
        wait_for("memory to be given back", || (resident(&open.daemon) <= RESTING).then_some(()));
        let kms = Kms::connect(&open.socket);
        assert_eq!(kms.status().unwrap().healthz, "ok");
    }
}

#[test]
fn connections_that_are_kept_open_give_back_their_buffers() {
    let _alone = alone();
    if passed_as_root() {
        return;
    }
    let open = open(&[]);
    let mut attack = Attack::by(HONEST, &open.socket, "keep_alive", &[900, 800_000]);
    let result = attack.report();
    assert_eq!(result["held"], 900, "{result}");
    assert!(open.daemon.peak_memory() < 160 * MIB, "{} KiB at most", open.daemon.peak_memory());
    wait_for("memory to be given back while they are open", || {
        (resident(&open.daemon) <= RESTING).then_some(())
    });
    let connections = open.daemon.metric("keyringd_connections");
    assert!(connections > 900, "{connections} are open: {result}");
    drop(attack);
}

#[test]
fn a_kept_connection_holds_nothing_of_its_last_request() {
    if passed_as_root() {
        return;
    }
    let (plaintext, open) = ("a-plaintext-that-is-nowhere-else-".repeat(300), open(&[]));
    let mut stream = open.daemon.connect();
    let mut ask = |path: &str, body: &Value| {
        use std::io::Write as _;
        let body = body.to_string();
        write!(stream, "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        http::read(&stream).unwrap()
    };
    let encoded = BASE64_STANDARD.encode(&plaintext);
    let sealed = ask(ENCRYPT, &json!({ "plaintext": encoded })).at("/data/ciphertext");
    let opened = ask("/v1/transit/decrypt/keyring", &json!({ "ciphertext": sealed })).at("/data/plaintext");
    assert_eq!(opened, encoded);
    let open_fds = || fs::read_dir(format!("/proc/{}/fd", open.daemon.pid())).unwrap().count();
    let before = open_fds();
    for needle in [&plaintext.as_bytes()[..40], &encoded.as_bytes()[..40]] {
        wait_for("the last request's plaintext to be nowhere", || {
            let held = crate::memory::memory(&open.daemon);
            (crate::memory::count(&held, needle) == 0).then_some(())
        });
    }
    assert_eq!(open_fds(), before, "the connection is still open");
    let sealed = ask(ENCRYPT, &json!({ "plaintext": "YQ==" }));
    assert_eq!(sealed.status, 200, "and serves on");
}

#[test]
fn a_limit_that_the_control_group_cannot_hold_is_a_warning_and_auto_fits_it() {
    if passed_as_root() {
        return;
    }
    let group = MemoryGroup::new(128 << 20);
    let shown = |size: &str| {
        let mut command = group.command(PROGRAM);
        command.args(["check", "--json"]).env_clear().envs(kongs_settings_of_nobody());
        let output = command.env("KONG_KEYRING_MAX_INFLIGHT_SIZE", size).output().unwrap();
        serde_json::from_str::<Value>(&success(&output)).unwrap()["warnings"].to_string()
    };
    for (size, fits) in [("auto", true), ("48m", true), ("64m", false), ("1g", false)] {
        let warnings = shown(size);
        let warned = warnings.contains("keyring_max_inflight_size") && warnings.contains("128 MiB");
        assert_eq!(warned, !fits, "{size}: {warnings}");
    }
    let server = OpenBao::shared();
    let more = [("KONG_KEYRING_MAX_INFLIGHT_SIZE", "64m")];
    let open = open_by(group.command(PROGRAM), server, &more);
    assert!(open.daemon.log().contains("128 MiB"), "{}", open.daemon.log());
    let mut doctor = group.command(PROGRAM);
    doctor.arg("doctor").env_clear().envs(kongs_settings(&open.server)).envs(more);
    let output = doctor.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("128 MiB"), "{output:?}");
}
