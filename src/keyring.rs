//! The keyring: an immutable snapshot of the keys, one of them active.
//!
//! Vault secrets become keys in `record`, and their versions a `snapshot` in `history`. `registry` publishes the snapshots of
//! all keyrings that are served; `copy` is what a sealed copy of them holds. `kdf` derives what a `key`
//! consists of. Pure functions of bytes and time: no I/O happens here.

pub mod copy;
mod format;
pub(crate) mod history;
pub(crate) mod kdf;
pub(crate) mod key;
pub(crate) mod new_record;
pub(crate) mod options;
pub(crate) mod record;
pub(crate) mod registry;
mod snapshot;
mod xaes;

pub use format::{Format, Formats, KongFields};
pub use history::{History, Listing};
pub use key::{HeldKey, Key, KeyDerivation, KeyId};
pub use options::Options;
pub use registry::{KeyringEntry, Keyrings, Published, is_name};
pub use snapshot::{Keyring, KeyringSource, NamedVersion, Names, SecretLocation, name_hash};
pub(crate) use xaes::{LastDerived, Xaes256Gcm};
