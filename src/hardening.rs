//! What keeps secrets from where others can look: for now, the environment.
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
