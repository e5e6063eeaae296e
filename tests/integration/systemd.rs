//! What systemd would see and give: its notifications, the watchdog, and a socket that it listens on.

use std::{
    io::Write as _,
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{
    Daemon, OpenBao,
    daemon::{PROGRAM, kongs_settings},
    http, tool, wait_for,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// The end of the notification socket that is systemd's.
pub(crate) struct Notifications {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Notifications {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { socket, folder }
    }

    pub(crate) fn path(&self) -> String {
        self.folder.path().join("notify").display().to_string()
    }

    /// The next message.
    fn next(&self) -> String {
        let mut message = [0; 4096];
        let len = self.socket.recv(&mut message).expect("keyringd notifies systemd");
        String::from_utf8(message[..len].to_vec()).unwrap()
    }

    /// Messages up to one that begins like this, which is the last of them.
    pub(crate) fn up_to(&self, beginning: &str) -> Vec<String> {
        let mut messages = Vec::new();
        while !messages.last().is_some_and(|message: &String| message.starts_with(beginning)) {
            messages.push(self.next());
        }
        messages
    }
}

#[test]
fn systemd_gets_ready_after_the_first_keyring_and_a_status() {
    let mut server = OpenBao::durable();
    server.put_record("first", KEY);
    server.stop();
    let notified = Notifications::new();
    let mut daemon = Daemon::start_unready(&server, &[("NOTIFY_SOCKET", &notified.path())]);
    let waiting = notified.up_to("STATUS=no keys yet: ");
    assert!(waiting.iter().all(|message| !message.starts_with("READY")), "{waiting:?}");
    // A reload is not what makes it ready.
    daemon.signal(Signal::SIGHUP);
    server.start();
    let started = notified.up_to("READY=1");
    assert!(started.contains(&"STATUS=serving, active key first\n".to_owned()), "{started:?}");
    assert!(started.iter().all(|message| !message.starts_with("RELOADING")), "{started:?}");

    daemon.signal(Signal::SIGHUP);
    let reloaded = notified.up_to("READY=1").concat();
    assert!(reloaded.contains("RELOADING=1\nMONOTONIC_USEC="), "{reloaded}");
    daemon.signal(Signal::SIGTERM);
    notified.up_to("STOPPING=1");
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn the_watchdog_is_pinged_while_the_accept_loop_runs() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let notified = Notifications::new();
    let daemon = Daemon::start(&server, &[("NOTIFY_SOCKET", &notified.path()), ("WATCHDOG_USEC", "200000")]);
    for _ in 0..5 {
        notified.up_to("WATCHDOG=1");
    }
    daemon.signal(Signal::SIGSTOP);
    notified.socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut message = [0; 4096];
    wait_for("the last watchdog ping", || notified.socket.recv(&mut message).is_err().then_some(()));
    daemon.signal(Signal::SIGCONT);
    notified.socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    notified.up_to("WATCHDOG=1");
}

#[test]
fn journal_lines_have_a_priority_and_no_timestamp() {
    use std::os::unix::fs::MetadataExt as _;
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    for format in ["text", "json"] {
        let folder = tempfile::tempdir().unwrap();
        let (log, socket) = (folder.path().join("log"), folder.path().join("s"));
        let journal = std::fs::File::create(&log).unwrap();
        let metadata = journal.metadata().unwrap();
        let mut child = crate::support::ending_with_us(Path::new(PROGRAM))
            .arg("run")
            .env_clear()
            .envs(kongs_settings(&server))
            .env("KONG_KEYRING_SOCKET_PATH", &socket)
            .env("KONG_KEYRING_LOG_FORMAT", format)
            .env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()))
            .stderr(journal)
            .spawn()
            .unwrap();
        let ask = |path: &str| http::exchange(UnixStream::connect(&socket).ok()?, "GET", path, &[], b"");
        wait_for("the keys", || ask("/readyz").filter(|answer| answer.status == 200));
        assert_eq!(ask("/nowhere").unwrap().status, 404);
        let log_text = std::fs::read_to_string(&log).unwrap();
        let line = |part: &str| log_text.lines().find(|line| line.contains(part)).unwrap();
        assert!(line("logged in to Vault").starts_with("<5>"), "{log_text}");
        assert!(line("audit").starts_with("<4>"), "{log_text}");
        assert!(!log_text.contains("timestamp") && !log_text.contains("INFO"), "{log_text}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Listens like systemd, and runs a daemon on that socket whenever a line arrives on standard input.
const LISTENING: &str = r#"
import os, socket, subprocess, sys
path, program = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(4096)
os.dup2(listener.fileno(), 3, inheritable=True)
for _ in sys.stdin:
    command = ["sh", "-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" run", program]
    print(subprocess.Popen(command, pass_fds=(3,), stdin=subprocess.DEVNULL).pid, flush=True)
sys.stdin.close()
"#;

struct Listening {
    child: Child,
    daemons: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Listening {
    fn new(server: &OpenBao, socket: &Path) -> Self {
        use std::io::BufRead as _;
        let mut child = tool("setpriv")
            .args(["--pdeathsig", "KILL", "--", "python3", "-c", LISTENING])
            .args([socket, Path::new(PROGRAM)])
            .envs(kongs_settings(server))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemons = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, daemons }
    }

    /// A further daemon on the same socket.
    fn start(&mut self) -> Pid {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        Pid::from_raw(self.daemons.next().unwrap().unwrap().parse().unwrap())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_restart_on_a_passed_socket_refuses_no_client() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut listening = Listening::new(&server, &socket);
    let mut daemon = listening.start();
    // Clients wait while no daemon serves, and until the keys are loaded again.
    let encrypt = || {
        let stream = UnixStream::connect(&socket).expect("no client is refused");
        let path = "/v1/transit/encrypt/keyring";
        let answer = http::exchange(stream, "POST", path, &[], b"{\"plaintext\":\"YQ==\"}");
        answer.expect("no client is cut off").status
    };
    wait_for("the keys", || socket.exists().then(encrypt).filter(|status| *status == 200));
    let (mut served, stop) = (0, std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: [_; 4] = std::array::from_fn(|_| {
            scope.spawn(|| {
                let mut statuses = Vec::new();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    statuses.push(encrypt());
                }
                statuses
            })
        });
        for _ in 0..3 {
            kill(daemon, Signal::SIGTERM).unwrap();
            wait_for("its end", || ended(daemon).then_some(()));
            assert!(socket.exists(), "a socket of another process stays");
            daemon = listening.start();
            wait_for("the keys", || (encrypt() == 200).then_some(()));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for client in clients {
            let statuses = client.join().unwrap();
            assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
            served += statuses.len();
        }
    });
    assert!(served > 0);
    kill(daemon, Signal::SIGTERM).unwrap();
    wait_for("its end", || ended(daemon).then_some(()));
}

/// Whether a process that is not our child is gone, or waits to be buried.
fn ended(process: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z')))
}
