//! Packages of PyPI, pinned by hash and downloaded once into the target folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// The folder with the packages of `requirements`, a file in `tests`.
///
/// # Panics
/// If they cannot be downloaded: a test without its client or server would prove nothing.
pub fn packages(requirements: &str) -> PathBuf {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(requirements);
    let text = fs::read_to_string(&list).unwrap();
    // The checksum makes a changed list download again.
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{requirements}-{:08x}", checksum(&text)));
    let lock = File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap(); // several test programs may run at once
    if !folder.exists() {
        let partial = folder.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        let output = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"])
            .args(["--disable-pip-version-check", "--root-user-action=ignore", "--target"])
            .arg(&partial)
            .arg("-r")
            .arg(&list)
            .output();
        match output {
            Ok(output) if output.status.success() => fs::rename(&partial, &folder).unwrap(),
            Ok(output) => {
                panic!("pip cannot fetch {requirements}:\n{}", String::from_utf8_lossy(&output.stderr))
            }
            Err(error) => panic!("python3 with pip is needed to fetch {requirements}: {error}"),
        }
    }
    folder
}

/// FNV-1a, to distinguish lists.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
