//! Vault or OpenBao: logging in, sending requests, and reading responses.
//!
//! [`Client`] is the handle that others use; [`Sessions`] creates one per session. `session` is the task that owns login,
//! renewal and re-login by `lease` and `backoff`; `login` has the auth methods. [`kv`] reads the KV secrets engine,
//! [`policy`] lists the rights that are needed. `transport` sends one request over the TLS that `tls` configures.

pub mod backoff;
mod client;
mod error;
pub mod kv;
mod lease;
mod login;
pub mod policy;
mod session;
mod sessions;
mod state;
mod tls;
pub mod transport;

pub use client::Client;
pub use error::VaultError;
pub use kv::Kv;
pub use sessions::Sessions;
pub use state::SessionName;
