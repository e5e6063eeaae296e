//! What operators do: make keys, rotate, write policies, reload and watch.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::support::{
    Daemon, OpenBao,
    daemon::{PROGRAM, kongs_settings, kongs_settings_of_nobody, run},
    openbao, passed_as_root,
    process::{Running, ending_with_us},
    success, tool,
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

/// `keyringd` with the settings of `server`, without a token of its own, and `more` variables.
pub fn operator(server: &OpenBao, arguments: &[&str], more: &[(&str, &str)]) -> Output {
    let settings = kongs_settings(server);
    let mut variables: Vec<_> =
        settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    variables.retain(|(name, _)| *name != "KONG_KEYRING_VAULT_TOKEN");
    variables.extend(more);
    run(arguments, &variables, b"")
}

pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The newest record in Vault.
fn newest(server: &OpenBao) -> Value {
    server.api("GET", "secret/data/keyring", &Value::Null).json()["data"].take()
}

#[test]
fn a_made_record_has_a_random_key_and_the_id_that_was_given() {
    let records = [["keygen", "--id", "2026-12"]; 2].map(|arguments| success(&run(&arguments, &[], b"")));
    let [one, other] = records.map(|text| serde_json::from_str::<Value>(&text).unwrap());
    assert_eq!((&one["id"], &other["id"]), (&json!("2026-12"), &json!("2026-12")));
    assert!(one["key"] != other["key"] && one["key"].as_str().unwrap().len() == 44);
    let dated: Value = serde_json::from_str(&success(&run(&["keygen"], &[], b""))).unwrap();
    assert!(dated["id"].as_str().unwrap().starts_with("20"), "{dated}");
    assert_eq!(run(&["keygen", "--id", "not valid"], &[], b"").status.code(), Some(2));
}

#[test]
fn a_rotation_writes_by_check_and_set_and_the_daemon_uses_the_key() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    server.api("POST", "secret/metadata/keyring", &json!({ "cas_required": true }));
    let daemon = Daemon::start(&server, &[]);
    let socket = daemon.socket().display().to_string();
    let rotate = |id: &str, more: &[(&str, &str)]| {
        operator(&server, &["rotate", "--id", id, "--socket", &socket], more)
    };

    let none = rotate("none", &[]);
    assert_eq!(none.status.code(), Some(1));
    assert!(
        errors(&none).contains("set VAULT_TOKEN") && newest(&server)["data"]["id"] == "first",
        "{none:?}"
    );

    let rotated = rotate("by-variable", &[("VAULT_TOKEN", server.token())]);
    let text = success(&rotated);
    assert_eq!(
        text,
        "wrote key by-variable to secret/keyring as version 2\nactive by-variable (version 2), 2 keys\n"
    );
    assert_eq!(daemon.active(), "by-variable");
    let record = newest(&server);
    let key = record["data"]["key"].as_str().unwrap();
    assert!(!text.contains(key) && !errors(&rotated).contains(key) && !daemon.log().contains(key));

    let home = daemon.folder().display().to_string();
    fs::write(daemon.folder().join(".vault-token"), server.token()).unwrap();
    success(&rotate("by-helper", &[("HOME", &home)]));
    assert_eq!(daemon.active(), "by-helper");

    let used = rotate("by-helper", &[("VAULT_TOKEN", server.token())]);
    assert!(errors(&used).contains("has a key by-helper already"), "{used:?}");
    let other =
        operator(&server, &["rotate", "--name", "other", "--socket", &socket], &[("VAULT_TOKEN", "x")]);
    assert!(errors(&other).contains("the settings have no keyring other"), "{other:?}");

    // Without an ID the key has the date of today, and another one on the same day is different.
    for _ in 0..2 {
        let dated = operator(&server, &["rotate", "--socket", &socket], &[("BAO_TOKEN", server.token())]);
        assert!(success(&dated).starts_with("wrote key 20"), "{dated:?}");
    }
    assert_eq!(newest(&server)["metadata"]["version"], 5);
}

#[test]
fn concurrent_rotations_never_overwrite_each_other() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let ids = ["a", "b", "c", "d", "e", "f"];
    let outputs = std::thread::scope(|scope| {
        let rotate =
            |id| operator(&server, &["rotate", "--no-wait", "--id", id], &[("VAULT_TOKEN", server.token())]);
        let threads = ids.map(|id| scope.spawn(move || rotate(id)));
        threads.map(|thread| thread.join().unwrap())
    });
    let written = outputs.iter().filter(|output| output.status.success()).count();
    assert_eq!(newest(&server)["metadata"]["version"].as_u64().unwrap(), 1 + written as u64);
    for output in outputs.iter().filter(|output| !output.status.success()) {
        assert!(errors(output).contains("has changed meanwhile, so nothing was written"), "{output:?}");
    }
}

#[test]
fn a_key_is_lost_only_by_force() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    server.put_record("second", KEY);
    server.api("POST", "secret/metadata/keyring", &json!({ "max_versions": 3 }));
    let token = [("VAULT_TOKEN", server.token())];
    let warned = operator(&server, &["rotate", "--no-wait", "--id", "third"], &token);
    assert!(errors(&warned).contains("room for 0 more before Vault destroys the oldest key"), "{warned:?}");
    success(&warned);
    let refused = operator(&server, &["rotate", "--no-wait", "--id", "fourth"], &token);
    assert_eq!(refused.status.code(), Some(1));
    let message = errors(&refused);
    assert!(
        message.contains("would destroy version 1 and its key first") && message.contains("--force"),
        "{message}"
    );
    assert_eq!(newest(&server)["data"]["id"], "third");
    success(&operator(&server, &["rotate", "--no-wait", "--id", "fourth", "--force"], &token));
    assert_eq!(newest(&server)["data"]["id"], "fourth");
    server.api("POST", "secret/metadata/keyring", &json!({ "max_versions": 1 }));
    let refused = operator(&server, &["rotate", "--no-wait", "--id", "fifth"], &token);
    let message = errors(&refused);
    let expected = "would destroy versions 2, 3, 4 and the keys fourth, second, third";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_rotation_on_an_engine_of_another_version_is_no_success() {
    let server = OpenBao::shared();
    server.api("POST", "sys/mounts/old", &json!({ "type": "kv", "options": { "version": "1" } }));
    let settings = [("VAULT_TOKEN", server.token()), ("KONG_KEYRING_VAULT_MOUNT", "old")];
    let rotated = operator(&server, &["rotate", "--no-wait"], &settings);
    let message = errors(&rotated);
    assert_eq!(rotated.status.code(), Some(1), "{message}");
    assert!(message.contains("/v1/old/data/keyring was written"), "{message}");
    assert!(
        message.contains("the engine is of version 1") && message.contains("keyring_vault_kv = v1"),
        "{message}"
    );
}

#[test]
fn a_map_keeps_its_keys_and_version_1_of_the_engine_loses_none_silently() {
    let server = OpenBao::shared();
    server.put(&json!({ "active": "old", "keys": { "old": KEY } }));
    let token = [("VAULT_TOKEN", server.token())];
    success(&operator(&server, &["rotate", "--no-wait", "--id", "new"], &token));
    let record = newest(&server);
    assert_eq!((&record["data"]["active"], &record["data"]["keys"]["old"]), (&json!("new"), &json!(KEY)));
    assert_eq!(record["data"]["keys"].as_object().unwrap().len(), 2);

    server.api("POST", "sys/mounts/kv1", &json!({ "type": "kv", "options": { "version": "1" } }));
    let of_v1 = [token[0], ("KONG_KEYRING_VAULT_MOUNT", "kv1"), ("KONG_KEYRING_VAULT_KV", "v1")];
    let first = operator(&server, &["rotate", "--no-wait", "--id", "first"], &of_v1);
    assert!(errors(&first).contains("no check-and-set"), "{first:?}");
    assert_eq!(success(&first), "wrote key first to kv1/keyring\n");
    let second = operator(&server, &["rotate", "--no-wait", "--id", "second"], &of_v1);
    assert!(errors(&second).contains("the key first would be lost"), "{second:?}");
    success(&operator(&server, &["rotate", "--no-wait", "--id", "second", "--force"], &of_v1));
}

#[test]
fn nothing_is_written_without_a_daemon_that_reads_this_secret() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let token = [("VAULT_TOKEN", server.token())];
    let absent = operator(&server, &["rotate", "--socket", "/no/such.sock"], &token);
    assert!(errors(&absent).contains("--no-wait rotates without a daemon"), "{absent:?}");
    let dev = Daemon::dev();
    let socket = dev.socket().display().to_string();
    let other = operator(&server, &["rotate", "--socket", &socket], &token);
    assert!(errors(&other).contains("the daemon on this socket reads no Vault"), "{other:?}");
    assert_eq!(newest(&server)["data"]["id"], "first");
}

#[test]
fn the_policy_of_a_rotation_is_enough_and_the_daemons_is_not() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let token_with = |arguments: &[&str]| {
        let policy = success(&operator(&server, arguments, &[]));
        server.api("PUT", "sys/policies/acl/printed", &json!({ "policy": policy }));
        let made = server.api(
            "POST",
            "auth/token/create",
            &json!({ "policies": ["printed"], "no_default_policy": true }),
        );
        made.at("/auth/client_token")
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token").display().to_string();
    let rotate = |token: &str| {
        fs::write(&path, token).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        operator(&server, &["rotate", "--no-wait", "--token-file", &path, "--id", "second"], &[])
    };
    let refused = rotate(&token_with(&["policy"]));
    assert!(errors(&refused).contains("`keyringd policy --rotate` prints that policy"), "{refused:?}");
    success(&rotate(&token_with(&["policy", "--rotate"])));
    assert_eq!(newest(&server)["data"]["id"], "second");
}

#[test]
fn policies_and_roles_need_no_credential_and_no_vault() {
    let settings = [
        ("KONG_KEYRING_VAULT_MOUNT", "kv/apps"),
        ("KONG_KEYRING_VAULT_PATH", "keyring"),
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID_FILE", "/no/such/file"),
    ];
    let policy = success(&run(&["policy"], &settings, b""));
    assert!(
        policy.starts_with("path \"kv/apps/metadata/keyring\" { capabilities = [\"read\"] }\n"),
        "{policy}"
    );
    // An operator has none of what the daemon's environment and files hold.
    for credential in [
        ("KONG_KEYRING_VAULT_TOKEN", "{vault://env/not-there}"),
        ("KONG_KEYRING_VAULT_TOKEN_FILE", "{vault://env/not-there}"),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", "{vault://env/not-there/field}"),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", "{vault://hcv/not/allowed}"),
        ("KONG_KEYRING_VAULT_JWT_FILE", "{vault://env/not-there}"),
        ("KONG_KEYRING_VAULT_CERT_AUTH_CERT_KEY", "{vault://env/not-there}"),
        ("KONG_KEYRING_CACHE_KEY_FILE", "/no/such/file"),
        ("KONG_KEYRING_SECRET_OBJECTS", "{vault://env/not-there}"),
        ("KONG_VAULT_HCV_TOKEN", "{vault://env/not-there}"),
    ] {
        let with: Vec<_> = settings.iter().chain([&credential]).copied().collect();
        assert_eq!(success(&run(&["policy"], &with, b"")), policy, "{credential:?}");
        success(&run(&["policy", "--role"], &with, b""));
    }
    let without_place =
        run(&["policy"], &[settings[0], ("KONG_KEYRING_VAULT_PATH", "{vault://env/none}")], b"");
    assert!(errors(&without_place).contains("the variable NONE, which is not set"), "{without_place:?}");
    for method in ["token", "kubernetes", "approle", "cert", "jwt"] {
        let commands = success(&run(&["policy", "--role", method, "--program", "vault"], &settings, b""));
        assert!(commands.starts_with("vault policy write keyringd - <<'END'\npath "), "{commands}");
        assert!(!commands.contains("bao "), "{commands}");
        success(&Command::new("bash").args(["-n", "-c", &commands]).output().unwrap());
    }
}

#[test]
fn the_printed_commands_make_a_role_that_doctor_accepts() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let folder = tempfile::tempdir().unwrap();
    let commands =
        success(&operator(&server, &["policy", "--role"], &[("KONG_KEYRING_VAULT_AUTH_METHOD", "approle")]));
    let path = openbao::program().parent().unwrap().display().to_string();
    // A wheel's program is called bao.
    let made = Command::new("bash")
        .args(["-euc", &format!("PATH={path}:$PATH\n{commands}")])
        .current_dir(folder.path())
        .env("BAO_ADDR", server.address())
        .env("BAO_TOKEN", server.token())
        .output()
        .unwrap();
    let printed = success(&made);
    let role_id = printed.lines().last().unwrap();
    let secret_id = folder.path().join("secret-id");
    assert_eq!(fs::metadata(&secret_id).unwrap().permissions().mode() & 0o777, 0o600);
    let doctor = operator(
        &server,
        &["doctor", "--login"],
        &[
            ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle"),
            ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role_id),
            ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID_FILE", &secret_id.display().to_string()),
            ("KONG_KEYRING_SOCKET_PATH", &folder.path().join("s").display().to_string()),
        ],
    );
    let report = success(&doctor);
    assert!(report.contains("first is active") && !report.contains("FAIL"), "{report}");
    let policy = commands.split("END'\n").nth(1).unwrap().split("END\n").next().unwrap();
    assert!(report.ends_with(policy), "{report}\n{policy}");
}

#[test]
fn a_reload_prints_what_changed_or_why_nothing_did() {
    let server = OpenBao::dev();
    server.put_record("first", KEY);
    let token = format!("keyring_vault_token = {}\n", server.token());
    let daemon = Daemon::from_conf(&server.address(), &token);
    daemon.wait_until_ready();
    assert_eq!(
        success(&daemon.command(&["reload"], b"")),
        "reloaded; no setting has another value\nsynced with Vault\n"
    );

    daemon.write_conf(&server.address(), &format!("{token}log_level = debug\nkeyring_socket_mode = 0600"));
    let text = success(&daemon.command(&["reload"], b""));
    for line in
        ["  log_level: notice -> debug (", "  keyring_socket_mode: 0660 -> 0600 (", "at the next start"]
    {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains(server.token()));
    let json: Value = serde_json::from_str(&success(&daemon.command(&["reload", "--json"], b""))).unwrap();
    let pending = json["changed"].as_array().unwrap();
    let text = pending[0].as_str().unwrap();
    assert!(
        pending.len() == 1
            && text.starts_with("keyring_socket_mode: ")
            && text.ends_with("at the next start")
    );
    assert_eq!((&json["warnings"], &json["sync"]), (&json!([]), &json!("success")), "{json}");

    daemon.write_conf(&server.address(), &format!("{token}log_level = loud\nkeyring_audit = some"));
    let refused = daemon.command(&["reload"], b"");
    assert_eq!(refused.status.code(), Some(78));
    let message = errors(&refused);
    assert!(
        message.contains("log_level: expected") && message.contains("keyring_audit: expected"),
        "{message}"
    );
    assert!(message.ends_with("not reloaded: the daemon keeps its settings\n"), "{message}");
    assert_eq!(daemon.metric("keyringd_reloads_total{outcome=\"failure\"}"), 1);
}

#[test]
fn only_root_and_the_daemons_user_may_reload_and_they_always_see_the_status() {
    if passed_as_root() {
        return;
    }
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("keyringd.sock");
    let settings = [("KONG_KEYRING_ACCESS", "uid:40001=all"), ("KONG_KEYRING_SOCKET_MODE", "0666")];
    let daemon = Daemon::start_by(ending_with_us(Path::new(PROGRAM)), Some(&socket), &server, &settings);
    daemon.wait_until_ready();
    assert_eq!((daemon.get("/status").status, daemon.get("/metrics").status), (200, 200));
    assert_eq!(daemon.request("POST", "/reload", b"").status, 200);
    assert_eq!(daemon.post("/v1/transit/encrypt/keyring", &json!({ "plaintext": "YQ==" })).status, 403);
    let other = tool("setpriv")
        .args([
            "--reuid=40001",
            "--regid=40001",
            "--clear-groups",
            "--",
            "curl",
            "-sS",
            "-X",
            "POST",
            "--unix-socket",
        ])
        .arg(&socket)
        .arg("http://localhost/reload")
        .env("HOME", "/")
        .output()
        .unwrap();
    let answer = success(&other);
    assert!(answer.contains("it is for root and the daemon's own user"), "{answer}");
}

#[test]
fn a_watched_status_is_printed_again_and_again() {
    let daemon = Daemon::dev();
    let mut command = ending_with_us(Path::new(PROGRAM));
    command.args(["status", "--watch", "--socket"]).arg(daemon.socket()).env_clear().stdout(Stdio::piped());
    let mut watching = Running::start(command);
    let lines = BufReader::new(watching.0.stdout.take().unwrap()).lines();
    let states = lines.map(Result::unwrap).filter(|line| line.contains("ready, active key dev-"));
    assert_eq!(states.take(2).count(), 2);
}

#[test]
fn the_reason_for_no_keys_names_the_keyring_once() {
    let daemon = Daemon::start_with(&kongs_settings_of_nobody());
    let printed = String::from_utf8(daemon.command(&["status"], b"").stdout).unwrap();
    assert!(printed.starts_with("state:        no keys yet: "), "{printed}");
    assert!(daemon.get("/readyz").text().starts_with("keyring: no keys yet: "));
}
