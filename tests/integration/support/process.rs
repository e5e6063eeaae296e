//! Programs that end with the test, requests of other users, and waiting for conditions.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;

use super::tools::tool;

/// Far longer than any condition takes on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Polls until `probe` returns a value.
///
/// # Panics
/// After [`TIMEOUT`].
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(begun.elapsed() < TIMEOUT, "no {what} within {TIMEOUT:?}");
        pause_after(begun.elapsed());
    }
}

/// What was waited for long is polled less often: the polls of all tests together would keep a processor busy.
#[expect(clippy::disallowed_methods, reason = "the interval between two polls of a condition")]
fn pause_after(waited: Duration) {
    std::thread::sleep((waited / 20).clamp(Duration::from_millis(5), Duration::from_millis(100)));
}

/// A port that is free like the one above it, which OpenBao takes too, and that nobody else is given: it is below those of the
/// kernel, and no other test's.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const PAIRS: u32 = 10_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    loop {
        // Several test programs may run at once.
        let number = std::process::id().wrapping_mul(97).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + number % PAIRS * 2).unwrap();
        if [port, port + 1].iter().all(is_free) {
            return port;
        }
    }
}

/// A command that is killed when the test ends, even by a crash.
pub fn ending_with_us(program: &Path) -> Command {
    let mut command = tool("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A command in the background, which is ended with its test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = signal::kill(self.pid(), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }
}

/// The standard output. The command must have succeeded.
pub fn success(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{:?}: {errors}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The status and body of the request of a user with these further groups.
pub fn asked_by(user: &str, groups: &str, socket: &Path, path: &str, body: Option<&Value>) -> (u16, String) {
    let mut command = tool("setpriv");
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
    command.args([&format!("--reuid={user}"), &format!("--regid={user}"), &groups, "--"]);
    command.args(["curl", "-sS", "-w", "\n%{http_code}", "--unix-socket"]).arg(socket);
    command.arg(format!("http://localhost{path}")).env("HOME", "/").current_dir("/");
    if let Some(body) = body {
        command.args(["-d", &body.to_string()]);
    }
    let output = success(&command.output().unwrap());
    let (answer, status) = output.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), answer.to_owned())
}
