//! A body over the limit gets its 413 by every client, also by those that send all of it before they read.

use std::{fs, path::Path, process::Command};

use crate::support::{
    attack::{ENCRYPT, HONEST, Open, attack, open},
    node, openbao, passed_as_root, python, tool,
};

#[test]
fn a_body_over_the_limit_gets_its_413_from_every_client() {
    if passed_as_root() {
        return;
    }
    get_their_413(&[("KONG_KEYRING_MAX_REQUEST_SIZE", "16m")], 16 << 20);
}

#[test]
fn a_body_over_the_default_limit_gets_its_413_from_every_client() {
    if passed_as_root() {
        return;
    }
    get_their_413(&[], 32 << 20);
}

fn get_their_413(settings: &[(&str, &str)], limit: u64) {
    let open = open(settings);
    let folder = tempfile::tempdir().unwrap();
    let modules = node::packages("tests/attacks/node").join("node_modules");
    for size in [limit + 1, 33 << 20, 2 * limit] {
        let file = folder.path().join("body");
        fs::write(&file, "A".repeat(usize::try_from(size).unwrap())).unwrap();
        for _ in 0..3 {
            let seen = attack(HONEST, &open.socket, "too_large", &[size]);
            assert_eq!(seen["status"], 413, "{size}: {seen}");
            assert!(seen["errors"][0].as_str().unwrap().contains("keyring_max_request_size"), "{seen}");
        }
        for (client, mut command) in clients(&open, &file, size, &modules) {
            let mut said = || {
                let output = command.env("HOME", folder.path()).output().unwrap();
                [output.stdout, output.stderr]
                    .map(|text| String::from_utf8_lossy(&text).into_owned())
                    .concat()
            };
            let is_told = |text: &String| text.contains("413") && text.contains("keyring_max_request_size");
            // A busy machine may keep it from sending the body while the daemon receives it: then it tries again.
            let mut text = said();
            for _ in 0..2 {
                if !is_told(&text) {
                    text = said();
                }
            }
            assert!(is_told(&text), "{client} {size}: {}", text.chars().take(500).collect::<String>());
        }
    }
    assert_eq!(open.daemon.opened(&open.daemon.encrypt("alive")), "alive");
}

/// Each client with a body of that size for encrypt; each prints the status and the errors.
fn clients(open: &Open, file: &Path, size: u64, modules: &Path) -> Vec<(&'static str, Command)> {
    let socket = open.socket.display().to_string();
    let mut bao = Command::new(openbao::program());
    bao.args(["write", "transit/encrypt/keyring"])
        .arg(format!("plaintext=@{}", file.display()))
        .env("BAO_ADDR", format!("unix://{socket}"))
        .env("VAULT_ADDR", format!("unix://{socket}"))
        .env("VAULT_MAX_RETRIES", "0");
    let mut curl = tool("curl");
    curl.args(["-sS", "-w", "%{http_code}", "--unix-socket", &socket, "--data-binary"])
        .arg(format!("@{}", file.display()))
        .arg(format!("http://localhost{ENCRYPT}"));
    let mut requests = tool("python3");
    requests
        .args(["-c", REQUESTS, &socket, &size.to_string()])
        .env("PYTHONPATH", python::packages("hvac-requirements.txt"));
    let mut undici = node::command();
    undici.args(["-e", UNDICI, &socket, &size.to_string()]).env("NODE_PATH", modules);
    vec![("bao", bao), ("curl", curl), ("requests", requests), ("undici", undici)]
}

const REQUESTS: &str = r#"
import sys, urllib.parse, requests_unixsocket
url = "http+unix://" + urllib.parse.quote(sys.argv[1], safe="") + "/v1/transit/encrypt/keyring"
answer = requests_unixsocket.Session().post(url, data=b"A" * int(sys.argv[2]))
print(answer.status_code, answer.json())
"#;

const UNDICI: &str = r#"
const { request, Client } = require("undici");
const [socketPath, size] = process.argv.slice(1);
const client = new Client("http://localhost", { socketPath });
client.request({ method: "POST", path: "/v1/transit/encrypt/keyring", body: Buffer.alloc(Number(size), 65) })
  .then(async (answer) => console.log(answer.statusCode, JSON.stringify(await answer.body.json())))
  .catch((error) => { console.log(String(error)); process.exitCode = 1; })
  .finally(() => client.destroy());
"#;
