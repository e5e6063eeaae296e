//! The limits on clients, and that the daemon serves others meanwhile.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use keyringd::{
    api::{self, Api, ApiError, ResolvedValue, RuntimeConfig, Upstream, UpstreamFuture},
    keyring::{Format, Formats, KeyringEntry, Keyrings, Published},
    metrics::Metrics,
    secret::Secret,
    server::{self, Listeners, Server},
    settings::Audit,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Daemon, OpenBao, http, kms, passed_as_root, success, tool, wait_for};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
const ENCRYPT: &str = "/v1/transit/encrypt/keyring";

/// A daemon with one key and these settings.
pub(crate) fn started(more: &[(&str, &str)]) -> (OpenBao, Daemon) {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, more);
    (server, daemon)
}

#[test]
fn a_body_over_the_limit_is_413_in_every_encoding() {
    let (_server, daemon) = started(&[("KONG_KEYRING_MAX_REQUEST_SIZE", "4k")]);
    let fits = json!({ "plaintext": "A".repeat(4000) }).to_string();
    assert_eq!(daemon.request("POST", ENCRYPT, fits.as_bytes()).status, 200);
    for len in [4097, 20_000, 1 << 20] {
        let answer = daemon.request("POST", ENCRYPT, &vec![b'A'; len]);
        assert_eq!(answer.status, 413, "{len}");
        assert!(answer.at("/errors/0").contains("keyring_max_request_size"), "{answer:?}");
    }
    let mut stream = daemon.connect();
    stream
        .write_all(
            format!("POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes(),
        )
        .unwrap();
    for _ in 0..5 {
        stream.write_all(format!("400\r\n{}\r\n", "A".repeat(0x400)).as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(http::read(stream).unwrap().status, 413);
    let mut stream = daemon.connect();
    stream
        .write_all(
            format!(
                "POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9000\r\n\r\n"
            )
            .as_bytes(),
        )
        .unwrap();
    assert_eq!(http::read(stream).unwrap().status, 413, "at once, without 100 Continue");
    assert_eq!(daemon.opened(&daemon.encrypt("others")), "others");
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let (_server, daemon) = started(&[]);
    let garbage: [&[u8]; 8] = [
        b"\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/transit/encrypt/keyring HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/transit/encrypt/keyring HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        &vec![b'A'; 100_000],
    ];
    for bytes in garbage {
        let mut stream = daemon.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{bytes:?}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    for body in
        [b"".as_slice(), b"{", b"[]", b"null", b"\xff\xfe", &vec![b'['; 100_000], b"{\"plaintext\":\"\xff\"}"]
    {
        for path in [ENCRYPT, "/v1/transit/decrypt/keyring"] {
            assert_eq!(daemon.request("POST", path, body).status, 400, "{body:?}");
        }
    }
    for path in ["/", "//", "/v1", "/v1/transit/", "/v1/transit/encrypt", "/%00", "/keyring/x"] {
        assert_eq!(daemon.get(path).status, 404, "{path}");
    }
    assert_eq!(daemon.request("POST", "/v1/transit/encrypt/..", b"{}").status, 404);
    assert_eq!(daemon.opened(&daemon.encrypt("alive")), "alive");
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
}

#[test]
fn clients_over_the_limit_wait_until_others_disconnect() {
    let (_server, daemon) = started(&[("KONG_KEYRING_MAX_CONNECTIONS", "2")]);
    let (one, two) = (daemon.connect(), daemon.connect());
    let mut three = daemon.connect();
    three.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    three.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(http::read(&three).is_none(), "the limit is reached");
    drop((one, two));
    three.set_read_timeout(None).unwrap();
    assert_eq!(http::read(&three).unwrap().status, 200);
}

#[test]
fn many_idle_clients_take_little_memory() {
    let (_server, daemon) = started(&[]);
    let before = daemon.peak_memory();
    // One user gets all connections but a sixteenth.
    let crowd: Vec<_> = (0..900)
        .map(|_| {
            let mut stream = daemon.connect();
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    wait_for("all to be connected", || (daemon.metric("keyringd_connections") > 900).then_some(()));
    let grown = daemon.peak_memory() - before;
    assert!(grown < 40_000, "{grown} KiB for 900 clients");
    assert_eq!(daemon.opened(&daemon.encrypt("others")), "others");
    drop(crowd);
}

#[test]
fn accepting_resumes_after_descriptors_ran_out() {
    let (_server, daemon) = started(&[]);
    let limit = |count: &str| {
        let pid = daemon.pid().to_string();
        let output = tool("prlimit").args(["--pid", &pid, &format!("--nofile={count}:4096")]).output();
        success(&output.unwrap());
    };
    limit("30");
    let crowd: Vec<_> = (0..60).map(|_| daemon.connect()).collect();
    wait_for("accepting to fail", || daemon.log().contains("accepting connections failed").then_some(()));
    drop(crowd);
    assert_eq!(daemon.opened(&daemon.encrypt("again")), "again");
}

#[test]
fn a_batch_over_the_limit_is_refused_whole() {
    let (_server, daemon) = started(&[("KONG_KEYRING_MAX_BATCH", "3")]);
    let batch = |items: usize| {
        daemon.post(ENCRYPT, &json!({ "batch_input": vec![json!({ "plaintext": "YQ==" }); items] }))
    };
    assert_eq!(batch(3).status, 200);
    let refused = batch(4);
    assert_eq!(refused.status, 400);
    assert!(refused.at("/errors/0").contains("keyring_max_batch"), "{refused:?}");
}

#[test]
fn a_batch_far_over_the_limit_costs_no_more_than_one_at_the_limit() {
    let (_server, daemon) = started(&[]);
    let body = format!("{{\"batch_input\":[{}{{}}]}}", "{},".repeat(8_000_000));
    let refused = daemon.request("POST", ENCRYPT, body.as_bytes());
    assert_eq!(refused.status, 400);
    let peak = daemon.peak_memory();
    assert!(peak < 120_000, "{peak} KiB");
}

#[test]
fn a_skipped_value_takes_no_memory_and_delays_no_other_client() {
    let (_server, daemon) = started(&[]);
    let before = daemon.peak_memory();
    let many = format!("{{\"plaintext\":\"YQ==\",\"type\":[{}0]}}", "0,".repeat(4_000_000));
    assert_eq!(daemon.request("POST", ENCRYPT, many.as_bytes()).status, 200);
    let grown = daemon.peak_memory() - before;
    assert!(grown < 30_000, "{grown} KiB more for a body of 8 MB");
    // More requests than worker threads: health is served meanwhile.
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| daemon.request("POST", ENCRYPT, many.as_bytes()));
        }
        wait_for("all to be handled", || (daemon.metric("keyringd_requests_in_flight") > 6).then_some(()));
        let asked = Instant::now();
        assert_eq!(daemon.get("/livez").status, 200);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    });
}

#[test]
fn a_ciphertext_too_large_to_decrypt_is_not_made() {
    let sizes = [("KONG_KEYRING_MAX_REQUEST_SIZE", "4k"), ("KONG_KEYRING_KONG_FIELDS", "on")];
    let (_server, daemon) = started(&sizes);
    let octets = [("content-type", "application/octet-stream")];
    for len in (3000..4200).step_by(7) {
        let sealed = daemon.request_with("POST", ENCRYPT, &octets, &vec![b'a'; len]);
        assert!(matches!(sealed.status, 200 | 413), "{len}");
        if sealed.status == 200 {
            let opened = daemon.request_with("POST", "/v1/transit/decrypt/keyring", &octets, &sealed.body);
            assert_eq!(opened.status, 200, "{len}");
        }
        for format in ["native", "kong"] {
            let plaintext = "A".repeat(len / 4 * 4);
            let sealed = daemon.post(ENCRYPT, &json!({ "plaintext": plaintext, "format": format }));
            assert!(matches!(sealed.status, 200 | 413), "{len}");
            if sealed.status == 200 {
                assert_eq!(daemon.decrypt(&sealed.at("/data/ciphertext")).status, 200, "{len} {format}");
            }
        }
    }
}

#[test]
fn unprivileged_connections_get_a_share_of_the_limit() {
    if passed_as_root() {
        return;
    }
    let (server, _) = started(&[]);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("s");
    let settings = [
        ("KONG_KEYRING_MAX_CONNECTIONS", "32"),
        ("KONG_KEYRING_ACCESS", "uid:0=all"),
        ("KONG_KEYRING_SOCKET_MODE", "0666"),
    ];
    let daemon = Daemon::start_at(Some(&socket), &server, &settings);
    daemon.wait_until_ready();
    let stranger = |arguments: &[&str]| {
        let mut command = tool("setpriv");
        command.args(["--reuid=40001", "--regid=40001", "--clear-groups", "--"]).args(arguments).arg(&socket);
        // Another user may not enter the folders of this one's PATH.
        command.current_dir("/").env("HOME", "/").env("PATH", "/usr/bin:/bin").output().unwrap()
    };
    // This user has no permission, so it gets two of 32 connections. Connections that ended a moment ago may still count, so
    // that a crowd can keep fewer: then comes another one.
    wait_for("a crowd that keeps two", || {
        let kept = success(&stranger(&["python3", "-c", CROWD]));
        assert!(kept.trim().parse::<u32>().unwrap() <= 2, "{kept}");
        (kept.trim() == "2").then_some(())
    });
    wait_for("room for a stranger's question", || {
        let answer = stranger(&["curl", "-sf", "http://localhost/livez", "--unix-socket"]);
        answer.status.success().then_some(())
    });
}

/// Opens 60 connections, waits until the daemon has closed all but two, and prints how many are open.
const CROWD: &str = r"
import socket, sys, time
crowd = [socket.socket(socket.AF_UNIX) for _ in range(60)]
for one in crowd:
    one.connect(sys.argv[1])
    one.settimeout(0.02)
def is_open(one):
    try:
        one.recv(1)
        return False
    except TimeoutError:
        return True
    except OSError:
        return False
deadline = time.monotonic() + 60
while (kept := sum(map(is_open, crowd))) > 2 and time.monotonic() < deadline:
    pass
print(kept)
";

#[test]
fn deep_json_is_refused_in_every_field_and_takes_no_memory() {
    let (_server, daemon) = started(&[]);
    let before = daemon.peak_memory();
    for field in ["type", "nonce", "plaintext", "batch_input", "unheard_of"] {
        for (open, depth) in [("[", 10_000_000), ("{\"a\":", 1_000_000)] {
            let body = format!("{{\"plaintext\":\"YQ==\",\"{field}\":{}", open.repeat(depth));
            let refused = daemon.request("POST", ENCRYPT, body.as_bytes());
            assert_eq!(refused.status, 400, "{field}");
        }
    }
    let deep = format!("{{\"type\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let refused = daemon.request("POST", ENCRYPT, deep.as_bytes());
    assert!(refused.at("/errors/0").contains("nested too deeply"), "{refused:?}");
    let grown = daemon.peak_memory() - before;
    assert!(grown < 60_000, "{grown} KiB more for bodies of 10 MB");
    assert_eq!(daemon.opened(&daemon.encrypt("others")), "others");
}

/// Sends that many bytes of a body that is one byte longer.
fn stalled(daemon: &Daemon, bytes: usize) -> std::os::unix::net::UnixStream {
    let mut stream = daemon.connect();
    let head = format!("POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", bytes + 1);
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b'A'; bytes]).unwrap();
    stream
}

#[test]
fn bytes_in_flight_are_limited_over_all_clients_and_given_back() {
    let sizes = [("KONG_KEYRING_MAX_REQUEST_SIZE", "4m"), ("KONG_KEYRING_MAX_INFLIGHT_SIZE", "16m")];
    let (_server, daemon) = started(&sizes);
    let held = || daemon.metric("keyringd_inflight_bytes");
    let crowd: Vec<_> = (0..4).map(|_| stalled(&daemon, 3 << 20)).collect();
    wait_for("the bodies to be held", || (held() >= 12 << 20).then_some(()));
    // With and without an announced length: a body over the budget is refused, a smaller one is served.
    let body = json!({ "plaintext": "A".repeat(2 << 20) }).to_string();
    let refused = daemon.request("POST", ENCRYPT, body.as_bytes());
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("2")));
    assert!(refused.at("/errors/0").contains("keyring_max_inflight_size"), "{refused:?}");
    let mut chunked = daemon.connect();
    write!(chunked, "POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    write!(chunked, "{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).unwrap();
    assert_eq!(http::read(chunked).unwrap().status, 429);
    assert_eq!(daemon.opened(&daemon.encrypt("others")), "others");
    drop(crowd);
    wait_for("the room to be given back", || (held() == 0).then_some(()));
    assert_eq!(daemon.request("POST", ENCRYPT, body.as_bytes()).status, 200);
    let peak = daemon.peak_memory();
    assert!(peak < 80_000, "{peak} KiB");
}

#[test]
fn a_flood_of_large_bodies_stays_within_its_memory() {
    let sizes = [("KONG_KEYRING_MAX_REQUEST_SIZE", "4m"), ("KONG_KEYRING_MAX_INFLIGHT_SIZE", "16m")];
    let (_server, daemon) = started(&sizes);
    let body = json!({ "plaintext": "A".repeat(3 << 20) }).to_string();
    let statuses = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let status = daemon.request("POST", ENCRYPT, body.as_bytes()).status;
                statuses.lock().unwrap().push(status);
            });
        }
    });
    let statuses = statuses.into_inner().unwrap();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    assert!(statuses.contains(&200), "{statuses:?}");
    // The bytes in flight, responses that are a third larger, and the working memory of each request.
    let peak = daemon.peak_memory();
    assert!(peak < 150_000, "{peak} KiB");
    assert_eq!(daemon.opened(&daemon.encrypt("others")), "others");
}

#[test]
fn an_announced_body_takes_no_memory_before_it_arrives() {
    let (_server, daemon) = started(&[]);
    let head = format!("POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\ncontent-length: 33000000\r\n\r\n");
    let crowd: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = daemon.connect();
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(daemon.get("/livez").status, 200);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let size = status
        .lines()
        .find_map(|line| line.strip_prefix("VmData:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(size.unwrap() < 1_000_000, "{size:?} kB of data for {} clients that sent nothing", crowd.len());
    drop(crowd);
    assert_eq!(daemon.opened(&daemon.encrypt("others")), "others");
}

#[test]
fn a_request_is_answered_whatever_bytes_follow_it() {
    let (_server, daemon) = started(&[]);
    let body = r#"{"plaintext": "aGVsbG8="}"#;
    for after in ["\r\n", "GE", "garbage\r\n\r\n", "POST / HT"] {
        let mut stream = daemon.connect();
        let length = body.len();
        let request =
            format!("POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}{after}");
        stream.write_all(request.as_bytes()).unwrap();
        let answer = http::read(stream).unwrap_or_else(|| panic!("no answer before {after:?}"));
        assert_eq!(answer.status, 200, "{after:?}");
    }
    let long = "a".repeat(70_000);
    assert_eq!(http::exchange(daemon.connect(), "GET", "/livez", &[("x", &long)], b"").unwrap().status, 431);
    let mut stream = daemon.connect();
    stream.write_all(b"\0garbage\r\n\r\n").unwrap();
    assert_eq!(http::read(stream).unwrap().status, 400);
}

struct NoVault;

impl Upstream for NoVault {
    fn sync<'a>(&'a self, _: &'a str, _: Option<Secret<String>>) -> UpstreamFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn look_for_new_keys<'a>(&'a self, _: &'a str) -> UpstreamFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn first_outcome<'a>(&'a self, _: &'a str) -> UpstreamFuture<'a, ()> {
        Box::pin(async {})
    }

    fn resolve<'a>(&'a self, _: &'a [&'a str]) -> UpstreamFuture<'a, Vec<Result<ResolvedValue, ApiError>>> {
        Box::pin(std::future::pending())
    }

    fn can_resolve(&self) -> Result<(), String> {
        Ok(())
    }

    fn reload(&self) -> UpstreamFuture<'_, Result<Value, String>> {
        Box::pin(std::future::pending())
    }

    fn describe(&self) -> Value {
        Value::Null
    }
}

/// Serves in this process with short times, and runs `clients` against it.
fn with_short_times(clients: impl FnOnce(&std::path::Path)) {
    with_times(Duration::from_millis(200), clients);
}

/// The same with this timeout for heads, bodies and idle connections.
fn with_times(time: Duration, clients: impl FnOnce(&std::path::Path)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let config = RuntimeConfig {
        keyrings: Keyrings::single(KeyringEntry {
            name: "keyring".into(),
            published: Arc::new(Published::default()),
            formats: Formats { write: Format::Native, kong_fields: keyringd::keyring::KongFields::Refuse },
            index_key: None,
            max_stale: None,
            secret: None,
            moving_to: None,
        }),
        kms_name: None,
        access: None,
        audit: Audit::Off,
        limits: api::Limits { body_time: time, ..api::Limits::new(1 << 20, 4 << 20, 10) },
        transit_mounts: ["transit".to_owned()].into(),
        namespace: None,
    };
    let limits = server::Limits {
        connections: 10,
        header_time: time,
        idle_time: time,
        write_time: Duration::from_millis(500),
    };
    let metrics = Arc::new(Metrics::default());
    let api = Arc::new(Api::new(config, Arc::clone(&metrics), Arc::new(NoVault)));
    let server = Arc::new(Server::new(api, metrics, limits));
    let stop = CancellationToken::new();
    let (listener, _file) = runtime.block_on(server::listen::bind(&path, 0o600, None)).unwrap();
    let listeners = Listeners { socket: listener, metrics: None };
    let serving = runtime.spawn(server.serve(listeners, None, stop.clone()));
    clients(&path);
    stop.cancel();
    assert_eq!(runtime.block_on(serving).unwrap(), 0);
}

#[test]
fn a_client_that_reads_nothing_is_disconnected() {
    with_short_times(|path| {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        // More responses than the kernel buffers, none of them read.
        let request = b"GET /status HTTP/1.1\r\nhost: x\r\n\r\n".repeat(10_000);
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let error = loop {
            if let Err(error) = stream.write_all(&request) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}");
    });
}

#[test]
fn a_client_that_reads_byte_by_byte_is_disconnected() {
    with_short_times(|path| {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        let requests = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
        stream.write_all(&requests).unwrap();
        // Each read frees a little buffer space; the whole response never fits.
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let (begun, mut taken) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(20) {
            match stream.read(&mut [0; 512]) {
                Ok(0) => break,
                Ok(read) => taken += read,
                Err(_) => {}
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{taken} bytes in {:?}", begun.elapsed());
    });
}

#[test]
fn a_slow_head_and_a_slow_body_are_cut_off() {
    with_short_times(|path| {
        let connect = || std::os::unix::net::UnixStream::connect(path).unwrap();
        let mut slow_head = connect();
        slow_head.write_all(b"GET /livez HT").unwrap();
        let mut slow_body = connect();
        slow_body
            .write_all(
                format!("POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{").as_bytes(),
            )
            .unwrap();
        assert_eq!(http::exchange(connect(), "GET", "/livez", &[], b"").unwrap().status, 200);
        let mut rest = Vec::new();
        slow_head.read_to_end(&mut rest).unwrap();
        assert_eq!(http::read(slow_body).unwrap().status, 408);
    });
}

#[test]
fn idle_clients_at_the_limit_make_room_for_others() {
    with_short_times(|path| {
        let connect = || std::os::unix::net::UnixStream::connect(path).unwrap();
        let begun: [&[u8]; 4] = [
            b"",
            b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET /livez HT",
            b"POST /v1/transit/encrypt/keyring HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{",
        ];
        for begun in begun {
            let mut crowd: Vec<_> = (0..10).map(|_| connect()).collect();
            for stream in &mut crowd {
                stream.write_all(begun).unwrap();
            }
            assert_eq!(http::exchange(connect(), "GET", "/livez", &[], b"").unwrap().status, 200);
            drop(crowd);
        }
    });
}

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame of h2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const SETTINGS: u8 = 4;

#[test]
fn idle_h2_clients_at_the_limit_make_room_for_others() {
    with_short_times(|path| {
        let connect = || std::os::unix::net::UnixStream::connect(path).unwrap();
        let settings = frame(SETTINGS, 0, 0, &[]);
        for begun in [&PREFACE[..1], &PREFACE[..23], PREFACE, &[&PREFACE[..], &settings].concat()] {
            let mut crowd: Vec<_> = (0..10).map(|_| connect()).collect();
            for stream in &mut crowd {
                stream.write_all(begun).unwrap();
            }
            assert_eq!(http::exchange(connect(), "GET", "/livez", &[], b"").unwrap().status, 200);
            drop(crowd);
        }
    });
}

#[test]
fn an_h2_client_keeps_its_connection_only_while_it_calls() {
    // Long enough for a call on a busy machine.
    let time = Duration::from_secs(2);
    with_times(time, |path| {
        let called = || {
            let kms = kms::Kms::connect(path);
            assert!(kms.status().is_ok());
            kms
        };
        let (steady, crowd): (_, Vec<_>) = (called(), (0..9).map(|_| called()).collect());
        let begun = Instant::now();
        while begun.elapsed() < 3 * time {
            assert!(steady.status().is_ok());
        }
        let late = std::os::unix::net::UnixStream::connect(path).unwrap();
        assert_eq!(http::exchange(late, "GET", "/livez", &[], b"").unwrap().status, 200);
        assert!(steady.status().is_ok());
        drop(crowd);
        assert_eq!(kms::Kms::stalled_call(path), kms::DEADLINE_EXCEEDED, "a message that never comes");
    });
}

#[test]
fn garbage_and_floods_in_h2_end_their_own_connection_only() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    const END_OF_BOTH: u8 = 5;
    /// `:method POST`, `:scheme http`, `:path /`, as HPACK's static table numbers them.
    const HEAD: [u8; 3] = [0x83, 0x86, 0x84];
    let (_server, daemon) = started(&[]);
    let before = daemon.peak_memory();
    let begun = [&PREFACE[..], &frame(SETTINGS, 0, 0, &[])].concat();
    let streams = (0..200_000).map(|number| 2 * number + 1);
    let taken_back = |stream| {
        [frame(HEADERS, END_OF_BOTH, stream, &HEAD), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
            .concat()
    };
    let long_head = [
        frame(HEADERS, 0, 1, &HEAD),
        frame(CONTINUATION, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(2000)).repeat(2000),
    ];
    for (what, flood) in [
        ("garbage", vec![b'A'; 100_000]),
        ("a frame that is too large", frame(0, 0, 1, &vec![0; 100_000])),
        ("calls taken back", streams.flat_map(taken_back).collect()),
        ("a head without an end", long_head.concat()),
    ] {
        let mut stream = daemon.connect();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&begun).unwrap();
        let mut reading = stream.try_clone().unwrap();
        let reader = std::thread::spawn(move || reading.read_to_end(&mut Vec::new()));
        let _ = stream.write_all(&flood);
        reader.join().unwrap().ok();
        let ping = frame(PING, 0, 0, &[0; 8]);
        wait_for(&format!("the end of {what}"), || stream.write_all(&ping).is_err().then_some(()));
        assert_eq!(daemon.opened(&daemon.encrypt("others")), "others");
    }
    assert_eq!(kms::Kms::connect(&daemon.socket()).status().unwrap().healthz, "ok");
    let grown = daemon.peak_memory() - before;
    assert!(grown < 30_000, "{grown} KiB more");
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
}
