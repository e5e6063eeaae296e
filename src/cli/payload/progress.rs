//! How far a long piece of work is: on standard error, if that is a terminal, and nowhere else.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

/// Work that is done sooner is not worth a word.
const LONG: Duration = Duration::from_millis(500);

pub struct Progress {
    started: Instant,
    /// Hidden at first. `None` where nobody would see it.
    bar: Option<ProgressBar>,
    shown: bool,
}

impl Progress {
    /// Over `len` bytes, if that is known. A result that goes to a terminal is not mixed with it.
    pub fn new(len: Option<u64>, result_is_on_terminal: bool) -> Self {
        let seen = io::stderr().is_terminal() && !result_is_on_terminal;
        Self { started: Instant::now(), bar: seen.then(|| hidden(len)), shown: false }
    }

    /// So many bytes are done. When this is dropped, the bar goes away.
    pub fn show(&mut self, done: u64) {
        let Some(bar) = &self.bar else { return };
        if !self.shown && self.started.elapsed() > LONG {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
        bar.set_position(done);
    }
}

fn hidden(len: Option<u64>) -> ProgressBar {
    let template = match len {
        Some(_) => "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        None => "{spinner} {bytes}, {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(len, ProgressDrawTarget::hidden());
    bar.with_style(style).with_finish(ProgressFinish::AndClear)
}
