//! What a file keeps when another one takes its place: the owner, the mode and the extended attributes, which hold the ACL.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use rustix::{
    buffer::spare_capacity,
    fs::{XattrFlags, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr},
    io::Errno,
};

/// The most that Linux has of a list of names and of a value (`XATTR_LIST_MAX` and `XATTR_SIZE_MAX`).
const MAX_LEN: usize = 64 << 10;

/// Gives `file` the attributes of the file at `path`, of which `found` are the metadata. In this order: a new owner clears
/// some attributes and bits of the mode, and the mode limits an ACL that was inherited from the folder.
pub(super) fn copy(path: &Path, found: &Metadata, file: &File) -> io::Result<()> {
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (found.uid(), found.gid()) {
        std::os::unix::fs::fchown(file, Some(found.uid()), Some(found.gid()))?;
    }
    copy_extended(path, file)?;
    file.set_permissions(found.permissions())
}

fn copy_extended(path: &Path, file: &File) -> io::Result<()> {
    let names = names(|list| listxattr(path, spare_capacity(list)))?;
    for inherited in self::names(|list| flistxattr(file, spare_capacity(list)))?.difference(&names) {
        fremovexattr(file, inherited)?;
    }
    for name in &names {
        let mut value = Vec::with_capacity(MAX_LEN);
        getxattr(path, name, spare_capacity(&mut value))?;
        fsetxattr(file, name, &value, XattrFlags::empty())?;
    }
    Ok(())
}

/// The names that `list` fills in. A file system without attributes has none.
fn names(list: impl FnOnce(&mut Vec<u8>) -> rustix::io::Result<usize>) -> io::Result<BTreeSet<CString>> {
    let mut bytes = Vec::with_capacity(MAX_LEN);
    match list(&mut bytes) {
        Ok(_) => {}
        Err(Errno::NOTSUP) => return Ok(BTreeSet::new()),
        Err(error) => return Err(error.into()),
    }
    let names = bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}
