//! keyringd as its users meet it: the real program, a real OpenBao, real clients, real signals.
//!
//! One file a theme; `support` starts and stops the programs. Everything runs on loopback and in temporary folders, and
//! nothing waits for a time that could wait for a condition.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod support;

mod access;
mod audit;
mod clients;
mod commands;
mod docs;
mod doctor;
mod formats;
mod kms;
mod layers;
mod life;
mod limits;
mod login;
mod memory;
mod metrics;
mod outage;
mod readme;
mod references;
mod reload;
mod secrets;
mod session;
mod settings;
mod streams;
mod sync;
mod systemd;
mod tls;
mod transit;
