//! Secrets in the daemon's memory: these tests read all of it, like a debugger or a core dump.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    process::Command,
};

use aes_gcm::{
    KeyInit as _,
    aes::{Aes256, cipher::BlockCipherEncrypt as _},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use hkdf::Hkdf;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::{
    Daemon, OpenBao,
    daemon::{PROGRAM, kongs_settings},
    passed_as_root, success, tool, wait_for,
};

/// Long and unique, so that a match is no coincidence.
const FIRST: &str = "first-key-text-Zq8mW3xR7vL2pT9sK4nB6yH1";
const SECOND: &str = "second-key-text-Jd5gV8cX2zM7qF3wN9tR4uP6";

/// The writable memory of the process.
pub fn memory(daemon: &Daemon) -> Vec<u8> {
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

pub fn count(memory: &[u8], needle: &[u8]) -> usize {
    memchr::memmem::find_iter(memory, needle).count()
}

/// Waits until the memory contains none of these, and returns it. A connection frees its buffers shortly after its
/// response.
fn memory_without(daemon: &Daemon, secrets: &[&str]) -> Vec<u8> {
    wait_for(&format!("memory without {secrets:?}"), || {
        let held = memory(daemon);
        secrets.iter().all(|secret| count(&held, secret.as_bytes()) == 0).then_some(held)
    })
}

fn hkdf(key: &[u8], info: &[u8]) -> Vec<u8> {
    let mut okm = vec![0; 32];
    Hkdf::<Sha256>::new(None, key).expand(info, &mut okm).unwrap();
    okm
}

/// The keys that are derived from a key text: K, and those of the native format, of Kubernetes' ciphertexts and of HMACs.
fn derived(text: &str) -> [Vec<u8>; 4] {
    derived_from(Sha256::digest(text.as_bytes()).to_vec())
}

fn derived_from(k: Vec<u8>) -> [Vec<u8>; 4] {
    let infos: [&[u8]; 3] = [b"keyringd kr1 xaes-256-gcm", b"keyringd kr1 kms", b"keyringd krm1 hmac"];
    let [xaes, kms, hmac] = infos.map(|info| hkdf(&k, info));
    [k, xaes, kms, hmac]
}

/// K exists once by itself and once at the start of its AES key schedule; the others in their schedule, or by themselves.
fn assert_each_exists_once(held: &[u8], text: &str) {
    let [k, others @ ..] = derived(text).map(|key| count(held, &key));
    assert!((1..=2).contains(&k) && others == [1; 3], "copies: {k} of K, {others:?} of those from it");
}

#[test]
fn after_a_sync_a_rotation_and_a_removal_memory_holds_only_the_current_keys() {
    if passed_as_root() {
        return;
    }
    let server = OpenBao::shared();
    server.put_record("first", FIRST);
    let daemon = Daemon::start(&server, &[]);
    let sealed = daemon.encrypt("a-plaintext-that-is-nowhere-else");
    let encoded = BASE64_STANDARD.encode(FIRST);
    let held = memory_without(
        &daemon,
        &[FIRST, &encoded, "a-plaintext-that-is-nowhere-else", "YS1wbGFpbnRleHQtdGhhd"],
    );
    assert_each_exists_once(&held, FIRST);

    server.put_record("second", SECOND);
    daemon.sync();
    assert_eq!(daemon.opened(&sealed), "a-plaintext-that-is-nowhere-else");
    server.versions("destroy", &[1]);
    daemon.sync();
    assert_eq!(daemon.decrypt(&sealed).status, 400);
    let held = memory_without(
        &daemon,
        &[FIRST, SECOND, "a-plaintext-that-is-nowhere-else", "YS1wbGFpbnRleHQtdGhhd"],
    );
    for key in derived(FIRST) {
        assert_eq!(count(&held, &key), 0, "a removed key is wiped");
    }
    assert_each_exists_once(&held, SECOND);
    // In the moved variable, in the settings, in the session, and in the buffer of the connection to Vault, which keeps the last request.
    let tokens = count(&held, server.token().as_bytes());
    assert!(tokens <= 4, "{tokens} copies of the token");
}

#[test]
fn no_operation_leaves_the_keys_that_it_derives() {
    if passed_as_root() {
        return;
    }
    let server = OpenBao::dev();
    server.put_record("first", FIRST);
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_INDEX_KEY", "first")]);
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let input = json!({ "input": encoded("alice"), "context": encoded("tenant") });
    assert_eq!(daemon.post("/v1/transit/hmac/keyring", &input).status, 200);
    let index = json!({ "input": encoded("alice"), "associated_data": encoded("users.email"), "bits": 24 });
    assert_eq!(daemon.post("/v1/transit/hmac/keyring", &index).status, 200);
    let mut nonces = Vec::new();
    for context in ["", "tenant"] {
        let item = json!({ "plaintext": encoded("alice"), "context": encoded(context) });
        for body in [item.clone(), json!({ "batch_input": [item.clone(), item] })] {
            let sealed = daemon.post("/v1/transit/encrypt/keyring", &body).json()["data"].clone();
            let one =
                sealed["batch_results"].get(0).unwrap_or(&sealed)["ciphertext"].as_str().unwrap().to_owned();
            let opened = json!({ "ciphertext": one, "context": encoded(context) });
            assert_eq!(daemon.post("/v1/transit/decrypt/keyring", &opened).status, 200);
            let bytes = BASE64_STANDARD.decode(one.rsplit(':').next().unwrap()).unwrap();
            nonces.push((context, bytes[..12].to_vec()));
        }
    }
    let k = Sha256::digest(FIRST.as_bytes()).to_vec();
    let in_context = derived_from(hkdf(&k, b"keyringd kr1 context\0tenant"));
    let [_, xaes, _, hmac] = derived(FIRST);
    let mut gone = vec![("the key of the index", hkdf(&hmac, b"keyringd kri1 index\0users.email"))];
    gone.extend(nonces.iter().map(|(context, kdf_input)| {
        (
            "the key of a message",
            message_key(if context.is_empty() { &xaes } else { &in_context[1] }, kdf_input),
        )
    }));
    gone.extend(["K", "xaes", "kms", "hmac"].into_iter().zip(in_context));
    let held = memory(&daemon);
    for (what, key) in gone {
        assert_eq!(count(&held, &key), 0, "{what}");
    }
    assert_each_exists_once(&held, FIRST);
}

/// Kx of XAES-256-GCM (c2sp.org/XAES-256-GCM).
fn message_key(key: &[u8], kdf_input: &[u8]) -> Vec<u8> {
    let aes = Aes256::new_from_slice(key).unwrap();
    let encrypted = |block: u128| {
        let mut block = block.to_be_bytes().into();
        aes.encrypt_block(&mut block);
        u128::from_be_bytes(block.into())
    };
    let l = encrypted(0);
    let k1 = (l << 1) ^ ((l >> 127) * 0b1000_0111);
    let half = |counter| {
        let input = [&[0, counter, b'X', 0], kdf_input].concat();
        encrypted(k1 ^ u128::from_be_bytes(input.try_into().unwrap())).to_be_bytes()
    };
    [half(1), half(2)].concat()
}

#[test]
fn a_cached_secret_is_wiped_when_it_is_dropped() {
    if passed_as_root() {
        return;
    }
    let (server, text) = (OpenBao::shared(), "a-secret-by-reference-Vn4kT8xW2qL6");
    server.put_record("first", FIRST);
    server.api("POST", "secret/data/a", &json!({ "data": { "b": text } }));
    let access = format!("uid:{}=all", nix::unistd::geteuid());
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_ACCESS", &access)]);
    let ask = || daemon.post("/v1/resolve", &json!({ "reference": "{vault://hcv/a/b?ttl=1}" }));
    assert_eq!(ask().at("/data/value"), text);
    // In the cache, and in the buffer of the connection to Vault until the next response.
    let held = count(&memory(&daemon), text.as_bytes());
    assert!((1..=2).contains(&held), "{held} copies");
    server.api("DELETE", "secret/data/a", &json!(null));
    wait_for("the cache entry to be dropped", || (ask().status == 404).then_some(()));
    daemon.sync();
    wait_for("it to be wiped", || (count(&memory(&daemon), text.as_bytes()) == 0).then_some(()));
}

#[test]
fn it_cannot_be_dumped_or_read_by_its_own_user() {
    if passed_as_root() {
        return;
    }
    let server = OpenBao::shared();
    server.put_record("first", FIRST);
    let daemon = Daemon::start(&server, &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // The /proc files of a process that is not dumpable belong to root, so another process of its user cannot read them.
    let looked = tool("setpriv")
        .args(["--reuid=40001", "--regid=40001", "--clear-groups", "--", "sh", "-c"])
        .arg("sleep 600 & head -c 1 /proc/$!/environ >/dev/null && echo one is readable; kill $!")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&looked.stdout).contains("one is readable"), "{looked:?}");
    let folder = tempfile::tempdir().unwrap();
    nix::unistd::chown(folder.path(), Some(40001.into()), Some(40001.into())).unwrap();
    let program = folder.path().join("keyringd");
    // By another process: a descriptor for writing that a test forks meanwhile inherits would make the program busy.
    success(&Command::new("cp").arg(PROGRAM).arg(&program).output().unwrap());
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
    let looked = tool("setpriv")
        .args(["--reuid=40001", "--regid=40001", "--clear-groups", "--", "head", "-c", "1"])
        .arg(format!("/proc/{}/mem", other.id()))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&looked.stderr).contains("Permission denied"), "{looked:?}");
    other.kill().unwrap();
    other.wait().unwrap();
}

/// `run` with a limit on locked memory and without CAP_IPC_LOCK: the exit code, if it ended, and its log.
fn run_with_memlock_limit(server: &OpenBao, more: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = crate::support::ending_with_us(std::path::Path::new("prlimit"));
    command.args(["--memlock=65536:65536", "setpriv", "--bounding-set=-ipc_lock", "--"]);
    command.arg(PROGRAM).arg("run").env_clear().env("PATH", "/usr/bin:/bin").envs(kongs_settings(server));
    command.env("KONG_KEYRING_SOCKET_PATH", folder.path().join("s")).envs(more.iter().copied());
    let log = folder.path().join("log");
    let mut child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
    let ended = wait_for("its end or its socket", || {
        let ended = child.try_wait().unwrap();
        (ended.is_some() || folder.path().join("s").exists()).then_some(ended)
    });
    let _ = child.kill();
    let _ = child.wait();
    (ended.and_then(|status| status.code()), fs::read_to_string(log).unwrap())
}

#[test]
fn without_memory_lock_it_warns_or_refuses_to_start_if_required() {
    let server = OpenBao::shared();
    server.put(&json!({ "id": "first", "key": FIRST }));
    let (exit_code, log) = run_with_memlock_limit(&server, &[]);
    assert_eq!(exit_code, None, "{log}");
    assert!(log.contains("warning: memory is not locked") && log.contains("LimitMEMLOCK=infinity"), "{log}");
    let (exit_code, log) = run_with_memlock_limit(&server, &[("KONG_KEYRING_REQUIRE_MEMORY_LOCK", "on")]);
    assert_eq!(exit_code, Some(78), "{log}");
    assert!(log.contains("keyring_require_memory_lock: memory is not locked"), "{log}");
}
