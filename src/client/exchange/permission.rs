//! Why this user may not connect to a socket, and what to do about it.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use nix::unistd::{Gid, Group, Uid, User, geteuid, getgroups};

/// A write bit of the group lets its members connect.
const GROUP_WRITE: u32 = 0o020;

/// What lets this user connect.
pub(super) fn cure(socket: &Path) -> String {
    let Ok(metadata) = fs::metadata(socket) else {
        return "this user may not enter its folder".to_owned();
    };
    let (owner, group) = (user_name(Uid::from_raw(metadata.uid())), Gid::from_raw(metadata.gid()));
    if metadata.mode() & GROUP_WRITE == 0 || group.as_raw() == 0 {
        let mode = metadata.mode() & 0o777;
        return format!(
            "it belongs to {owner} with mode {mode:04o}: run this as {owner}, or set keyring_socket_group"
        );
    }
    let found = Group::from_gid(group).ok().flatten();
    let name = found.as_ref().map_or_else(|| group.to_string(), |group| group.name.clone());
    let user = user_name(geteuid());
    let is_member = found.is_some_and(|group| group.mem.contains(&user));
    if is_member && !getgroups().is_ok_and(|groups| groups.contains(&group)) {
        return format!("it belongs to the group {name}, which {user} joined after this login: log in again");
    }
    format!("it belongs to the group {name}: `sudo adduser {user} {name}`, and log in again")
}

fn user_name(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}
