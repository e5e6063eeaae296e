//! The log: to standard error, as text or JSON, with colour on a terminal alone.
//!
//! Nothing secret may reach it at any level. That is held by `Secret<T>` and by a test that plants secrets and reads the
//! whole log at trace level, libraries included.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;

/// Starts logging for the whole process. Panics are logged by their place alone: their text could quote anything.
pub fn start(level: LevelFilter, json: bool) {
    let builder = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(level)
        .with_ansi(!json && io::stderr().is_terminal());
    // Only the first of several starts in one process can win, as in tests.
    let _ = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a panic: this is a defect of keyringd, please report it");
    }));
}
