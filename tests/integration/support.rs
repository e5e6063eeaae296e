//! Test support: a real OpenBao, the real daemon, a plain HTTP client, and waiting for conditions.

pub mod attack;
pub mod certificates;
pub mod cgroup;
pub mod daemon;
pub mod go;
pub mod http;
pub mod jwt;
pub mod kms;
pub mod node;
pub mod openbao;
pub mod process;
pub mod proxy;
pub mod python;
pub mod relay;
pub mod root;
pub mod terminal;
pub mod tools;

pub use daemon::Daemon;
pub use openbao::OpenBao;
pub use process::{ending_with_us, free_port, success, wait_for};
pub use proxy::{Door, Fault, Proxy};
pub use relay::Relay;
pub use root::passed_as_root;
pub use tools::tool;
