//! keyringd: a keyring encryption daemon for people who keep their keys in HashiCorp Vault or OpenBao.
//!
//! It reads Kong's keyring settings, takes the `<id,key>` records of one secret, and serves encrypt and decrypt on a Unix
//! socket under the active key. Applications go on working while Vault is down, and never hold a key.
//!
//! Data flows one way: kong.conf / `KONG_*` → settings → vault → sync → keyring → cipher → api → server.
//!
//! - [`settings`]: kong.conf and variables become one typed value, or a report of every mistake.
//! - [`vault`]: a session with the server, and what the KV engine answers.
//! - [`sync`]: reads what changed, builds a keyring, publishes it; and when to do so again.
//! - [`references`]: other secrets in Vault, by the notations of Kong and APISIX.
//! - [`keyring`]: the immutable snapshot of keys, and the rules of records and versions.
//! - [`cipher`]: seal and open, and the bytes of the formats.
//! - [`api`]: what can be asked, in the shapes of Vault's Transit API, Kong's keyring API and Kubernetes' KMS v2 in gRPC.
//! - [`server`]: HTTP/1.1 and h2 on a Unix listener, connections and their limits.
//! - [`operation`]: the operations and the permissions that they take.
//! - [`daemon`]: the life of it all; [`signals`], [`systemd`], [`logging`], [`metrics`] and [`hardening`] serve it.
//! - [`doctor`]: goes the same way step by step, and says what to do.
//! - [`cli`] and [`client`]: the command line, and its side of the socket.
//! - [`secret`]: the type of whatever must be wiped and never printed.
//!
//! Each imports only from what stands below it; `tests/integration/layers.rs` holds that.

pub mod api;
pub mod cipher;
pub mod cli;
pub mod client;
pub mod daemon;
pub mod doctor;
pub mod hardening;
pub mod keyring;
pub mod logging;
pub mod metrics;
pub mod operation;
pub mod references;
pub mod secret;
pub mod server;
pub mod settings;
pub mod signals;
pub mod sync;
pub mod systemd;
pub mod vault;
