//! What the fuzz targets call here: a server that lies. Compiled for them and for tests only.

#![expect(clippy::unwrap_used, reason = "a fuzz target fails by panicking")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use tokio_util::sync::CancellationToken;

use super::{
    Client, Kv, SessionName, Sessions, VaultError,
    kv::Purpose,
    transport::simulated::{self, Loss},
};
use crate::{
    keyring::{KeyDerivation, record::Contents},
    metrics::Metrics,
    secret::Secret,
    settings::{Auth, KvSecret, KvVersion, SecretPath, Server, credential::Credential, server::AppRole},
};

/// The credential that is sent. No error may quote it, even if the server repeats what a request carried.
const PLANTED: &str = "planted-0b5e";

/// The byte of an answer in whose place the server repeats the credential of the request.
const ECHO: u8 = 1;

/// Parts of the input end with this byte.
const END: u8 = 0;

/// The status that the first byte of an answer stands for.
const STATUSES: [u16; 12] = [200, 204, 400, 401, 403, 404, 429, 500, 501, 503, 301, 307];

/// The first byte chooses how to log in. Then come the answers: of each, a byte for the status, and the body. When there
/// is none any more, the server is gone.
pub(crate) async fn answers(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else { return };
    let answers: VecDeque<_> = rest.split(|byte| *byte == END).map(<[u8]>::to_vec).collect();
    let left = Arc::new(Mutex::new(answers));
    simulated::install(Some(Arc::new(move |request| {
        let answer = left.lock().unwrap().pop_front();
        let repeated = if carries_credential(request) { PLANTED } else { "" };
        Box::pin(async move {
            let answer = answer.ok_or(Loss::Refused)?;
            let (status, body) = answer.split_first().ok_or(Loss::Refused)?;
            let status = STATUSES[usize::from(*status) % STATUSES.len()];
            let body = body.iter().flat_map(|byte| {
                if *byte == ECHO { repeated.as_bytes() } else { std::slice::from_ref(byte) }
            });
            Ok(hyper::Response::builder().status(status).body(body.copied().collect()).unwrap())
        })
    })));
    let sessions = Sessions::new(Arc::new(Metrics::default()), CancellationToken::new());
    let client = sessions.client(SessionName::Keyring, server(*choice)).unwrap();
    for kv in [KvVersion::V2, KvVersion::V1] {
        read(&client, kv).await;
    }
    check(&client.capabilities(&["secret/data/app".to_owned()]).await);
    if let Some(checked) = client.check_wrapped_secret_id().await {
        check(&checked);
    }
    assert!(client.login_error().is_none_or(|error| !error.contains(PLANTED)));
    drop(client);
    sessions.end().await;
    simulated::install(None);
}

fn carries_credential(request: &reqwest::Request) -> bool {
    let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
    let mut parts = request.headers().values().map(reqwest::header::HeaderValue::as_bytes).chain([body]);
    parts.any(|part| memchr::memmem::find(part, PLANTED.as_bytes()).is_some())
}

fn check<T>(outcome: &Result<T, VaultError>) {
    if let Err(error) = outcome {
        assert!(!error.to_string().contains(PLANTED), "an error quotes a credential");
    }
}

/// Reads as the sync and the references do, whatever went before.
async fn read(client: &Client, kv: KvVersion) {
    check(&client.log_in().await);
    let path = |name: &str| SecretPath(vec![name.to_owned()]);
    let secret = KvSecret { mount: path("secret"), path: path("app"), kv };
    let kv = Kv::new(client, &secret, Purpose::Keyring);
    let fields = kv.read(None).await;
    if let Ok(fields) = &fields {
        let _ = Contents::parse(fields.expose().as_bytes(), KeyDerivation::Raw);
    }
    check(&fields);
    check(&kv.list_folder().await);
    if secret.kv == KvVersion::V2 {
        check(&kv.list(SystemTime::UNIX_EPOCH).await);
        check(&kv.engine_max_versions().await);
        check(&kv.read_version(1).await);
    }
    check(&Kv::new(client, &secret, Purpose::Reference).read(Some(1)).await);
}

fn server(choice: u8) -> Server {
    let planted = || Credential::Inline(Secret::new(PLANTED.to_owned()));
    let approle = |wrapped| {
        let mount = SecretPath(vec!["approle".to_owned()]);
        Auth::AppRole(AppRole { mount, role_id: "role".to_owned(), secret_id: planted(), wrapped })
    };
    let auth = match choice % 3 {
        0 => Auth::Token(planted()),
        1 => approle(false),
        _ => approle(true),
    };
    simulated::server(auth)
}
