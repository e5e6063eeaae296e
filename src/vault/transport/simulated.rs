//! A network for tests: in a thread that has installed one, requests go to a function instead of to a socket.

use std::{cell::RefCell, pin::Pin, sync::Arc};

use crate::settings::{Auth, Server, SettingNames, Tls};

/// Answers a request, or loses it.
pub(crate) type Network = Arc<dyn Fn(&reqwest::Request) -> Answering + Send + Sync>;
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<hyper::Response<Vec<u8>>, Loss>> + Send>>;

/// How a request or its response is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The server does not accept the connection.
    Refused,
    /// No response comes.
    Silence,
}

thread_local! {
    static NETWORK: RefCell<Option<Network>> = const { RefCell::new(None) };
}

/// From now on, for this thread; `None` for the system's.
pub(crate) fn install(network: Option<Network>) {
    NETWORK.set(network);
}

/// A server of such a network.
#[expect(clippy::unwrap_used, reason = "the address is valid")]
pub(crate) fn server(auth: Auth) -> Server {
    let names = SettingNames {
        host: "keyring_vault_host",
        protocol: "keyring_vault_host",
        token: "keyring_vault_token",
        prefix: "keyring_vault_",
    };
    let host = "http://vault.invalid:8200".parse().unwrap();
    Server { host, namespace: None, auth, identity: None, tls: Tls::default(), names }
}

pub(super) fn network() -> Option<Network> {
    NETWORK.with_borrow(Clone::clone)
}
