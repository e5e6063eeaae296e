//! The socket file: it appears complete, replaces no other daemon's, and is removed by the daemon that made it.
//!
//! It is bound in a private folder, gets its mode and group there, and is renamed to its path: it never has wider permissions,
//! and the path is never without a socket. `accept` serves on it.

use std::{
    fs::{self, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep},
};

/// The limit on a Unix socket's path (unix(7): `sun_path` is 108 bytes with the closing NUL).
const MAX_PATH: usize = 107;

/// The length of `/.k01234567/s`, the socket's path before the rename.
const PRIVATE_LEN: usize = 12;

/// The limit on the folder's path, so that the temporary path fits.
const MAX_FOLDER: usize = MAX_PATH - PRIVATE_LEN;

/// How long another process may hold the folder's lock while it binds its own socket.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The interval between two attempts: flock(2) has no timeout.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// A bound socket file. Dropping it removes the file, unless another file has its path by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

/// Why the socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "keyring_socket_path: {0} is too long: a socket's path has at most {MAX_PATH} bytes, its folder's {MAX_FOLDER}"
    )]
    TooLong(PathBuf),
    #[error("keyring_socket_path: the folder {0} does not exist: create it, writable for this user only")]
    NoFolder(PathBuf),
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
    if path.as_os_str().len() > MAX_PATH || folder.as_os_str().len() > MAX_FOLDER {
        return Err(ListenError::TooLong(path.to_owned()));
    }
    if !folder.is_dir() {
        return Err(ListenError::NoFolder(folder.to_owned()));
    }
    let _lock = lock(folder).await?;
    refuse_unless_free(path).await?;

    let private = PrivateFolder::new(folder).map_err(failed("creating a folder next to it"))?;
    let temporary = private.0.join("s");
    let listener = UnixListener::bind(&temporary).map_err(failed("binding"))?;
    if let Some(group) = group {
        std::os::unix::fs::chown(&temporary, None, Some(group)).map_err(failed("setting its group"))?;
    }
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).map_err(failed("setting its mode"))?;
    fs::rename(&temporary, path).map_err(failed("renaming it"))?;

    let metadata = fs::symlink_metadata(path).map_err(failed("reading its metadata"))?;
    let file = SocketFile { path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) };
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

/// Serialises the start of two daemons, so that the second finds the first one's socket.
async fn lock(folder: &Path) -> Result<fs::File, ListenError> {
    let failed = |step, error| ListenError::Io { path: folder.to_owned(), step, error };
    let file = fs::File::open(folder).map_err(|error| failed("opening the folder", error))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_POLL).await,
            Err(TryLockError::WouldBlock) => {
                // Every user who can read the folder can hold the lock, which must not prevent the start.
                tracing::warn!("starting without the lock on {}: another process holds it", folder.display());
                return Ok(file);
            }
            Err(TryLockError::Error(error)) => return Err(failed("locking the folder", error)),
        }
    }
}

/// Whether a socket could be created in the folder of `path`: creates a private folder there and removes it.
pub fn probe(path: &Path) -> Result<(), ListenError> {
    let folder = parent_folder(path);
    if !folder.is_dir() {
        return Err(ListenError::NoFolder(folder.to_owned()));
    }
    let failed =
        |error| ListenError::Io { path: path.to_owned(), step: "creating a folder next to it", error };
    PrivateFolder::new(folder).map(drop).map_err(failed)
}

/// Checks that `path` is free or a socket that no process serves on.
pub async fn refuse_unless_free(path: &Path) -> Result<(), ListenError> {
    let kind = match fs::symlink_metadata(path) {
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
    match UnixStream::connect(path).await {
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
        assert_fails(&folder.path().join("no/s"), "does not exist").await;
        assert_fails(
            &folder.path().join("x".repeat(200)),
            "is too long: a socket's path has at most 107 bytes",
        )
        .await;
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
