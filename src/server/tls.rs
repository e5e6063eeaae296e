//! A TLS listener: handshakes run beside the accept loop, so that a slow client delays no other.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The configuration for the next connection.
pub type TlsConfig = Box<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// How long a handshake may take, and how many run at the same time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HANDSHAKES: usize = 64;

pub(super) struct TlsListener {
    listener: TcpListener,
    config: TlsConfig,
    handshakes: Mutex<JoinSet<Option<TlsStream<TcpStream>>>>,
}

impl TlsListener {
    pub(super) fn new(listener: TcpListener, config: TlsConfig) -> Self {
        Self { listener, config, handshakes: Mutex::default() }
    }

    /// The next connection whose handshake succeeded.
    pub(super) async fn accept(&self) -> io::Result<TlsStream<TcpStream>> {
        // Only the accept loop comes here.
        let mut handshakes = self.handshakes.lock().await;
        let accepted = loop {
            tokio::select! {
                accepted = self.listener.accept(), if handshakes.len() < MAX_HANDSHAKES => {
                    let (stream, peer) = match accepted {
                        Ok(accepted) => accepted,
                        Err(error) => break Err(error),
                    };
                    let accept = TlsAcceptor::from((self.config)()).accept(stream);
                    handshakes.spawn(async move {
                        let shaken = timeout(HANDSHAKE_TIMEOUT, accept).await.ok()?;
                        shaken.inspect_err(|error| log_failure(peer, error)).ok()
                    });
                }
                Some(done) = handshakes.join_next() => {
                    if let Ok(Some(stream)) = done {
                        break Ok(stream);
                    }
                }
            }
        };
        drop(handshakes);
        accepted
    }
}

/// A client certificate that is missing or refused concerns the operator. Other failures are what anybody on the network can
/// cause.
fn log_failure(peer: SocketAddr, error: &io::Error) {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(error @ (rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_))) => {
            tracing::warn!(%peer, %error, "a client of keyring_metrics_listen was refused for its certificate");
        }
        _ => tracing::debug!(%peer, %error, "a TLS handshake on keyring_metrics_listen failed"),
    }
}
