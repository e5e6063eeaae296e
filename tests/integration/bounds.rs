//! Attacks by real users on the running daemon: what one client can take from it, from other users, from Vault and from
//! the log. The attack programs are in `tests/attacks`. They run under other users, so these tests run as root.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use nix::unistd::{Gid, Uid, chown};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Daemon, Fault, OpenBao, Proxy,
    cgroup::MemoryGroup,
    daemon::{PROGRAM, kongs_settings},
    ending_with_us, http,
    kms::{INVALID_ARGUMENT, Kms},
    openbao, python, success, wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const ENCRYPT: &str = "/v1/transit/encrypt/keyring";

/// Users that need no names.
const HONEST: u32 = 40001;
const HOSTILE: [u32; 2] = [40002, 40003];

const MIB: u64 = 1 << 10;

/// The most memory, in KiB, that remains after a burst.
const RESTING: u64 = 32 * MIB;

/// A daemon behind a socket that every user can connect to.
struct Open {
    daemon: Daemon,
    server: OpenBao,
    socket: PathBuf,
    _folder: TempDir,
}

fn open(more: &[(&str, &str)]) -> Open {
    open_by(ending_with_us(Path::new(PROGRAM)), OpenBao::dev(), more)
}

fn open_by(command: Command, server: OpenBao, more: &[(&str, &str)]) -> Open {
    server.put_record("first", KEY);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("keyringd.sock");
    let settings = [("KONG_KEYRING_SOCKET_MODE", "0666")];
    let daemon = Daemon::start_by(command, Some(&socket), &server, &[settings.as_slice(), more].concat());
    daemon.wait_until_ready();
    Open { daemon, server, socket, _folder: folder }
}

/// An attack program, run by a user. It ends when its standard input closes, or by itself.
struct Attack {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Attack {
    fn by(user: u32, socket: &Path, name: &str, numbers: &[u64]) -> Self {
        let user = user.to_string();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--reuid", &user, "--regid", &user, "--clear-groups", "--"])
            .args(["/usr/bin/python3", "-c", include_str!("../attacks/attack.py")])
            .arg(socket)
            .arg(name)
            .args(numbers.iter().map(u64::to_string))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Its next line: what it holds, or its result.
    fn report(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs an attack to its end.
fn attack(user: u32, socket: &Path, name: &str, numbers: &[u64]) -> Value {
    Attack::by(user, socket, name, numbers).report()
}

/// KiB of memory that the daemon has now, without its program: a debug build's is large.
fn resident(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

fn only(statuses: &Value, allowed: &[&str]) {
    let seen = statuses.as_object().unwrap();
    assert!(seen.keys().all(|status| allowed.contains(&status.as_str())), "{statuses}");
}

// A panic ends one request, never the daemon.

#[test]
fn a_reference_with_times_beyond_all_bounds_is_refused() {
    let access = format!("uid:{}=all", Uid::effective());
    let open = open(&[("KONG_KEYRING_ACCESS", &access)]);
    open.server.api("POST", "secret/data/app", &json!({ "data": { "pw": "x" } }));
    for name in ["ttl", "neg_ttl", "resurrect_ttl"] {
        for number in ["18446744073709551615", "100000001", "99999999999999999999999"] {
            let reference = format!("{{vault://hcv/app/pw?{name}={number}}}");
            let answer = open.daemon.post("/v1/resolve", &json!({ "reference": reference }));
            assert_eq!(answer.status, 400, "{answer:?}");
            assert!(answer.text().contains("100000000"), "{answer:?}");
        }
        let most = json!({ "reference": format!("{{vault://hcv/app/pw?{name}=100000000}}") });
        assert_eq!(open.daemon.post("/v1/resolve", &most).status, 200);
    }
    let output = open.daemon.command(&["vault", "get", "{vault://hcv/app/pw?ttl=18446744073709551615}"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(open.daemon.opened(&open.daemon.encrypt("alive")), "alive");
}

/// A Vault whose numbers are as large as they can be, by a played server.
#[test]
fn numbers_of_vaults_that_are_as_large_as_can_be_are_survived() {
    let most = u64::MAX;
    let time = "2024-01-01T00:00:00Z";
    let metadata = json!({ "data": {
        "current_version": most, "max_versions": most, "oldest_version": most,
        "versions": { most.to_string(): { "created_time": time, "deletion_time": "", "destroyed": false } },
    }});
    let record = json!({ "data": { "data": { "id": "first", "key": KEY },
        "metadata": { "version": most, "created_time": time, "deletion_time": "", "destroyed": false } } });
    let token =
        json!({ "data": { "ttl": most, "renewable": true, "creation_ttl": most, "explicit_max_ttl": most } });
    let renewed = json!({ "auth": { "client_token": "t", "lease_duration": most, "renewable": true } });
    let proxy = Proxy::playing(move |path, _| {
        let body = match path {
            path if path.contains("/metadata/") => &metadata,
            path if path.contains("/data/") => &record,
            path if path.contains("lookup-self") => &token,
            path if path.contains("renew-self") => &renewed,
            _ => return (404, "{}".to_owned()),
        };
        (200, body.to_string())
    });
    let lines = "keyring_vault_token = t";
    let daemon = Daemon::from_conf(&proxy.address(), lines);
    daemon.wait_until_ready();
    assert_eq!(daemon.opened(&daemon.encrypt("alive")), "alive");
    assert_eq!(daemon.get("/status").status, 200);
    assert_eq!(daemon.get("/metrics").status, 200);
    // A wait without an end, in every form that HTTP has.
    for wait in [most.to_string(), "9".repeat(40), "Fri, 31 Dec 9999 23:59:59 GMT".to_owned()] {
        proxy.set("/", Fault::Answer(429, format!("Retry-After: {wait}\r\n"), "{}".to_owned()));
        let synced = daemon.request("POST", "/keyring/vault/sync", b"");
        assert_eq!(synced.status, 500, "{synced:?}");
        proxy.reset();
    }
    assert_eq!(daemon.opened(&daemon.encrypt("alive")), "alive");
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
}

// Memory is bounded, and the bound is true.

/// The peak of an attack, over what the daemon had before it, in KiB.
fn peak_of(open: &Open, name: &str, numbers: &[u64]) -> (u64, Value) {
    let before = open.daemon.peak_memory();
    let result = attack(HONEST, &open.socket, name, numbers);
    (open.daemon.peak_memory().saturating_sub(before), result)
}

#[test]
fn no_mix_of_formats_and_operations_takes_more_than_the_limit() {
    let limit = 32;
    let sizes = [("KONG_KEYRING_MAX_INFLIGHT_SIZE", "32m"), ("KONG_KEYRING_MAX_REQUEST_SIZE", "16m")];
    for (name, numbers) in [
        ("json_bodies", [8, 5 << 20]),
        ("escaped_bodies", [8, 3 << 20]),
        ("raw_bodies", [8, 8 << 20]),
        ("batches", [10, 10_000]),
        ("mixed", [3, 2 << 20]),
    ] {
        let open = open(&sizes);
        let (peak, result) = peak_of(&open, name, &numbers);
        only(&result["statuses"], &["200", "429"]);
        assert!(result["statuses"]["200"].as_u64().is_some(), "{name}: {result}");
        assert!(peak <= limit * MIB * 115 / 100, "{name}: {peak} KiB over the start, {result}");
        assert_eq!(open.daemon.opened(&open.daemon.encrypt("alive")), "alive");
        wait_for("memory to be given back", || (resident(&open.daemon) <= RESTING).then_some(()));
    }
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
    // The size of the bodies in MiB, and whether one alone is served.
    for (limit, size, is_served) in [(limit_of_the_examples(), 17, true), (64, 3, true), (64, 17, false)] {
        let group = MemoryGroup::new(limit << 20);
        let open = open_by(group.command(PROGRAM), OpenBao::dev(), &[]);
        let result = attack(HONEST, &open.socket, "json_bodies", &[10, size << 20]);
        only(&result["statuses"], if is_served { &["200", "429"] } else { &["413"] });
        let served = result["statuses"]["200"].as_u64();
        assert_eq!(served.is_some(), is_served, "{limit} MiB, bodies of {size}: {result}");
        assert_eq!(open.daemon.opened(&open.daemon.encrypt("alive")), "alive");
    }
}

#[test]
fn heads_of_h2_calls_take_little_memory_whoever_sends_them() {
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
    let open = open(&[]);
    let mut attack = Attack::by(HONEST, &open.socket, "keep_alive", &[400, 800_000]);
    let result = attack.report();
    assert_eq!(result["held"], 400, "{result}");
    wait_for("memory to be given back while they are open", || {
        (resident(&open.daemon) <= RESTING).then_some(())
    });
    let connections = open.daemon.metric("keyringd_connections");
    assert!(connections > 400, "{connections} are open: {result}");
    drop(attack);
}

#[test]
fn a_kept_connection_holds_nothing_of_its_last_request() {
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
    let server = OpenBao::dev();
    let more = [("KONG_KEYRING_MAX_INFLIGHT_SIZE", "64m")];
    let open = open_by(group.command(PROGRAM), server, &more);
    assert!(open.daemon.log().contains("128 MiB"), "{}", open.daemon.log());
    let mut doctor = group.command(PROGRAM);
    doctor.arg("doctor").env_clear().envs(kongs_settings(&open.server)).envs(more);
    let output = doctor.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("128 MiB"), "{output:?}");
}

fn kongs_settings_of_nobody() -> Vec<(&'static str, &'static str)> {
    vec![
        ("KONG_KEYRING_ENABLED", "on"),
        ("KONG_KEYRING_STRATEGY", "vault"),
        ("KONG_KEYRING_VAULT_HOST", "http://127.0.0.1:1"),
        ("KONG_KEYRING_VAULT_MOUNT", "secret"),
        ("KONG_KEYRING_VAULT_PATH", "keyring"),
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "token"),
        ("KONG_KEYRING_VAULT_TOKEN", "t"),
    ]
}

// Fairness.

#[test]
fn an_honest_user_is_served_quickly_beside_two_hostile_ones() {
    let none: &[u64] = &[];
    let attacks: [(&str, &[u64]); 11] = [
        ("nothing", none),
        ("one_byte", &[1100]),
        ("unfinished", &[9, 31 << 20]),
        ("unfinished", &[200, 1 << 20]),
        ("unread", &[12, 20 << 20]),
        ("h2_heads", &[100, 128]),
        ("requests", &[6, 8]),
        ("refused", &[6, 8]),
        ("guesses", &[6, 8]),
        ("h2_noise", &[6]),
        ("batches", &[20, 2000]),
    ];
    let open = open(&[]);
    for (name, numbers) in attacks {
        let mut hostile: Vec<_> = (HOSTILE.iter().filter(|_| name != "nothing"))
            .map(|user| Attack::by(*user, &open.socket, name, numbers))
            .collect();
        if matches!(name, "one_byte" | "unfinished" | "unread" | "h2_heads") {
            for attack in &mut hostile {
                attack.report();
            }
        }
        // In one round of three: the machine may be busy with other tests.
        let quick = (0..3).find_map(|_| {
            let seen = attack(HONEST, &open.socket, "honest", &[3, 10]);
            assert_eq!(seen["failures"], json!({}), "{name}: {seen}");
            eprintln!("{name}: {seen}");
            (seen["p99_ms"].as_f64().unwrap() < 500.0).then_some(())
        });
        assert!(quick.is_some(), "{name}");
        drop(hostile);
    }
    assert!(!open.daemon.log().contains("panic"));
}

#[test]
fn a_lone_user_may_use_all_but_a_small_reserve() {
    let open = open(&[("KONG_KEYRING_MAX_INFLIGHT_SIZE", "64m"), ("KONG_KEYRING_MAX_REQUEST_SIZE", "32m")]);
    let mut crowd = Attack::by(HOSTILE[0], &open.socket, "unfinished", &[1, 30 << 20]);
    crowd.report();
    wait_for("one body of half the limit to be held", || {
        (open.daemon.metric("keyringd_inflight_bytes") >= 30 << 20).then_some(())
    });
}

#[test]
fn fewer_connections_are_accepted_than_descriptors_allow_and_a_warning_says_so() {
    let server = OpenBao::dev();
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

// Vault is not hammered.

#[test]
fn syncs_that_clients_ask_for_are_one_a_second_whoever_asks() {
    let open = open(&[]);
    let proxy = Proxy::before(&open.server.address());
    let daemon = behind(&proxy, &open.server, &[]);
    let before = proxy.seen().len();
    let result = attack(HOSTILE[0], &daemon.socket(), "requests", &[4, 8]);
    let asked = proxy.seen().len() - before;
    only(&result["statuses"], &["204"]);
    assert!(asked <= 8, "{asked} requests to Vault for {result}");
}

#[test]
fn wrong_tokens_are_limited_and_need_permission() {
    let access = "uid:0=all, uid:40002=sync, uid:40001=sync";
    for (access, expected) in [(Some(access), "429"), (None, "403")] {
        let open = open(&[]);
        let proxy = Proxy::before(&open.server.address());
        let settings: Vec<_> = access.map(|access| ("KONG_KEYRING_ACCESS", access)).into_iter().collect();
        let daemon = behind(&proxy, &open.server, &settings);
        let before = proxy.seen().len();
        let result = attack(HOSTILE[0], &daemon.socket(), "guesses", &[4, 4]);
        let asked = proxy.seen().len() - before;
        assert!(asked <= 7, "{asked} guesses reached Vault: {result}");
        assert!(result["statuses"][expected].as_u64().is_some_and(|count| count > 10), "{result}");
        assert_eq!(daemon.opened(&daemon.encrypt("alive")), "alive");
    }
}

/// A daemon on `proxy`, which every user can reach.
fn behind(proxy: &Proxy, server: &OpenBao, more: &[(&str, &str)]) -> Daemon {
    let mut lines = format!(
        "keyring_vault_token = {}\nkeyring_socket_mode = 0666\nkeyring_sync_interval = 3600\n",
        server.token()
    );
    for (name, value) in more {
        writeln!(lines, "{} = {value}", name.strip_prefix("KONG_").unwrap().to_lowercase()).unwrap();
    }
    let daemon = Daemon::from_conf(&proxy.address(), &lines);
    fs::set_permissions(daemon.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    daemon.wait_until_ready();
    daemon
}

#[test]
fn references_that_nobody_asks_for_are_read_every_five_seconds_at_most() {
    let open = open(&[]);
    let proxy = Proxy::before(&open.server.address());
    let access = format!("uid:{}=all", Uid::effective());
    let daemon = behind(&proxy, &open.server, &[("KONG_KEYRING_ACCESS", &access)]);
    for number in 0..20 {
        open.server.api("POST", &format!("secret/data/many/{number}"), &json!({ "data": { "pw": "x" } }));
        let reference = format!("{{vault://hcv/many/{number}/pw?ttl=1}}");
        assert_eq!(daemon.post("/v1/resolve", &json!({ "reference": reference })).status, 200);
    }
    let (begun, before) = (Instant::now(), proxy.seen().len());
    let reads = || proxy.seen()[before..].iter().filter(|seen| seen.contains("/many/")).count();
    // Every one of them is read again once, by which time a shorter interval would have shown.
    wait_for("the background refresh of each", || (reads() >= 20).then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn a_secret_of_too_many_keys_is_refused_and_one_of_ten_thousand_is_served() {
    let count = Arc::new(AtomicUsize::new(10_000));
    let played = Arc::clone(&count);
    let proxy = Proxy::playing(move |path, _| {
        if path.contains("lookup-self") {
            return (
                200,
                json!({ "data": { "ttl": 0, "renewable": false, "policies": ["root"] } }).to_string(),
            );
        }
        if !path.contains("/secret/") {
            return (404, "{}".to_owned());
        }
        let keys: serde_json::Map<_, _> = (0..played.load(Ordering::Relaxed))
            .map(|at| (format!("key-{at}"), json!(format!("{KEY}{at}"))))
            .collect();
        (200, json!({ "data": { "active": "key-0", "keys": keys } }).to_string())
    });
    let daemon = Daemon::from_conf(&proxy.address(), "keyring_vault_token = t\nkeyring_vault_kv = v1\n");
    daemon.wait_until_ready();
    assert_eq!(daemon.active(), "key-0");
    let status = daemon.get("/status");
    assert!(status.body.len() < 300_000, "{} bytes of status", status.body.len());
    count.store(10_001, Ordering::Relaxed);
    wait_for("the refusal", || daemon.log().contains("10001").then_some(()));
    assert_eq!(daemon.active(), "key-0");
    assert_eq!(daemon.opened(&daemon.encrypt("alive")), "alive");
}

// The log cannot be flooded.

#[test]
fn lines_that_clients_cause_are_few_however_much_they_send() {
    let access = format!("uid:{}=all, uid:40003=all", Uid::effective());
    let open = open(&[("KONG_KEYRING_ACCESS", &access), ("KONG_LOG_LEVEL", "debug")]);
    let noise = attack(HOSTILE[0], &open.socket, "h2_noise", &[3]);
    assert!(noise["frames"].as_u64().unwrap() > 1000, "{noise}");
    attack(HOSTILE[1], &open.socket, "refused", &[2, 4]);
    attack(HOSTILE[0], &open.socket, "refused", &[2, 4]);
    let log = open.daemon.log();
    assert!(log.lines().count() < 500, "{} lines: {}", log.lines().count(), &log[..2000.min(log.len())]);
}

#[test]
fn what_vault_sends_reaches_no_log_and_no_status_unescaped_or_at_length() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let proxy = Proxy::before(&server.address());
    let daemon = behind(&proxy, &server, &[]);
    let location = format!("Location: http://{}\r\n", "a".repeat(60_000));
    let evil = json!({ "errors": ["\u{202e}evil\u{1b}[2Jline\u{85}end\u{200b}"] }).to_string();
    for fault in [Fault::Answer(307, location, "{}".to_owned()), Fault::Answer(500, String::new(), evil)] {
        proxy.set("/v1/secret", fault);
        assert_eq!(daemon.request("POST", "/keyring/vault/sync", b"").status, 500);
    }
    let status = daemon.get("/status").json()["sync"]["last_error"].as_str().unwrap().to_owned();
    for text in [&daemon.log(), &status] {
        let bad =
            |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{200b}');
        assert!(!text.contains(bad), "{text:?}");
        assert!(text.lines().all(|line| line.len() < 1500), "a line of {} bytes", text.len());
    }
}

// Isolation.

#[test]
fn applications_neither_open_what_kubernetes_sealed_nor_forge_it() {
    let access = format!("uid:{}=kms+metrics+status, uid:40001=encrypt+decrypt", Uid::effective());
    let open = open(&[("KONG_KEYRING_ACCESS", &access)]);
    let kms = Kms::connect(&open.socket);
    let sealed = kms.encrypt(b"a seed").unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let by_application = |operation: &str, body: &[u8]| {
        fs::write(&from, body).unwrap();
        let output = Command::new("setpriv")
            .args(["--reuid=40001", "--regid=40001", "--clear-groups", "--"])
            .args(["curl", "-sS", "-w", "%{http_code}", "--unix-socket"])
            .arg(&open.socket)
            .args(["-H", "Content-Type: application/octet-stream", "-H"])
            .arg(format!("Keyring-Associated-Data: {}", BASE64_STANDARD.encode(&sealed.key_id)))
            .args(["--data-binary", &format!("@{}", from.display()), "-o"])
            .arg(&to)
            .arg(format!("http://localhost/v1/transit/{operation}/keyring"))
            .env("HOME", "/")
            .output()
            .unwrap();
        (success(&output), fs::read(&to).unwrap())
    };
    let (status, answer) = by_application("decrypt", &sealed.ciphertext);
    assert_eq!(status, "400", "{}", String::from_utf8_lossy(&answer));
    let (status, forged) = by_application("encrypt", b"a forged seed");
    assert_eq!(status, "200");
    assert_eq!(kms.decrypt(&forged, &sealed.key_id).unwrap_err().code, INVALID_ARGUMENT);
    let (status, opened) = by_application("decrypt", &forged);
    assert_eq!((status.as_str(), opened.as_slice()), ("200", b"a forged seed".as_slice()));
    assert_eq!(kms.decrypt(&sealed.ciphertext, &sealed.key_id).unwrap(), b"a seed");
}

/// `run` with its socket in `folder`: its exit code if it ends, and its output.
fn run_in(folder: &Path) -> (Option<i32>, String) {
    let socket = folder.join("keyringd.sock");
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut child = ending_with_us(Path::new(PROGRAM))
        .arg("run")
        .env_clear()
        .envs(kongs_settings_of_nobody())
        .env("KONG_KEYRING_SOCKET_PATH", &socket)
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let ended = wait_for("its end, or its socket", || {
        let ended = child.try_wait().unwrap();
        (ended.is_some() || socket.exists()).then_some(ended)
    });
    let _ = child.kill();
    let _ = child.wait();
    (ended.and_then(|status| status.code()), fs::read_to_string(log.path()).unwrap())
}

#[test]
fn a_folder_that_others_may_write_to_is_refused_for_the_socket() {
    let other = |mode: u32, owner: u32| {
        let folder = tempfile::tempdir().unwrap();
        chown(folder.path(), Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner))).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        let ended = run_in(folder.path());
        (ended, folder)
    };
    for (mode, owner) in [(0o755, HOSTILE[0]), (0o777, 0), (0o775, 0), (0o1777, HOSTILE[0])] {
        let ((code, text), _folder) = other(mode, owner);
        assert_eq!(code, Some(1), "{mode:o} {owner}: {text}");
        assert!(text.contains("keyring_socket_path") && text.contains("write"), "{text}");
    }
    for (mode, owner) in [(0o755, 0), (0o1777, 0), (0o700, 0)] {
        let ((code, text), _folder) = other(mode, owner);
        assert_eq!(code, None, "{mode:o} {owner}: {text}");
    }
}

#[test]
fn a_command_of_exec_does_not_get_the_settings_secrets() {
    let open = open(&[]);
    let socket = open.socket.display().to_string();
    let variables = [
        ("KONG_KEYRING_VAULT_TOKEN", "planted-one"),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", "planted-two"),
        ("KONG_VAULT_HCV_TOKEN", "planted-three"),
        ("KONG_KEYRING_VAULT_OAUTH2_CLIENT_SECRET", "{vault://env/referred-to}"),
        ("REFERRED_TO", "planted-four"),
        ("KONG_PG_PASSWORD", "its own business"),
        ("KONG_KEYRING_VAULT_HOST", "http://127.0.0.1:1"),
        ("PATH", "/usr/bin:/bin"),
    ];
    let output = crate::support::daemon::run(&["exec", "--socket", &socket, "--", "env"], &variables, b"");
    let shown = success(&output);
    assert!(!shown.contains("planted"), "{shown}");
    assert!(shown.contains("its own business") && shown.contains("PATH="), "{shown}");
}

#[test]
fn secrets_from_the_environment_are_in_locked_memory_alone_and_outlive_a_reload() {
    let open = open(&[]);
    let folder = format!("/proc/{}", open.daemon.pid());
    let has_fd_to = |kind: &str| {
        let fds = fs::read_dir(format!("{folder}/fd")).unwrap();
        fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .any(|link| link.to_string_lossy().contains(kind))
    };
    assert!(!has_fd_to("memfd:") && has_fd_to("pipe:"));
    let environment = fs::read(format!("{folder}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("KEYRINGD_ENV_KONG_KEYRING_VAULT_TOKEN=/proc/self/fd/"), "{environment}");
    for _ in 0..2 {
        open.daemon.reload("success");
        open.daemon.sync();
    }
    let status = fs::read_to_string(format!("{folder}/status")).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    assert_ne!(locked.split_whitespace().next(), Some("0"), "the tests run as root, who may lock memory");
}

#[test]
fn transits_form_is_refused_while_kongs_fields_share_its_key() {
    let open = open(&[("KONG_KEYRING_CIPHERTEXT_FORMAT", "transit")]);
    let sealed = open.daemon.post(ENCRYPT, &json!({ "plaintext": "YQ==", "associated_data": "cm93" }));
    let ciphertext = sealed.at("/data/ciphertext");
    assert!(ciphertext.starts_with("vault:v1:"), "{ciphertext}");
    let both = Daemon::start(&open.server, &[("KONG_KEYRING_KONG_FIELDS", "on")]);
    let refused = both
        .post("/v1/transit/decrypt/keyring", &json!({ "ciphertext": ciphertext, "associated_data": "cm93" }));
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.text().contains("keyring_kong_fields"), "{refused:?}");
    assert_eq!(both.opened(&both.encrypt("alive")), "alive");
}

// Large bodies get their response.

#[test]
fn a_body_over_the_limit_gets_its_413_from_every_client() {
    let open = open(&[("KONG_KEYRING_MAX_REQUEST_SIZE", "16m")]);
    let limit: u64 = 16 << 20;
    let folder = tempfile::tempdir().unwrap();
    let node = node_modules();
    for size in [limit + 1, 33 << 20, 2 * limit] {
        let file = folder.path().join("body");
        fs::write(&file, "A".repeat(usize::try_from(size).unwrap())).unwrap();
        for _ in 0..3 {
            let seen = attack(HONEST, &open.socket, "too_large", &[size]);
            assert_eq!(seen["status"], 413, "{size}: {seen}");
            assert!(seen["errors"][0].as_str().unwrap().contains("keyring_max_request_size"), "{seen}");
        }
        for (client, mut command) in clients(&open, &file, size, &node) {
            let output = command.env("HOME", folder.path()).output().unwrap();
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            let shown: String = text.chars().take(500).collect();
            assert!(
                text.contains("413") && text.contains("keyring_max_request_size"),
                "{client} {size}: {shown}"
            );
        }
    }
    assert_eq!(open.daemon.opened(&open.daemon.encrypt("alive")), "alive");
}

/// Each client with a body of that size for encrypt; each prints the status and the errors.
fn clients(open: &Open, file: &Path, size: u64, node: &Path) -> Vec<(&'static str, Command)> {
    let socket = open.socket.display().to_string();
    let mut bao = Command::new(openbao::program());
    bao.args(["write", "transit/encrypt/keyring"])
        .arg(format!("plaintext=@{}", file.display()))
        .env("BAO_ADDR", format!("unix://{socket}"))
        .env("VAULT_ADDR", format!("unix://{socket}"))
        .env("VAULT_MAX_RETRIES", "0");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-w", "%{http_code}", "--unix-socket", &socket, "--data-binary"])
        .arg(format!("@{}", file.display()))
        .arg(format!("http://localhost{ENCRYPT}"));
    let mut requests = Command::new("python3");
    requests
        .args(["-c", REQUESTS, &socket, &size.to_string()])
        .env("PYTHONPATH", python::packages("hvac-requirements.txt"));
    let mut undici = Command::new("node");
    undici.args(["-e", UNDICI, &socket, &size.to_string()]).env("NODE_PATH", node);
    vec![("bao", bao), ("curl", curl), ("requests", requests), ("undici", undici)]
}

const REQUESTS: &str = r#"
import sys, urllib.parse, requests_unixsocket
url = "http+unix://" + urllib.parse.quote(sys.argv[1], safe="") + "/v1/transit/encrypt/keyring"
answer = requests_unixsocket.Session().post(url, data=b"A" * int(sys.argv[2]))
print(answer.status_code, answer.json())
"#;

const UNDICI: &str = r#"
const { request, Client } = require("undici");
const [socketPath, size] = process.argv.slice(1);
const client = new Client("http://localhost", { socketPath });
client.request({ method: "POST", path: "/v1/transit/encrypt/keyring", body: Buffer.alloc(Number(size), 65) })
  .then(async (answer) => console.log(answer.statusCode, JSON.stringify(await answer.body.json())))
  .catch((error) => { console.log(String(error)); process.exitCode = 1; })
  .finally(() => client.destroy());
"#;

/// The folder of npm's packages, as the lock file in `tests/attacks/node` pins them.
fn node_modules() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/node");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attacks-node");
    fs::create_dir_all(&folder).unwrap();
    let lock = fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    for name in ["package.json", "package-lock.json"] {
        fs::copy(source.join(name), folder.join(name)).unwrap();
    }
    if !folder.join("node_modules/undici").is_dir() {
        let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
        success(&Command::new("npm").args(arguments).current_dir(&folder).output().unwrap());
    }
    folder.join("node_modules")
}
