//! Attacks by real users on the running daemon: what one client can take from it, from Vault and from the log, and what
//! another user's request gives away. Memory is in `bounds_memory`, the share of other users in `fairness`. The attack
//! programs are in `tests/attacks`. They run under other users, so these tests run as root.
//! The file is longer than most: a test per attack.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use nix::unistd::{Gid, Uid, chown};
use serde_json::json;

use crate::support::{
    Daemon, Fault, OpenBao, Proxy,
    attack::{ENCRYPT, HOSTILE, KEY, attack, only, open},
    daemon::{PROGRAM, kongs_settings_of_nobody},
    ending_with_us,
    kms::{INVALID_ARGUMENT, Kms},
    passed_as_root,
    root::is_root_of_the_machine,
    success, tool, wait_for,
};

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

// Vault is not hammered.

#[test]
fn syncs_that_clients_ask_for_are_one_a_second_whoever_asks() {
    if passed_as_root() {
        return;
    }
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
    if passed_as_root() {
        return;
    }
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
    if let Some(namespace) = server.namespace() {
        writeln!(lines, "keyring_vault_namespace = {namespace}").unwrap();
    }
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

/// A KV v1 secret with that many keys, by a played server. Their texts differ from one answer to the next if `changes`.
fn keys_of(count: &Arc<AtomicUsize>, changes: bool) -> Proxy {
    let (count, answers) = (Arc::clone(count), AtomicUsize::new(0));
    Proxy::playing(move |path, _| {
        if path.contains("lookup-self") {
            return (
                200,
                json!({ "data": { "ttl": 0, "renewable": false, "policies": ["root"] } }).to_string(),
            );
        }
        if !path.contains("/secret/") {
            return (404, "{}".to_owned());
        }
        let answer = if changes { answers.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let keys: serde_json::Map<_, _> = (0..count.load(Ordering::Relaxed))
            .map(|at| (format!("key-{answer}-{at}"), json!(format!("{KEY}{answer}{at}"))))
            .collect();
        (200, json!({ "data": { "active": format!("key-{answer}-0"), "keys": keys } }).to_string())
    })
}

/// With one thread for all tasks.
#[test]
fn requests_are_answered_while_many_keys_are_read() {
    let proxy = keys_of(&Arc::new(AtomicUsize::new(10_000)), true);
    let conf = "keyring_vault_token = t\nkeyring_vault_kv = v1\nkeyring_sync_interval = 3600\n";
    let daemon = Daemon::from_conf_with(&proxy.address(), conf, &[("TOKIO_WORKER_THREADS", "1")]);
    daemon.wait_until_ready();
    let before = daemon.active();
    let (synced, slowest) = std::thread::scope(|scope| {
        let syncing = scope.spawn(|| {
            let begun = Instant::now();
            daemon.sync();
            begun.elapsed()
        });
        let mut slowest = Duration::ZERO;
        while !syncing.is_finished() {
            let begun = Instant::now();
            assert_eq!(daemon.get("/livez").status, 200);
            slowest = slowest.max(begun.elapsed());
        }
        (syncing.join().unwrap(), slowest)
    });
    assert_ne!(daemon.active(), before);
    assert!(slowest < synced / 2, "a request took {slowest:?} during a sync of {synced:?}");
}

#[test]
fn a_secret_of_too_many_keys_is_refused_and_one_of_ten_thousand_is_served() {
    let count = Arc::new(AtomicUsize::new(10_000));
    let proxy = keys_of(&count, false);
    let daemon = Daemon::from_conf(&proxy.address(), "keyring_vault_token = t\nkeyring_vault_kv = v1\n");
    daemon.wait_until_ready();
    assert_eq!(daemon.active(), "key-0-0");
    let status = daemon.get("/status");
    assert!(status.body.len() < 300_000, "{} bytes of status", status.body.len());
    let ids = |page: &str| -> Vec<String> {
        let json = daemon.get(&format!("/status{page}")).json();
        assert_eq!(json["keyring"]["keys_total"], 10_000);
        let keys = json["keyring"]["keys"].as_array().unwrap();
        keys.iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(""), ids("?page=1"));
    let all: BTreeSet<String> = (1..=10).flat_map(|page| ids(&format!("?page={page}"))).collect();
    assert_eq!(all.len(), 10_000, "each key is on one of ten pages");
    assert!(ids("?page=11").is_empty() && ids(&format!("?page={}", u64::MAX)).is_empty());
    for wrong in ["0", "-1", "x", ""] {
        let refused = daemon.get(&format!("/status?page={wrong}"));
        assert_eq!((refused.status, refused.text().contains("page")), (400, true), "{refused:?}");
    }
    count.store(10_001, Ordering::Relaxed);
    wait_for("the refusal", || daemon.log().contains("10001").then_some(()));
    assert_eq!(daemon.active(), "key-0-0");
    assert_eq!(daemon.opened(&daemon.encrypt("alive")), "alive");
}

// The log cannot be flooded.

#[test]
fn lines_that_clients_cause_are_few_however_much_they_send() {
    if passed_as_root() {
        return;
    }
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
    if passed_as_root() {
        return;
    }
    let access = format!("uid:{}=kms+metrics+status, uid:40001=encrypt+decrypt", Uid::effective());
    let open = open(&[("KONG_KEYRING_ACCESS", &access)]);
    let kms = Kms::connect(&open.socket);
    let sealed = kms.encrypt(b"a seed").unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let by_application = |operation: &str, body: &[u8]| {
        fs::write(&from, body).unwrap();
        let output = tool("setpriv")
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
    if passed_as_root() {
        return;
    }
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
    if passed_as_root() {
        return;
    }
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
    let is_locked = locked.split_whitespace().next() != Some("0");
    let may_not = !is_root_of_the_machine() && open.daemon.whole_log().contains("memory is not locked");
    assert!(is_locked || may_not, "root may lock memory: {locked}");
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
