//! `doctor`: one line per step, then the policy that these settings need.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use super::{
    arguments::{SettingsFile, valid_settings},
    process::{Failure, print, wait},
};
use crate::{
    doctor::{self, Finding, State},
    vault::policy,
};

/// `keyringd doctor`
pub fn doctor(file: &SettingsFile) -> Result<ExitCode, Failure> {
    let settings = valid_settings(file.load())?;
    let policy = policy::least_privilege(&settings.keyring.secret);
    let (mut failed, mut printed) = (false, Ok(()));
    let report = |finding: Finding| {
        failed |= finding.state == State::Failed;
        if let Err(failure) = print(line(&finding)) {
            printed = Err(failure);
        }
    };
    wait(doctor::examine(settings, report))?;
    printed?;
    print(format!("\nThe token's policy must allow:\n\n{policy}"))?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(finding: &Finding) -> String {
    let (state, colour) = match finding.state {
        State::Good => ("ok", 32),
        State::Warning => ("warn", 33),
        State::Failed => ("FAIL", 31),
    };
    let state = if io::stdout().is_terminal() {
        format!("\x1b[{colour}m{state:<4}\x1b[0m")
    } else {
        format!("{state:<4}")
    };
    format!("{state}  {:<9} {}\n", finding.step, finding.message)
}
