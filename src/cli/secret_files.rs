//! Secrets as files: a folder whose files change together.
//!
//! The names in the folder are links into `..data`, which is a link to the folder of the current values. A change writes a
//! new folder and renames the link, as Kubernetes does for its volumes, so a certificate and its key always match. The
//! folder is on tmpfs unless another one is named, and everything is removed at the end.

mod permissions;

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::statfs;
use tempfile::TempDir;

use super::command::{Failure, io_failure};
use crate::{secret::Secret, settings::source::environment};
pub(super) use permissions::{FilePermissions, Ownership};

/// The variable of commands that names the folder.
pub(super) const FOLDER_VARIABLE: &str = "KEYRINGD_FILES";

/// The link to the folder of the current values. A file cannot have such a name: it begins with two dots.
const CURRENT: &str = "..data";

/// The link that is renamed to it.
const NEXT: &str = "..next";

/// `f_type` of tmpfs and ramfs, which never write to a disk but by swapping (statfs(2)).
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// One file: its name in the folder, and the reference to its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SecretFile {
    pub(super) name: String,
    pub(super) reference: String,
}

/// The folder, while its files are in use.
pub(super) struct SecretFiles {
    folder: PathBuf,
    files: Vec<SecretFile>,
    ownership: Ownership,
    /// The folder of the current values, by number.
    generation: Option<u64>,
    /// A named folder stays, and its lock keeps out another process.
    _kept: Kept,
}

enum Kept {
    Temporary(#[expect(dead_code, reason = "removes the folder when dropped")] TempDir),
    Locked(#[expect(dead_code, reason = "holds the lock")] File),
}

impl SecretFile {
    /// `NAME=REFERENCE`
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, reference) = text.split_once('=').ok_or("expected NAME=REFERENCE")?;
        Self::new(name, reference)
    }

    pub(super) fn new(name: &str, reference: &str) -> Result<Self, String> {
        let bad = name.is_empty() || name.starts_with("..") || name == "." || name.contains(['/', '\0']);
        if bad {
            return Err(format!(
                "{name:?} is no file name: it needs one without / that does not begin with two dots"
            ));
        }
        Ok(Self { name: name.to_owned(), reference: reference.to_owned() })
    }
}

impl SecretFiles {
    /// Makes the folder. What an earlier run left in a named one is removed.
    pub(super) fn create(
        named: Option<&Path>,
        files: Vec<SecretFile>,
        ownership: Ownership,
    ) -> Result<Self, Failure> {
        let mode = if ownership.owner.is_some() { 0o711 } else { 0o700 };
        let (folder, kept) = match named {
            Some(folder) => (folder.to_owned(), Kept::Locked(lock(folder, mode)?)),
            None => {
                let made = temporary(mode)?;
                (made.path().to_owned(), Kept::Temporary(made))
            }
        };
        let made = Self { folder, files, ownership, generation: None, _kept: kept };
        made.remove().map_err(io_failure("clear", &made.folder))?;
        Ok(made)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn references(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.reference.as_str())
    }

    /// Replaces the content of all files at once. After an error the previous content is still there.
    pub(super) fn write(&mut self, values: &[Secret<String>]) -> Result<(), Failure> {
        let next = self.generation.map_or(0, |current| current.wrapping_add(1));
        let fresh = self.data(next);
        let written = self.write_to(&fresh, values).and_then(|()| self.switch_to(next));
        if let Err((path, error)) = written {
            let _ = fs::remove_dir_all(&fresh);
            return Err(io_failure("write", &path)(error));
        }
        if let Some(before) = self.generation.replace(next) {
            let old = self.data(before);
            fs::remove_dir_all(&old).map_err(io_failure("remove", &old))?;
        }
        Ok(())
    }

    fn data(&self, generation: u64) -> PathBuf {
        self.folder.join(format!("..{generation}"))
    }

    fn write_to(&self, fresh: &Path, values: &[Secret<String>]) -> Result<(), (PathBuf, io::Error)> {
        let mode = if self.ownership.owner.is_some() { 0o711 } else { 0o700 };
        make_folder(fresh, mode).map_err(|error| (fresh.to_owned(), error))?;
        for (file, value) in self.files.iter().zip(values) {
            let path = fresh.join(&file.name);
            self.write_one(&path, value).map_err(|error| (path, error))?;
        }
        Ok(())
    }

    fn write_one(&self, path: &Path, value: &Secret<String>) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(value.expose().as_bytes())?;
        if let Some((user, group)) = self.ownership.owner {
            fchown(&file, Some(user), group)?;
        }
        file.set_permissions(Permissions::from_mode(self.ownership.mode))?;
        file.sync_all()
    }

    fn switch_to(&self, generation: u64) -> Result<(), (PathBuf, io::Error)> {
        let (current, fresh) = (self.folder.join(CURRENT), self.folder.join(NEXT));
        symlink(format!("..{generation}"), &fresh)
            .and_then(|()| fs::rename(&fresh, &current))
            .map_err(|error| (current, error))?;
        for SecretFile { name, .. } in &self.files {
            let link = self.folder.join(name);
            match symlink(Path::new(CURRENT).join(name), &link) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err((link, error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the folders of values and the links into them, and nothing else.
    fn remove(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let target = fs::read_link(&path).ok();
            if is_data(&name) && target.is_none() {
                fs::remove_dir_all(path)?;
            } else if is_data(&name) || target.is_some_and(|target| target.starts_with(CURRENT)) {
                fs::remove_file(path)?;
            } else if self.files.iter().any(|file| name == file.name.as_str()) {
                return Err(io::Error::other(format!(
                    "{} exists and is not a link of keyringd",
                    path.display()
                )));
            }
        }
        Ok(())
    }
}

impl Drop for SecretFiles {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            super::command::print_error(&format!(
                "keyringd: {} was not cleared: {error}",
                self.folder.display()
            ));
        }
    }
}

/// Whether nothing changed between two polls.
pub(super) fn are_equal(values: &[Secret<String>], before: &[Secret<String>]) -> bool {
    values.iter().zip(before).all(|(new, old)| new.expose() == old.expose())
}

/// Whether it is a folder of values or a link to one, by its name.
fn is_data(name: &OsStr) -> bool {
    let rest = name.to_str().and_then(|name| name.strip_prefix(".."));
    name == CURRENT || name == NEXT || rest.is_some_and(|rest| rest.parse::<u64>().is_ok())
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode)) // whatever the umask
}

/// A named folder: made if it is missing, else it must belong to this user alone.
fn lock(folder: &Path, mode: u32) -> Result<File, Failure> {
    use std::os::unix::fs::MetadataExt as _;
    match make_folder(folder, mode) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_failure("make", folder)(error));
        }
        _ => {}
    }
    let opened = File::open(folder).and_then(|opened| Ok((opened.metadata()?, opened)));
    let (metadata, opened) = opened.map_err(io_failure("open", folder))?;
    let ours = metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o022 == 0;
    if !metadata.is_dir() || !ours {
        let message = "must be a folder of this user that no one else can write to";
        return Err(Failure::Operation(format!("{} {message}", folder.display())));
    }
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(fs::TryLockError::WouldBlock) => {
            let message = "is in use by another keyringd: use a folder for each";
            Err(Failure::Operation(format!("{} {message}", folder.display())))
        }
        Err(fs::TryLockError::Error(error)) => Err(io_failure("lock", folder)(error)),
    }
}

/// A new folder on tmpfs.
fn temporary(mode: u32) -> Result<TempDir, Failure> {
    let is_in_memory = |path: &PathBuf| statfs(path).is_ok_and(|found| IN_MEMORY.contains(&found.f_type));
    let made = environment::runtime_dirs().into_iter().filter(is_in_memory).find_map(|folder| {
        tempfile::Builder::new()
            .prefix("keyringd-")
            .permissions(Permissions::from_mode(mode))
            .tempdir_in(folder)
            .ok()
    });
    made.ok_or_else(|| {
        Failure::Operation("no folder in memory to write secrets to: name one by --files-dir".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> SecretFiles {
        let files = ["cert.pem", "key.pem"].map(|name| SecretFile::new(name, "{vault://hcv/a/b}").unwrap());
        SecretFiles::create(Some(folder), files.into(), Ownership { mode: 0o640, owner: None }).unwrap()
    }

    fn values(text: &str) -> Vec<Secret<String>> {
        (0..2).map(|_| Secret::new(text.to_owned())).collect()
    }

    fn content(folder: &Path) -> Vec<String> {
        ["cert.pem", "key.pem"].map(|name| fs::read_to_string(folder.join(name)).unwrap()).into()
    }

    #[test]
    fn a_change_replaces_all_files_and_the_end_removes_them() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("files");
        let mut made = files(&folder);
        for text in ["one", "two", "three"] {
            made.write(&values(text)).unwrap();
            assert_eq!(content(&folder), [text, text]);
            let mode = fs::metadata(folder.join("key.pem")).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o640);
        }
        // Two files, the link and one folder of values.
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 4);
        fs::write(folder.join("foreign"), "").unwrap();
        drop(made);
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["foreign"]);
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_a_foreign_file_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("files");
        make_folder(&folder, 0o700).unwrap();
        fs::create_dir(folder.join("..7")).unwrap();
        fs::write(folder.join("..7/key.pem"), "old").unwrap();
        symlink("..7", folder.join(CURRENT)).unwrap();
        symlink("..data/key.pem", folder.join("key.pem")).unwrap();
        let made = files(&folder);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        drop(made);
        fs::write(folder.join("key.pem"), "mine").unwrap();
        let name = SecretFile::new("key.pem", "").unwrap();
        let refused =
            SecretFiles::create(Some(&folder), vec![name], Ownership { mode: 0o600, owner: None }).err();
        assert!(format!("{refused:?}").contains("key.pem exists"), "{refused:?}");
        assert_eq!(fs::read_to_string(folder.join("key.pem")).unwrap(), "mine");
    }

    #[test]
    fn a_folder_is_for_one_process_of_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("files");
        let _first = files(&folder);
        let second = lock(&folder, 0o700).err();
        assert!(format!("{second:?}").contains("another keyringd"), "{second:?}");
        let open = parent.path().join("open");
        make_folder(&open, 0o777).unwrap();
        assert!(format!("{:?}", lock(&open, 0o700).err()).contains("no one else"));
    }

    #[test]
    fn a_file_name_cannot_leave_the_folder() {
        for bad in ["", ".", "..", "..data", "a/b", "/etc/passwd", "a\0b"] {
            assert!(SecretFile::new(bad, "").is_err(), "{bad:?}");
        }
        let parsed = SecretFile::parse("cert.pem=$secret://vault/1/ssl/a=b").unwrap();
        assert_eq!(
            (parsed.name.as_str(), parsed.reference.as_str()),
            ("cert.pem", "$secret://vault/1/ssl/a=b")
        );
        assert!(SecretFile::parse("cert.pem").is_err());
    }
}
