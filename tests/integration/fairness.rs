//! No user crowds out others: connections, memory and processors are shared. They run under other users, so these tests run
//! as root.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    OpenBao,
    attack::{Attack, HONEST, HOSTILE, KEY, attack, open},
    daemon::{PROGRAM, kongs_settings},
    ending_with_us, passed_as_root, wait_for,
};

/// What each user's attack is, and its numbers.
type Attacks<'a> = &'a [(&'a str, &'a [u64])];

/// Attacks that report once they hold what they hold.
const HOLDING: [&str; 6] = ["one_byte", "unfinished", "unread", "h2_heads", "slow_heads", "slow_bodies"];

#[test]
fn an_honest_user_is_served_quickly_beside_connections_of_two_hostile_ones() {
    if passed_as_root() {
        return;
    }
    is_served_quickly_beside(&[("nothing", &[]), ("one_byte", &[1100]), ("slow_heads", &[500])]);
}

#[test]
fn an_honest_user_is_served_quickly_beside_bodies_of_two_hostile_ones() {
    if passed_as_root() {
        return;
    }
    is_served_quickly_beside(&[
        ("unfinished", &[9, 31 << 20]),
        ("unfinished", &[200, 1 << 20]),
        ("slow_bodies", &[200, 1 << 20]),
        ("unread", &[12, 20 << 20]),
    ]);
}

#[test]
fn an_honest_user_is_served_quickly_beside_h2_of_two_hostile_ones() {
    if passed_as_root() {
        return;
    }
    is_served_quickly_beside(&[
        ("h2_heads", &[100, 128]),
        ("h2_noise", &[6]),
        ("h2_pings", &[6]),
        ("h2_settings", &[6]),
        ("h2_resets", &[6]),
        ("h2_continuations", &[6]),
    ]);
}

#[test]
fn an_honest_user_is_served_quickly_beside_requests_of_two_hostile_ones() {
    if passed_as_root() {
        return;
    }
    is_served_quickly_beside(&[
        ("requests", &[6, 8]),
        ("refused", &[6, 8]),
        ("guesses", &[6, 8]),
        ("batches", &[20, 2000]),
    ]);
}

fn is_served_quickly_beside(attacks: Attacks<'_>) {
    let open = open(&[]);
    for (name, numbers) in attacks {
        let mut hostile: Vec<_> = (HOSTILE.iter().filter(|_| *name != "nothing"))
            .map(|user| Attack::by(*user, &open.socket, name, numbers))
            .collect();
        if HOLDING.contains(name) {
            for attack in &mut hostile {
                attack.report();
            }
        }
        // In one round of six: the machine may be busy with other tests.
        let quick = (0..6).find_map(|_| {
            let seen = attack(HONEST, &open.socket, "honest", &[1, 5]);
            assert_eq!(seen["failures"], json!({}), "{name}: {seen}");
            eprintln!("{name}: {seen}");
            (seen["p99_ms"].as_f64().unwrap() < 300.0).then_some(())
        });
        assert!(quick.is_some(), "{name}");
        drop(hostile);
    }
    assert!(!open.daemon.log().contains("panic"));
}

#[test]
fn status_and_health_of_root_do_not_wait_for_bodies_that_hold_all_memory() {
    if passed_as_root() {
        return;
    }
    let open = open(&[]);
    let mut hostile: Vec<_> =
        HOSTILE.iter().map(|user| Attack::by(*user, &open.socket, "unfinished", &[9, 31 << 20])).collect();
    for attack in &mut hostile {
        attack.report();
    }
    // One that is refused begins again, so there is less for a moment.
    let wait_until_held = || {
        let held = || open.daemon.metric("keyringd_inflight_bytes");
        wait_for("bodies to hold most of the memory", || (held() > 160 << 20).then_some(()));
    };
    for path in ["/status", "/livez", "/readyz", "/metrics"] {
        // In one try of five: the machine may be busy with other tests.
        let quick = (0..5).find_map(|_| {
            wait_until_held();
            let begun = Instant::now();
            assert_eq!(open.daemon.get(path).status, 200, "{path}");
            (begun.elapsed() < Duration::from_millis(300)).then_some(())
        });
        assert!(quick.is_some(), "{path}");
    }
    wait_until_held();
}

#[test]
fn a_lone_user_may_use_all_but_a_small_reserve() {
    if passed_as_root() {
        return;
    }
    let open = open(&[("KONG_KEYRING_MAX_INFLIGHT_SIZE", "64m"), ("KONG_KEYRING_MAX_REQUEST_SIZE", "32m")]);
    let mut crowd = Attack::by(HOSTILE[0], &open.socket, "unfinished", &[1, 30 << 20]);
    crowd.report();
    wait_for("one body of half the limit to be held", || {
        (open.daemon.metric("keyringd_inflight_bytes") >= 30 << 20).then_some(())
    });
}

#[test]
fn fewer_connections_are_accepted_than_descriptors_allow_and_a_warning_says_so() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let folder = tempfile::tempdir().unwrap();
    let (socket, log) = (folder.path().join("s"), folder.path().join("log"));
    let mut child = ending_with_us(Path::new("prlimit"))
        .arg("--nofile=100:200")
        .arg(PROGRAM)
        .arg("run")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(kongs_settings(&server))
        .env("KONG_KEYRING_SOCKET_PATH", &socket)
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    wait_for("the socket", || socket.exists().then_some(()));
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("200"), "raised to the hard limit: {files}");
    wait_for("the warning", || {
        let text = fs::read_to_string(&log).unwrap();
        (text.contains("keyring_max_connections") && text.contains("136")).then_some(())
    });
    // All that it accepts, and Vault can be reached still.
    let crowd: Vec<_> =
        (0..190).filter_map(|_| std::os::unix::net::UnixStream::connect(&socket).ok()).collect();
    let id = u32::try_from(server.put_record("second", "another key of thirty-two characters")).unwrap();
    assert_eq!(id, 2);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    wait_for("the sync that needs a descriptor", || {
        fs::read_to_string(&log).unwrap().contains("second").then_some(())
    });
    drop(crowd);
    let _ = child.kill();
    let _ = child.wait();
}
