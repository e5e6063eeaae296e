//! `rotate` with each source of the operator's token, and for further keyrings.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use serde_json::{Value, json};

use crate::{
    keyrings::put,
    operators::{errors, operator},
    support::{Daemon, OpenBao, daemon::PROGRAM, success, wait_for},
};

const KEY: &str = "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=";

const PATHS: (&str, &str) = ("KONG_KEYRING_VAULT_PATHS", "orders=team/orders, rings/");

/// A server with three keyrings, and their daemon.
fn three_keyrings() -> (OpenBao, Daemon, String) {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    put(&server, "team/orders", "o1");
    put(&server, "rings/a", "a1");
    let daemon = Daemon::start(&server, &[PATHS]);
    let socket = daemon.socket().display().to_string();
    (server, daemon, socket)
}

fn active(daemon: &Daemon, name: &str) -> String {
    daemon.get(&format!("/keyring/active?name={name}")).at("/id")
}

/// The number of the newest version of a secret.
fn version(server: &OpenBao, path: &str) -> String {
    server.api("GET", &format!("secret/metadata/{path}"), &json!(null)).at("/data/current_version")
}

/// A role that may do what the printed policy allows. Returns the settings of a login with it.
fn approle(server: &OpenBao, policy: &str) -> Vec<(&'static str, String)> {
    let _ = server.try_api("POST", "sys/auth/approle", &json!({ "type": "approle" }));
    server.api("PUT", "sys/policies/acl/printed", &json!({ "policy": policy }));
    server.api(
        "POST",
        "auth/approle/role/rotator",
        &json!({ "token_policies": ["printed"], "token_no_default_policy": true }),
    );
    let role_id = server.role_id("rotator");
    let secret_id = server.secret_id("rotator");
    vec![
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle".to_owned()),
        ("KONG_KEYRING_VAULT_APPROLE_ROLE_ID", role_id),
        ("KONG_KEYRING_VAULT_APPROLE_SECRET_ID", secret_id),
    ]
}

#[test]
fn a_further_keyring_is_rotated_by_its_name() {
    let (server, daemon, socket) = three_keyrings();
    for (name, id, path) in
        [("orders", "o2", "team/orders"), ("a", "a2", "rings/a"), ("keyring", "second", "keyring")]
    {
        let rotated = operator(
            &server,
            &["rotate", "--name", name, "--id", id, "--socket", &socket],
            &[PATHS, ("VAULT_TOKEN", server.token())],
        );
        let expected =
            format!("wrote key {id} to secret/{path} as version 2\nactive {id} (version 2), 2 keys\n");
        assert_eq!(success(&rotated), expected);
        assert_eq!(active(&daemon, name), id);
    }
    assert_eq!(["orders", "a", "keyring"].map(|name| active(&daemon, name)), ["o2", "a2", "second"]);

    let used = operator(
        &server,
        &["rotate", "--name", "orders", "--id", "o1", "--socket", &socket],
        &[PATHS, ("VAULT_TOKEN", server.token())],
    );
    assert!(errors(&used).contains("has a key o1 already"), "{used:?}");
    let several = ("KONG_KEYRING_VAULT_PATHS", "rings/, team/");
    let unclear = operator(
        &server,
        &["rotate", "--name", "a", "--socket", &socket],
        &[several, ("VAULT_TOKEN", server.token())],
    );
    assert!(errors(&unclear).contains("several folders of keyring_vault_paths could hold a"), "{unclear:?}");
    assert_eq!((version(&server, "team/orders"), version(&server, "rings/a")), ("2".into(), "2".into()));
    // A name in a folder is a new keyring, or mistyped.
    let rotate_new = |more: &str| {
        let arguments = ["rotate", "--name", "b", "--id", "b1", "--socket", &socket, more];
        operator(&server, &arguments, &[PATHS, ("VAULT_TOKEN", server.token())])
    };
    let unknown = rotate_new("--force");
    assert!(errors(&unknown).contains("nothing was written: no such key name here"), "{unknown:?}");
    let absent = server.try_api("GET", "secret/metadata/rings/b", &json!(null)).unwrap();
    assert_eq!((unknown.status.code(), absent.status), (Some(1), 404));
    assert_eq!(success(&rotate_new("--no-wait")), "wrote key b1 to secret/rings/b as version 1\n");
    wait_for("the new keyring", || {
        daemon.sync();
        (daemon.get("/keyring/active?name=b").status == 200).then_some(())
    });
}

#[test]
fn a_login_rotates_each_keyring_and_its_token_is_revoked() {
    let (server, daemon, socket) = three_keyrings();
    let policy = success(&operator(&server, &["policy", "--rotate"], &[PATHS]));
    let tokens = server.tokens();
    for (name, id) in [("keyring", "second"), ("orders", "o2"), ("a", "a2")] {
        let login = approle(&server, &policy);
        let mut settings: Vec<_> = login.iter().map(|(name, value)| (*name, value.as_str())).collect();
        settings.push(PATHS);
        // It must not be used.
        settings.push(("VAULT_TOKEN", "not-a-token"));
        let arguments = ["rotate", "--login", "--name", name, "--id", id, "--socket", &socket];
        let rotated = operator(&server, &arguments, &settings);
        assert!(success(&rotated).ends_with(&format!("active {id} (version 2), 2 keys\n")), "{rotated:?}");
        assert_eq!(active(&daemon, name), id);
        let secret_id = &login[2].1;
        assert!(!errors(&rotated).contains(secret_id) && !daemon.log().contains(secret_id));
    }
    assert_eq!(server.tokens(), tokens, "each login was revoked");
}

#[test]
fn the_daemons_role_cannot_rotate_and_says_what_can() {
    let (server, _daemon, socket) = three_keyrings();
    let approle_method = ("KONG_KEYRING_VAULT_AUTH_METHOD", "approle");
    let policy = success(&operator(&server, &["policy"], &[PATHS, approle_method]));
    let tokens = server.tokens();
    let login = approle(&server, &policy);
    let mut settings: Vec<_> = login.iter().map(|(name, value)| (*name, value.as_str())).collect();
    settings.push(PATHS);
    for name in ["keyring", "orders", "a"] {
        let refused =
            operator(&server, &["rotate", "--login", "--name", name, "--socket", &socket], &settings);
        assert_eq!(refused.status.code(), Some(1));
        assert!(errors(&refused).contains("`keyringd policy --rotate` prints that policy"), "{refused:?}");
    }
    assert_eq!((version(&server, "keyring"), version(&server, "rings/a")), ("1".into(), "1".into()));
    assert_eq!(server.tokens(), tokens);
}

#[test]
fn a_rotation_prints_json_and_reaches_the_daemon_whatever_becomes_of_its_output() {
    let (server, daemon, socket) = three_keyrings();
    let token = [PATHS, ("VAULT_TOKEN", server.token())];
    let json = |more: &[&str]| -> Value {
        let arguments = [&["rotate", "--json", "--socket", &socket], more].concat();
        serde_json::from_str(&success(&operator(&server, &arguments, &token))).unwrap()
    };
    let rotated = json(&["--name", "orders", "--id", "o2"]);
    assert_eq!(
        (&rotated["id"], &rotated["secret"], &rotated["version"]),
        (&json!("o2"), &json!("secret/team/orders"), &json!(2))
    );
    let loaded = json!({ "active": "o2", "version": 2, "keys": 2, "rejected": [], "warnings": [] });
    assert_eq!(rotated["daemon"], loaded);
    assert_eq!(json(&["--no-wait", "--id", "second"])["daemon"], json!(null));
    let sync = |more: &[&str]| success(&daemon.command(&[&["sync"], more].concat(), b""));
    let synced: Value = serde_json::from_str(&sync(&["--json"])).unwrap();
    assert_eq!((&synced["active"], &synced["keys"]), (&json!("second"), &json!(2)));
    assert_eq!(sync(&["--name", "orders"]), "active o2 (version 2), 2 keys\n");
    server.put(&json!({ "id": "bad" }));
    let rejected = daemon.command(&["sync", "--json"], b"");
    let value: Value = serde_json::from_slice(&rejected.stdout).unwrap();
    assert!(rejected.status.code() == Some(1) && value["rejected"][0]["version"] == 3, "{value}");
    server.put_record("fourth", KEY);

    let settings = crate::support::daemon::kongs_settings(&server);
    for (id, closed) in [("piped", "| true"), ("closed", ">&-")] {
        let line = format!("{PROGRAM} rotate --id {id} --socket {socket} {closed}");
        let mut shell = Command::new("bash");
        shell.args(["-c", &line]).env_clear().env("PATH", "/usr/bin:/bin").envs(settings.clone());
        shell.env("VAULT_TOKEN", server.token()).output().unwrap();
        assert_eq!(daemon.active(), id);
    }
}

#[test]
fn of_several_tokens_the_most_explicit_one_is_used() {
    let server = OpenBao::shared();
    server.put_record("first", KEY);
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().display().to_string();
    let file = |name: &str, token: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("{token}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (server.token(), "not-a-token");
    let (good_file, bad_file) = (file("good", right), file("bad", wrong));
    let rotate = |more: &[&str], variables: &[(&str, &str)]| {
        operator(&server, &[&["rotate", "--no-wait"], more].concat(), variables)
    };
    let all = [("BAO_TOKEN", wrong), ("VAULT_TOKEN", wrong), ("HOME", home.as_str())];
    file(".vault-token", wrong);
    success(&rotate(&["--token-file", &good_file], &all));
    assert_eq!(errors(&rotate(&["--token-file", &good_file], &all)), "");
    fs::set_permissions(&good_file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = rotate(&["--token-file", &good_file], &all);
    assert!(
        errors(&open).contains("good: every user of this machine can read the token: chmod 600"),
        "{open:?}"
    );
    success(&rotate(&[], &[("BAO_TOKEN", right), all[1], all[2]]));
    success(&rotate(&[], &[("VAULT_TOKEN", right), all[2]]));
    // An empty variable is none.
    file(".vault-token", right);
    success(&rotate(&[], &[("BAO_TOKEN", ""), ("VAULT_TOKEN", ""), all[2]]));
    assert_eq!(version(&server, "keyring"), "7");

    for (more, variables, name) in [
        (vec!["--token-file", &bad_file], vec![("VAULT_TOKEN", right)], "--token-file"),
        (vec![], vec![("VAULT_TOKEN", wrong), all[2]], "VAULT_TOKEN"),
        (vec![], vec![("BAO_TOKEN", wrong), ("VAULT_TOKEN", right)], "BAO_TOKEN"),
        (vec!["--token-file", "/no/such/file"], vec![("VAULT_TOKEN", right)], "/no/such/file"),
    ] {
        let refused = rotate(&more, &variables);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(errors(&refused).contains(name) && !errors(&refused).contains(wrong), "{name}: {refused:?}");
    }
    file(".vault-token", wrong);
    let helper = rotate(&[], &[all[2]]);
    assert!(errors(&helper).contains("~/.vault-token"), "{helper:?}");
    assert_eq!(version(&server, "keyring"), "7");
    assert_eq!(rotate(&["--login", "--token-file", &good_file], &[]).status.code(), Some(2));
}
