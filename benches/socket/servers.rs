//! The three servers: keyringd with one key, the echo, and OpenBao with a Transit key of the same name.

use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use serde_json::json;

use crate::{
    load::Target,
    support::{
        openbao::OpenBao,
        process::{ending_with_us, wait_for},
    },
};

/// More strings than any batch has.
const TEXTS: usize = 100_000;

/// A server program on a Unix socket, killed on drop.
pub struct Server {
    child: Child,
    pub socket: PathBuf,
}

impl Server {
    pub fn start(
        program: &Path,
        arguments: &[&str],
        variables: &[(String, String)],
        socket: PathBuf,
    ) -> Self {
        let child = ending_with_us(program)
            .args(arguments)
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, socket };
        wait_for("a server", || std::os::unix::net::UnixStream::connect(&server.socket).ok());
        server
    }

    pub fn target(&self) -> Target<'_> {
        Target { socket: &self.socket, pid: self.child.id() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Servers {
    pub keyringd: Server,
    pub echo: Server,
    pub openbao: OpenBao,
    openbao_socket: PathBuf,
}

impl Servers {
    pub fn start(folder: &Path) -> Self {
        let socket = |name: &str| folder.join(name);
        let (ours, echo, theirs) = (socket("keyringd"), socket("echo"), socket("openbao"));
        let keyringd = Path::new(env!("CARGO_BIN_EXE_keyringd"));
        let this = std::env::current_exe().unwrap();
        let listener = format!(
            "listener \"unix\" {{\n address = \"{}\"\n max_request_json_strings = {TEXTS}\n}}\n",
            theirs.display()
        );
        let openbao = OpenBao::dev_with(&listener);
        openbao.api("POST", "sys/mounts/transit", &json!({ "type": "transit" }));
        openbao.api("POST", "transit/keys/keyring", &json!({}));
        Self {
            keyringd: Server::start(
                keyringd,
                &["dev", "--socket", ours.to_str().unwrap()],
                &[],
                ours.clone(),
            ),
            echo: Server::start(&this, &["--echo", echo.to_str().unwrap()], &[], echo.clone()),
            openbao,
            openbao_socket: theirs,
        }
    }

    /// OpenBao's Unix socket, which accepts large requests.
    pub fn openbao(&self) -> Target<'_> {
        let pid = self.openbao.child.as_ref().map_or(0, Child::id);
        Target { socket: &self.openbao_socket, pid }
    }

    pub fn token(&self) -> &str {
        self.openbao.token()
    }
}
