//! Settings from a kong.conf and from variables, as `check` and `run` take them.

use std::fs;

use serde_json::Value;

use crate::support::{Daemon, OpenBao, daemon::run, success};

const KONG_CONF: &str = "\
# a kong.conf as operators have them: most of it is not ours
prefix = /usr/local/kong
admin_listen = 127.0.0.1:8001 reuseport backlog=16384
pg_password = planted#not-ours

keyring_enabled = on          # enable it
keyring_strategy=vault
keyring_vault_host = http://127.0.0.1:1
keyring_vault_host = http://127.0.0.1:8200
keyring_vault_mount = secret
keyring-vault-path = keyring
keyring_vault_token = s.ab\\#cd
";

#[test]
fn every_mistake_is_reported_in_one_run_with_its_line_and_exit_code_78() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kong.conf");
    fs::write(&path, format!("{KONG_CONF}keyring_sync_interval = soon\n[section]\nkeyring_vault_pat = x\nno equals sign\nkeyring_socket_mode = 999\n")).unwrap();
    let path = path.to_str().unwrap();
    for command in ["check", "run"] {
        let output = run(&[command, "-c", path], &[("KONG_LOG_LEVEL", "loud")], b"");
        assert_eq!(output.status.code(), Some(78));
        let said = String::from_utf8_lossy(&output.stderr);
        for mistake in [
            format!("{path}:14: kong.conf has no [sections]"),
            format!("{path}:16: expected key = value, and there is no ="),
            format!("{path}:15: keyring_vault_pat: no such setting; did you mean keyring_vault_path?"),
            format!(
                "{path}:13: keyring_sync_interval: expected whole seconds from 1 to 86400, and it is \"soon\""
            ),
            format!("{path}:17: keyring_socket_mode: expected an octal mode such as 0660, and it is \"999\""),
            "KONG_LOG_LEVEL: log_level: expected debug or info".to_owned(),
        ] {
            assert!(said.contains(&mistake), "{mistake}\nin\n{said}");
        }
        assert_eq!(said.matches(": error: ").count(), 6, "{said}");
        assert!(!said.contains("planted") && !said.contains("s.ab"), "{said}");
    }
}

#[test]
fn check_shows_every_value_with_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kong.conf");
    fs::write(&path, KONG_CONF).unwrap();
    let path = path.to_str().unwrap();
    let output = run(&["check", "-c", path, "--json"], &[("KONG_KEYRING_VAULT_MOUNT", "kv#1")], b"");
    let report: Value = serde_json::from_str(&success(&output)).unwrap();
    let setting = |key: &str| {
        let all = report["settings"].as_array().unwrap();
        let one = all.iter().find(|one| one["key"] == key).unwrap();
        (one["value"].as_str().map(str::to_owned), one["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(setting("keyring_enabled"), (Some("on".into()), format!("{path}:6")));
    assert_eq!(setting("keyring_vault_host"), (Some("http://127.0.0.1:8200".into()), format!("{path}:9")));
    assert_eq!(setting("keyring_vault_mount"), (Some("kv#1".into()), "KONG_KEYRING_VAULT_MOUNT".into()));
    assert_eq!(setting("keyring_vault_path"), (Some("keyring".into()), format!("{path}:11")));
    assert_eq!(setting("keyring_vault_token"), (None, format!("{path}:12")));
    assert_eq!(setting("keyring_sync_interval"), (Some("60".into()), "default".into()));
    assert_eq!(report["errors"], serde_json::json!([]));
    assert_eq!(report["warnings"].as_array().unwrap().len(), 1, "the duplicate: {report}");
}

#[test]
fn a_file_that_is_named_must_exist() {
    let output = run(&["check", "-c", "/no/such/kong.conf"], &[], b"");
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/kong.conf: cannot be read"));
}

#[test]
fn a_daemon_runs_from_a_kong_conf_alone() {
    let server = OpenBao::dev();
    server.put_record("first", "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=");
    let folder = tempfile::tempdir().unwrap();
    let (path, socket) = (folder.path().join("kong.conf"), folder.path().join("keyringd.sock"));
    let text = format!(
        "keyring_enabled = on\nkeyring_strategy = vault\nkeyring_vault_host = {}\nkeyring_vault_mount = secret\n\
         keyring_vault_path = keyring\nkeyring_vault_token = {}\nkeyring_socket_path = {}\n",
        server.address(),
        server.token(),
        socket.display()
    );
    fs::write(&path, text).unwrap();
    let daemon = Daemon::start_from_file(&path, folder);
    daemon.wait_until_ready();
    assert_eq!(daemon.opened(&daemon.encrypt("hello")), "hello");
    let status = run(&["status", "-c", path.to_str().unwrap()], &[], b"");
    assert!(success(&status).contains("ready, active key first"));
}

#[test]
fn a_kong_conf_of_a_thousand_lines_reports_its_ten_mistakes_with_their_lines() {
    let mistakes = [
        (90, "keyring_enabled = yes", "expected on or off"),
        (180, "keyring_strategy = cluster", "must be vault"),
        (270, "keyring_vault_host = vault.example.com", "expected <scheme>://<host>:<port>"),
        (360, "keyring_vault_mount = ../sys", "expected a path whose segments"),
        (450, "keyring_vault_kv = v3", "expected v1 or v2"),
        (540, "keyring_vault_auth_method = ldap", "expected token or kubernetes"),
        (630, "keyring_sync_interval = 0", "expected whole seconds from 1 to 86400"),
        (720, "keyring_max_request_size = 5t", "expected a size from 1k to 1g"),
        (810, "keyring_vault_hosts = x", "did you mean keyring_vault_host?"),
        (900, "a line that says nothing", "expected key = value"),
    ];
    let line = |number: usize| match mistakes.iter().find(|(at, ..)| *at == number) {
        Some((_, line, _)) => (*line).to_owned(),
        None => match number % 4 {
            0 => format!("# comment {number}"),
            1 => format!("nginx_http_setting_{number} = {number}e3 \"quoted\""),
            2 => String::new(),
            _ => format!("pg_setting_{number} = planted-not-ours"),
        },
    };
    let text: Vec<_> = (1..=1000).map(line).chain(["keyring_vault_path = keyring".to_owned()]).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kong.conf");
    fs::write(&path, text.join("\n")).unwrap();
    let path = path.to_str().unwrap();
    let output = run(&["check", "-c", path], &[], b"");
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr);
    for (number, _, expected) in mistakes {
        let found =
            said.lines().any(|line| line.contains(&format!("{path}:{number}: ")) && line.contains(expected));
        assert!(found, "line {number}: {expected}\nin\n{said}");
    }
    assert_eq!(said.matches(": error: ").count(), 10, "and nothing else: {said}");
    assert!(!said.contains(": warning: ") && !said.contains("planted"), "foreign keys make no noise: {said}");
}
