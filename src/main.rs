//! The program `keyringd`: arguments in, exit code out. What each command does is in `keyringd::cli`.

use std::{alloc::System, process::ExitCode};

use clap::Parser as _;
use keyringd::cli::{self, Arguments};
use zeroizing_alloc::ZeroAlloc;

/// Whatever is freed is wiped, also what libraries held of a request, of an answer of Vault's, or of a token.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    match cli::run(Arguments::parse()) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
