//! keyringd
pub mod cipher;
pub mod keyring;
pub mod secret;
