//! `doctor`: a line a step, and at the end the policy that this configuration needs.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use super::{Failure, FromFile, print};
use crate::{
    doctor::{self, Finding, State},
    vault::policy,
};

/// `keyringd doctor`.
pub fn doctor(from: &FromFile) -> Result<ExitCode, Failure> {
    let settings = from.settings()?;
    let policy = policy::least_privilege(&settings.keyring.secret);
    let colour = io::stdout().is_terminal();
    let (mut failed, mut unprinted) = (false, None);
    let tell = |finding: Finding| {
        failed |= finding.state == State::Failed;
        if let Err(failure) = print(line(&finding, colour)) {
            unprinted = Some(failure);
        }
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::operation)?;
    runtime.block_on(doctor::examine(settings, tell));
    if let Some(failure) = unprinted {
        return Err(failure);
    }
    print(format!("\nThe least that the token's policy must allow:\n\n{policy}"))?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(finding: &Finding, colour: bool) -> String {
    let (word, code) = match finding.state {
        State::Good => ("ok", 32),
        State::Warning => ("warn", 33),
        State::Failed => ("FAIL", 31),
    };
    let word = if colour { format!("\x1b[{code}m{word:<4}\x1b[0m") } else { format!("{word:<4}") };
    format!("{word}  {:<9} {}\n", finding.step, finding.message)
}
