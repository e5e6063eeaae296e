//! How commands behave with files, pipes, sockets and a terminal that binary output could change.

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::json;

use crate::support::{
    Daemon,
    daemon::{PROGRAM, run},
    passed_as_root,
    process::ending_with_us,
    success,
    terminal::on_terminal,
    tool, wait_for,
};

fn shell(line: &str) -> Output {
    Command::new("bash").args(["-c", line]).env_clear().env("PATH", "/usr/bin:/bin").output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The command line of the program, with the socket of this daemon.
fn with(daemon: &Daemon, arguments: &str) -> String {
    format!("{PROGRAM} {arguments} --socket {}", daemon.socket().display())
}

#[test]
fn a_terminal_gets_text_and_binary_output_only_by_force() {
    let daemon = Daemon::dev();
    let file = |name: &str| daemon.folder().join(name).display().to_string();
    for (name, content) in [("text", b"hello\n".as_slice()), ("binary", b"\x00\x1b[2J\xff")] {
        let sealed = daemon.command(&["encrypt"], content);
        fs::write(file(name), success(&sealed)).unwrap();
    }
    let (code, shown) = on_terminal(&with(&daemon, &format!("decrypt -i {}", file("text"))), b"");
    assert_eq!((code, shown.as_str()), (Some(0), "hello\n"));
    let binary = with(&daemon, &format!("decrypt -i {}", file("binary")));
    let (code, shown) = on_terminal(&binary, b"");
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("the output is binary") && shown.contains("-o - to force it"), "{shown}");
    let (code, shown) = on_terminal(&format!("{binary} -o -"), b"");
    assert!(code == Some(0) && shown.contains("\x1b[2J"), "{shown:?}");
}

#[test]
fn a_command_that_reads_a_terminal_says_so() {
    let daemon = Daemon::dev();
    let (code, shown) = on_terminal(&with(&daemon, "encrypt"), b"hello\n\x04");
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.contains("reading from the terminal; Ctrl-D ends the input") && shown.contains("kr1:dev-"),
        "{shown}"
    );
}

#[test]
fn a_closed_pipe_is_silent() {
    let daemon = Daemon::dev();
    for command in ["help settings", "man", "completions bash"] {
        let output = shell(&format!("{PROGRAM} {command} | true; echo \"${{PIPESTATUS[0]}}\""));
        assert!(errors(&output).is_empty(), "{command}: {output:?}");
    }
    let endless = format!("yes | {} | head -c 10 > /dev/null", with(&daemon, "encrypt --lines"));
    assert!(errors(&shell(&endless)).is_empty());
}

#[test]
fn a_dash_is_standard_input_and_output() {
    let daemon = Daemon::dev();
    let sealed = success(&daemon.command(&["encrypt", "-i", "-", "-o", "-"], b"hello"));
    assert_eq!(success(&daemon.command(&["decrypt", "-i", "-"], sealed.as_bytes())), "hello");
    assert!(!Path::new("-").exists());
}

#[test]
fn descriptors_and_devices_are_written_and_never_replaced() {
    let daemon = Daemon::dev();
    let folder = daemon.folder();
    let path = folder.join("out-of-stdout");
    std::os::unix::fs::symlink("/dev/stdout", folder.join("link")).unwrap();
    for target in
        ["/dev/stdout".to_owned(), "/dev/fd/1".to_owned(), folder.join("link").display().to_string()]
    {
        for force in ["", "--force"] {
            let line =
                format!("echo hello | {} {force} -o {target} > {}", with(&daemon, "encrypt"), path.display());
            success(&shell(&line));
            assert!(fs::read_to_string(&path).unwrap().starts_with("kr1:dev-"), "{line}");
            assert!(fs::symlink_metadata("/dev/stdout").unwrap().is_symlink());
        }
    }
    assert!(fs::symlink_metadata(folder.join("link")).unwrap().is_symlink());
    success(&daemon.command(&["encrypt", "-o", "/dev/null"], b"hello"));
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn messages_name_the_input_and_no_temporary_file() {
    let daemon = Daemon::dev();
    let message = |arguments: &[&str], input: &[u8]| {
        let output = daemon.command(arguments, input);
        let text = errors(&output);
        assert!(!text.contains("os error") && !text.contains(".tmp"), "{text}");
        text
    };
    assert!(message(&["decrypt"], b"\n").contains("standard input is empty: expected a ciphertext"));
    assert!(message(&["encrypt"], b"").contains("standard input is empty: encrypting an empty value"));
    assert!(
        message(&["decrypt", "-i", "/no/such"], b"")
            .contains("cannot open /no/such: No such file or directory")
    );
    assert!(message(&["encrypt", "-i", "/"], b"").contains("it is a folder"));
    assert!(
        message(&["encrypt", "-o", "/no/such/file"], b"x")
            .contains("cannot write /no/such/file: No such file")
    );
    assert!(message(&["encrypt", "foo.txt"], b"").contains("to read a file: `keyringd encrypt -i foo.txt`"));
    assert!(errors(&run(&["exec", "ls"], &[], b"")).contains("to run a program: `keyringd exec -- ls`"));
}

#[test]
fn a_socket_that_cannot_be_used_has_one_of_three_reasons() {
    if passed_as_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("s");
    let socket = path.display().to_string();
    let status = || run(&["status", "--socket", &socket], &[], b"");
    let absent = status();
    assert_eq!(absent.status.code(), Some(1));
    assert!(errors(&absent).contains(&format!("there is no socket {socket}")), "{absent:?}");
    drop(UnixListener::bind(&path).unwrap());
    assert!(errors(&status()).contains("the keyringd that made it has ended"), "{:?}", status());
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for other in [folder.path(), &file].map(|path| path.display().to_string()) {
        let no_socket = run(&["status", "--socket", &other], &[], b"");
        assert!(errors(&no_socket).contains(&format!("{other} is not a socket")), "{no_socket:?}");
    }

    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    std::os::unix::fs::chown(&path, Some(0), Some(1)).unwrap(); // daemon, in every distribution
    let program = folder.path().join("keyringd");
    // By another process: a program that this one has open for writing cannot be executed.
    success(&Command::new("cp").arg(PROGRAM).arg(&program).output().unwrap());
    let denied = tool("setpriv")
        .args(["--reuid=40001", "--regid=40001", "--clear-groups", "--"])
        .arg(&program)
        .args(["status", "--socket", &socket])
        .current_dir("/")
        .env_clear()
        .output()
        .unwrap();
    assert!(
        errors(&denied).contains("it belongs to the group daemon: `sudo adduser 40001 daemon`"),
        "{denied:?}"
    );
}

#[test]
fn a_missing_socket_leads_to_the_one_of_dev() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = folder.path().display().to_string();
    let mut command = ending_with_us(Path::new(PROGRAM));
    command
        .arg("dev")
        .env_clear()
        .env("XDG_RUNTIME_DIR", &runtime)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _dev = crate::support::process::Running::start(command);
    let message = wait_for("the socket of dev", || {
        let output = run(&["status", "--socket", "/no/such.sock"], &[("XDG_RUNTIME_DIR", &runtime)], b"");
        Some(errors(&output)).filter(|text| text.contains("keyringd dev"))
    });
    assert!(message.contains(&format!("serves on {runtime}/keyringd/keyringd.sock")), "{message}");
    let second = run(&["dev"], &[("XDG_RUNTIME_DIR", &runtime)], b"");
    assert!(errors(&second).contains("name another path with --socket"), "{second:?}");
}

#[test]
fn dev_serves_on_the_socket_of_the_variable_unless_the_option_names_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (options, served) in [(vec![], "of-the-variable"), (vec!["--socket".to_owned(), path("s")], "s")] {
        let mut command = ending_with_us(Path::new(PROGRAM));
        command.arg("dev").args(options).env_clear().env("KONG_KEYRING_SOCKET_PATH", path("of-the-variable"));
        command.env("XDG_RUNTIME_DIR", folder.path()).stdout(Stdio::null());
        // What dev does not need may be of another machine.
        command.env("KONG_KEYRING_VAULT_TOKEN", "{vault://env/not-there}");
        let _dev = crate::support::process::Running::start(command);
        wait_for("dev", || UnixStream::connect(path(served)).ok());
        assert!(!folder.path().join("keyringd").exists());
    }
}

#[test]
fn dev_has_a_name_permissions_and_a_key_that_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let start = |more: &[&str]| {
        let socket = folder.path().join("s");
        let mut command = ending_with_us(Path::new(PROGRAM));
        command.args(["dev", "--persist", &file("key")]).args(more).env_clear();
        command.env("KONG_KEYRING_NAME", "orders").env("KONG_KEYRING_ACCESS", "uid:40001=encrypt");
        command.arg("--socket").arg(&socket).stdout(fs::File::create(file("out")).unwrap());
        let running = crate::support::process::Running::start(command);
        wait_for("dev", || {
            fs::read_to_string(file("out")).ok().filter(|text| text.contains("keyringd status"))
        });
        running
    };
    let active = |path: &str| {
        let output = shell(&format!("curl -sS --unix-socket {} http://localhost{path}", file("s")));
        success(&output)
    };
    let first = start(&[]);
    let out = fs::read_to_string(file("out")).unwrap();
    assert!(out.contains(&format!("\n  export KONG_KEYRING_SOCKET_PATH={}\n", file("s"))), "{out}");
    assert!(out.contains("/v1/transit/encrypt/orders"), "{out}");
    let refused = active("/v1/transit/encrypt/orders -d plaintext=YQ==");
    assert!(refused.contains("may not use encrypt here"), "{refused}");
    let before = active("/keyring");
    drop(first);
    assert_eq!(fs::metadata(file("key")).unwrap().permissions().mode() & 0o777, 0o600);
    let _second = start(&["--name", "named"]);
    assert_eq!(active("/keyring"), before, "the key stays");
    assert!(active("/livez -D -").contains("keyring-name: named"));

    fs::set_permissions(file("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let open = run(&["dev", "--socket", &file("other"), "--persist", &file("key")], &[], b"");
    assert!(errors(&open).contains("other users may read it"), "{open:?}");
    fs::write(file("wrong"), json!({ "id": 1 }).to_string()).unwrap();
    fs::set_permissions(file("wrong"), fs::Permissions::from_mode(0o600)).unwrap();
    let wrong = run(&["dev", "--socket", &file("other"), "--persist", &file("wrong")], &[], b"");
    assert!(errors(&wrong).contains("expected a record as `keyringd keygen` prints it"), "{wrong:?}");
}

#[test]
fn the_help_is_one_screen_and_the_version_names_its_build() {
    for flag in ["-h", "--help"] {
        let help = success(&run(&[flag], &[], b""));
        assert!(help.lines().count() <= 40, "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        assert!(!help.contains("keyring_vault_host"), "{help}");
    }
    let version = success(&run(&["--version"], &[], b""));
    let number = env!("CARGO_PKG_VERSION");
    assert!(version.starts_with(&format!("keyringd {number} (")), "{version}");
    let parts: Vec<_> =
        version.trim().trim_end_matches(')').split(['(', ' ', ',']).filter(|part| !part.is_empty()).collect();
    let [_, _, commit, date, target] = parts.as_slice() else { panic!("{version}") };
    assert!(*commit == "unknown" || commit.len() == 12, "{version}");
    assert!(*date == "unknown" || date.len() == 10, "{version}");
    assert!(target.contains("linux"), "{version}");
}
