//! References without a daemon: `vault get` and `exec` log in by themselves. Also secrets as files, and `exec` as PID 1.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
    time::Duration,
};

use nix::sys::signal::{self, Signal};
use serde_json::json;

use crate::{
    references::port,
    support::{
        Daemon, OpenBao,
        certificates::{Issued, issued_by},
        daemon::{PROGRAM, run},
        passed_as_root,
        process::{Running, free_port},
        success, tool, tools, wait_for,
    },
};

/// The settings of Kong's Vault entity for this server, and none of a keyring.
fn entity<'a>(server: &OpenBao, address: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, String)> {
    let settings = [
        ("KONG_VAULT_HCV_PROTOCOL", "http".to_owned()),
        ("KONG_VAULT_HCV_HOST", "127.0.0.1".to_owned()),
        ("KONG_VAULT_HCV_PORT", port(address).to_owned()),
        ("KONG_VAULT_HCV_KV", "v2".to_owned()),
        ("KONG_VAULT_HCV_TOKEN", server.token().to_owned()),
        ("KONG_KEYRING_HCV_PREFIXES", "hashicorp-vault".to_owned()),
        ("KONG_KEYRING_SOCKET_PATH", "/nonexistent/keyringd.sock".to_owned()),
        ("PATH", "/usr/bin:/bin".to_owned()),
    ];
    let kept = settings.into_iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
    kept.chain(more.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect()
}

fn keyringd(arguments: &[&str], variables: &[(&str, String)]) -> std::process::Output {
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run(arguments, &variables, b"")
}

fn running(arguments: &[&str], variables: &[(&str, String)]) -> Running {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().envs(variables.iter().map(|(name, value)| (*name, value)));
    Running::start(command)
}

#[test]
fn references_resolve_without_a_daemon_and_without_a_keyring() {
    let server = OpenBao::dev();
    let address = server.address();
    server.api("POST", "secret/data/customer/acme", &json!({ "data": { "name": "ACME Inc." } }));
    let settings = entity(&server, &address, &[]);
    let reference = "{vault://hashicorp-vault/customer/acme/name}";
    for arguments in [["vault", "get", reference].as_slice(), &["vault", "get", "--direct", reference]] {
        assert_eq!(success(&keyringd(arguments, &settings)), "ACME Inc.\n", "{arguments:?}");
    }
    let with_secret = [settings.as_slice(), &[("SECRET", reference.to_owned())]].concat();
    let got = keyringd(&["exec", "--", "/bin/sh", "-c", "printf %s \"$SECRET\""], &with_secret);
    assert_eq!(success(&got), "ACME Inc.");

    // From a kong.conf, as `run` reads it.
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("kong.conf");
    let lines = format!(
        "vault_hcv_protocol = http\nvault_hcv_host = 127.0.0.1\nvault_hcv_port = {}\nvault_hcv_kv = v2\n\
         vault_hcv_token = {}\nkeyring_socket_path = /nonexistent/k.sock\n",
        port(&address),
        server.token()
    );
    fs::write(&conf, lines).unwrap();
    let got = run(&["vault", "get", "-c", conf.to_str().unwrap(), "hcv/customer/acme/name"], &[], b"");
    assert_eq!(success(&got), "ACME Inc.\n");

    // The session of the keyring serves, too.
    let session = [
        ("KONG_KEYRING_VAULT_HOST", address.as_str()),
        ("KONG_KEYRING_VAULT_MOUNT", "secret"),
        ("KONG_KEYRING_VAULT_TOKEN", server.token()),
    ];
    let got = run(&["vault", "get", "hcv/customer/acme/name"], &session, b"");
    assert_eq!(success(&got), "ACME Inc.\n");
}

#[test]
fn a_login_of_a_command_is_revoked_at_its_end() {
    let server = OpenBao::dev();
    let address = server.address();
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "value" } }));
    server.enable("approle");
    server.allow_reading();
    server.api("POST", "auth/approle/role/app", &json!({ "token_policies": ["keyring"] }));
    let policy = "path \"secret/data/a\" { capabilities = [\"read\"] }";
    server.api("PUT", "sys/policies/acl/keyring", &json!({ "policy": policy }));
    let role_id = server.role_id("app");
    let secret_id = server.secret_id("app");
    let login = [
        ("KONG_VAULT_HCV_AUTH_METHOD", "approle"),
        ("KONG_VAULT_HCV_APPROLE_ROLE_ID", role_id.as_str()),
        ("KONG_VAULT_HCV_APPROLE_SECRET_ID", secret_id.as_str()),
    ];
    let mut settings = entity(&server, &address, &login);
    settings.retain(|(name, _)| *name != "KONG_VAULT_HCV_TOKEN");
    let before = server.tokens();
    assert_eq!(success(&keyringd(&["vault", "get", "hcv/a/b"], &settings)), "value\n");
    assert_eq!(server.tokens(), before, "after vault get");
    settings.push(("SECRET", "{vault://hcv/a/b}".to_owned()));
    for options in [["exec", "--"].as_slice(), &["exec", "--on-change", "restart", "--"]] {
        let command = [options, &["/bin/sh", "-c", "printf %s \"$SECRET\""]].concat();
        assert_eq!(success(&keyringd(&command, &settings)), "value", "{options:?}");
        assert_eq!(server.tokens(), before, "{options:?}");
    }
    // A reference that names nothing leaves no token either.
    let missing = keyringd(&["vault", "get", "hcv/a/nothing"], &settings);
    assert_eq!((missing.status.code(), server.tokens()), (Some(1), before));
}

#[test]
fn a_daemon_is_asked_if_one_listens_and_each_way_can_be_required() {
    let server = OpenBao::dev();
    let address = server.address();
    server.put_record("first", "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=");
    server.api("POST", "secret/data/a", &json!({ "data": { "b": "value" } }));
    let access = crate::references::everything();
    let daemon = Daemon::start(&server, &[("KONG_KEYRING_ACCESS", access.as_str())]);
    let socket = daemon.socket().display().to_string();
    // Only the daemon has a good token.
    let with_daemon = [("KONG_KEYRING_SOCKET_PATH", socket.as_str()), ("KONG_VAULT_HCV_TOKEN", "wrong")];
    let settings = entity(&server, &address, &with_daemon);
    assert_eq!(success(&keyringd(&["vault", "get", "hcv/a/b"], &settings)), "value\n");
    assert_eq!(success(&keyringd(&["vault", "get", "--daemon", "hcv/a/b"], &settings)), "value\n");
    let failed = |arguments: &[&str], settings: &[(&str, String)]| {
        let output = keyringd(arguments, settings);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let message = failed(&["vault", "get", "--direct", "hcv/a/b"], &settings);
    assert!(message.contains("vault_hcv_token"), "{message}");
    // No daemon: the error of this way names the other one.
    let alone = entity(&server, &address, &[]);
    let message = failed(&["vault", "get", "--daemon", "hcv/a/b"], &alone);
    assert!(message.contains("/nonexistent/keyringd.sock") && message.contains("--direct"), "{message}");
    let message = failed(&["vault", "get", "hcv/a/b"], &[alone[6].clone()]);
    assert!(message.contains("no daemon listens on /nonexistent/keyringd.sock"), "{message}");
    assert!(message.contains("vault_hcv_host"), "{message}");
}

/// Writes both halves of a pair at once.
fn put_pair(server: &OpenBao, text: &str) {
    let pair = json!({ "data": { "cert": format!("cert {text}"), "key": format!("key {text}") } });
    server.api("POST", "secret/data/pair", &pair);
}

const PAIR: [&str; 4] =
    ["--file", "cert.pem={vault://hcv/pair/cert?ttl=1}", "--file", "key.pem={vault://hcv/pair/key?ttl=1}"];

#[test]
fn exec_writes_secrets_to_private_files_and_removes_them() {
    let server = OpenBao::dev();
    let address = server.address();
    put_pair(&server, "one");
    let settings = entity(&server, &address, &[]);
    let script = "cat $KEYRINGD_FILES/cert.pem; stat -L -c ' %a %u' $1; stat -c '%a' $KEYRINGD_FILES; \
                  stat -f -c %T $KEYRINGD_FILES; echo $KEYRINGD_FILES; exit 7";
    let command =
        [&["exec"], PAIR.as_slice(), &["--", "/bin/sh", "-c", script, "sh", "{files}/key.pem"]].concat();
    let output = keyringd(&command, &settings);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let us = nix::unistd::geteuid();
    let folder = printed.lines().last().unwrap();
    assert_eq!(printed, format!("cert one 600 {us}\n700\ntmpfs\n{folder}\n"));
    assert!(!Path::new(folder).exists(), "{folder}");

    // In a named folder, with a mode of their own; also after a signal nothing is left.
    let parent = tempfile::tempdir().unwrap();
    let named = parent.path().join("files");
    let options = ["--files-dir", named.to_str().unwrap(), "--file-mode", "0640"];
    let command = [&["exec"], PAIR.as_slice(), &options, &["--", "sleep", "600"]].concat();
    let mut running = running(&command, &settings);
    let key = wait_for("the files", || fs::metadata(named.join("key.pem")).ok());
    assert_eq!((key.permissions().mode() & 0o777, key.uid()), (0o640, us.as_raw()));
    signal::kill(running.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(fs::read_dir(&named).unwrap().count(), 0);

    // What cannot be resolved starts nothing and leaves nothing.
    let marker = parent.path().join("never");
    let missing = ["--file", "a={vault://hcv/pair/nothing}", "--files-dir", named.to_str().unwrap()];
    let command = [&["exec"], missing.as_slice(), &["--", "touch", marker.to_str().unwrap()]].concat();
    assert_eq!(keyringd(&command, &settings).status.code(), Some(1));
    assert!(!marker.exists() && fs::read_dir(&named).unwrap().count() == 0);
}

#[test]
fn a_pair_of_files_is_never_of_two_versions_and_a_change_acts_once() {
    let server = OpenBao::dev();
    let address = server.address();
    put_pair(&server, "0");
    let settings = entity(&server, &address, &[]);
    let parent = tempfile::tempdir().unwrap();
    let (named, actions) = (parent.path().join("files"), parent.path().join("actions"));
    let action = format!("command:cat $KEYRINGD_FILES/key.pem >> {0}; echo >> {0}", actions.display());
    let options = ["--files-dir", named.to_str().unwrap(), "--on-change", &action];
    let command = [&["exec"], PAIR.as_slice(), &options, &["--", "sleep", "600"]].concat();
    let _running = running(&command, &settings);
    // Both halves of what the link names now, unless it moves on meanwhile.
    let halves = || {
        let current = named.join(fs::read_link(named.join("..data")).ok()?);
        let half = |name: &str| fs::read_to_string(current.join(name)).ok();
        Some((half("cert.pem")?, half("key.pem")?))
    };
    for version in 0..5 {
        if version > 0 {
            put_pair(&server, &version.to_string());
        }
        wait_for("the new pair", || {
            let (cert, key) = halves()?;
            assert_eq!(cert.strip_prefix("cert "), key.strip_prefix("key "));
            (key == format!("key {version}")).then_some(())
        });
        let acted: Vec<_> = (1..=version).map(|version| format!("key {version}\n")).collect();
        wait_for("the action", || {
            (fs::read_to_string(&actions).unwrap_or_default() == acted.concat()).then_some(())
        });
    }
}

#[test]
fn as_the_first_process_exec_takes_orphans_and_keeps_the_exit_code() {
    if passed_as_root() {
        return;
    }
    // Each orphan's parent ends at once, so the first process of the container becomes its parent.
    let script = "for i in $(seq 40); do (sh -c 'exit 3' &) ; done; \
                  while [ \"$(grep -l 'PPid:.1$' /proc/[0-9]*/status 2>/dev/null | wc -l)\" -gt 1 ]; do sleep 0.05; done; \
                  grep -h '^State:.Z' /proc/[0-9]*/status | wc -l; exit 9";
    let mut command = tool("unshare");
    command.args([
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        PROGRAM,
        "exec",
        "--on-change",
        "restart",
    ]);
    command.args(["--", "/bin/sh", "-c", script]).env_clear().env("PATH", "/usr/bin:/bin");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{output:?}");
}

#[test]
fn the_files_service_writes_before_it_is_ready_and_acts_on_a_change() {
    if passed_as_root() {
        return;
    }
    let server = OpenBao::dev();
    let address = server.address();
    put_pair(&server, "one");
    let parent = tempfile::tempdir().unwrap();
    let (folder, acted) = (parent.path().join("files"), parent.path().join("acted"));
    let config = parent.path().join("files.json");
    let content = json!({
        "folder": folder,
        "files": {
            "cert.pem": "{vault://hcv/pair/cert?ttl=1}",
            "key.pem": "{vault://hcv/pair/key?ttl=1}",
        },
        "mode": "0640",
        "owner": "0:0",
        "on_change": format!("cat $KEYRINGD_FILES/cert.pem > {}", acted.display()),
    });
    fs::write(&config, content.to_string()).unwrap();
    let notified = parent.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&notified).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut settings = entity(&server, &address, &[]);
    settings.push(("NOTIFY_SOCKET", notified.to_str().unwrap().to_owned()));
    let mut running = running(&["files", "--config", config.to_str().unwrap()], &settings);
    let mut message = [0; 256];
    let len = socket.recv(&mut message).unwrap();
    assert!(message[..len].starts_with(b"READY=1"));
    assert_eq!(fs::read_to_string(folder.join("cert.pem")).unwrap(), "cert one");
    assert_eq!(fs::metadata(folder.join("key.pem")).unwrap().permissions().mode() & 0o777, 0o640);
    put_pair(&server, "two");
    wait_for("the action", || (fs::read_to_string(&acted).ok()? == "cert two").then_some(()));
    signal::kill(running.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);

    fs::write(&config, json!({ "folder": folder, "files": {}, "owner": "x" }).to_string()).unwrap();
    let refused = keyringd(&["files", "--config", config.to_str().unwrap()], &settings);
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`files` names no file"));
}

/// A TLS client that trusts `authority`, until it has read the page.
fn page(port: u16, authority: &Path) -> Option<String> {
    let output = tool("curl")
        .args(["-sS", "--max-time", "10", "--cacert", authority.to_str().unwrap()])
        .args(["--resolve", &format!("test.com:{port}:127.0.0.1"), &format!("https://test.com:{port}/")])
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn nginx_serves_a_rotated_pair_without_a_failed_request() {
    let server = OpenBao::dev();
    let address = server.address();
    let engine = json!({ "type": "kv", "options": { "version": "1" } });
    server.api("POST", "sys/mounts/kv", &engine);
    let [first, second] = ["First", "Second"].map(|name| issued_by(name, &["test.com"], |_| ()));
    let put = |issued: &Issued| {
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        let pair = json!({ "test.com.crt": text(&issued.certificate), "test.com.key": text(&issued.key) });
        server.api("POST", "kv/apisix/ssl", &pair);
    };
    put(&first);
    let policy = "path \"kv/apisix/*\" { capabilities = [\"read\"] }";
    server.api("PUT", "sys/policies/acl/apisix", &json!({ "policy": policy }));
    let token = server.token_for(&json!({ "policies": ["apisix"] }));
    let objects = json!({
        "1": { "uri": address, "prefix": "kv/apisix", "token": token, "ttl": 1 },
    });
    let settings = [
        ("KONG_KEYRING_SECRET_OBJECTS", objects.to_string()),
        ("KONG_KEYRING_SOCKET_PATH", "/nonexistent/keyringd.sock".to_owned()),
        ("PATH", "/usr/sbin:/usr/bin:/bin".to_owned()),
    ];
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let conf = folder.path().join("nginx.conf");
    let at = folder.path().display();
    let lines = format!(
        "daemon off; pid {at}/nginx.pid; error_log {at}/error.log; events {{}}\n\
         http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
         uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {at}/files/cert.pem; ssl_certificate_key {at}/files/key.pem;\n\
         location / {{ return 200 served; }} }} }}\n"
    );
    fs::write(&conf, lines).unwrap();
    let (named, nginx) = (folder.path().join("files"), tools::found("nginx"));
    let command = [
        "exec",
        "--on-change",
        "signal:HUP",
        "--file",
        "cert.pem=$secret://vault/1/ssl/test.com.crt",
        "--file",
        "key.pem=$secret://vault/1/ssl/test.com.key",
        "--files-dir",
        named.to_str().unwrap(),
        "--",
        nginx.to_str().unwrap(),
        "-e",
        "stderr",
        "-c",
        conf.to_str().unwrap(),
    ];
    let _running = running(&command, &settings);
    let authority = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        fs::write(&path, pem).unwrap();
        path
    };
    let (old, new) = (authority("old", &first.authority), authority("new", &second.authority));
    let either = authority("either", &format!("{}{}", first.authority, second.authority));
    wait_for("nginx", || page(port, &old));
    put(&second);
    // Under load: every request is served, by either pair.
    wait_for("the new certificate alone", || {
        assert_eq!(page(port, &either).as_deref(), Some("served"));
        (page(port, &new).is_some() && page(port, &old).is_none()).then_some(())
    });
    let on_disk = |name: &str| fs::read_to_string(named.join(name)).unwrap();
    assert_eq!(on_disk("key.pem"), fs::read_to_string(&second.key).unwrap());
}

/// The objects in these three forms read the same: inline JSON, a JSON file, a YAML file.
#[test]
fn several_vault_entities_of_kong_are_pasted_as_they_are() {
    let servers = [OpenBao::dev(), OpenBao::dev()];
    for (server, value) in servers.iter().zip(["first", "second"]) {
        server.api("POST", "secret/data/a", &json!({ "data": { "b": value } }));
        let mount = json!({ "type": "kv", "options": { "version": "1" } });
        server.api("POST", "sys/mounts/kv", &mount);
        server.api("POST", "kv/apisix/a", &json!({ "b": format!("{value} by v1") }));
    }
    let ports = servers.each_ref().map(|server| port(&server.address()).parse::<u16>().unwrap());
    let objects = json!({
        // As decK and the Admin API export an entity.
        "one": {
            "id": "b1f5b7e2-0000-4000-8000-000000000000", "created_at": 1_700_000_000, "tags": ["a"],
            "name": "hcv", "prefix": "hashicorp-vault", "description": "the first",
            "config": {
                "protocol": "http", "host": "127.0.0.1", "port": ports[0], "mount": "secret", "kv": "v2",
                "token": "$ENV://FIRST", "ttl": 60, "neg_ttl": null, "base64_decode": false,
            },
        },
        "two": {
            "kind": "hcv", "protocol": "http", "host": "127.0.0.1", "port": ports[1], "kv": "v2",
            "auth_method": "token", "token": servers[1].token(),
        },
        // As APISIX stores an object.
        "1": {
            "id": "vault/1", "create_time": 1_700_000_000, "update_time": 1_700_000_000,
            "uri": servers[1].address(), "prefix": "kv/apisix", "token": servers[1].token(),
        },
    });
    let folder = tempfile::tempdir().unwrap();
    let (as_json, as_yaml) = (folder.path().join("objects.json"), folder.path().join("objects.yaml"));
    fs::write(&as_json, objects.to_string()).unwrap();
    let yaml = format!(
        "one:\n  name: hcv\n  prefix: hashicorp-vault\n  config:\n    protocol: http\n    host: 127.0.0.1\n    \
         port: {}\n    kv: v2\n    token: $ENV://FIRST\n\
         two:\n  {{kind: hcv, protocol: http, host: 127.0.0.1, port: {}, kv: v2, token: {}}}\n\
         \"1\":\n  uri: {}\n  prefix: kv/apisix\n  token: {}\n",
        ports[0],
        ports[1],
        servers[1].token(),
        servers[1].address(),
        servers[1].token()
    );
    fs::write(&as_yaml, yaml).unwrap();
    let settings = |objects: &str| {
        vec![
            ("KONG_KEYRING_SECRET_OBJECTS", objects.to_owned()),
            ("KONG_KEYRING_SOCKET_PATH", "/nonexistent/keyringd.sock".to_owned()),
            ("FIRST", servers[0].token().to_owned()),
        ]
    };
    for form in [objects.to_string().as_str(), as_json.to_str().unwrap(), as_yaml.to_str().unwrap()] {
        for (reference, value) in [
            ("{vault://one/a/b}", "first"),
            ("{vault://hashicorp-vault/a/b}", "first"),
            ("{vault://two/a/b}", "second"),
            ("$secret://vault/1/a/b", "second by v1"),
        ] {
            let got = keyringd(&["vault", "get", reference], &settings(form));
            assert_eq!(success(&got), format!("{value}\n"), "{reference} by {form}");
        }
    }
    for (objects, message) in [
        (
            json!({ "x": { "kind": "hcv", "hots": "h" } }),
            "object \"x\": no such field: \"hots\"; did you mean `host`?",
        ),
        (json!({ "x": { "kind": "hcv", "host": "h", "kv": "v3" } }), "object \"x\": `kv` expected"),
        (json!({ "x": { "kind": "hcv", "host": "h" } }), "object \"x\": `token` is required"),
        (json!({ "x": { "kind": "aws" } }), "object \"x\": `kind` must be hcv"),
        (json!({ "x": { "name": "aws", "config": {} } }), "object \"x\": `name` must be hcv"),
        (
            json!({ "env": { "kind": "hcv", "host": "h", "token": "planted" } }),
            "\"env\" is the name of another backend",
        ),
        (json!({ "x": { "kind": "hcv", "token": { "planted": 1 } } }), "object \"x\": `token` must be text"),
        (json!({ "x": { "uri": "http://h", "prefix": 7 } }), "object \"x\": `prefix` must be text"),
    ] {
        let refused = keyringd(&["vault", "get", "{vault://x/a/b}"], &settings(&objects.to_string()));
        let printed = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(78), "{printed}");
        assert!(printed.contains(message) && !printed.contains("planted"), "{printed}");
    }
}
