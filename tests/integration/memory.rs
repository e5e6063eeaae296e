//! What can be found in the daemon's memory from outside: its whole memory is read, as a debugger or a dump would.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    process::Command,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hkdf::Hkdf;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::{
    Daemon, OpenBao,
    daemon::{PROGRAM, kongs_settings},
    wait_for,
};

/// Long and unlike anything else, so that finding it means finding it.
const FIRST: &str = "first-key-text-Zq8mW3xR7vL2pT9sK4nB6yH1";
const SECOND: &str = "second-key-text-Jd5gV8cX2zM7qF3wN9tR4uP6";

/// All that the process can read and write of its memory.
fn memory(daemon: &Daemon) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
    let memory = File::open(format!("/proc/{}/mem", daemon.pid())).unwrap();
    let mut all = Vec::new();
    for line in
        maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|p| p.starts_with("rw")))
    {
        let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        let mut part = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut part, start).is_ok() {
            all.extend(part);
        }
    }
    assert!(all.len() > 1 << 20);
    all
}

fn count(memory: &[u8], needle: &[u8]) -> usize {
    let finder = memory.windows(needle.len()).filter(|window| window[0] == needle[0] && *window == needle);
    finder.count()
}

/// All of its memory once none of these is in it any more: the last connection's buffers go a moment after its answer.
fn without(daemon: &Daemon, secrets: &[&str]) -> Vec<u8> {
    wait_for(&format!("{secrets:?} to be nowhere"), || {
        let held = memory(daemon);
        secrets.iter().all(|secret| count(&held, secret.as_bytes()) == 0).then_some(held)
    })
}

/// What a key text becomes: K, and the key of the native format.
fn derived(text: &str) -> [Vec<u8>; 2] {
    let k = Sha256::digest(text.as_bytes());
    let mut xaes = vec![0; 32];
    Hkdf::<Sha256>::new(None, &k).expand(b"keyringd kr1 xaes-256-gcm", &mut xaes).unwrap();
    [k.to_vec(), xaes]
}

#[test]
fn after_a_sync_a_rotation_and_a_removal_memory_holds_no_more_than_it_must() {
    let server = OpenBao::dev();
    server.put_record("first", FIRST);
    let daemon = Daemon::start(&server, &[]);
    let sealed = daemon.encrypt("a-plaintext-that-is-nowhere-else");
    let encoded = BASE64_STANDARD.encode(FIRST);
    let held =
        without(&daemon, &[FIRST, &encoded, "a-plaintext-that-is-nowhere-else", "YS1wbGFpbnRleHQtdGhhd"]);
    // K stands for itself and at the head of its AES key schedule, the other in its schedule alone.
    let [k, xaes] = derived(FIRST).map(|key| count(&held, &key));
    assert!((1..=2).contains(&k) && xaes == 1, "each key is in one place: {k} and {xaes}");

    server.put_record("second", SECOND);
    daemon.sync();
    assert_eq!(daemon.opened(&sealed), "a-plaintext-that-is-nowhere-else");
    server.versions("destroy", &[1]);
    daemon.sync();
    assert_eq!(daemon.decrypt(&sealed).status, 400);
    let held =
        without(&daemon, &[FIRST, SECOND, "a-plaintext-that-is-nowhere-else", "YS1wbGFpbnRleHQtdGhhd"]);
    for key in derived(FIRST) {
        assert_eq!(count(&held, &key), 0, "a key that was removed is nowhere at all");
    }
    let [k, xaes] = derived(SECOND).map(|key| count(&held, &key));
    assert!((1..=2).contains(&k) && xaes == 1, "each key is in one place: {k} and {xaes}");
    // In the settings, in the session, and in the connection to Vault, whose buffer holds the last request until the next.
    let tokens = count(&held, server.token().as_bytes());
    assert!(tokens <= 3, "the token is where it is needed, and {tokens} times in all");
}

#[test]
fn a_secret_by_reference_is_kept_for_as_long_as_it_serves_and_is_nowhere_once_it_is_gone() {
    let (server, text) = (OpenBao::dev(), "a-secret-by-reference-Vn4kT8xW2qL6");
    server.put_record("first", FIRST);
    server.api("POST", "secret/data/a", &json!({ "data": { "b": text } }));
    let access = format!("uid:{}=all", nix::unistd::geteuid());
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_ACCESS", &access)]);
    let ask = || daemon.post("/v1/resolve", &json!({ "reference": "{vault://hcv/a/b?ttl=1}" }));
    assert_eq!(ask().at("/data/value"), text);
    // As it is kept, and in the buffer of the connection to Vault until the next answer.
    let held = count(&memory(&daemon), text.as_bytes());
    assert!((1..=2).contains(&held), "{held} times");
    server.api("DELETE", "secret/data/a", &json!(null));
    wait_for("its end", || (ask().status == 404).then_some(()));
    daemon.sync();
    wait_for("it to be nowhere", || (count(&memory(&daemon), text.as_bytes()) == 0).then_some(()));
}

#[test]
fn it_is_kept_out_of_dumps_and_locked_where_it_may_be() {
    let server = OpenBao::dev();
    server.put_record("first", FIRST);
    let daemon = Daemon::start(&server, &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // What is not dumpable belongs to root, whoever it runs as: another process of its user cannot look into it.
    let looked = Command::new("setpriv")
        .args(["--reuid=40001", "--regid=40001", "--clear-groups", "--", "sh", "-c"])
        .arg("sleep 600 & head -c 1 /proc/$!/environ >/dev/null && echo one is readable; kill $!")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&looked.stdout).contains("one is readable"), "{looked:?}");
    let folder = tempfile::tempdir().unwrap();
    nix::unistd::chown(folder.path(), Some(40001.into()), Some(40001.into())).unwrap();
    let program = folder.path().join("keyringd");
    fs::copy(PROGRAM, &program).unwrap();
    let socket = folder.path().join("s");
    let mut other = crate::support::ending_with_us(std::path::Path::new("setpriv"))
        .args(["--reuid=40001", "--regid=40001", "--clear-groups", "--"])
        .arg(&program)
        .args(["dev", "--socket"])
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("its socket", || socket.exists().then_some(()));
    let looked = Command::new("setpriv")
        .args(["--reuid=40001", "--regid=40001", "--clear-groups", "--", "head", "-c", "1"])
        .arg(format!("/proc/{}/mem", other.id()))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&looked.stderr).contains("Permission denied"), "{looked:?}");
    other.kill().unwrap();
    other.wait().unwrap();
}

/// `run` under a limit on locked memory and without the capability to pass over it: the exit code, if it ended, and what
/// it said.
fn under_a_limit(server: &OpenBao, more: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = crate::support::ending_with_us(std::path::Path::new("prlimit"));
    command.args(["--memlock=65536:65536", "setpriv", "--bounding-set=-ipc_lock", "--"]);
    command.arg(PROGRAM).arg("run").env_clear().env("PATH", "/usr/bin:/bin").envs(kongs_settings(server));
    command.env("KONG_KEYRING_SOCKET_PATH", folder.path().join("s")).envs(more.iter().copied());
    let log = folder.path().join("log");
    let mut child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
    let ended = wait_for("its end, or its socket", || {
        let ended = child.try_wait().unwrap();
        (ended.is_some() || folder.path().join("s").exists()).then_some(ended)
    });
    let _ = child.kill();
    let _ = child.wait();
    (ended.and_then(|status| status.code()), fs::read_to_string(log).unwrap())
}

#[test]
fn where_memory_cannot_be_locked_there_is_a_warning_and_a_refusal_if_it_is_required() {
    let server = OpenBao::dev();
    server.put(&json!({ "id": "first", "key": FIRST }));
    let (ended, said) = under_a_limit(&server, &[]);
    assert_eq!(ended, None, "{said}");
    assert!(
        said.contains("warning: memory is not locked") && said.contains("LimitMEMLOCK=infinity"),
        "{said}"
    );
    let (ended, said) = under_a_limit(&server, &[("KONG_KEYRING_REQUIRE_MEMORY_LOCK", "on")]);
    assert_eq!(ended, Some(78), "{said}");
    assert!(said.contains("keyring_require_memory_lock: memory is not locked"), "{said}");
}
