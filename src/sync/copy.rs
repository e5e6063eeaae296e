//! The file of the sealed copy: written as a whole or not at all, read at the start, deleted when it is switched off.
//!
//! All of it blocks. The bytes are in `cipher::copy`; when to read and to write is in `keeper`.
//! The file is longer than most: it has each way in which a file can fail, and its test.

#[cfg(test)]
mod power_cut;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    cipher::{
        NoRandomness,
        copy::{CopyKey, MAGIC, NotOpened},
    },
    keyring::{
        SecretLocation,
        copy::{CopiedKeyring, CopyContents},
    },
    settings::{SealedCopy, credential::Credential},
};

/// The largest copy that is read: more than 10,000 keys of 10,000 versions take.
const MAX_LEN: u64 = 64 << 20;

#[derive(Debug)]
pub struct CopyFile {
    path: PathBuf,
    key: Box<CopyKey>,
    max_age: Duration,
}

/// A copy that can be used.
#[derive(Debug)]
pub struct ReadCopy {
    /// Those that are not too old. At least one.
    pub keyrings: Vec<CopiedKeyring>,
    pub written: SystemTime,
    /// It was written in the future, so its age is unknown and counts as 0.
    pub from_the_future: bool,
}

/// Why a copy could not be read or written. No message has a secret.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("there is no sealed copy at {0} yet")]
    None(PathBuf),
    #[error("the key of the sealed copy cannot be used: {0}")]
    Key(String),
    #[error("cannot {action} {path}: {error}")]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    #[error("the sealed copy {0} cannot be used: {1}")]
    NotOpened(PathBuf, NotOpened),
    #[error("the sealed copy {0} is {age} s old, more than keyring_cache_max_age", age = .1.as_secs())]
    TooOld(PathBuf, Duration),
    #[error(
        "keyring_cache_path: the folder {path} belongs to uid {owner} with mode {mode:04o}; it must belong to uid {ours}, which \
         keyringd runs as, with mode 0700: correct it, or name a folder that keyringd can make"
    )]
    Folder { path: PathBuf, owner: u32, mode: u32, ours: u32 },
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl CopyFile {
    /// Reads the key, which is not kept: only what is derived from it is.
    pub fn new(SealedCopy { path, key, max_age, wait: _ }: &SealedCopy) -> Result<Self, CopyError> {
        let derived = read_key(key)?;
        Ok(Self { path: path.clone(), key: derived, max_age: *max_age })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub const fn max_age(&self) -> Duration {
        self.max_age
    }

    pub fn read(&self, location: &SecretLocation, now: SystemTime) -> Result<ReadCopy, CopyError> {
        let mut sealed = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut sealed));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CopyError::None(self.path.clone()));
            }
            other => other.map_err(io_error("read", &self.path))?,
        };
        let contents = self.key.open(sealed, location);
        let contents = contents.map_err(|error| CopyError::NotOpened(self.path.clone(), error))?;
        let CopyContents { written, keyrings } = contents;
        let from_the_future = written > now;
        let age = |one: &CopiedKeyring| {
            if from_the_future { Duration::ZERO } else { now.duration_since(one.synced).unwrap_or_default() }
        };
        let least = keyrings.iter().map(age).min().unwrap_or_default();
        let keyrings: Vec<_> = keyrings.into_iter().filter(|one| age(one) <= self.max_age).collect();
        if keyrings.is_empty() {
            return Err(CopyError::TooOld(self.path.clone(), least));
        }
        Ok(ReadCopy { keyrings, written, from_the_future })
    }

    /// After a crash at any point the file is the old or the new one.
    pub fn write(&self, contents: &CopyContents, location: &SecretLocation) -> Result<(), CopyError> {
        let folder = self.make_folder()?;
        let sealed = self.key.seal(contents, location)?;
        let fresh = fresh_path(&self.path);
        let written = write_new(&fresh, &sealed).map_err(io_error("write", &fresh)).and_then(|()| {
            fs::rename(&fresh, &self.path).map_err(io_error("replace", &self.path))?;
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))
        });
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written
    }

    /// The folder, which is made if only it is missing.
    fn make_folder(&self) -> Result<&Path, CopyError> {
        let folder = folder_of(&self.path);
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("make the folder", folder)(error));
            }
            Err(_) => {}
            // Whatever the umask is.
            Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o700))
                .map_err(io_error("set the mode of", folder))?,
        }
        self.check_folder(nix::unistd::geteuid().as_raw())?;
        Ok(folder)
    }

    /// Why the folder must not be used, if it is there: others than this user may enter it.
    pub fn folder_warning(&self) -> Option<CopyError> {
        match self.check_folder(nix::unistd::geteuid().as_raw()) {
            Err(CopyError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
            other => other.err(),
        }
    }

    /// Whether the folder is this user's alone.
    pub fn check_folder(&self, ours: u32) -> Result<(), CopyError> {
        let folder = folder_of(&self.path);
        let metadata = fs::metadata(folder).map_err(io_error("examine the folder", folder))?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        if metadata.is_dir() && owner == ours && mode.trailing_zeros() >= 6 {
            return Ok(());
        }
        Err(CopyError::Folder { path: folder.to_owned(), owner, mode, ours })
    }
}

fn read_key(key: &Credential) -> Result<Box<CopyKey>, CopyError> {
    let text = key.read().map_err(|error| CopyError::Key(error.to_string()))?;
    CopyKey::derive(&text).ok_or_else(|| CopyError::Key("it is not base64 of 32 bytes".to_owned()))
}

/// A file that only its owner can read, on disk when this returns.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What a crash left.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Deletes what an earlier start left: the file itself, and each copy in these folders. Returns what was deleted.
pub fn delete(file: Option<&Path>, folders: &[PathBuf]) -> Vec<Result<PathBuf, CopyError>> {
    let named = file.into_iter().flat_map(|file| [file.to_owned(), fresh_path(file)]);
    let found = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let found = found.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_copy(path));
    let mut deleted = Vec::new();
    for path in named.chain(found).collect::<BTreeSet<_>>() {
        match fs::remove_file(&path) {
            Ok(()) => deleted.push(Ok(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => deleted.push(Err(io_error("delete", &path)(error))),
        }
    }
    deleted
}

fn is_copy(path: &Path) -> bool {
    let mut head = [0; MAGIC.len()];
    let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    is_file && File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == *MAGIC
}

/// The name that a copy has until it is complete.
fn fresh_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| unreachable!("the path is absolute and has a file name"))
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> CopyError + 'a {
    move |error| CopyError::Io { action, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        keyring::{HeldKey, Key, KeyId, Keyring},
        secret::Secret,
    };
    use base64::prelude::{BASE64_STANDARD, Engine as _};

    const DAY: Duration = Duration::from_secs(86400);

    pub(super) fn file(folder: &Path, max_age: Duration) -> CopyFile {
        let path = folder.join("copies/keyring.copy");
        let key = Credential::Inline(Secret::new(BASE64_STANDARD.encode([7; 32])));
        CopyFile::new(&SealedCopy { path, key, max_age, wait: Duration::ZERO }).unwrap()
    }

    pub(super) fn contents(synced: SystemTime) -> CopyContents {
        let id = KeyId::parse("a").unwrap();
        let key = Arc::new(Key::new(id.clone(), Secret::new([1; 32])));
        let keyring = Keyring::new([HeldKey::new(key, 1, synced)], &id).unwrap();
        let (name, keyring) = ("keyring".to_owned(), Arc::new(keyring));
        CopyContents { written: synced, keyrings: vec![CopiedKeyring { name, synced, keyring }] }
    }

    #[test]
    fn a_written_copy_is_for_its_owner_alone_and_is_read_back() {
        let (folder, place, now) =
            (tempfile::tempdir().unwrap(), SecretLocation::default(), SystemTime::now());
        let file = file(folder.path(), DAY);
        assert!(matches!(file.read(&place, now), Err(CopyError::None(_))));
        file.write(&contents(now), &place).unwrap();
        file.write(&contents(now), &place).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(file.path()), mode(folder_of(file.path()))), (0o600, 0o700));
        assert_eq!(fs::read_dir(folder_of(file.path())).unwrap().count(), 1, "no other file is left");
        let read = file.read(&place, now + Duration::from_secs(9)).unwrap();
        assert_eq!((read.keyrings[0].synced, read.from_the_future), (now, false));
        let key = &read.keyrings[0].keyring.active().key;
        assert!(key.same_key(&Key::new(key.id().clone(), Secret::new([1; 32]))));
    }

    #[test]
    fn an_old_copy_is_refused_and_one_from_the_future_has_the_age_0() {
        let (folder, place, now) =
            (tempfile::tempdir().unwrap(), SecretLocation::default(), SystemTime::now());
        let file = file(folder.path(), DAY);
        file.write(&contents(now), &place).unwrap();
        assert!(!file.read(&place, now + DAY).unwrap().from_the_future);
        let late = file.read(&place, now + DAY + Duration::from_secs(1)).unwrap_err().to_string();
        assert!(late.ends_with("is 86401 s old, more than keyring_cache_max_age"), "{late}");
        let early = file.read(&place, now - DAY).unwrap();
        assert!(early.from_the_future);
    }

    #[test]
    fn of_several_keyrings_those_that_are_not_too_old_are_used() {
        let (folder, place, now) =
            (tempfile::tempdir().unwrap(), SecretLocation::default(), SystemTime::now());
        let file = file(folder.path(), DAY);
        let (mut both, mut old) = (contents(now), contents(now - 2 * DAY));
        old.keyrings[0].name = "old".to_owned();
        both.keyrings.append(&mut old.keyrings);
        file.write(&both, &place).unwrap();
        let names = |at| file.read(&place, at).unwrap().keyrings.into_iter().map(|one| one.name);
        assert_eq!(names(now).collect::<Vec<_>>(), ["keyring"]);
        assert_eq!(names(now - DAY).collect::<Vec<_>>(), ["keyring", "old"], "from the future");
    }

    #[test]
    fn a_folder_that_others_may_enter_is_refused() {
        let (folder, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let file = file(folder.path(), DAY);
        let of_copies = folder_of(file.path());
        fs::create_dir(of_copies).unwrap();
        for mode in [0o755, 0o770, 0o701] {
            fs::set_permissions(of_copies, Permissions::from_mode(mode)).unwrap();
            let refused = file.write(&contents(now), &SecretLocation::default()).unwrap_err().to_string();
            assert!(refused.contains(&format!("with mode {mode:04o}")), "{refused}");
        }
        fs::set_permissions(of_copies, Permissions::from_mode(0o700)).unwrap();
        let other = file.check_folder(nix::unistd::geteuid().as_raw() + 1).unwrap_err().to_string();
        assert!(other.contains("it must belong to uid"), "{other}");
        file.write(&contents(now), &SecretLocation::default()).unwrap();
    }

    #[test]
    fn a_failed_write_leaves_the_copy_before_it() {
        let (folder, place, now) =
            (tempfile::tempdir().unwrap(), SecretLocation::default(), SystemTime::now());
        let file = file(folder.path(), DAY);
        file.write(&contents(now), &place).unwrap();
        let before = fs::read(file.path()).unwrap();
        // A folder at the name of the new file cannot be replaced.
        fs::create_dir(fresh_path(file.path())).unwrap();
        let failed = file.write(&contents(now), &place).unwrap_err().to_string();
        assert!(failed.starts_with("cannot write /"), "{failed}");
        assert_eq!(fs::read(file.path()).unwrap(), before);
    }

    #[test]
    fn what_is_deleted_is_the_named_file_and_every_copy_in_the_state_folders() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, bytes) in
            [("named", ""), ("named.new", ""), ("moved", "KRC1…"), ("other", "KRC"), ("txt", "text")]
        {
            fs::write(at(name), bytes).unwrap();
        }
        std::os::unix::fs::symlink("txt", at("link")).unwrap();
        let deleted: Vec<_> = delete(Some(&at("named")), &[folder.path().to_owned(), at("none")])
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(deleted, ["moved", "named", "named.new"].map(at));
        assert!(["other", "txt", "link"].iter().all(|name| at(name).exists()));
        assert!(delete(Some(&at("named")), &[]).is_empty());
    }
}
