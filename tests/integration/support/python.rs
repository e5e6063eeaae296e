//! Packages of PyPI, pinned by hash and downloaded once into the target folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use super::tools::tool;

/// The folder with the packages of `requirements`, a file in `tests`.
///
/// # Panics
/// If they cannot be downloaded: a test without its client or server would prove nothing.
pub fn packages(requirements: &str) -> PathBuf {
    fetched(requirements, |folder, list| {
        run(pip(&["install", "--only-binary=:all:", "--target"], folder, list));
    })
}

/// The unpacked source package that `requirements` names. `tools` holds its build backend, of which pip asks the name of the
/// package.
///
/// # Panics
/// As [`packages`].
pub fn source(requirements: &str, tools: &Path) -> PathBuf {
    let folder = fetched(requirements, |folder, list| {
        let mut download =
            pip(&["download", "--no-binary=:all:", "--no-build-isolation", "--dest"], folder, list);
        download.env("PYTHONPATH", tools);
        run(download);
        let archive = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let mut unpack = Command::new("tar");
        unpack.arg("xzf").arg(archive).arg("-C").arg(folder);
        run(unpack);
    });
    let mut entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.is_dir()).unwrap()
}

/// The folder that `fetch` fills from a list in `tests`, once for each text of the list.
fn fetched(requirements: &str, fetch: impl FnOnce(&Path, &Path)) -> PathBuf {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(requirements);
    let text = fs::read_to_string(&list).unwrap();
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{requirements}-{:08x}", checksum(&text)));
    let lock = File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap(); // several test programs may run at once
    if !folder.exists() {
        let partial = folder.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        fetch(&partial, &list);
        fs::rename(&partial, &folder).unwrap();
    }
    folder
}

/// The last of the arguments takes the folder.
fn pip(arguments: &[&str], folder: &Path, list: &Path) -> Command {
    let mut command = tool("python3");
    command.args(["-m", "pip"]).args(arguments).arg(folder).arg("-r").arg(list);
    command.args(["--quiet", "--no-deps", "--require-hashes", "--disable-pip-version-check"]);
    // By a variable, because an older pip refuses an option that it does not know.
    command.env("PIP_ROOT_USER_ACTION", "ignore");
    command
}

fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} is needed: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// FNV-1a, to distinguish lists.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
