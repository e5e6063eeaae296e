//! The program `keyringd`: from the arguments to the exit code. The commands are in `keyringd::cli`.

use std::process::ExitCode;

use keyringd::cli::{self, Arguments};
use tikv_jemallocator::Jemalloc;
use zeroizing_alloc::ZeroAlloc;

/// Wipes all freed memory, including the libraries' copies of requests, Vault's responses and tokens.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<Jemalloc> = ZeroAlloc(Jemalloc);

fn main() -> ExitCode {
    match cli::run(Arguments::from_command_line()) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
