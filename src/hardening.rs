//! What keeps secrets from where others can look: the environment, core dumps, other processes, and the swap.
//!
//! Nothing of ours is imported here. Secrets' types are in `secret`; which variables hold secrets, `settings` knows.

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

/// Why memory is not locked: it may be written to the swap.
#[derive(Debug, thiserror::Error)]
pub enum NotLocked {
    #[error(
        "memory is not locked, and may be written to the swap: the limit on locked memory is {0} bytes; set \
         LimitMEMLOCK=infinity, or ulimit -l unlimited, or give the capability CAP_IPC_LOCK"
    )]
    Limit(u64),
    #[error("memory is not locked, and may be written to the swap: {0}")]
    Refused(io::Error),
}

/// Keeps this process out of core dumps, and from being looked into by other processes of its user (`prctl(2)`,
/// `PR_SET_DUMPABLE`).
///
/// # Errors
/// What the kernel refused.
pub fn keep_out_of_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Keeps all of this process's memory out of the swap, what it takes later included.
///
/// # Errors
/// [`NotLocked`]. Under a limit nothing is locked: what is taken beyond it would end the process.
pub fn lock_memory() -> Result<(), NotLocked> {
    let may_lock = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    match getrlimit(Resource::Memlock).current {
        Some(limit) if !may_lock => Err(NotLocked::Limit(limit)),
        // What is taken and not used yet is locked when it is used: so locking costs no memory.
        _ => mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
            .map_err(|error| NotLocked::Refused(error.into())),
    }
}

/// A variable that holds a secret, and the one that says where it is once it was moved.
#[derive(Debug)]
pub struct Variable<'a> {
    pub name: &'a str,
    pub moved: &'a str,
    pub value: &'a [u8],
}

/// Starts this program anew in this very process, with the variables' values in files that exist in memory alone and can
/// be opened by this user alone. So they stand neither in `/proc/<pid>/environ`, which removing a variable would not
/// change, nor in the environment of what is started later. Returns only if that is not possible.
///
/// # Errors
/// What the kernel refused. Nothing has changed then.
pub fn start_anew_without(variables: &[Variable<'_>]) -> io::Result<Infallible> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    let mut kept_open = Vec::new();
    for variable in variables {
        let file = in_memory(variable.value)?;
        command.env_remove(variable.name);
        command.env(variable.moved, format!("/proc/self/fd/{}", file.as_raw_fd()));
        kept_open.push(file);
    }
    let error = command.exec();
    drop(kept_open);
    Err(error)
}

fn in_memory(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"secret", MFdFlags::empty())?);
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    Ok(file.into())
}
