//! Attacks on a daemon by other users: the programs in `tests/attacks`, and what the daemon holds. They need root.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Daemon, OpenBao, daemon::PROGRAM, ending_with_us, tools::tool};

pub const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";
pub const ENCRYPT: &str = "/v1/transit/encrypt/keyring";

/// Users that need no names.
pub const HONEST: u32 = 40001;
pub const HOSTILE: [u32; 2] = [40002, 40003];

/// For tests that take much memory and time: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In KiB, as the kernel counts memory.
pub const MIB: u64 = 1 << 10;

/// The most memory, in KiB, that remains after a burst.
pub const RESTING: u64 = 32 * MIB;

/// A daemon behind a socket that every user can connect to.
pub struct Open {
    pub daemon: Daemon,
    pub server: OpenBao,
    pub socket: PathBuf,
    _folder: TempDir,
}

pub fn open(more: &[(&str, &str)]) -> Open {
    open_by(ending_with_us(Path::new(PROGRAM)), OpenBao::shared(), more)
}

pub fn open_by(command: Command, server: OpenBao, more: &[(&str, &str)]) -> Open {
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
pub struct Attack {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Attack {
    pub fn by(user: u32, socket: &Path, name: &str, numbers: &[u64]) -> Self {
        let user = user.to_string();
        let mut child = tool("setpriv")
            .args(["--pdeathsig", "KILL", "--reuid", &user, "--regid", &user, "--clear-groups", "--"])
            .args(["/usr/bin/python3", "-c", include_str!("../../attacks/attack.py")])
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
    pub fn report(&mut self) -> Value {
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
pub fn attack(user: u32, socket: &Path, name: &str, numbers: &[u64]) -> Value {
    Attack::by(user, socket, name, numbers).report()
}

/// KiB of memory that the daemon has now, without its program: a debug build's is large.
pub fn resident(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

pub fn only(statuses: &Value, allowed: &[&str]) {
    let seen = statuses.as_object().unwrap();
    assert!(seen.keys().all(|status| allowed.contains(&status.as_str())), "{statuses}");
}
