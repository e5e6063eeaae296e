//! The socket file: it appears finished, takes nobody's place, and is removed by whoever made it.
//!
//! It is bound in a folder that only we can enter, given its mode and group there, and renamed to its name: there is no
//! moment with wider permissions and none without a socket. Serving on it is in `socket`.

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

/// The longest path that a Unix socket can have (unix(7): `sun_path` is 108 bytes with the closing NUL).
const MAX_PATH: usize = 107;

/// The length of `/.k01234567/s`, where the socket is before it has its name.
const PRIVATE_LEN: usize = 12;

/// How long another process may hold the folder's lock while it binds its own socket.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// How often it is asked for: flock(2) cannot wait within a time.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// A bound socket file. Dropping it removes the file, if it is still the one that we made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "keyring_socket_path: {0} is too long: a Unix socket's path has {MAX_PATH} bytes, of which some are needed while it is made"
    )]
    TooLong(PathBuf),
    #[error("keyring_socket_path: the folder {0} does not exist: create it, writable for this user alone")]
    NoFolder(PathBuf),
    #[error("keyring_socket_path: {0} is {1}, not a socket: move it away, or choose another path")]
    NotASocket(PathBuf, &'static str),
    #[error("keyring_socket_path: another daemon serves on {0}: stop it, or choose another path")]
    InUse(PathBuf),
    #[error(
        "keyring_socket_path: {0} has group {1} or mode {2:04o} after it was made: something else changes it"
    )]
    NotAsSet(PathBuf, u32, u32),
    #[error("keyring_socket_path: cannot make {path}: {step}: {error}")]
    Io { path: PathBuf, step: &'static str, error: io::Error },
}

/// Makes the socket file at `path` and listens on it.
///
/// # Errors
/// [`ListenError`], naming the setting and what to do. Whatever was at `path` is then still there.
pub async fn bind(
    path: &Path,
    mode: u32,
    group: Option<u32>,
) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |step| move |error| ListenError::Io { path: path.to_owned(), step, error };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if path.as_os_str().len().max(folder.as_os_str().len() + PRIVATE_LEN) > MAX_PATH {
        return Err(ListenError::TooLong(path.to_owned()));
    }
    if !folder.is_dir() {
        return Err(ListenError::NoFolder(folder.to_owned()));
    }
    let _lock = lock(folder).await?;
    refuse_unless_free(path).await?;

    let private = PrivateFolder::new(folder).map_err(failed("making a folder beside it"))?;
    let made = private.0.join("s");
    let listener = UnixListener::bind(&made).map_err(failed("binding"))?;
    if let Some(group) = group {
        std::os::unix::fs::chown(&made, None, Some(group)).map_err(failed("setting its group"))?;
    }
    fs::set_permissions(&made, fs::Permissions::from_mode(mode)).map_err(failed("setting its mode"))?;
    fs::rename(&made, path).map_err(failed("giving it its name"))?;

    let metadata = fs::symlink_metadata(path).map_err(failed("looking at it"))?;
    let file = SocketFile { path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) };
    let (gid, got) = (metadata.gid(), metadata.mode() & 0o777);
    if got != mode || group.is_some_and(|group| group != gid) {
        return Err(ListenError::NotAsSet(path.to_owned(), gid, got));
    }
    Ok((listener, file))
}

/// Two daemons that start at once take turns, so that the second sees the first one's socket.
async fn lock(folder: &Path) -> Result<fs::File, ListenError> {
    let failed = |step, error| ListenError::Io { path: folder.to_owned(), step, error };
    let file = fs::File::open(folder).map_err(|error| failed("opening the folder", error))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_POLL).await,
            Err(TryLockError::WouldBlock) => {
                // Whoever can read the folder can hold the lock: that must not keep us from starting.
                tracing::warn!(
                    "another process holds a lock on {}, and is not waited for any longer",
                    folder.display()
                );
                return Ok(file);
            }
            Err(TryLockError::Error(error)) => return Err(failed("locking the folder", error)),
        }
    }
}

/// Whether a socket could be made in the folder of `path`: tries with one of another name, and leaves nothing behind.
///
/// # Errors
/// [`ListenError`], as [`bind`].
pub fn probe(path: &Path) -> Result<(), ListenError> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let failed = |error| ListenError::Io { path: path.to_owned(), step: "making a folder beside it", error };
    PrivateFolder::new(folder).map(drop).map_err(failed)
}

/// Nothing there, or a socket that nobody serves on any more.
///
/// # Errors
/// [`ListenError`] for anything else.
pub async fn refuse_unless_free(path: &Path) -> Result<(), ListenError> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ListenError::Io { path: path.to_owned(), step: "looking at it", error }),
    };
    if !kind.is_socket() {
        let what = match kind {
            kind if kind.is_symlink() => "a symbolic link",
            kind if kind.is_dir() => "a folder",
            _ => "a file",
        };
        return Err(ListenError::NotASocket(path.to_owned(), what));
    }
    // Not blocking: a daemon that hangs with a full queue is still one.
    match UnixStream::connect(path).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ListenError::InUse(path.to_owned())),
        Err(error) => {
            Err(ListenError::Io { path: path.to_owned(), step: "asking whether it is in use", error })
        }
    }
}

/// A folder that only we can enter, gone when dropped. Its name is short: the socket's path in it must fit as well.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn new(beside: &Path) -> io::Result<Self> {
        let folder = beside.join(format!(".k{:08x}", getrandom::u32()?));
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
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.inode);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn assert_says(path: &Path, expected: &str) {
        let message = bind(path, 0o600, None).await.map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }

    #[tokio::test]
    async fn the_socket_has_its_mode_and_group_and_leaves_nothing_else_behind() {
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
    async fn a_live_daemons_socket_is_not_stolen_and_a_dead_ones_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, file) = bind(&path, 0o600, None).await.unwrap();
        assert_says(&path, "another daemon serves on").await;
        std::mem::forget(file);
        drop(listener);
        assert!(path.exists(), "a killed daemon leaves its socket");
        assert!(bind(&path, 0o600, None).await.is_ok());
    }

    #[tokio::test]
    async fn anything_else_at_that_path_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert_says(&path, "is a file, not a socket").await;
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
        assert_says(&link, "is a symbolic link, not a socket").await;
        assert_says(folder.path(), "is a folder, not a socket").await;
        assert_says(&folder.path().join("no/s"), "does not exist").await;
        assert_says(&folder.path().join("x".repeat(200)), "is too long: a Unix socket's path has 107 bytes")
            .await;
    }

    #[tokio::test]
    async fn a_socket_that_somebody_else_put_there_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_listener, file) = bind(&path, 0o600, None).await.unwrap();
        fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
