//! What a client sends on a connection, as HTTP/1.1 or h2, to the real server: it must answer or close.

#![no_main]

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use keyringd::{
    api::{self, Api, ApiError, ErrorKind, ResolvedValue, RuntimeConfig, Upstream, UpstreamFuture},
    keyring::{Format, Formats, HeldKey, Key, KeyId, Keyring, KeyringEntry, Keyrings, KongFields, Published},
    metrics::Metrics,
    secret::Secret,
    server::{self, Listeners, Server, listen},
    settings::Audit,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    runtime::Runtime,
};
use tokio_util::sync::CancellationToken;

struct NoVault;

impl Upstream for NoVault {
    fn sync<'a>(&'a self, _: &'a str, _: Option<Secret<String>>) -> UpstreamFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn look_for_new_keys<'a>(&'a self, _: &'a str) -> UpstreamFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn first_outcome<'a>(&'a self, _: &'a str) -> UpstreamFuture<'a, ()> {
        Box::pin(async {})
    }

    fn resolve<'a>(
        &'a self,
        texts: &'a [&'a str],
    ) -> UpstreamFuture<'a, Vec<Result<ResolvedValue, ApiError>>> {
        let none = || Err(ApiError::new(ErrorKind::NoRoute, "there is no Vault"));
        Box::pin(async move { texts.iter().map(|_| none()).collect() })
    }

    fn can_resolve(&self) -> Result<(), String> {
        Ok(())
    }

    fn reload(&self) -> UpstreamFuture<'_, Result<serde_json::Value, String>> {
        Box::pin(async { Err("there are no settings".to_owned()) })
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

struct Running {
    runtime: Runtime,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

static RUNNING: LazyLock<Running> = LazyLock::new(|| {
    let id = KeyId::parse("key").unwrap();
    let key = Arc::new(Key::new(id.clone(), Secret::new([7; 32])));
    let keyring = Keyring::new([HeldKey::new(key, 1, SystemTime::UNIX_EPOCH)], &id).unwrap();
    let config = RuntimeConfig {
        keyrings: Keyrings::single(KeyringEntry {
            name: "keyring".into(),
            published: Arc::new(Published::with(keyring)),
            formats: Formats { write: Format::Native, kong_fields: KongFields::Accept },
            index_key: None,
            max_stale: None,
        }),
        kms_name: None,
        access: None,
        audit: Audit::Off,
        limits: api::Limits::new(1 << 16, 1 << 20, 100),
        transit_mounts: ["transit".to_owned()].into(),
        namespace: None,
    };
    let metrics = Arc::new(Metrics::default());
    let api = Arc::new(Api::new(config, Arc::clone(&metrics), Arc::new(NoVault)));
    let server = Arc::new(Server::new(api, metrics, server::Limits::new(64)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let runtime = Runtime::new().unwrap();
    let (socket, file) = runtime.block_on(listen::bind(&path, 0o600, None)).unwrap();
    std::mem::forget(file); // the socket's file stays as long as the process
    runtime.spawn(server.serve(Listeners { socket, metrics: None }, None, CancellationToken::new()));
    Running { runtime, path, _folder: folder }
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    RUNNING.runtime.block_on(async {
        let mut client = UnixStream::connect(&RUNNING.path).await.unwrap();
        let _ = client.write_all(bytes).await;
        let _ = client.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(30), client.read_to_end(&mut answer));
        let _ = read.await.expect("the server answers or closes");
    });
});
