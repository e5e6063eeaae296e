//! A page on a terminal.

use std::{
    io::{self, Write as _},
    process::{Command, ExitCode, Stdio},
};

use super::super::command::Failure;
use crate::signals;

/// A terminal does not show roff: man(1) formats it, and pages through it.
pub(super) fn show(page: &str) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::from_error(
            "the page is roff, standard output is a terminal, and there is no `man` to show it: write it to a file by > FILE, \
             or see `keyringd help`",
        ),
        _ => Failure::Operation(format!("cannot run `man -l -`: {error}")),
    };
    signals::leave_terminal_to_child().map_err(failed)?;
    let mut shown = Command::new("man").args(["-l", "-"]).stdin(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut input) = shown.stdin.take() {
        // Fails if the reader quits before the end.
        let _ = input.write_all(page.as_bytes());
    }
    match shown.wait().map_err(failed)? {
        status if status.success() => Ok(ExitCode::SUCCESS),
        status => Err(Failure::Operation(format!(
            "`man -l -` could not show the page ({status}): write it to a file by > FILE, or see `keyringd help`"
        ))),
    }
}
