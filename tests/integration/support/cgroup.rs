//! A control group with a memory limit, in version 2 or 1 (cgroups(7)). Only root may make one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicUsize, Ordering},
};

const ROOT: &str = "/sys/fs/cgroup";

/// Removed when it is dropped, after the processes in it.
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    pub fn new(limit: u64) -> Self {
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
        Self(folder)
    }

    /// A command that executes the program in this group, and ends with the test.
    pub fn command(&self, program: &str) -> Command {
        let mut command = super::ending_with_us(Path::new("/bin/sh"));
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
