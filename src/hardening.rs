//! Process hardening: keeps secrets out of the environment, core dumps, other processes and swap.
//!
//! `settings` decides which variables hold secrets.

use std::{
    convert::Infallible,
    ffi::c_int,
    io::{self, PipeReader, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::Command,
};

use nix::fcntl::{FcntlArg, fcntl};
use rustix::{
    io::{FdFlags, fcntl_setfd},
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

/// Raises the limit on descriptors to the hard limit. It stays where the system forbids that.
pub(crate) fn raise_descriptor_limit() {
    let limits = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
}

/// How many descriptors this process may have open.
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
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
    /// The variable that names the pipe with the moved value.
    pub moved: &'a str,
    pub value: &'a [u8],
}

/// Executes this program again in this process, with the values in pipes instead of variables. Removing a variable would not
/// clear it from `/proc/<pid>/environ`. The kernel never swaps a pipe, and the program reads it once, into locked memory.
/// Returns only on failure; nothing has changed then.
pub(crate) fn reexec_without(variables: &[Variable<'_>]) -> io::Result<Infallible> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    let mut kept_open = Vec::new();
    for variable in variables {
        let pipe = filled_pipe(variable.value)?;
        command.env_remove(variable.name);
        command.env(variable.moved, format!("/proc/self/fd/{}", pipe.as_raw_fd()));
        kept_open.push(pipe);
    }
    let error = command.exec();
    drop(kept_open);
    Err(error)
}

/// The end to read from, which stays open in an executed program.
fn filled_pipe(content: &[u8]) -> io::Result<PipeReader> {
    let (reader, mut writer) = io::pipe()?;
    let capacity = fcntl(&writer, FcntlArg::F_GETPIPE_SZ)?;
    if usize::try_from(capacity).is_ok_and(|capacity| capacity < content.len()) {
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(c_int::try_from(content.len()).unwrap_or(c_int::MAX)))?;
    }
    writer.write_all(content)?;
    fcntl_setfd(&reader, FdFlags::empty())?;
    Ok(reader)
}
