//! Further costs: memory with few and many keys and idle clients, the start time, decrypt with many keys.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::{
    Effort, Fact,
    load::{self, LoadRequest, Target},
    servers::{Server, Servers},
    support::{http, openbao::OpenBao, process::wait_for},
};

/// The number of connections to measure the memory per connection.
const FURTHER: usize = 900;

/// How long after the load its memory is measured.
const REST: Duration = Duration::from_secs(30);

/// The resident memory of the daemon that served all cases, after a rest.
#[expect(clippy::disallowed_methods, reason = "the time of rest is given")]
pub fn after_load(servers: &Servers) -> Fact {
    std::thread::sleep(REST);
    let value = resident(servers.keyringd.target().pid);
    Fact { name: format!("resident {} s after the load", REST.as_secs()), value, unit: "KiB" }
}

pub fn measure(servers: &Servers, effort: Effort) -> Vec<Fact> {
    let fact = |name: &str, value: f64, unit| Fact { name: name.to_owned(), value, unit };
    let mut facts = Vec::new();
    let openbao = &servers.openbao;
    for at in 0..10 {
        openbao.put_record(&format!("key-{at}"), &format!("key text number {at} of thirty-two"));
    }
    let (daemon, to_ready) = ready(openbao, Path::new("keyring"));
    facts.push(fact("start to ready, 10 versions", to_ready.as_secs_f64() * 1000.0, "ms"));
    let idle: Vec<_> = (0..64).map(|_| connected(&daemon)).collect();
    facts.push(fact("resident, 10 keys and 64 idle connections", resident(daemon.target().pid), "KiB"));
    let before = resident(daemon.target().pid);
    #[expect(clippy::cast_precision_loss, reason = "some hundred")]
    let a_connection = || (resident(daemon.target().pid) - before) / FURTHER as f64;
    let mut further: Vec<_> = (0..FURTHER).map(|_| UnixStream::connect(&daemon.socket).unwrap()).collect();
    wait_for("all connections to be accepted", || (descriptors(daemon.target().pid) > FURTHER).then_some(()));
    facts.push(fact("resident per further connection before its first request", a_connection(), "KiB"));
    further.iter_mut().for_each(ask);
    facts.push(fact("resident per further idle connection after a request", a_connection(), "KiB"));
    drop((idle, further, daemon));
    let mut rates = Vec::new();
    for keys in [1, 100, 1000] {
        let path = format!("map-{keys}");
        put_map(servers, &path, keys);
        let (daemon, _) = ready(openbao, Path::new(&path));
        if keys == 1000 {
            facts.push(fact("resident, 1000 keys", resident(daemon.target().pid), "KiB"));
        }
        rates.push((keys, daemon));
    }
    facts.extend(decrypts(&rates, effort));
    let binary = fs::metadata(env!("CARGO_BIN_EXE_keyringd")).unwrap().len();
    #[expect(clippy::cast_precision_loss, reason = "a file's length is far below 2^52")]
    facts.push(fact("binary", binary as f64 / 1024.0, "KiB"));
    facts
}

/// Requests per second of decrypt with few and many keys, in turn.
fn decrypts(daemons: &[(usize, Server)], effort: Effort) -> Vec<Fact> {
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); daemons.len()];
    for _ in 0..effort.rounds.max(1) * 3 {
        for (at, (keys, daemon)) in daemons.iter().enumerate() {
            let target = daemon.target();
            let request = decrypt_request(&target, &format!("map-{keys}"));
            rates[at].push(target.load(&request, 16, effort.time).per_second);
        }
    }
    let one = |((keys, _), rates): (&(usize, Server), Vec<f64>)| {
        let name = format!("decrypt, octets, 1 KiB, 16 connections, {keys} keys");
        Fact { name, value: crate::median(rates), unit: "requests/s" }
    };
    daemons.iter().zip(rates).map(one).collect()
}

fn decrypt_request(target: &Target<'_>, name: &str) -> LoadRequest {
    let octets = [("content-type", "application/octet-stream")];
    let sealed = target.answer(&load::post(&format!("transit/encrypt/{name}"), &octets, vec![b'p'; 1024]));
    load::post(&format!("transit/decrypt/{name}"), &octets, sealed)
}

fn put_map(servers: &Servers, path: &str, keys: usize) {
    let text = |at: usize| BASE64_STANDARD.encode([u8::try_from(at % 256).unwrap(); 24]) + &at.to_string();
    let keys: serde_json::Map<_, _> =
        (0..keys).map(|at| (format!("key-{at}"), Value::from(text(at)))).collect();
    let body = json!({ "data": { "active": "key-0", "keys": keys } }).to_string();
    let token = [("x-vault-token", servers.token())];
    servers.openbao().answer(&load::post(&format!("secret/data/{path}"), &token, body));
}

/// A daemon with that path, and the time from its start until it was ready.
fn ready(openbao: &OpenBao, path: &Path) -> (Server, Duration) {
    let socket =
        std::env::temp_dir().join(format!("keyringd-bench-{}-{}", std::process::id(), path.display()));
    let variables = [
        ("KONG_KEYRING_ENABLED", "on"),
        ("KONG_KEYRING_STRATEGY", "vault"),
        ("KONG_KEYRING_VAULT_HOST", &openbao.address()),
        ("KONG_KEYRING_VAULT_MOUNT", "secret"),
        ("KONG_KEYRING_VAULT_PATH", path.to_str().unwrap()),
        ("KONG_KEYRING_VAULT_TOKEN", openbao.token()),
        ("KONG_KEYRING_SOCKET_PATH", socket.to_str().unwrap()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let started = Instant::now();
    let program = Path::new(env!("CARGO_BIN_EXE_keyringd"));
    let server = Server::start(program, &["run"], &variables, socket);
    wait_for("the keys", || {
        let stream = UnixStream::connect(&server.socket).ok()?;
        (http::exchange(stream, "GET", "/readyz", &[], b"")?.status == 200).then_some(())
    });
    (server, started.elapsed())
}

/// An idle client after one request.
fn connected(server: &Server) -> UnixStream {
    let mut stream = UnixStream::connect(&server.socket).unwrap();
    ask(&mut stream);
    stream
}

fn ask(stream: &mut UnixStream) {
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let _ = stream.read(&mut [0; 1024]).unwrap();
}

/// The number of open files and sockets.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn resident(pid: u32) -> f64 {
    load::memory(pid, "VmRSS:")
}
