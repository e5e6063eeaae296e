//! The session's one task against requests that need a token.

use std::{sync::Arc, time::Duration};
// The model's own lock, at which the scheduler does nothing.
use ::std::sync::Mutex;

use hyper::Response;
use serde_json::json;
use shuttle::{future, thread};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    secret::Secret,
    settings::{
        Auth, KvSecret, KvVersion, SecretPath, Server, credential::Credential,
        server::AppRole,
    },
    vault::{
        Client, Kv, SessionName, Sessions,
        kv::Purpose,
        transport::simulated::{self, Answering},
    },
};

/// A Vault of logins. What is wrong is noted: a panic in a session's task is caught there.
#[derive(Default)]
struct Vault {
    running: usize,
    /// By number, whether the token is still valid.
    tokens: Vec<bool>,
    wrong: Vec<String>,
}

type Shared = Arc<Mutex<Vault>>;

impl Vault {
    fn valid(&mut self, request: &reqwest::Request) -> Option<&mut bool> {
        let token = request.headers().get("x-vault-token")?.to_str().ok()?;
        let number: usize = token.strip_prefix("token-")?.parse().ok()?;
        self.tokens.get_mut(number).filter(|valid| **valid)
    }

    fn answer(&mut self, request: &reqwest::Request) -> (u16, serde_json::Value) {
        let path = request.url().path();
        if path == "/v1/auth/approle/login" {
            self.tokens.push(true);
            let token = format!("token-{}", self.tokens.len() - 1);
            let auth = json!({ "client_token": token, "lease_duration": 3600, "renewable": true });
            return (200, json!({ "auth": auth }));
        }
        match (path, self.valid(request)) {
            (_, None) => (403, json!({ "errors": ["permission denied"] })),
            ("/v1/auth/token/revoke-self", Some(valid)) => {
                *valid = false;
                (204, json!({}))
            }
            (_, Some(_)) => (200, json!({ "data": { "key": "value" } })),
        }
    }
}

async fn exchange(vault: Shared, request: reqwest::Request) -> Result<Response<Vec<u8>>, simulated::Loss> {
    let is_login = request.url().path().ends_with("/login");
    future::yield_now().await;
    let (status, body) = {
        let mut vault = vault.lock().unwrap();
        vault.running += usize::from(is_login);
        if vault.running > 1 {
            vault.wrong.push("two logins at once".to_owned());
        }
        vault.answer(&request)
    };
    future::yield_now().await;
    vault.lock().unwrap().running -= usize::from(is_login);
    Ok(Response::builder().status(status).body(body.to_string().into_bytes()).unwrap())
}

fn server() -> Server {
    let path = |name: &str| SecretPath(vec![name.to_owned()]);
    let auth = Auth::AppRole(AppRole {
        mount: path("approle"),
        role_id: "role".to_owned(),
        secret_id: Credential::Inline(Secret::new("secret".to_owned())),
        wrapped: false,
    });
    simulated::server(auth)
}

async fn read(client: Client) {
    let path = |name: &str| SecretPath(vec![name.to_owned()]);
    let secret = KvSecret { mount: path("secret"), path: path("app"), kv: KvVersion::V1 };
    let fields = Kv::new(&client, &secret, Purpose::Reference).read(None).await;
    fields.expect("a request gets a token that is worth it");
}

/// Runs clients of one session, and `meanwhile`. Then the session ends, and no token may be left. Returns the logins.
fn session(meanwhile: impl FnOnce(&Shared, &Client)) -> usize {
    let vault = Shared::default();
    simulated::install(Some(Arc::new({
        let vault = Arc::clone(&vault);
        move |request| {
            let request = request.try_clone().expect("bodies in memory");
            Box::pin(exchange(Arc::clone(&vault), request)) as Answering
        }
    })));
    let sessions = Sessions::new(Arc::new(Metrics::default()), CancellationToken::new());
    let client = sessions.client(SessionName::Keyring, server()).unwrap();
    let requests: Vec<_> = (0..3).map(|_| future::spawn(read(client.clone()))).collect();
    let abandoned = future::spawn(read(client.clone()));
    meanwhile(&vault, &client);
    abandoned.abort();
    future::block_on(async {
        for request in requests {
            request.await.unwrap();
        }
    });
    // A login that replaced a token revokes the one before.
    let valid = |vault: &Shared| vault.lock().unwrap().tokens.iter().filter(|valid| **valid).count();
    future::block_on(read(client.clone()));
    future::block_on(sessions.end());
    simulated::install(None);
    let left = valid(&vault);
    let vault = vault.lock().unwrap();
    assert!(vault.wrong.is_empty(), "{:?}", vault.wrong);
    assert_eq!(left, 0, "tokens are left behind");
    vault.tokens.len()
}

pub(crate) fn single_flight() {
    assert_eq!(session(|_, _| {}), 1, "logins");
}

pub(crate) fn refused_token() {
    let logins = session(|vault, client| {
        future::block_on(client.log_in()).unwrap();
        let revoking = thread::spawn({
            let vault = Arc::clone(vault);
            move || {
                thread::yield_now();
                vault.lock().unwrap().tokens.iter_mut().for_each(|valid| *valid = false);
            }
        });
        revoking.join().unwrap();
    });
    assert!((1..=2).contains(&logins), "{logins} logins for one refused token");
}
