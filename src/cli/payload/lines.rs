//! `--lines`: many short values, one per line, in batches over one connection and in their order.
//!
//! `line` has the lines. `rewrap` prints only what changed, the old
//! value with the new one, so that an UPDATE can be conditional, and that a second run has only the rest to do. Counts by key
//! are on standard error.

use std::{fmt::Write as _, fs, io::Write as _, path::PathBuf, process::ExitCode};

use super::{
    super::command::{Failure, io_failure, print_error, wait, with_hint},
    Payload, Progress,
    census::{Census, Label},
    input::Input,
    line::{Line, Lines},
    output::Output,
};
use crate::client::{BatchItem, BatchOperation, Batches, Client};

/// Further lines that fail are counted only.
const MAX_FAILURES_SHOWN: u64 = 20;

/// `--lines` of `encrypt`, `decrypt` and `rewrap`.
pub(super) fn run(payload: &Payload, operation: BatchOperation) -> Result<ExitCode, Failure> {
    let client = payload.keyring.client()?;
    let input = Input::open(payload.input.as_deref())?;
    refuse_same_file(payload)?;
    let output = Output::create(payload.output.as_deref(), payload.force)?;
    let mut work = Work {
        progress: Progress::new(input.len(), &output),
        lines: Lines::new(input, payload, operation),
        output,
        operation,
        active: None,
        census: Census::default(),
        changed: 0,
        failed: 0,
    };
    let outcome = wait(work.run(&client))?;
    let at = work.lines.done + 1;
    work.progress.clear();
    let failed = work.failed;
    if let Err(failure) = outcome {
        let rest = if work.output.is_file() {
            format!("{} was not written", work.output.name().display())
        } else {
            format!("the lines before are done: go on with --start {at}")
        };
        return Err(match failure {
            Failure::Operation(message) => Failure::Operation(format!("{message}; {rest}")),
            other => other,
        });
    }
    work.lines.refuse_missing_start()?;
    let summary = work.summary();
    work.output.finish()?;
    print_error(&summary);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The output has lines of another form, or fewer: it would be a loss in place of the input.
fn refuse_same_file(payload: &Payload) -> Result<(), Failure> {
    let real = |path: &Option<PathBuf>| path.as_deref().and_then(|path| fs::canonicalize(path).ok());
    match (real(&payload.input), real(&payload.output)) {
        (Some(input), Some(output)) if input == output => Err(Failure::Operation(format!(
            "{} is the input and the output: with lines, choose another file for -o",
            input.display()
        ))),
        _ => Ok(()),
    }
}

/// `rewrap --lines --census`: counts, and asks for nothing but the keys that there are.
pub(super) fn census(payload: &Payload) -> Result<Census, Failure> {
    let mut lines = Lines::new(Input::open(payload.input.as_deref())?, payload, BatchOperation::Rewrap);
    let mut census = Census::default();
    loop {
        let batch = lines.batch()?;
        if batch.is_empty() {
            return lines.refuse_missing_start().map(|()| census);
        }
        for line in &batch {
            census.count(Label::of(&line.value));
        }
    }
}

struct Work<'a> {
    lines: Lines<'a>,
    output: Output<'a>,
    operation: BatchOperation,
    progress: Progress,
    /// What the ciphertexts of the active key begin with.
    active: Option<Label>,
    census: Census,
    changed: u64,
    failed: u64,
}

impl Work<'_> {
    async fn run(&mut self, client: &Client) -> Result<(), Failure> {
        if self.operation == BatchOperation::Rewrap {
            let probe = client.encrypt(b"", "").await?; // needs no permission that a rewrap does not
            self.active = Label::of(&probe);
        }
        let mut batches = Batches::new(client, self.operation).await?;
        loop {
            let batch = self.lines.batch()?;
            let Some(last) = batch.last().map(|line| line.number) else { return Ok(()) };
            self.process(&batch, &mut batches).await?;
            self.lines.done = last;
            self.progress.set(self.lines.bytes);
        }
    }

    async fn process(&mut self, batch: &[Line], batches: &mut Batches<'_>) -> Result<(), Failure> {
        let mut sent = Vec::new();
        for line in batch {
            if self.operation != BatchOperation::Encrypt {
                let label = Label::of(&line.value);
                let is_active = label.is_some() && label == self.active;
                self.census.count(label);
                if is_active {
                    continue;
                }
            }
            sent.push(line);
        }
        let items: Vec<_> =
            sent.iter().map(|line| BatchItem { value: &line.value, associated_data: &line.aad }).collect();
        let outcomes = batches.run(&items).await.map_err(|error| Failure::Operation(with_hint(&error)))?;
        let mut text = Vec::new();
        let mut stopped = Ok(());
        for (line, outcome) in sent.into_iter().zip(outcomes) {
            let outcome = outcome.as_ref().map(|value| value.expose().as_str()).map_err(String::as_str);
            match line.output(self.operation, outcome) {
                Ok(written) => {
                    self.changed += u64::from(outcome.is_ok());
                    text.extend(written);
                }
                Err(reason) if self.operation == BatchOperation::Rewrap || line.is_json() => {
                    self.failed += 1;
                    self.report(line.number, &reason);
                    text.extend(line.failure(self.operation, &reason));
                }
                // Without it, the lines of the output would not be those of the input.
                Err(reason) => {
                    self.lines.done = line.number - 1;
                    stopped = Err(Failure::Operation(format!("line {}: {reason}", line.number)));
                    break;
                }
            }
        }
        self.output.write_all(&text).map_err(io_failure("write", self.output.name()))?;
        stopped
    }

    fn report(&self, number: u64, reason: &str) {
        match self.failed {
            0..=MAX_FAILURES_SHOWN => print_error(&format!("keyringd: line {number}: {reason}")),
            more if more == MAX_FAILURES_SHOWN + 1 => {
                print_error("keyringd: further lines that fail are counted only");
            }
            _ => {}
        }
    }

    /// `rewrapped 1950 of 2000 values, 50 were under 2026-11 already`, and where they came from.
    fn summary(&self) -> String {
        let verb = match self.operation {
            BatchOperation::Encrypt => "encrypted",
            BatchOperation::Decrypt => "decrypted",
            BatchOperation::Rewrap => "rewrapped",
        };
        let (total, failed) = (self.lines.count, self.failed);
        let mut text = format!("{verb} {} of {total} values", self.changed);
        if let Some(active) = &self.active {
            let before = self.census.of(active);
            let _ = write!(text, ", {before} were under {active} already");
        }
        if failed > 0 {
            let _ = write!(text, ", {failed} failed");
        }
        let counts = self.census.lines();
        if counts.is_empty() { text } else { format!("{text}\n{counts}").trim_end().to_owned() }
    }
}
