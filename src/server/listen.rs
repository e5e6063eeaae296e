//! The socket file: it appears complete, replaces no other daemon's, and is removed by the daemon that made it.
//!
//! It is bound in a private folder, gets its mode and group there, and is renamed to its path: it never has wider permissions,
//! and the path is never without a socket. All of this is below one open handle of the folder, to which only root and this
//! user may write: no other user can replace a part of the path meanwhile. `accept` serves on it.

use std::{
    fs::{self, TryLockError},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{
            DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::OFlag;
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep},
};

/// The limit on a Unix socket's path (unix(7): `sun_path` is 108 bytes with the closing NUL).
const MAX_PATH: usize = 107;

/// The mode of a folder that the daemon makes: all may enter, and the socket's mode decides.
const FOLDER_MODE: u32 = 0o755;

/// How long another process may hold the folder's lock while it binds its own socket.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The interval between two attempts: flock(2) has no timeout.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// A bound socket file. Dropping it removes the file, unless another file has its path by then.
#[derive(Debug)]
pub struct SocketFile {
    _folder: Folder,
    path: PathBuf,
    inode: (u64, u64),
}

/// The socket's folder, open.
#[derive(Debug)]
struct Folder(fs::File);

/// Why the socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("keyring_socket_path: {0} is too long: a socket's path has at most {MAX_PATH} bytes")]
    TooLong(PathBuf),
    #[error(
        "keyring_socket_path: other users may write to the folder {0} (owner {1}, mode {2:04o}) and replace the socket: \
         choose a folder of this user or root that only its owner may write to, or a sticky one of theirs"
    )]
    Writable(PathBuf, u32, u32),
    #[error(
        "keyring_socket_path: the folder {0} does not exist, nor the one above it: create it, writable for this user only"
    )]
    NoFolder(PathBuf),
    #[error("keyring_socket_path: {0} is not a folder, or a symbolic link: name the folder itself")]
    NotAFolder(PathBuf),
    #[error("keyring_socket_path: {0} is {1}, not a socket: move it, or choose another path")]
    NotASocket(PathBuf, &'static str),
    #[error("keyring_socket_path: another daemon serves on {0}: stop it, or choose another path")]
    InUse(PathBuf),
    #[error(
        "keyring_socket_path: {0} has group {1} or mode {2:04o} after its creation: another process changes it"
    )]
    Changed(PathBuf, u32, u32),
    #[error("keyring_socket_path: cannot create {path}: {step}: {error}")]
    Io { path: PathBuf, step: &'static str, error: io::Error },
}

/// Creates the socket file at `path` and listens on it.
/// A file at `path` is unchanged on an error.
pub async fn bind(
    path: &Path,
    mode: u32,
    group: Option<u32>,
) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |step| move |error| ListenError::Io { path: path.to_owned(), step, error };
    let folder = parent_folder(path);
    if path.as_os_str().len() > MAX_PATH {
        return Err(ListenError::TooLong(path.to_owned()));
    }
    let handle = Folder::open(folder)?;
    handle.lock(folder).await?;
    let at = handle.path().join(path.file_name().unwrap_or_default());
    refuse_unless(&at, path).await?;

    let private = PrivateFolder::new(&handle.path()).map_err(failed("creating a folder next to it"))?;
    let temporary = private.0.join("s");
    let listener = UnixListener::bind(&temporary).map_err(failed("binding"))?;
    if let Some(group) = group {
        std::os::unix::fs::lchown(&temporary, None, Some(group)).map_err(failed("setting its group"))?;
    }
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).map_err(failed("setting its mode"))?;
    fs::rename(&temporary, &at).map_err(failed("renaming it"))?;

    let metadata = fs::symlink_metadata(&at).map_err(failed("reading its metadata"))?;
    drop(private);
    let _ = handle.0.unlock();
    let file = SocketFile { _folder: handle, path: at, inode: (metadata.dev(), metadata.ino()) };
    let (actual_group, actual_mode) = (metadata.gid(), metadata.mode() & 0o777);
    if actual_mode != mode || group.is_some_and(|group| group != actual_group) {
        return Err(ListenError::Changed(path.to_owned(), actual_group, actual_mode));
    }
    Ok((listener, file))
}

/// The folder of a socket; the current one for a bare file name.
pub fn parent_folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

impl Folder {
    /// Opens a folder to which no other user may write, and makes it if only it is missing. The sticky bit protects entries
    /// from all but the folder's owner.
    fn open(shown: &Path) -> Result<Self, ListenError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ListenError::NoFolder(shown.to_owned()),
            io::ErrorKind::NotADirectory => ListenError::NotAFolder(shown.to_owned()),
            _ => ListenError::Io { path: shown.to_owned(), step: "opening the folder", error },
        };
        let handle = match open_folder(shown, OFlag::O_NOFOLLOW) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_folder(shown).map_err(failed)?,
            opened => opened.map_err(failed)?,
        };
        let metadata = handle.metadata().map_err(failed)?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        let trusted_owner = owner == 0 || owner == nix::unistd::geteuid().as_raw();
        if !trusted_owner || (mode & 0o022 != 0 && mode & 0o1000 == 0) {
            return Err(ListenError::Writable(shown.to_owned(), owner, mode));
        }
        Ok(Self(handle))
    }

    /// A path that leads to this very folder, whatever has its name by now.
    fn path(&self) -> PathBuf {
        path_of(&self.0)
    }

    /// Serialises the start of two daemons, so that the second finds the first one's socket.
    async fn lock(&self, shown: &Path) -> Result<(), ListenError> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match self.0.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_POLL).await,
                Err(TryLockError::WouldBlock) => {
                    // Every user who can read the folder can hold the lock, which must not prevent the start.
                    let shown = shown.display();
                    tracing::warn!("starting without the lock on {shown}: another process holds it");
                    return Ok(());
                }
                Err(TryLockError::Error(error)) => {
                    let step = "locking the folder";
                    return Err(ListenError::Io { path: shown.to_owned(), step, error });
                }
            }
        }
    }
}

fn path_of(folder: &fs::File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

fn open_folder(path: &Path, flags: OFlag) -> io::Result<fs::File> {
    let flags = OFlag::O_DIRECTORY | flags;
    fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// Makes a folder. Its mode is set below one handle of the folder above: the path may lead elsewhere by then.
fn make_folder(path: &Path) -> io::Result<fs::File> {
    let above = open_folder(parent_folder(path), OFlag::empty())?;
    let at = path_of(&above).join(path.file_name().ok_or(io::ErrorKind::NotFound)?);
    fs::DirBuilder::new().mode(FOLDER_MODE).create(&at)?;
    let made = open_folder(&at, OFlag::O_NOFOLLOW)?;
    made.set_permissions(fs::Permissions::from_mode(FOLDER_MODE))?;
    Ok(made)
}

/// Whether a socket could be created in the folder of `path`: creates a private folder there and removes it. A missing folder
/// stays missing.
pub fn probe(path: &Path) -> Result<(), ListenError> {
    let shown = parent_folder(path);
    if !shown.exists() && parent_folder(shown).is_dir() {
        return Ok(());
    }
    let folder = Folder::open(shown)?;
    let failed =
        |error| ListenError::Io { path: path.to_owned(), step: "creating a folder next to it", error };
    PrivateFolder::new(&folder.path()).map(drop).map_err(failed)
}

/// Checks that `path` is free or a socket that no process serves on.
pub async fn refuse_unless_free(path: &Path) -> Result<(), ListenError> {
    refuse_unless(path, path).await
}

/// The same where messages show another path.
async fn refuse_unless(at: &Path, path: &Path) -> Result<(), ListenError> {
    let kind = match fs::symlink_metadata(at) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(ListenError::Io { path: path.to_owned(), step: "reading its metadata", error });
        }
    };
    if !kind.is_socket() {
        let what = match kind {
            kind if kind.is_symlink() => "a symbolic link",
            kind if kind.is_dir() => "a folder",
            _ => "a file",
        };
        return Err(ListenError::NotASocket(path.to_owned(), what));
    }
    // Tokio's connect does not block: a daemon that hangs with a full queue still owns the path.
    match UnixStream::connect(at).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ListenError::InUse(path.to_owned())),
        Err(error) => {
            Err(ListenError::Io { path: path.to_owned(), step: "checking whether it is in use", error })
        }
    }
}

/// A folder for this user only, removed on drop. Its name is short, since the socket's path in it must fit as well.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn new(parent: &Path) -> io::Result<Self> {
        let folder = parent.join(format!(".k{:08x}", getrandom::u32()?));
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let unchanged =
            fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.inode);
        if unchanged {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn assert_fails(path: &Path, expected: &str) {
        let message = bind(path, 0o600, None).await.map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[tokio::test]
    async fn the_socket_has_its_mode_and_group_and_no_other_file_remains() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyringd.sock");
        let gid = nix::unistd::getgid().as_raw();
        let (listener, file) = bind(&path, 0o640, Some(gid)).await.unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o640, gid));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop((listener, file));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_live_daemons_socket_is_kept_and_a_dead_ones_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, file) = bind(&path, 0o600, None).await.unwrap();
        assert_fails(&path, "another daemon serves on").await;
        std::mem::forget(file);
        drop(listener);
        assert!(path.exists(), "a killed daemon leaves its socket");
        assert!(bind(&path, 0o600, None).await.is_ok());
    }

    #[tokio::test]
    async fn another_kind_of_file_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert_fails(&path, "is a file, not a socket").await;
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
        assert_fails(&link, "is a symbolic link, not a socket").await;
        assert_fails(folder.path(), "is a folder, not a socket").await;
        assert_fails(&folder.path().join("no/such/s"), "does not exist").await;
        std::os::unix::fs::symlink(folder.path(), folder.path().join("linked")).unwrap();
        for not_a_folder in ["s/s", "linked/other"] {
            assert_fails(&folder.path().join(not_a_folder), "not a folder, or a symbolic link").await;
        }
        assert_fails(
            &folder.path().join("x".repeat(200)),
            "is too long: a socket's path has at most 107 bytes",
        )
        .await;
    }

    #[tokio::test]
    async fn a_missing_folder_is_made_for_this_user_to_write() {
        let above = tempfile::tempdir().unwrap();
        fs::set_permissions(above.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let path = above.path().join("socket/s");
        probe(&path).unwrap();
        let (_listener, _file) = bind(&path, 0o600, None).await.unwrap();
        assert_eq!(fs::metadata(above.path().join("socket")).unwrap().mode() & 0o777, FOLDER_MODE);
        assert_fails(&above.path().join("s"), "other users may write to the folder").await;
    }

    /// Another user swaps a part of the path all the time, for a link to where a victim has a folder of the same name.
    #[test]
    fn a_path_that_is_swapped_meanwhile_changes_no_other_folder_or_file() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for folder in ["own", "victim", "victim/d"] {
            fs::create_dir(at(folder)).unwrap();
        }
        let (folder, file) = (at("victim/d"), at("victim/d/s"));
        fs::write(&file, "precious").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let swap = || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for target in ["own", "victim"] {
                    std::os::unix::fs::symlink(at(target), at("next")).unwrap();
                    fs::rename(at("next"), at("swapped")).unwrap();
                }
            }
        };
        let changed = std::thread::scope(|scope| {
            scope.spawn(swap);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let binding = scope.spawn(move || {
                runtime.block_on(async {
                    for _ in 0..2000 {
                        drop(bind(&at("swapped/d/s"), 0o666, None).await);
                        let _ = fs::remove_dir(at("own/d"));
                        let modes = [&folder, &file].map(|path| fs::metadata(path).unwrap().mode() & 0o777);
                        if modes != [0o700, 0o600] {
                            return Some(modes);
                        }
                    }
                    None
                })
            });
            let changed = binding.join();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            changed.unwrap()
        });
        assert_eq!(changed, None, "the modes of the victim's folder and file");
        assert_eq!(fs::read(at("victim/d/s")).unwrap(), b"precious");
    }

    #[test]
    fn a_bare_name_is_in_the_current_folder() {
        assert_eq!(parent_folder(Path::new("k.sock")), Path::new("."));
        assert_eq!(parent_folder(Path::new("/run/k.sock")), Path::new("/run"));
    }

    #[tokio::test]
    async fn another_process_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_listener, file) = bind(&path, 0o600, None).await.unwrap();
        fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
