//! The keyring: an immutable snapshot of the keys, one of them active.
//!
//! Vault secrets become keys in `record`, their versions become a `snapshot` in `history`, `name` computes the public
//! names of keys, `published` shares the current snapshot, and `registry` names the keyrings that are served. Pure functions of bytes and time: no I/O happens here.

pub(crate) mod history;
pub(crate) mod key;
mod name;
pub(crate) mod published;
pub(crate) mod record;
mod registry;
mod snapshot;
mod xaes;

pub use history::{History, Listing};
pub use key::{HeldKey, Key, KeyDerivation, KeyId};
pub use name::{Names, SecretLocation};
pub use published::Published;
pub use registry::{Format, Formats, KeyringEntry, Keyrings, KongFields};
pub use snapshot::Keyring;
