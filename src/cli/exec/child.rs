//! The command as a child of this process: start, signals, its end, and as PID 1 the orphans of others.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid, waitpid},
    },
    unistd::Pid,
};
use tokio::process::Child;

/// The time between SIGTERM and SIGKILL at a restart.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn forward(child: &Child, signal: i32) {
    if let (Some(pid), Ok(signal)) = (pid(child), Signal::try_from(signal)) {
        // Fails if the child has just ended; its end is noticed next.
        let _ = kill(pid, signal);
    }
}

fn pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
}

/// The exit code of the command, or 128 plus the number of its signal, as in shells.
pub(super) fn exit_code(ended: ExitStatus) -> ExitCode {
    let code = ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Waits for ended processes that nothing else waits for. PID 1 becomes the parent of every orphan in
/// its container. The exit codes of `ours` are left for those who wait for them.
pub(super) fn reap_orphans<'a>(ours: impl Iterator<Item = &'a Child>) {
    let ours: Vec<_> = ours.filter_map(pid).collect();
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // The first that ended is shown again until it is waited for, so one of ours ends the loop: this is called again after it.
    while let Ok(found) = waitid(Id::All, look) {
        let Some(pid) = found.pid().filter(|pid| !ours.contains(pid)) else { return };
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_commands_or_128_plus_its_signal() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), ExitCode::from(7));
        assert_eq!(exit_code(ExitStatus::from_raw(15)), ExitCode::from(143));
    }
}
