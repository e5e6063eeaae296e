//! Disks that are full, read-only or hang: the daemon serves and syncs, says what it cannot write, and goes on when it can.
//!
//! A full disk is a small tmpfs in the daemon's own mount namespace. A disk that hangs is `tests/disk/hung.c`, loaded into it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;

use crate::{
    sealed_copy::Host,
    support::{Daemon, OpenBao, daemon::PROGRAM, ending_with_us, passed_as_root, success, tool, wait_for},
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// A daemon whose sealed copy is on a tmpfs of a few pages.
struct SmallDisk {
    daemon: Daemon,
    host: Host,
    server: OpenBao,
}

impl SmallDisk {
    fn new() -> Self {
        let server = OpenBao::shared();
        server.put_record("first", KEY);
        let host = Host::new();
        let state = host.copy().parent().unwrap().to_owned();
        fs::create_dir(&state).unwrap();
        let mut command = ending_with_us(Path::new("/usr/bin/unshare"));
        let mount = "mount -t tmpfs -o size=32k,mode=0700 keyringd \"$0\" && exec \"$@\"";
        command.args(["--mount", "sh", "-c", mount]).arg(&state).arg(PROGRAM);
        let settings = host.settings(&[]);
        let mut settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        settings.push(("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
        let daemon = Daemon::start_by(command, None, &server, &settings);
        daemon.wait_until_ready();
        let small = Self { daemon, host, server };
        wait_for("the copy", || fs::read(small.seen(&small.host.copy())).ok());
        small
    }

    /// The path of a file as the daemon sees it.
    fn seen(&self, path: &Path) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.daemon.pid())).join(path.strip_prefix("/").unwrap())
    }

    fn remount(&self, option: &str) {
        let mut command = tool("nsenter");
        command.args(["--mount", "--target", &self.daemon.pid().to_string(), "mount", "-o"]);
        command.arg(format!("remount,{option}")).arg(self.host.copy().parent().unwrap());
        success(&command.output().unwrap());
    }

    /// A new key arrives, and its copy is not written for this reason. All else goes on.
    fn fails_to_write(&self, id: &str, reason: &str) {
        let copy = self.seen(&self.host.copy());
        let before = fs::read(&copy).unwrap();
        self.server.put_record(id, &KEY.to_lowercase());
        self.daemon.sync();
        let status = wait_for("the failure", || {
            let status = success(&self.daemon.command(&["status"], b""));
            status.contains("not written: ").then_some(status)
        });
        assert!(status.contains(reason), "{status}");
        assert_eq!(self.daemon.active(), id);
        assert_eq!(self.daemon.opened(&self.daemon.encrypt("still")), "still");
        assert_eq!(self.daemon.get("/readyz").status, 200);
        assert!(fs::read(&copy).unwrap() == before, "the former copy is whole");
        assert!(!copy.with_file_name("keyring.copy.new").exists(), "nothing is left of the other");
    }

    /// With the next sync the copy is written.
    fn recovers(&self, before: &[u8]) {
        self.daemon.sync();
        wait_for("the copy", || (fs::read(self.seen(&self.host.copy())).unwrap() != before).then_some(()));
    }
}

#[test]
fn a_full_disk_keeps_the_former_copy_and_is_reported() {
    if passed_as_root() {
        return;
    }
    let small = SmallDisk::new();
    let before = fs::read(small.seen(&small.host.copy())).unwrap();
    let filler = small.seen(&small.host.copy().with_file_name("filler"));
    fs::write(&filler, vec![0; 64 << 10]).unwrap_err();
    small.fails_to_write("second", "No space left on device");
    fs::remove_file(filler).unwrap();
    small.recovers(&before);
}

#[test]
fn a_read_only_disk_keeps_the_former_copy_and_is_reported() {
    if passed_as_root() {
        return;
    }
    let small = SmallDisk::new();
    let before = fs::read(small.seen(&small.host.copy())).unwrap();
    small.remount("ro");
    small.fails_to_write("second", "Read-only file system");
    small.remount("rw");
    small.recovers(&before);
}

#[test]
fn a_command_on_a_full_or_read_only_disk_fails_without_a_partial_file() {
    if passed_as_root() {
        return;
    }
    let daemon = Daemon::dev();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("small")).unwrap();
    fs::write(folder.path().join("large"), vec![7; 3 << 20]).unwrap();
    let script = r#"cd "$0"
        "$1" encrypt --socket "$2" -i large -o sealed
        mount -t tmpfs -o size=1m keyringd small
        "$1" encrypt --socket "$2" -i large -o small/sealed; echo $?
        "$1" decrypt --socket "$2" -i sealed -o small/large; echo $?
        ls -A small
        mount -o remount,ro small
        "$1" encrypt --socket "$2" -i large -o small/sealed; echo $?
        "$1" decrypt --socket "$2" -i sealed > /dev/full; echo $?"#;
    let mut command = tool("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(folder.path()).arg(PROGRAM).arg(daemon.socket());
    let output = command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n1\n1\n1\n", "{errors}");
    assert_eq!(errors.matches("No space left on device").count(), 3, "{errors}");
    assert_eq!(errors.matches("Read-only file system").count(), 1, "{errors}");
}

/// A daemon on a disk that hangs while the file `hung` exists.
struct HungDisk {
    daemon: Daemon,
    host: Host,
    server: OpenBao,
    folder: tempfile::TempDir,
}

impl HungDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [library, gate] = ["hung.so", "hung"].map(|name| folder.path().join(name).display().to_string());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/disk/hung.c");
        let mut compiler = tool("cc");
        compiler.args(["-shared", "-fPIC", "-o", &library]).arg(source);
        success(&compiler.output().unwrap());
        let server = OpenBao::shared();
        server.put_record("first", KEY);
        let host = Host::new();
        let settings = host.settings(&[("LD_PRELOAD", &library), ("HUNG", &gate)]);
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let daemon = Daemon::start(&server, &settings);
        wait_for("the copy", || fs::read(host.copy()).ok());
        Self { daemon, host, server, folder }
    }

    fn hang(&self) {
        fs::write(self.folder.path().join("hung"), "").unwrap();
    }

    /// Until a part of the copy waits for the disk.
    fn wait_until_met(&self) {
        wait_for("a write", || self.folder.path().join("hung.met").exists().then_some(()));
    }

    fn release(&self) {
        fs::remove_file(self.folder.path().join("hung")).unwrap();
        fs::remove_file(self.folder.path().join("hung.met")).unwrap();
    }
}

#[test]
fn a_disk_that_hangs_while_the_copy_is_written_delays_neither_requests_nor_syncs_nor_the_end() {
    let mut hung = HungDisk::new();
    let before = fs::read(hung.host.copy()).unwrap();
    hung.hang();
    for id in ["second", "third"] {
        hung.server.put_record(id, &format!("{id}{KEY}"));
        hung.daemon.sync();
        assert_eq!(hung.daemon.active(), id);
    }
    hung.wait_until_met();
    for _ in 0..50 {
        assert_eq!(hung.daemon.opened(&hung.daemon.encrypt("meanwhile")), "meanwhile");
    }
    assert!(fs::read(hung.host.copy()).unwrap() == before, "the former copy is whole");
    hung.release();
    wait_for("the copy", || (fs::read(hung.host.copy()).unwrap() != before).then_some(()));

    hung.hang();
    hung.server.put_record("fourth", &format!("fourth{KEY}"));
    hung.daemon.sync();
    hung.wait_until_met();
    hung.daemon.signal(Signal::SIGTERM);
    assert_eq!(hung.daemon.ended().code(), Some(0));
}
