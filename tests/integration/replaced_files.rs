//! What a file keeps when `--force` writes it again.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
};

use rustix::{
    buffer::spare_capacity,
    fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr},
};

use crate::support::{Daemon, daemon::PROGRAM, passed_as_root, success, tool};

/// An ACL in the form of its attribute (Linux, `posix_acl_xattr.h`): the owner, one more user, the group, the mask, and others.
fn acl(user: u32, permissions: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [
        (0x01, 6, NOBODY),
        (0x02, permissions, user),
        (0x04, 4, NOBODY),
        (0x10, permissions, NOBODY),
        (0x20, 0, NOBODY),
    ];
    let entry = |(tag, permissions, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.map(entry).concat()].concat()
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = Vec::with_capacity(4096);
    listxattr(path, spare_capacity(&mut list)).unwrap();
    let value = |name: &str| {
        let mut value = Vec::with_capacity(4096);
        getxattr(path, name, spare_capacity(&mut value)).unwrap();
        (name.to_owned(), value)
    };
    String::from_utf8(list).unwrap().split_terminator('\0').map(value).collect()
}

fn owner_and_mode(path: &Path) -> (u32, u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.uid(), found.gid(), found.mode() & 0o777)
}

/// Writes a ciphertext and rewraps it in place, by this name of the file.
fn rewrap(daemon: &Daemon, name: &Path) {
    let before = fs::read(name).unwrap();
    let path = name.display().to_string();
    success(&daemon.command(&["rewrap", "-i", &path, "-o", &path, "--force"], b""));
    assert!(fs::read(name).unwrap() != before);
}

fn ciphertext(daemon: &Daemon, path: &Path) {
    fs::write(path, success(&daemon.command(&["encrypt"], b"hello"))).unwrap();
}

#[test]
fn a_file_that_is_replaced_keeps_its_owner_its_mode_and_its_links() {
    if passed_as_root() {
        return;
    }
    let daemon = Daemon::dev();
    let file = |name: &str| daemon.folder().join(name);
    ciphertext(&daemon, &file("secret"));
    fs::set_permissions(file("secret"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(file("secret"), Some(40001), Some(40002)).unwrap();
    std::os::unix::fs::symlink("secret", file("symbolic")).unwrap();
    rewrap(&daemon, &file("symbolic"));
    assert_eq!(owner_and_mode(&file("secret")), (40001, 40002, 0o640));
    assert!(fs::symlink_metadata(file("symbolic")).unwrap().is_symlink());

    fs::hard_link(file("secret"), file("hard")).unwrap();
    rewrap(&daemon, &file("hard"));
    assert_eq!(fs::metadata(file("hard")).unwrap().ino(), fs::metadata(file("secret")).unwrap().ino());
    assert_eq!(owner_and_mode(&file("secret")), (40001, 40002, 0o640));
    let names = fs::read_dir(daemon.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".tmp")));
}

const ACL: &str = "system.posix_acl_access";

#[test]
fn a_file_that_is_replaced_keeps_its_acl_and_attributes_and_inherits_none() {
    if passed_as_root() {
        return;
    }
    let daemon = Daemon::dev();
    let file = daemon.folder().join("secret");
    ciphertext(&daemon, &file);
    setxattr(&file, "user.note", b"of the application", XattrFlags::empty()).unwrap();
    setxattr(&file, ACL, &acl(40003, 4), XattrFlags::empty()).unwrap();
    std::os::unix::fs::chown(&file, Some(40001), Some(40002)).unwrap();
    // New files in this folder get another ACL.
    setxattr(daemon.folder(), "system.posix_acl_default", &acl(40009, 6), XattrFlags::empty()).unwrap();
    let (before, inode) = ((attributes(&file), owner_and_mode(&file)), fs::metadata(&file).unwrap().ino());
    assert_eq!(before.0.get(ACL), Some(&acl(40003, 4)));
    rewrap(&daemon, &file);
    assert_eq!((attributes(&file), owner_and_mode(&file)), before);
    assert!(fs::metadata(&file).unwrap().ino() != inode, "it was written beside, and renamed");

    removexattr(&file, ACL).unwrap();
    let before = (attributes(&file), owner_and_mode(&file));
    rewrap(&daemon, &file);
    assert_eq!((attributes(&file), owner_and_mode(&file)), before);
}

#[test]
fn a_file_of_another_user_is_written_over_and_stays_theirs() {
    if passed_as_root() {
        return;
    }
    let daemon = Daemon::dev();
    let file = daemon.folder().join("secret");
    ciphertext(&daemon, &file);
    setxattr(&file, "user.note", b"of the application", XattrFlags::empty()).unwrap();
    std::os::unix::fs::chown(&file, Some(40002), Some(40002)).unwrap();
    for (path, mode) in [(daemon.folder(), 0o777), (&daemon.socket(), 0o666), (&file, 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let program = daemon.folder().join("keyringd");
    // By another process: a program that this one has open for writing cannot be executed.
    success(&Command::new("cp").arg(PROGRAM).arg(&program).output().unwrap());
    let state = || (attributes(&file), owner_and_mode(&file), fs::metadata(&file).unwrap().ino());
    let (before, content) = (state(), fs::read(&file).unwrap());
    let rewrapped = tool("setpriv")
        .args(["--reuid=40001", "--regid=40001", "--clear-groups", "--"])
        .arg(&program)
        .arg("rewrap")
        .arg("-i")
        .arg(&file)
        .arg("-o")
        .arg(&file)
        .arg("--force")
        .arg("--socket")
        .arg(daemon.socket())
        .current_dir("/")
        .env_clear()
        .output()
        .unwrap();
    success(&rewrapped);
    assert!(fs::read(&file).unwrap() != content);
    assert_eq!(state(), before);
}
