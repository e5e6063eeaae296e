//! A control group with a memory limit, in version 2 or 1 (cgroups(7)). Only root of the machine may make one. Root of a user
//! namespace shows the limit to the program, and the test measures what the kernel would have limited.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{Daemon, ending_with_us, root::is_root_of_the_machine};

const ROOT: &str = "/sys/fs/cgroup";

pub struct MemoryGroup {
    limit: u64,
    /// Removed when it is dropped, after the processes in it.
    real: Option<PathBuf>,
}

impl MemoryGroup {
    /// With a limit in bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit, real: is_root_of_the_machine().then(|| make(limit)) }
    }

    /// A command that executes the program in this group, and ends with the test.
    pub fn command(&self, program: &str) -> Command {
        if let Some(folder) = &self.real {
            let mut command = ending_with_us(Path::new("/bin/sh"));
            command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
            command.arg(folder.join("cgroup.procs")).arg(program);
            return command;
        }
        let mut command = ending_with_us(Path::new("unshare"));
        let script = "mount -t tmpfs none \"$0\" && echo \"$1\" > \"$0/memory.max\" && shift && exec \"$@\"";
        command
            .args(["--mount", "--", "/bin/sh", "-c", script, ROOT])
            .arg(self.limit.to_string())
            .arg(program);
        command
    }

    /// The kernel ends what takes more. Where it does not limit, this fails.
    #[track_caller]
    pub fn held(&self, daemon: &Daemon) {
        let peak = daemon.peak_of_anonymous_memory();
        assert!(self.real.is_some() || peak <= self.limit >> 10, "{peak} KiB of {} bytes", self.limit);
    }
}

fn make(limit: u64) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let root = Path::new(ROOT);
    let (parent, file) = if root.join("cgroup.controllers").exists() {
        // It is an error where the controller is on already.
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        (root.to_owned(), "memory.max")
    } else {
        (root.join("memory"), "memory.limit_in_bytes")
    };
    let folder = parent.join(format!("keyringd-test-{}-{number}", process::id()));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(file), limit.to_string()).unwrap();
    folder
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Some(folder) = &self.real {
            let _ = fs::remove_dir(folder);
        }
    }
}
