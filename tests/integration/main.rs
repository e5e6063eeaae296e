//! keyringd as its users meet it: the real program, a real OpenBao, real clients, real signals.
//!
//! One file a theme; `support` starts and stops the programs. Everything runs on loopback and in temporary folders, and
//! nothing waits for a time that could wait for a condition.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

mod commands;
mod layers;
mod life;
mod limits;
mod outage;
mod readme;
mod secrets;
mod settings;
mod sync;
mod tls;
mod transit;
