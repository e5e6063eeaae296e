//! The server: how bytes come and go. It knows no endpoint, and of the API its entry point only.
//!
//! [`listen`] makes the socket file, `accept` admits connections and drains them at the shutdown, `permits` shares the limit between users, `connection`
//! serves one in HTTP/1.1 or h2 with its timeouts. `tls` is for metrics over the network.

mod accept;
mod connection;
mod error_body;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod listen;
mod pace;
mod permits;
mod tls;

pub use accept::{Heartbeat, Listeners, MetricsListener, Server};
pub use connection::Limits;
pub use tls::TlsConfig;
