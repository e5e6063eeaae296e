//! `check` and `run` with settings from a kong.conf and from environment variables.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Daemon, OpenBao, daemon::run, success};

const KONG_CONF: &str = "\
# a kong.conf of an operator: most settings are not for keyringd
prefix = /usr/local/kong
admin_listen = 127.0.0.1:8001 reuseport backlog=16384
pg_password = planted#for-kong

keyring_enabled = on          # enable it
keyring_strategy=vault
keyring_vault_host = http://127.0.0.1:1
keyring_vault_host = http://127.0.0.1:8200
keyring_vault_mount = secret
keyring-vault-path = keyring
keyring_vault_token = s.ab\\#cd
";

#[test]
fn all_mistakes_are_reported_in_one_run_with_lines_and_exit_code_78() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kong.conf");
    fs::write(&path, format!("{KONG_CONF}keyring_sync_interval = soon\n[section]\nkeyring_vault_pat = x\nno equals sign\nkeyring_socket_mode = 999\n")).unwrap();
    let path = path.to_str().unwrap();
    for command in ["check", "run"] {
        let output = run(&[command, "-c", path], &[("KONG_LOG_LEVEL", "loud")], b"");
        assert_eq!(output.status.code(), Some(78));
        let errors = String::from_utf8_lossy(&output.stderr);
        for mistake in [
            format!("{path}:14: a kong.conf has no [sections]"),
            format!("{path}:16: expected key = value, found no ="),
            format!("{path}:15: keyring_vault_pat: no such setting; did you mean keyring_vault_path?"),
            format!(
                "{path}:13: keyring_sync_interval: expected whole seconds from 1 to 86400, found \"soon\""
            ),
            format!(
                "{path}:17: keyring_socket_mode: expected an octal mode from 0000 to 0777, such as 0660, found \"999\""
            ),
            "KONG_LOG_LEVEL: log_level: expected debug, info, notice".to_owned(),
        ] {
            assert!(errors.contains(&mistake), "{mistake}\nin\n{errors}");
        }
        assert_eq!(errors.matches(": error: ").count(), 6, "{errors}");
        assert!(!errors.contains("planted") && !errors.contains("s.ab"), "{errors}");
    }
}

#[test]
fn check_shows_every_value_with_its_origin() {
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
fn a_named_file_must_exist() {
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
        (90, "keyring_enabled = yes", "expected on, off, true, or false"),
        (180, "keyring_strategy = cluster", "must be `vault`"),
        (270, "keyring_vault_host = vault.example.com", "expected <scheme>://<host>:<port>"),
        (360, "keyring_vault_mount = ../sys", "expected a path in Vault"),
        (450, "keyring_vault_kv = v3", "expected v1 or v2"),
        (540, "keyring_vault_auth_method = ldap", "expected token, kubernetes"),
        (630, "keyring_sync_interval = 0", "expected whole seconds from 1 to 86400"),
        (720, "keyring_max_request_size = 5t", "expected a size from 1k to 1g"),
        (810, "keyring_vault_hosts = x", "did you mean keyring_vault_host?"),
        (900, "a line without a value", "expected key = value"),
    ];
    let line = |number: usize| match mistakes.iter().find(|(at, ..)| *at == number) {
        Some((_, line, _)) => (*line).to_owned(),
        None => match number % 4 {
            0 => format!("# comment {number}"),
            1 => format!("nginx_http_setting_{number} = {number}e3 \"quoted\""),
            2 => String::new(),
            _ => format!("pg_setting_{number} = planted-for-kong"),
        },
    };
    let text: Vec<_> = (1..=1000).map(line).chain(["keyring_vault_path = keyring".to_owned()]).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kong.conf");
    fs::write(&path, text.join("\n")).unwrap();
    let path = path.to_str().unwrap();
    let output = run(&["check", "-c", path], &[], b"");
    assert_eq!(output.status.code(), Some(78));
    let errors = String::from_utf8_lossy(&output.stderr);
    for (number, _, expected) in mistakes {
        let found = errors
            .lines()
            .any(|line| line.contains(&format!("{path}:{number}: ")) && line.contains(expected));
        assert!(found, "line {number}: {expected}\nin\n{errors}");
    }
    assert_eq!(errors.matches(": error: ").count(), 10, "and nothing else: {errors}");
    assert!(
        !errors.contains(": warning: ") && !errors.contains("planted"),
        "settings of Kong get no warning: {errors}"
    );
}

/// The report of `check --json`, its exit code, and all output in both forms.
fn check(conf: &str, variables: &[(&str, &str)]) -> (Value, Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kong.conf");
    fs::write(&path, conf).unwrap();
    let output = run(&["check", "-c", path.to_str().unwrap(), "--json"], variables, b"");
    let text = String::from_utf8(output.stdout).unwrap().replace(path.to_str().unwrap(), "kong.conf");
    let plain = run(&["check", "-c", path.to_str().unwrap()], variables, b"");
    let all = [text.as_bytes(), &output.stderr, &plain.stdout, &plain.stderr].concat();
    (serde_json::from_str(&text).unwrap(), output.status.code(), String::from_utf8_lossy(&all).into_owned())
}

const ENOUGH: &str = "keyring_enabled = on\nkeyring_strategy = vault\nkeyring_vault_host = http://127.0.0.1:8200\n\
    keyring_vault_mount = secret\nkeyring_vault_path = keyring\nkeyring_vault_token = s.token\n";

#[test]
fn a_reference_sets_any_setting_and_check_shows_the_origin_only() {
    let conf = "keyring_enabled = {vault://env/switch}\nkeyring_strategy = vault\n\
        keyring_vault_host = {vault://env/vault/host?ttl=60}\nkeyring_vault_mount = secret\nkeyring_vault_jwt_role = a{vault://env/x}b\n\
        keyring_vault_path = {vault://env//vault//path}\nkeyring_vault_token = {vault://env/my-token}\n\
        keyring_sync_interval = {vault://env/seconds/}\npg_password = {vault://hcv/for/kong}\n";
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    let variables = [
        ("SWITCH", "on"),
        ("VAULT", r#"{"host": "http://planted.localhost", "path": "planted/keyring", "number": 1}"#),
        ("MY_TOKEN", "planted-token"),
        ("SECONDS", "86399"),
        ("KONG_LOG_LEVEL", "{vault://env/level}"),
        ("LEVEL", "emerg"),
        ("KONG_KEYRING_NAME_FILE", &file("name", "{vault://env/my-name}\n")),
        ("MY_NAME", "planted-name"),
        ("KONG_KEYRING_VAULT_OAUTH2_CLIENT_SECRET_FILE", &file("client", "{vault://env/client}\n")),
        ("CLIENT", "planted-client"),
        ("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap()),
        ("SECRET_ID", "planted-secret-id"),
    ];
    file("keyring_vault_approle_secret_id", "{vault://env/secret-id}");
    let (report, code, output) = check(conf, &variables);
    assert_eq!((code, &report["errors"], &report["warnings"]), (Some(0), &json!([]), &json!([])));
    assert!(
        !output.contains("planted") && !output.contains("86399") && !output.contains("emerg"),
        "{output}"
    );
    let setting = |key: &str| report["settings"].as_array().unwrap().iter().find(|one| one["key"] == key);
    for (key, origin) in [
        ("keyring_enabled", "kong.conf:1 via variable SWITCH"),
        ("keyring_vault_host", "kong.conf:3 via variable VAULT"),
        ("keyring_vault_path", "kong.conf:6 via variable VAULT"),
        ("keyring_vault_token", "kong.conf:7 via variable MY_TOKEN"),
        ("keyring_sync_interval", "kong.conf:8 via variable SECONDS"),
        ("log_level", "KONG_LOG_LEVEL via variable LEVEL"),
        ("keyring_name", "KONG_KEYRING_NAME_FILE via variable MY_NAME"),
        (
            "keyring_vault_oauth2_client_secret",
            "KONG_KEYRING_VAULT_OAUTH2_CLIENT_SECRET_FILE via variable CLIENT",
        ),
        (
            "keyring_vault_approle_secret_id",
            "credential keyring_vault_approle_secret_id via variable SECRET_ID",
        ),
    ] {
        let expected = json!({ "key": key, "value": null, "origin": origin, "secret": true });
        assert_eq!(setting(key), Some(&expected));
        assert!(output.contains(&format!("{key}\t[set, not shown]\t")), "{key} in {output}");
    }
    assert_eq!(setting("keyring_vault_jwt_role").unwrap()["value"], "a{vault://env/x}b");
}

#[test]
fn an_unresolved_reference_is_a_mistake_with_its_origin_and_without_a_value() {
    let variables = [("JSON", r#"{"planted": "planted", "n": 7, "o": {}, "yes": true, "null": null}"#)];
    let variables = [variables.as_slice(), &[("PLAIN", "planted"), ("EMPTY", "")]].concat();
    for (reference, message) in [
        ("{vault://env}", "names no variable"),
        ("{vault://env/}", "names no variable"),
        ("{vault://}", "is not a well-formed reference: it must name a backend"),
        ("{vault://env/plain?planted=1}", "is not a well-formed reference: the parameters after ? must be"),
        ("{vault://env/plain?ttl=planted}", "is not a well-formed reference: the times after ? must be"),
        ("{vault://hcv/planted/planted}", "is a reference to a backend that settings cannot use"),
        ("{vault://env/plain#3}", "is a reference with a version"),
        ("{vault://env/not-there}", "to the variable NOT_THERE, which is not set"),
        ("{vault://env/empty}", "to the variable EMPTY, which is empty"),
        ("{vault://env/plain/field}", "of the variable PLAIN, which does not hold a JSON object"),
        (
            "{vault://env/json/field}",
            "to the field \"field\" of the variable JSON, whose JSON has no such field",
        ),
        ("{vault://env/json/n}", "which is a number: must be text"),
        ("{vault://env/json/o}", "which is an object: must be text"),
        ("{vault://env/json/yes}", "which is a boolean: must be text"),
        ("{vault://env/json/null}", "which is null: must be text"),
    ] {
        for key in ["keyring_vault_token", "keyring_vault_namespace"] {
            let variable = format!("KONG_{}", key.to_uppercase());
            let by_variable = [variables.as_slice(), &[(&variable, reference)]].concat();
            let line = format!("{ENOUGH}{key} = {}\n", reference.replace('#', "\\#"));
            for (conf, variables, origin) in
                [(line.as_str(), &variables, "kong.conf:7"), (ENOUGH, &by_variable, variable.as_str())]
            {
                let (report, code, output) = check(conf, variables);
                let errors = report["errors"].as_array().unwrap();
                assert_eq!((code, errors.len()), (Some(78), 1), "{reference}: {report}");
                assert_eq!((&errors[0]["origin"], &errors[0]["key"]), (&json!(origin), &json!(key)));
                assert!(errors[0]["message"].as_str().unwrap().contains(message), "{reference}: {report}");
                assert!(!output.contains("planted"), "{reference}: {output}");
            }
        }
    }
}

#[test]
fn an_invalid_value_from_a_reference_is_not_quoted() {
    let wrong = [
        "keyring_sync_interval",
        "keyring_vault_host",
        "keyring_vault_kv",
        "keyring_vault_auth_method",
        "keyring_vault_path",
        "keyring_vault_kube_api_token_file",
        "lua_ssl_trusted_certificate",
        "keyring_socket_group",
    ];
    for key in wrong {
        let conf = format!("{ENOUGH}keyring_vault_auth_method = kubernetes\n{key} = {{vault://env/wrong}}\n");
        let (report, code, output) = check(&conf, &[("WRONG", "/planted planted")]);
        assert_eq!(code, Some(78), "{key}: {report}");
        assert!(
            output.contains("kong.conf:8 via variable WRONG") || key == "keyring_vault_path",
            "{key}: {output}"
        );
        assert!(!output.contains("planted"), "{key}: {output}");
    }
}

#[test]
fn a_reference_in_a_file_that_a_setting_names_is_a_mistake() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "{vault://env/planted}").unwrap();
    let conf = format!(
        "{ENOUGH}keyring_vault_auth_method = jwt\nkeyring_vault_jwt_file = {}\n",
        file.path().display()
    );
    let (report, code, _) = check(&conf, &[("PLANTED", "planted")]);
    assert_eq!(code, Some(78));
    assert!(report["errors"][0]["message"].as_str().unwrap().contains("holds a reference"), "{report}");
}

#[test]
fn an_unfinished_reference_is_used_as_text_with_a_warning() {
    let conf = format!("{ENOUGH}keyring_vault_oauth2_client_id = {{vault://env/x#1}}\n");
    let (report, code, _) = check(&conf, &[]);
    assert_eq!(code, Some(0), "{report}");
    let warning = report["warnings"][0]["message"].as_str().unwrap();
    assert!(warning.starts_with("begins like a reference but does not end with }"), "{warning}");
}

#[test]
fn settings_that_contradict_each_other_are_mistakes_or_warnings() {
    let check = |more: &[(&str, &str)]| {
        let all = [
            ("KONG_KEYRING_ENABLED", "on"),
            ("KONG_KEYRING_STRATEGY", "vault"),
            ("KONG_KEYRING_VAULT_HOST", "http://127.0.0.1:8200"),
            ("KONG_KEYRING_VAULT_MOUNT", "secret"),
            ("KONG_KEYRING_VAULT_PATH", "keyring"),
            ("KONG_KEYRING_VAULT_TOKEN", "x"),
        ];
        let output = run(&["check"], &[all.as_slice(), more].concat(), b"");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check(&[]).0, Some(0));
    for (more, message) in [
        (
            [("KONG_KEYRING_KONG_FIELDS", "on"), ("KONG_KEYRING_CIPHERTEXT_FORMAT", "transit")],
            "keyring_kong_fields: cannot be on with keyring_ciphertext_format = transit",
        ),
        (
            [("KONG_KEYRING_VAULT_KV", "v1"), ("KONG_KEYRING_CIPHERTEXT_FORMAT", "transit")],
            "keyring_ciphertext_format: must be native with keyring_vault_kv = v1",
        ),
        (
            [("KONG_KEYRING_MAX_REQUEST_SIZE", "64m"), ("KONG_KEYRING_MAX_INFLIGHT_SIZE", "32m")],
            "keyring_max_inflight_size: is less than keyring_max_request_size",
        ),
        ([("KONG_KEYRING_ACCESS", ""), ("KONG_KEYRING_AUDIT", "all")], "keyring_access: is empty"),
    ] {
        let (code, printed) = check(&more);
        assert_eq!(code, Some(78), "{printed}");
        assert!(printed.contains(message), "{message} in {printed}");
    }
    let (code, printed) = check(&[("KONG_KEYRING_MAX_STALE", "30")]);
    assert_eq!(code, Some(0));
    assert!(printed.contains("keyring_max_stale: is not longer than keyring_sync_interval"), "{printed}");
}
