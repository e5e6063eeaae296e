//! The daemon's lifecycle: start, signals, drain, and the ownership of the socket.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::support::{
    Daemon, OpenBao,
    daemon::{kongs_settings, run},
    http, tool, wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

fn started() -> (OpenBao, Daemon) {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[]);
    (server, daemon)
}

#[test]
fn sigterm_and_sigint_stop_it_with_success_and_remove_its_socket() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&server, &[]);
        let _idle = daemon.connect();
        daemon.signal(signal);
        assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
        assert!(!daemon.socket().exists());
        assert_eq!(fs::read_dir(daemon.folder()).unwrap().count(), 2, "only its log and its output are left");
    }
}

#[test]
fn a_request_in_flight_is_answered_before_the_exit() {
    let (_server, mut daemon) = started();
    let body = br#"{"plaintext": "aGVsbG8="}"#;
    let mut stream = daemon.connect();
    let head = format!(
        "POST /v1/transit/encrypt/keyring HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..5]).unwrap();
    assert_eq!(daemon.get("/livez").status, 200, "the daemon has read the first half");
    daemon.signal(Signal::SIGTERM);
    wait_for("the daemon to stop accepting", || UnixStream::connect(daemon.socket()).is_err().then_some(()));
    stream.write_all(&body[5..]).unwrap();
    let answer = http::read(stream).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn the_drain_closes_idle_connections_at_once_and_cuts_and_counts_the_rest() {
    let (_server, mut daemon) = started();
    let mut idle = daemon.connect();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!(http::read(&idle).unwrap().status, 200);
    let mut stalled = daemon.connect();
    stalled
        .write_all(b"POST /v1/transit/encrypt/keyring HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        .unwrap();
    assert_eq!(daemon.get("/livez").status, 200);
    let started = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(std::io::Read::read(&mut idle, &mut [0; 1]).unwrap(), 0);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(daemon.ended().code(), Some(0));
    assert!((10..20).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert!(daemon.log().contains("were cut cut=1"), "{}", daemon.log());
}

#[test]
fn a_second_signal_exits_at_once() {
    let (_server, mut daemon) = started();
    let mut stream = daemon.connect();
    stream
        .write_all(b"POST /v1/transit/encrypt/keyring HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        .unwrap();
    assert_eq!(daemon.get("/livez").status, 200);
    daemon.signal(Signal::SIGTERM);
    wait_for("the daemon to drain", || daemon.log().contains("shutting down").then_some(()));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().code(), Some(1));
}

#[test]
fn an_unwritable_log_does_not_stop_the_daemon() {
    let (server, _) = started();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut child = tool("setpriv")
        .args(["--pdeathsig", "KILL", "--", crate::support::daemon::PROGRAM, "run"])
        .env_clear()
        .envs(kongs_settings(&server))
        .env("KONG_KEYRING_SOCKET_PATH", &socket)
        .env("KONG_LOG_LEVEL", "trace")
        .stderr(fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
        .spawn()
        .unwrap();
    wait_for("the keys", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        let stream = UnixStream::connect(&socket).ok()?;
        (http::exchange(stream, "GET", "/readyz", &[], b"")?.status == 200).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_unread_log_delays_no_request() {
    let (server, _) = started();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut child = tool("setpriv")
        .args(["--pdeathsig", "KILL", "--", crate::support::daemon::PROGRAM, "run"])
        .env_clear()
        .envs(kongs_settings(&server))
        .env("KONG_KEYRING_SOCKET_PATH", &socket)
        .env("KONG_KEYRING_AUDIT", "all")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the socket", || UnixStream::connect(&socket).ok());
    // More lines than fit into a pipe.
    for _ in 0..2000 {
        let stream = UnixStream::connect(&socket).unwrap();
        assert!(http::exchange(stream, "GET", "/status", &[], b"").is_some());
    }
    signal::kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let status = wait_for("its end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_foreign_lock_on_the_folder_does_not_prevent_the_start() {
    let (server, _) = started();
    let folder = tempfile::tempdir().unwrap();
    let other = fs::File::open(folder.path()).unwrap();
    other.lock().unwrap();
    let daemon = Daemon::start_at(Some(&folder.path().join("s")), &server, &[]);
    assert!(daemon.log().contains("another process holds it"), "{}", daemon.log());
}

#[test]
fn a_live_daemons_socket_is_kept_and_a_killed_ones_is_replaced() {
    let (server, mut daemon) = started();
    let socket = daemon.socket();
    let mut settings = kongs_settings(&server);
    settings.push(("KONG_KEYRING_SOCKET_PATH".to_owned(), socket.display().to_string()));
    let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let second = run(&["run"], &settings, b"");
    assert_eq!(second.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&second.stderr);
    assert!(errors.contains("another daemon serves on"), "{errors}");
    assert_eq!(daemon.opened(&daemon.encrypt("undisturbed")), "undisturbed");

    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    assert!(socket.exists());
    let third = Daemon::start_at(Some(&socket), &server, &[]);
    third.wait_until_ready();
    assert_eq!(third.opened(&third.encrypt("mine now")), "mine now");
}

#[test]
fn the_socket_has_the_configured_mode_and_group() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let gid = nix::unistd::getgid().to_string();
    let daemon =
        Daemon::start(&server, &[("KONG_KEYRING_SOCKET_MODE", "0600"), ("KONG_KEYRING_SOCKET_GROUP", &gid)]);
    assert_eq!(fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn dev_serves_a_random_key_and_prints_working_commands() {
    let mut daemon = Daemon::dev();
    let message =
        wait_for("the welcome", || Some(daemon.out()).filter(|out| out.contains("keyringd status")));
    assert_eq!(daemon.opened(&daemon.encrypt("hello")), "hello");
    assert_eq!(fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o777, 0o600);

    let bin = Path::new(crate::support::daemon::PROGRAM).parent().unwrap().display();
    let lines: Vec<_> = message.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let ciphertext = daemon.encrypt("hello");
    assert_eq!(lines.len(), 7, "{message}");
    for line in lines.iter().filter(|line| !line.contains("bao write") && !line.starts_with("export ")) {
        let line = line.replace("kr1:…", &ciphertext);
        let output = std::process::Command::new("bash")
            .args(["-euo", "pipefail", "-c", &format!("PATH={bin}:$PATH\n{line}")])
            .output()
            .unwrap();
        let out = crate::support::success(&output);
        assert!(!out.is_empty() && !out.contains("error"), "{line}: {out}");
    }
    let answer = daemon.request("POST", "/keyring/vault/sync", b"");
    assert!(answer.at("/error").contains("has no Vault"), "{answer:?}");
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.ended().code(), Some(0));
}
