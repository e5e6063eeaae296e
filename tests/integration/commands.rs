//! The commands that use a running daemon, and all exit codes.

use std::fs;

use serde_json::Value;

use crate::support::{Daemon, OpenBao, daemon::run, success};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

#[test]
fn any_bytes_go_through_encrypt_and_decrypt() {
    let daemon = Daemon::dev();
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for plaintext in [b"".as_slice(), b"hello\n", &every_byte] {
        let sealed = success(&daemon.command(&["encrypt", "--aad", "row 7"], plaintext));
        assert!(sealed.starts_with("kr1:dev-") && sealed.ends_with('\n'), "{sealed}");
        let opened = daemon.command(&["decrypt", "--aad", "row 7"], sealed.as_bytes());
        assert_eq!((opened.status.code(), opened.stdout.as_slice()), (Some(0), plaintext));
        let refused = daemon.command(&["decrypt", "--aad", "row 8"], sealed.as_bytes());
        assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(1), b"".as_slice()));
    }
}

#[test]
fn what_has_no_known_form_is_no_ciphertext_and_nothing_was_changed() {
    let daemon = Daemon::dev();
    let message = |arguments: &[&str], input: &[u8]| {
        let output = daemon.command(arguments, input);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let sealed = success(&daemon.command(&["encrypt"], b"hello"));
    let (id, _) = sealed["kr1:".len()..].split_once(':').unwrap();
    for command in [["decrypt"].as_slice(), &["rewrap"], &["decrypt", "--lines"], &["rewrap", "--lines"]] {
        for text in ["hello", "kr1:cut", "vault:1:AAAA", "$ke$2$-a-b-c"] {
            let message = message(command, text.as_bytes());
            assert!(
                message.contains("not a ciphertext: expected kr1:<id>:<base64>, vault:v"),
                "{text}: {message}"
            );
            assert!(!message.contains("changed"), "{message}");
        }
        let binary = message(command, b"\xff\xfe\x00");
        assert!(binary.contains("not a ciphertext: it is binary; expected "), "{binary}");
        // What is under the active key is not rewrapped, so it is not opened.
        if command != ["rewrap", "--lines"] {
            let changed = message(command, format!("kr1:{id}:AAAA").as_bytes());
            assert!(changed.contains("the ciphertext was changed"), "{changed}");
        }
    }
}

#[test]
fn a_file_is_written_completely_or_not_at_all_and_replaces_no_other() {
    let daemon = Daemon::dev();
    let file = |name: &str| daemon.folder().join(name).display().to_string();
    fs::write(file("plain"), "hello").unwrap();
    success(&daemon.command(&["encrypt", "-i", &file("plain"), "-o", &file("sealed")], b""));
    success(&daemon.command(&["decrypt", "-i", &file("sealed"), "-o", &file("opened")], b""));
    assert_eq!(fs::read(file("opened")).unwrap(), b"hello");

    let again = daemon.command(&["encrypt", "-i", &file("plain"), "-o", &file("opened")], b"");
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists; use --force"));
    assert_eq!(fs::read(file("opened")).unwrap(), b"hello");
    success(&daemon.command(&["encrypt", "-i", &file("plain"), "-o", &file("opened"), "--force"], b""));
    assert!(fs::read(file("opened")).unwrap().starts_with(b"kr1:"));

    let damaged = daemon.command(&["decrypt", "-o", &file("never")], b"kr1:x:AAAA");
    assert_eq!(damaged.status.code(), Some(1));
    assert!(!daemon.folder().join("never").exists());
    let missing = daemon.command(&["encrypt", "-i", "/no/such/file"], b"");
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot open /no/such/file"));
}

#[test]
fn status_sync_and_health_use_the_running_daemon() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let daemon = Daemon::start(&server, &[]);
    server.put_record("second", KEY);
    success(&daemon.command(&["sync"], b""));
    let text = success(&daemon.command(&["status"], b""));
    for line in
        ["ready, active key second", "secret/keyring", "first  live  version 1", "second  active  version 2"]
    {
        assert!(text.contains(line), "{line} in {text}");
    }
    let json: Value = serde_json::from_str(&success(&daemon.command(&["status", "--json"], b""))).unwrap();
    assert_eq!(json["keyring"]["active"], "second");
    assert_eq!(json["ready"], true);

    let unready = Daemon::start_unready(&server, &[("KONG_KEYRING_VAULT_TOKEN", "wrong")]);
    let status = unready.command(&["status"], b"");
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).contains("no keys yet"));
    assert_eq!(unready.command(&["sync"], b"").status.code(), Some(1));

    assert_eq!(success(&daemon.command(&["health"], b"")), "ok\n");
    let health = unready.command(&["health"], b"");
    assert_eq!(health.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&health.stdout).contains("no keys yet"));
}

#[test]
fn exit_codes_distinguish_a_failure_from_a_wrong_command_line() {
    let unreachable = run(&["status", "--socket", "/no/such.sock"], &[], b"");
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unreachable.stderr).contains("there is no socket /no/such.sock"));
    for wrong in [["frobnicate"].as_slice(), &["status", "--no-such-flag"], &["encrypt", "--force"], &[]] {
        assert_eq!(run(wrong, &[], b"").status.code(), Some(2), "{wrong:?}");
    }
    for right in [["--help"].as_slice(), &["--version"], &["run", "--help"]] {
        assert_eq!(run(right, &[], b"").status.code(), Some(0), "{right:?}");
    }
    // As env(1) and shells, also with this process as the parent.
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text").display().to_string();
    fs::write(&text, "no program").unwrap();
    for options in [[].as_slice(), &["--on-change", "restart"]] {
        let exec = |words: &[&str]| {
            run(&[&["exec"], options, &["--"], words].concat(), &[("PATH", "/usr/bin:/bin")], b"")
        };
        for (words, code) in [
            (["no-such-program"].as_slice(), 127),
            (&["/no/such/program"], 127),
            (&[&text], 126),
            (&["/"], 126),
            (&["sh", "-c", "exit 7"], 7),
        ] {
            let output = exec(words);
            assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
            let message = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                message.starts_with(&format!("keyringd: cannot start {}: ", words[0])),
                code > 7,
                "{message}"
            );
        }
    }
    let variable = [("KONG_KEYRING_SOCKET_PATH", "/no/such/other.sock")];
    let found = run(&["status"], &variable, b"");
    assert!(String::from_utf8_lossy(&found.stderr).contains("/no/such/other.sock"));
}
