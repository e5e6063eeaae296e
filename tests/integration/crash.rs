//! Kills at any moment: no ciphertext is lost, the sealed copy is whole, and no files pile up.
//!
//! `KEYRINGD_KILLS=200 cargo test --test integration -- crash` is the long run.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    sealed_copy::{Host, source},
    support::{Daemon, Fault, OpenBao, Proxy, daemon::PROGRAM, http, process::Running, wait_for},
};

const SHORT_RUN: u32 = 12;
const CLIENTS: usize = 4;
/// How many ciphertexts of each life are kept for all later ones.
const KEPT: usize = 20;
const PLAINTEXT: &str = "4111 1111 1111 1111";

#[expect(clippy::disallowed_methods, reason = "the length of a test's run is no setting")]
fn kills() -> u32 {
    std::env::var("KEYRINGD_KILLS").map_or(SHORT_RUN, |text| text.parse().unwrap())
}

/// A daemon with a copy, always at the same socket, and clients that do not stop.
struct Lives {
    server: OpenBao,
    proxy: Proxy,
    host: Host,
    folder: tempfile::TempDir,
    ciphertexts: Vec<String>,
}

impl Lives {
    fn new() -> Self {
        let server = OpenBao::shared();
        server.api("POST", "secret/metadata/keyring", &json!({ "max_versions": kills() + 10 }));
        put_key(&server, 0);
        let proxy = Proxy::before(&server.address());
        proxy.set("/", Fault::None);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("large"), vec![7; 5 << 20]).unwrap();
        Self { server, proxy, host: Host::new(), folder, ciphertexts: Vec::new() }
    }

    fn start(&self) -> Daemon {
        let address = self.proxy.address();
        let settings = self.host.settings(&[
            ("KONG_KEYRING_VAULT_HOST", &address),
            ("KONG_KEYRING_CACHE_WAIT", "1"),
            ("KONG_KEYRING_SYNC_INTERVAL", "1"),
        ]);
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Daemon::start_at(Some(&self.folder.path().join("s")), &self.server, &settings)
    }

    /// A life that ends after this many responses, while a new key arrives and its copy is written.
    fn live(&mut self, life: u32, responses: usize) {
        let mut daemon = self.start();
        daemon.wait_until_ready();
        self.check(&daemon);
        let stream = Running::start(encrypt(&daemon, self.folder.path()));
        let (sealed, ended) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| encrypt_until(&daemon.socket(), &ended, &sealed));
            }
            scope.spawn(|| {
                put_key(&self.server, life);
                http::exchange(daemon.connect(), "POST", "/keyring/vault/sync", &[], b"")
            });
            wait_for("responses", || (sealed.lock().unwrap().len() >= responses).then_some(()));
            daemon.signal(Signal::SIGKILL);
            ended.store(true, Ordering::Relaxed);
        });
        daemon.ended();
        drop(stream);
        self.check_files();
        self.ciphertexts.extend(sealed.into_inner().unwrap().into_iter().rev().take(KEPT));
    }

    /// A start while Vault is away: the copy of the killed life opens, and what it has not is back with Vault.
    fn live_without_vault(&self) {
        self.proxy.set("/", Fault::Cut);
        let daemon = self.start();
        daemon.wait_until_ready();
        assert_eq!(source(&daemon).as_deref(), Some("copy"), "{}", daemon.log());
        assert_eq!(daemon.opened(&daemon.encrypt("away")), "away");
        self.proxy.reset();
        daemon.sync();
        self.check(&daemon);
    }

    /// All ciphertexts so far open.
    fn check(&self, daemon: &Daemon) {
        let items: Vec<_> = self.ciphertexts.iter().map(|sealed| json!({ "ciphertext": sealed })).collect();
        for batch in items.chunks(1000) {
            let answer = daemon.post("/v1/transit/decrypt/keyring", &json!({ "batch_input": batch }));
            let results = answer.json()["data"]["batch_results"].as_array().unwrap().clone();
            let expected = Value::from(BASE64_STANDARD.encode(PLAINTEXT));
            assert!(results.iter().all(|result| result["plaintext"] == expected), "{}", answer.text());
        }
    }

    /// The copy, at most one that was not complete, and no partial output of a command.
    fn check_files(&self) {
        let state = names(self.host.copy().parent().unwrap());
        assert!(state.contains(&"keyring.copy".to_owned()) && state.len() <= 2, "{state:?}");
        let own = names(self.folder.path());
        let expected = ["large", "s", "s.lock", "sealed"];
        assert!(own.iter().all(|name| expected.contains(&name.as_str())), "{own:?}");
        let _ = fs::remove_file(self.folder.path().join("sealed"));
    }
}

fn put_key(server: &OpenBao, number: u32) {
    server.put_record(&format!("key-{number}"), &format!("{number:032}-of-a-killed-daemon"));
}

/// A command that seals a file, which its daemon's end must interrupt or not.
fn encrypt(daemon: &Daemon, folder: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("encrypt").arg("--socket").arg(daemon.socket()).arg("-i").arg(folder.join("large"));
    command.arg("-o").arg(folder.join("sealed")).env_clear();
    command
}

fn encrypt_until(socket: &Path, ended: &AtomicBool, sealed: &Mutex<Vec<String>>) {
    let body = json!({ "plaintext": BASE64_STANDARD.encode(PLAINTEXT) }).to_string();
    while !ended.load(Ordering::Relaxed) {
        let Ok(stream) = std::os::unix::net::UnixStream::connect(socket) else { continue };
        let path = "/v1/transit/encrypt/keyring";
        let Some(answer) = http::exchange(stream, "POST", path, &[], body.as_bytes()) else { continue };
        assert_eq!(answer.status, 200, "{answer:?}");
        sealed.lock().unwrap().push(answer.at("/data/ciphertext"));
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_daemon_that_is_killed_again_and_again_loses_nothing_and_leaves_no_files() {
    let mut lives = Lives::new();
    let first = lives.start();
    first.wait_until_ready();
    wait_for("the copy", || lives.host.copy().exists().then_some(()));
    drop(first);
    for life in 1..=kills() {
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        let responses = usize::from(u16::from_le_bytes(random) % 400);
        eprintln!("life {life} ends after {responses} responses");
        lives.live(life, responses);
        if life % 3 == 0 {
            lives.live_without_vault();
        }
    }
    let last = lives.start();
    last.wait_until_ready();
    wait_for("the last key", || (last.active() == format!("key-{}", kills())).then_some(()));
    lives.check(&last);
    assert!(lives.ciphertexts.len() > usize::try_from(kills()).unwrap());
}
