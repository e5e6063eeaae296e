//! The real keyringd, started with a test's settings in a temporary folder.

use std::{
    fs::{self, File},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{OpenBao, ending_with_us, http, wait_for};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_keyringd");

pub struct Daemon {
    child: Child,
    folder: TempDir,
    socket: PathBuf,
}

/// Kong's variables, enough to run with `server`.
pub fn kongs_settings(server: &OpenBao) -> Vec<(String, String)> {
    let pairs = [
        ("KONG_KEYRING_ENABLED", "on"),
        ("KONG_KEYRING_STRATEGY", "vault"),
        ("KONG_KEYRING_VAULT_HOST", &server.address()),
        ("KONG_KEYRING_VAULT_MOUNT", "secret"),
        ("KONG_KEYRING_VAULT_PATH", "keyring"),
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "token"),
        ("KONG_KEYRING_VAULT_TOKEN", server.token()),
        // Long enough that only the test's own syncs happen: the second sync is at a random time in the interval.
        ("KONG_KEYRING_SYNC_INTERVAL", "3600"),
    ];
    let namespace = server.namespace().map(|namespace| ("KONG_KEYRING_VAULT_NAMESPACE", namespace));
    pairs.into_iter().chain(namespace).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The same for a server that is not there.
pub fn kongs_settings_of_nobody() -> Vec<(&'static str, &'static str)> {
    vec![
        ("KONG_KEYRING_ENABLED", "on"),
        ("KONG_KEYRING_STRATEGY", "vault"),
        ("KONG_KEYRING_VAULT_HOST", "http://127.0.0.1:1"),
        ("KONG_KEYRING_VAULT_MOUNT", "secret"),
        ("KONG_KEYRING_VAULT_PATH", "keyring"),
        ("KONG_KEYRING_VAULT_AUTH_METHOD", "token"),
        ("KONG_KEYRING_VAULT_TOKEN", "t"),
    ]
}

impl Daemon {
    /// A ready daemon on `server`'s `secret/keyring`, with `more` settings.
    pub fn start(server: &OpenBao, more: &[(&str, &str)]) -> Self {
        let daemon = Self::start_unready(server, more);
        daemon.wait_until_ready();
        daemon
    }

    /// Does not wait for the keys.
    pub fn start_unready(server: &OpenBao, more: &[(&str, &str)]) -> Self {
        Self::start_at(None, server, more)
    }

    /// The same at a given socket path.
    pub fn start_at(socket: Option<&Path>, server: &OpenBao, more: &[(&str, &str)]) -> Self {
        Self::start_by(ending_with_us(Path::new(PROGRAM)), socket, server, more)
    }

    /// The same by a command that executes the program.
    pub fn start_by(
        mut command: Command,
        socket: Option<&Path>,
        server: &OpenBao,
        more: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = socket.map_or_else(|| folder.path().join("keyringd.sock"), Path::to_owned);
        command
            .arg("run")
            .env_clear()
            .env("KONG_KEYRING_SOCKET_PATH", &socket)
            .envs(kongs_settings(server))
            .envs(more.iter().copied());
        Self::spawn(command, folder, socket)
    }

    /// A daemon that has only a kong.conf: Kong's settings and these lines.
    pub fn from_conf(address: &str, lines: &str) -> Self {
        Self::from_conf_with(address, lines, &[])
    }

    /// The same with these environment variables.
    pub fn from_conf_with(address: &str, lines: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kong.conf");
        let socket = folder.path().join("keyringd.sock");
        let text = conf(address, &socket, lines);
        fs::write(&path, text).unwrap();
        let mut command = ending_with_us(Path::new(PROGRAM));
        command.args(["run", "-c"]).arg(&path).env_clear().envs(variables.iter().copied());
        Self::spawn(command, folder, socket)
    }

    /// Replaces the kong.conf of [`Daemon::from_conf`].
    pub fn write_conf(&self, address: &str, lines: &str) {
        fs::write(self.folder.path().join("kong.conf"), conf(address, &self.socket, lines)).unwrap();
    }

    /// Reloads, and waits for this outcome.
    #[track_caller]
    pub fn reload(&self, outcome: &str) {
        let name = format!("keyringd_reloads_total{{outcome=\"{outcome}\"}}");
        let before = self.metric(&name);
        self.signal(Signal::SIGHUP);
        wait_for("the reload", || (self.metric(&name) > before).then_some(()));
    }

    /// An integer metric, by its name with labels. A series that has not occurred is 0; its metric must exist.
    #[track_caller]
    pub fn metric(&self, name: &str) -> i64 {
        let text = self.get("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        let metric = name.split('{').next().unwrap();
        assert!(value.is_some() || name.contains('{') && text.contains(metric), "no {name} in {text}");
        value.unwrap_or(0)
    }

    /// A daemon with a given kong.conf and the socket `keyringd.sock` in `folder`.
    pub fn start_from_file(path: &Path, folder: TempDir) -> Self {
        let mut command = ending_with_us(Path::new(PROGRAM));
        command.args(["run", "-c"]).arg(path).env_clear();
        let socket = folder.path().join("keyringd.sock");
        Self::spawn(command, folder, socket)
    }

    /// `keyringd dev`
    pub fn dev() -> Self {
        Self::dev_with(&[])
    }

    /// The same with these variables.
    pub fn dev_with(variables: &[(&str, &str)]) -> Self {
        Self::dev_by(|command| command.envs(variables.iter().copied()))
    }

    /// The same with the key in this file.
    pub fn dev_keeping(key: &Path) -> Self {
        Self::dev_by(|command| command.arg("--persist").arg(key))
    }

    fn dev_by(more: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = ending_with_us(Path::new(PROGRAM));
        let socket = folder.path().join("keyringd.sock");
        more(command.args(["dev", "--socket"]).arg(&socket).env_clear());
        Self::spawn(command, folder, socket)
    }

    /// `keyringd run` with these variables alone.
    pub fn start_with(variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = ending_with_us(Path::new(PROGRAM));
        let socket = folder.path().join("keyringd.sock");
        command
            .arg("run")
            .env_clear()
            .env("KONG_KEYRING_SOCKET_PATH", &socket)
            .envs(variables.iter().copied());
        Self::spawn(command, folder, socket)
    }

    fn spawn(mut command: Command, folder: TempDir, socket: PathBuf) -> Self {
        let log = File::create(folder.path().join("log")).unwrap();
        let out = File::create(folder.path().join("out")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(log).spawn().unwrap();
        let mut daemon = Self { child, folder, socket };
        wait_for("the socket", || {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "keyringd ended: {}", daemon.log());
            UnixStream::connect(daemon.socket()).ok()
        });
        daemon
    }

    pub fn wait_until_ready(&self) {
        wait_for("keyringd to be ready", || (self.get("/readyz").status == 200).then_some(()));
    }

    /// Why its syncs fail. On a loaded machine a server may not answer in time, and may close a connection before its request is
    /// sent: then the next sync tells.
    pub fn sync_error(&self) -> String {
        wait_for("a sync to fail", || {
            let error = self.get("/status").json()["sync"]["last_error"].as_str()?.to_owned();
            let is_chance =
                ["did not answer within", "operation was canceled"].iter().any(|text| error.contains(text));
            (!is_chance).then_some(error)
        })
    }

    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its standard error so far, without the warning that ordinary users may lock little memory only.
    pub fn log(&self) -> String {
        let log = self.whole_log();
        let is_shown = |line: &&str| !line.starts_with("keyringd: warning: memory is not locked");
        log.split_inclusive('\n').filter(is_shown).collect()
    }

    pub fn whole_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Its standard output so far.
    pub fn out(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        signal::kill(self.pid(), signal).unwrap();
    }

    /// Waits for its end, and returns the status.
    pub fn ended(&mut self) -> ExitStatus {
        wait_for("keyringd to end", || self.child.try_wait().unwrap())
    }

    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> http::Answer {
        self.request_with(method, path, &[], body)
    }

    #[track_caller]
    pub fn request_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> http::Answer {
        http::exchange(self.connect(), method, path, headers, body).expect("keyringd responds")
    }

    /// The peak of its resident memory, in KiB.
    pub fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Its resident memory without the pages of the program, in KiB.
    pub fn anonymous_memory(&self) -> u64 {
        self.memory("RssAnon:")
    }

    /// The peak of its resident memory without the pages of the program, as they are now, in KiB.
    pub fn peak_of_anonymous_memory(&self) -> u64 {
        self.peak_memory().saturating_sub(self.memory("RssFile:"))
    }

    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> http::Answer {
        self.request("GET", path, b"")
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> http::Answer {
        self.request("POST", path, body.to_string().as_bytes())
    }

    /// Encrypts a text and returns the ciphertext.
    #[track_caller]
    pub fn encrypt(&self, plaintext: &str) -> String {
        let body = json!({ "plaintext": BASE64_STANDARD.encode(plaintext) });
        self.post("/v1/transit/encrypt/keyring", &body).at("/data/ciphertext")
    }

    /// The response of a decrypt request.
    #[track_caller]
    pub fn decrypt(&self, ciphertext: &str) -> http::Answer {
        self.post("/v1/transit/decrypt/keyring", &json!({ "ciphertext": ciphertext }))
    }

    /// The plaintext of a ciphertext.
    #[track_caller]
    pub fn opened(&self, ciphertext: &str) -> String {
        let plaintext = BASE64_STANDARD.decode(self.decrypt(ciphertext).at("/data/plaintext")).unwrap();
        String::from_utf8(plaintext).unwrap()
    }

    /// `POST /keyring/vault/sync`, which must succeed.
    #[track_caller]
    pub fn sync(&self) {
        let answer = self.request("POST", "/keyring/vault/sync", b"");
        assert_eq!((answer.status, answer.text().as_str()), (204, ""), "{answer:?}");
    }

    #[track_caller]
    pub fn active(&self) -> String {
        self.get("/keyring/active").at("/id")
    }

    /// The keyring as `<active> of a b c`, sorted.
    #[track_caller]
    pub fn keyring(&self) -> String {
        let answer = self.get("/keyring").json();
        let mut ids: Vec<_> =
            answer["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
        ids.sort_unstable();
        format!("{} of {}", answer["active"].as_str().unwrap_or("none"), ids.join(" "))
    }

    /// Runs a command of keyringd with this daemon and with `input` on standard input.
    pub fn command(&self, arguments: &[&str], input: &[u8]) -> std::process::Output {
        let mut arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        arguments.extend(["--socket".to_owned(), self.socket().display().to_string()]);
        run(&arguments, &[], input)
    }
}

fn conf(address: &str, socket: &Path, lines: &str) -> String {
    format!(
        "keyring_enabled = on\nkeyring_strategy = vault\nkeyring_vault_host = {address}\nkeyring_vault_mount = secret\n\
         keyring_vault_path = keyring\nkeyring_sync_interval = 1\nkeyring_socket_path = {}\n{lines}\n",
        socket.display()
    )
}

/// Runs a command with the settings for this server, which `more` overrides.
pub fn run_for(server: &OpenBao, command: &str, more: &[(&str, &str)]) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s").display().to_string();
    let settings = kongs_settings(server);
    let mut variables: Vec<_> =
        settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    variables.push(("KONG_KEYRING_SOCKET_PATH", &path));
    variables.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    variables.extend(more);
    run(&command.split(' ').collect::<Vec<_>>(), &variables, b"")
}

/// Why a daemon with these settings cannot sync.
pub fn sync_error(server: &OpenBao, more: &[(&str, &str)]) -> String {
    Daemon::start_unready(server, more).sync_error()
}

/// All that `check` prints.
pub fn check(server: &OpenBao, more: &[(&str, &str)]) -> String {
    let output = run_for(server, "check", more);
    [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
}

/// Runs the program to its end.
pub fn run(
    arguments: &[impl AsRef<std::ffi::OsStr>],
    variables: &[(&str, &str)],
    input: &[u8],
) -> std::process::Output {
    use std::io::Write as _;
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // In a thread, because the command may block on its output. A command that fails early does not read its input.
        scope.spawn(move || {
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of keyringd:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
