//! keyringd: an encryption daemon with keys from HashiCorp Vault or OpenBao.
//!
//! It reads Kong's keyring settings and the `<id,key>` records of one Vault secret. It serves encrypt and decrypt under
//! the active key on a Unix socket. Applications keep working while Vault is down, and never hold a key.
//!
//! Data flows one way: kong.conf / `KONG_*` → settings → vault → sync → keyring → cipher → api → server.
//!
//! - [`settings`]: kong.conf and variables become one typed value, or a list of all errors.
//! - [`vault`]: the session with the server, and the KV engine's responses.
//! - [`sync`]: reads changed versions, builds a keyring and publishes it; and the schedule.
//! - [`references`]: other secrets in Vault, by the notations of Kong and APISIX.
//! - [`keyring`]: the immutable snapshot of keys, and the rules of records and versions.
//! - [`cipher`]: seal and open, one file per ciphertext format.
//! - [`operation`]: the operations of the API, and the permissions that they need.
//! - [`api`]: one table of endpoints: Vault's Transit API, Kong's keyring API, and Kubernetes' KMS v2 in gRPC.
//! - [`server`]: HTTP/1.1 and h2 on a Unix listener: connections, timeouts and their limits.
//! - [`daemon`]: starts, reloads and stops all tasks, with `signals`, `systemd`, `logging`, `supervise`, [`metrics`] and
//!   `hardening`.
//! - [`doctor`]: checks each step from DNS to the keys, with advice for each failure.
//! - [`cli`] and `client`: the command line, and its client of the socket.
//! - [`secret`]: the type of values that are wiped on drop and never printed.
//!
//! `docs/architecture.md` has the map and the flows. Each module imports only from lower layers; a test enforces that.

pub mod api;
pub mod cipher;
pub mod cli;
mod client;
mod clock;
pub mod daemon;
pub mod doctor;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod hardening;
pub mod keyring;
mod logging;
pub mod metrics;
pub mod operation;
pub mod references;
pub mod secret;
pub mod server;
pub mod settings;
mod signals;
mod supervise;
pub mod sync;
mod systemd;
pub mod vault;
