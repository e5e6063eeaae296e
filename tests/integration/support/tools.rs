//! Programs of the machine that tests run. Where one is missing, the test says what to install.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Programs that not every machine has, with their packages in Debian.
const PACKAGES: [(&str, &str); 13] = [
    ("cc", "gcc"),
    ("curl", "curl"),
    ("file", "file"),
    ("javac", "default-jdk-headless libgoogle-gson-java"),
    ("jq", "jq"),
    ("nginx", "nginx-light"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("prlimit", "util-linux"),
    ("python3", "python3 python3-pip"),
    ("ruby", "ruby"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
];

/// A command of one of these programs.
///
/// # Panics
/// As [`found`].
pub fn tool(name: &str) -> Command {
    Command::new(found(name))
}

/// Where a program is.
///
/// # Panics
/// If it is missing, with the package to install.
#[track_caller]
pub fn found(name: &str) -> PathBuf {
    on_path(name).unwrap_or_else(|| {
        let package =
            PACKAGES.iter().find(|(program, _)| *program == name).map_or(name, |(_, package)| package);
        panic!("this test needs {name}, which is not on PATH. Install it (Debian: apt-get install {package})")
    })
}

/// Finds each of the programs that a shell's lines run.
///
/// # Panics
/// As [`found`].
pub fn require_those_of<'a>(lines: impl Iterator<Item = &'a str>) {
    let words: Vec<_> = lines.flat_map(|line| line.split([' ', '('])).collect();
    for (name, _) in PACKAGES.iter().filter(|(name, _)| words.contains(name)) {
        found(name);
    }
}

/// A program on PATH, or where Debian has servers, which is on the PATH of root only.
#[expect(clippy::disallowed_methods, reason = "tests search programs on PATH like a shell")]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| is_executable(program))
}

fn is_executable(program: &Path) -> bool {
    program.is_file() && nix::unistd::access(program, nix::unistd::AccessFlags::X_OK).is_ok()
}

#[test]
fn contributing_names_the_packages() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("CONTRIBUTING.md")).unwrap();
    let line = page.lines().find(|line| line.trim().starts_with("apt-get install")).unwrap();
    let installed: Vec<_> = line.split_whitespace().collect();
    // util-linux is on every Debian.
    let packages = PACKAGES.iter().flat_map(|(_, packages)| packages.split(' '));
    for package in packages.filter(|package| *package != "util-linux") {
        assert!(installed.contains(&package), "{package} in {line}");
    }
}
