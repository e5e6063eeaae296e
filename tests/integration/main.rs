//! Tests of the real program with a real OpenBao, real clients and real signals.
//!
//! One file per topic; `support` starts and stops the programs. Everything runs on loopback and in temporary folders. Tests
//! wait for conditions, not for fixed times.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]
#![expect(
    unreachable_pub,
    reason = "a program of its own exports nothing: `pub` is enough between its files"
)]

mod support;

mod access;
mod audit;
mod backoff;
mod book;
mod bounds;
mod bounds_memory;
mod clients;
mod columns;
mod commands;
mod crash;
mod direct;
mod disk;
mod docs;
mod doctor;
mod fairness;
mod faq;
mod faults;
mod formats;
mod independent;
mod index;
mod keyrings;
mod kms;
mod kms_recovery;
mod kong;
mod large_bodies;
mod layers;
mod life;
mod limits;
mod lines;
mod log;
mod login;
mod login_faults;
mod memory;
mod metrics;
mod openapi;
mod operators;
mod outage;

mod references;
mod references_only;
mod releases;
mod reload;
mod replaced_files;
mod rotations;
mod screen;
mod sealed_copy;
mod secrets;
mod session;
mod settings;
mod stories;
mod streams;
mod sync;
mod systemd;
mod terminal;
mod tls;
mod tls_crypto;
mod transit;
mod transit_clients;
mod transit_contract;
mod transit_requests;
mod vault_limits;
