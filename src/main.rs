//! The program `keyringd`: arguments in, exit code out. What each command does is in `keyringd::cli`.

use std::process::ExitCode;

use clap::Parser as _;
use keyringd::cli::{self, Arguments};

fn main() -> ExitCode {
    match cli::run(Arguments::parse()) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
