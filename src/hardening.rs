//! Process hardening: keeps secrets out of the environment, core dumps, other processes and swap.
//!
//! `settings` decides which variables hold secrets.

use std::{
    convert::Infallible,
    fs::{File, Permissions},
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    process::Command,
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::{CapabilitySet, capabilities},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum NotLocked {
    #[error(
        "memory is not locked and may be swapped: the limit on locked memory is {0} bytes; set LimitMEMLOCK=infinity or \
         ulimit -l unlimited, or grant the capability CAP_IPC_LOCK"
    )]
    Limit(u64),
    #[error("memory is not locked and may be swapped: {0}")]
    Refused(io::Error),
}

/// Disables core dumps, and access by other processes of the same user (`prctl(2)`, `PR_SET_DUMPABLE`).
pub(crate) fn disable_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Locks all current and future memory of this process. With a limit it locks nothing, because an allocation beyond the limit
/// would terminate the process.
pub(crate) fn lock_memory() -> Result<(), NotLocked> {
    let may_lock = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    match getrlimit(Resource::Memlock).current {
        Some(limit) if !may_lock => Err(NotLocked::Limit(limit)),
        // ONFAULT locks a page on its first use, so locking costs no memory.
        _ => mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
            .map_err(|error| NotLocked::Refused(error.into())),
    }
}

/// An environment variable that holds a secret.
#[derive(Debug)]
pub(crate) struct Variable<'a> {
    pub name: &'a str,
    /// The variable that names the file with the moved value.
    pub moved: &'a str,
    pub value: &'a [u8],
}

/// Executes this program again in this process, with the values in memory files of mode 0600 instead of variables.
/// Removing a variable would not clear it from `/proc/<pid>/environ`. Returns only on failure; nothing has changed then.
pub(crate) fn reexec_without(variables: &[Variable<'_>]) -> io::Result<Infallible> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    let mut kept_open = Vec::new();
    for variable in variables {
        let file = memory_file(variable.value)?;
        command.env_remove(variable.name);
        command.env(variable.moved, format!("/proc/self/fd/{}", file.as_raw_fd()));
        kept_open.push(file);
    }
    let error = command.exec();
    drop(kept_open);
    Err(error)
}

fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"secret", MFdFlags::empty())?);
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    Ok(file.into())
}
