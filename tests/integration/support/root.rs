//! Tests that need root: for other users, for their files, and for the memory of others. An ordinary user runs them as root of a
//! user namespace (user_namespaces(7)).

use std::{
    env, fs,
    process::{Command, Stdio},
    thread,
};

use nix::unistd;

const CURE: &str = "this test needs root. For an ordinary user it runs in a user namespace: install unshare of util-linux 2.38 or \
                    later and newuidmap (package uidmap or shadow-utils), give the user 65536 IDs in /etc/subuid and /etc/subgid, \
                    and allow user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu, \
                    kernel.unprivileged_userns_clone=1 and user.max_user_namespaces elsewhere";

/// Whether the calling test has passed as root of a user namespace, in a process of its own. False for root, who runs it here.
///
/// # Panics
/// If it failed there, or if there is no such namespace.
pub fn passed_as_root() -> bool {
    if unistd::geteuid().is_root() {
        return false;
    }
    let current = thread::current();
    let name = current.name().expect("a test's thread has its name");
    let output = Command::new("unshare")
        .args(["--map-auto", "--map-root-user", "--setuid=0", "--setgid=0", "--"])
        // After `unshare`, because new credentials clear it.
        .args(["setpriv", "--pdeathsig", "KILL", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("unshare: {error}: {CURE}"));
    let [out, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(out.contains("running 1 test"), "{errors}{out}{CURE}");
    assert!(
        output.status.success() && out.contains("1 passed"),
        "as root of a user namespace: {errors}{out}"
    );
    true
}

/// Root of the machine: the root of a user namespace may neither lock much memory nor make a control group.
pub fn is_root_of_the_machine() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    unistd::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}
