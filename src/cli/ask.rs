//! Commands that ask a running daemon: `status`, `sync`, `encrypt`, `decrypt`.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read, Write as _},
    path::Path,
    process::ExitCode,
};

use serde_json::Value;
use zeroize::Zeroizing;

use super::{Daemon, Failure, Payload, named, print};
use crate::client::{Client, ClientError};

/// More than any daemon takes in one request.
const MAX_INPUT: u64 = 1 << 30;

/// `keyringd status`.
pub fn status(daemon: &Daemon, as_json: bool) -> Result<ExitCode, Failure> {
    let client = Client::new(&daemon.socket()?);
    let status = wait(client.status())?;
    let ready = status.get("ready").and_then(Value::as_bool).unwrap_or(false);
    print(if as_json { format!("{status:#}\n") } else { for_people(&status) })?;
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `keyringd sync`.
pub fn sync(daemon: &Daemon) -> Result<ExitCode, Failure> {
    let client = Client::new(&daemon.socket()?);
    wait(client.sync())?;
    Ok(ExitCode::SUCCESS)
}

/// `keyringd encrypt`: any bytes in, one line of text out.
pub fn encrypt(payload: &Payload) -> Result<ExitCode, Failure> {
    let client = Client::new(&payload.daemon.socket()?);
    let plaintext = read(payload)?;
    let ciphertext = wait(client.encrypt(&plaintext, &payload.aad))?;
    write(payload, format!("{ciphertext}\n").as_bytes())
}

/// `keyringd decrypt`: that line in, the bytes out.
pub fn decrypt(payload: &Payload) -> Result<ExitCode, Failure> {
    let client = Client::new(&payload.daemon.socket()?);
    let ciphertext = read(payload)?;
    let ciphertext =
        str::from_utf8(&ciphertext).map_err(|_| Failure::operation("the input is not a ciphertext"))?;
    let plaintext = wait(client.decrypt(ciphertext.trim(), &payload.aad))?;
    write(payload, &plaintext)
}

/// Waits for the daemon on this thread.
fn wait<T>(asked: impl Future<Output = Result<T, ClientError>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::operation)?;
    runtime.block_on(asked).map_err(Failure::operation)
}

fn read(payload: &Payload) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let (name, source): (&Path, Box<dyn Read>) = match &payload.input {
        Some(path) => (path, Box::new(File::open(path).map_err(named(path, "open"))?)),
        None => (Path::new("standard input"), Box::new(io::stdin().lock())),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    source.take(MAX_INPUT + 1).read_to_end(&mut bytes).map_err(named(name, "read"))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(Failure::Operation(format!("{} is larger than one request can be", name.display())));
    }
    Ok(bytes)
}

/// A file appears under its name only when it is complete, and takes no other's place unless told to.
fn write(payload: &Payload, bytes: &[u8]) -> Result<ExitCode, Failure> {
    let Some(path) = &payload.output else {
        print(bytes)?;
        return Ok(ExitCode::SUCCESS);
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(named(path, "write"))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(named(path, "write"))?;
    let kept = if payload.force { file.persist(path) } else { file.persist_noclobber(path) };
    match kept {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Failure::Operation(format!("{} exists: use --force to replace it", path.display())))
        }
        Err(error) => Err(named(path, "write")(error.error)),
    }
}

/// The status as lines of `what: how it is`.
fn for_people(status: &Value) -> String {
    let text = |pointer: &str| match status.pointer(pointer) {
        Some(Value::String(text)) => Some(text.clone()),
        None | Some(Value::Null) => None,
        Some(other) => Some(other.to_string()),
    };
    let mut out = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "{name:<13} {value}");
        }
    };
    line(
        "state:",
        text("/reason").or_else(|| text("/keyring/active").map(|id| format!("ready, active key {id}"))),
    );
    line("version:", text("/version"));
    line("name:", text("/name"));
    line("vault:", text("/source/vault"));
    line(
        "secret:",
        text("/source/mount").zip(text("/source/path")).map(|(mount, path)| format!("{mount}/{path}")),
    );
    line(
        "last sync:",
        text("/sync/last_success")
            .zip(text("/sync/seconds_since_success"))
            .map(|(at, ago)| format!("{at} ({ago} s ago)")),
    );
    line("last error:", text("/sync/last_error"));
    line(
        "headroom:",
        text("/sync/headroom").map(|left| format!("{left} more versions before Vault destroys the oldest")),
    );
    for key in status.pointer("/keyring/keys").and_then(Value::as_array).into_iter().flatten() {
        let field =
            |name| key.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let fields: Vec<_> =
            ["id", "state", "version", "creation_time"].into_iter().filter_map(field).collect();
        if let [id, state, version, created] = fields.as_slice() {
            line("key:", Some(format!("{id}  {state}  version {version} of {created}")));
        }
    }
    for (name, pointer) in [("warning:", "/sync/warnings"), ("not reloaded:", "/source/reload_mistakes")] {
        for message in status.pointer(pointer).and_then(Value::as_array).into_iter().flatten() {
            line(name, message.as_str().map(str::to_owned));
        }
    }
    out
}
