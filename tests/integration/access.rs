//! `keyring_access`, with clients that run as other users.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Daemon, OpenBao, passed_as_root, process::asked_by, success, tool};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// IDs without names: the kernel compares numbers only.
const APP: &str = "40001";
const OTHER: &str = "40002";
const GROUP: &str = "40100";

/// A daemon behind a socket that every user can connect to.
struct Open {
    daemon: Daemon,
    socket: PathBuf,
    _server: OpenBao,
    _folder: TempDir,
}

fn open(access: &str, more: &[(&str, &str)]) -> Open {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("keyringd.sock");
    let settings = [("KONG_KEYRING_ACCESS", access), ("KONG_KEYRING_SOCKET_MODE", "0666")];
    let daemon = Daemon::start_at(Some(&socket), &server, &[settings.as_slice(), more].concat());
    // Readiness needs no permission.
    daemon.wait_until_ready();
    Open { daemon, socket, _server: server, _folder: folder }
}

const ENCRYPT: &str = "/v1/transit/encrypt/keyring";
const DECRYPT: &str = "/v1/transit/decrypt/keyring";
const REWRAP: &str = "/v1/transit/rewrap/keyring";
const DATAKEY: &str = "/v1/transit/datakey/plaintext/keyring";

#[test]
fn each_user_and_group_has_the_permissions_of_its_entries_only() {
    if passed_as_root() {
        return;
    }
    let open = open(&format!("uid:0=all, uid:{APP}=encrypt, gid:{GROUP}=decrypt+status"), &[]);
    let sealed = open.daemon.encrypt("hello");
    let (plain, cipher) = (json!({ "plaintext": "YQ==" }), json!({ "ciphertext": sealed }));
    let asked: [(&str, Option<&Value>); 9] = [
        (ENCRYPT, Some(&plain)),
        (DECRYPT, Some(&cipher)),
        (REWRAP, Some(&cipher)),
        (DATAKEY, Some(&Value::Null)),
        ("/status", None),
        ("/keyring", None),
        ("/v1/transit/keys/keyring", None),
        ("/keyring/vault/sync", Some(&Value::Null)),
        ("/metrics", None),
    ];
    let statuses = |user: &str, groups: &str| {
        asked.map(|(path, body)| asked_by(user, groups, &open.socket, path, body).0)
    };
    assert_eq!(statuses(APP, ""), [200, 403, 403, 403, 403, 403, 403, 403, 403]);
    assert_eq!(statuses(OTHER, GROUP), [403, 200, 403, 403, 200, 200, 200, 403, 403]);
    assert_eq!(statuses(APP, &format!("5,{GROUP}")), [200, 200, 200, 403, 200, 200, 200, 403, 403]);
    assert_eq!(statuses(OTHER, "5,6"), [403; 9]);
    assert_eq!(statuses("0", "0"), [200, 200, 200, 200, 200, 200, 200, 204, 200]);
    for path in ["/livez", "/readyz"] {
        assert_eq!(asked_by(OTHER, "", &open.socket, path, None).0, 200, "{path} needs no permission");
    }
}

#[test]
fn a_refusal_names_the_operation_and_the_entry_that_would_allow_it() {
    if passed_as_root() {
        return;
    }
    let open = open("uid:0=all", &[]);
    let refused = |path: &str, body: &Value| {
        let (status, answer) = asked_by(APP, GROUP, &open.socket, path, Some(body));
        assert_eq!(status, 403, "{answer}");
        serde_json::from_str::<Value>(&answer).unwrap()["errors"][0].as_str().unwrap().to_owned()
    };
    let message = refused(REWRAP, &json!({ "ciphertext": "kr1:" }));
    assert!(
        message.contains(&format!("uid {APP} (gid {APP}, {GROUP}) may not use encrypt+decrypt here")),
        "{message}"
    );
    assert!(message.contains(&format!("the entry uid:{APP}=encrypt+decrypt")), "{message}");
    // The permission is checked before the body, whatever its size.
    let message = refused(ENCRYPT, &json!({ "plaintext": "A".repeat(100_000) }));
    assert!(message.contains("may not use encrypt"), "{message}");
}

#[test]
fn a_command_needs_its_own_permission_only() {
    if passed_as_root() {
        return;
    }
    let open = open(&format!("uid:0=status, uid:{APP}=encrypt, uid:{OTHER}=decrypt"), &[]);
    let program = PathBuf::from(crate::support::daemon::PROGRAM);
    // Other users may have no access to the build folder.
    let copy = open.socket.with_file_name("keyringd");
    // By another process: a descriptor open for writing here could be inherited by a test's child and make exec fail.
    assert!(Command::new("cp").arg(program).arg(&copy).status().unwrap().success());
    let run = |user: &str, command: &str, input: &[u8]| {
        use std::io::Write as _;
        let mut child = tool("setpriv")
            .args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "--"])
            .arg(&copy)
            .args([command, "--socket"])
            .arg(&open.socket)
            .env_clear()
            .current_dir("/")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let sealed = success(&run(APP, "encrypt", b"hello"));
    assert_eq!(success(&run(OTHER, "decrypt", sealed.as_bytes())), "hello");
    let refused = run(OTHER, "encrypt", b"hello");
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(
        message.contains("may not use encrypt") && message.contains(&format!("uid:{OTHER}=encrypt")),
        "{message}"
    );
}

#[test]
fn unmapped_users_match_no_entry() {
    if passed_as_root() {
        return;
    }
    let open = open("uid:0=all, uid:40001=all", &[]);
    let (status, _) =
        asked_by("65534", "65534", &open.socket, ENCRYPT, Some(&json!({ "plaintext": "YQ==" })));
    assert_eq!(status, 403);
    // An entry for an ID that is not mapped in the daemon's user namespace is a mistake.
    let command = tool("unshare")
        .args(["--user", "--map-root-user", crate::support::daemon::PROGRAM, "check"])
        .env_clear()
        .env("KONG_KEYRING_ACCESS", "uid:40001=all, uid:0=all")
        .output()
        .unwrap();
    let message = String::from_utf8(command.stderr).unwrap();
    assert_eq!(command.status.code(), Some(78), "{message}");
    assert!(
        message.contains("entry 1 has a uid that is not mapped in the user namespace of this process"),
        "{message}"
    );
    assert!(!message.contains("entry 2"), "{message}");
}

#[test]
fn a_reload_changes_the_permissions_of_open_connections() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let token = format!("keyring_vault_token = {}", server.token());
    let daemon =
        Daemon::from_conf(&server.address(), &format!("{token}\nkeyring_access = uid:{}=all", uid()));
    daemon.wait_until_ready();
    let mut stream = daemon.connect();
    let mut ask = || {
        use std::io::{Read as _, Write as _};
        let body = "{\"plaintext\":\"YQ==\"}";
        let length = body.len();
        write!(stream, "POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut answer = [0; 4096];
        let len = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[9..len.min(12)]).into_owned()
    };
    assert_eq!(ask(), "200");
    daemon.write_conf(&server.address(), &format!("{token}\nkeyring_access = uid:{}=metrics", uid()));
    daemon.reload("success");
    assert_eq!(ask(), "403");
    daemon.write_conf(&server.address(), &token);
    daemon.reload("success");
    assert_eq!(ask(), "200");
}

fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}
