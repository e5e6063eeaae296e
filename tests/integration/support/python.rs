//! Packages of PyPI, pinned by their hashes and fetched once into the target folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// The folder that holds what `requirements`, a file beside this test, lists.
///
/// # Panics
/// When it cannot be had, with the reason: a test without its client or server would show nothing.
pub fn packages(requirements: &str) -> PathBuf {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(requirements);
    let text = fs::read_to_string(&list).unwrap();
    // A list that changed is fetched anew.
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{requirements}-{:08x}", checksum(&text)));
    let lock = File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap(); // several test programs may want it at once
    if !folder.exists() {
        let fetching = folder.with_extension("fetching");
        let _ = fs::remove_dir_all(&fetching);
        let output = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"])
            .args(["--disable-pip-version-check", "--root-user-action=ignore", "--target"])
            .arg(&fetching)
            .arg("-r")
            .arg(&list)
            .output();
        match output {
            Ok(output) if output.status.success() => fs::rename(&fetching, &folder).unwrap(),
            Ok(output) => {
                panic!("pip cannot fetch {requirements}:\n{}", String::from_utf8_lossy(&output.stderr))
            }
            Err(error) => panic!("python3 with pip is needed to fetch {requirements}: {error}"),
        }
    }
    folder
}

/// FNV-1a, to tell one list from another.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
