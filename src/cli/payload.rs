//! `encrypt`, `decrypt` and `rewrap`: payloads of any size, from a file or standard input to a file or standard output.
//!
//! The daemon encrypts a payload that fits into one request; the output is a line of text. A larger payload becomes a
//! stream (`cipher::stream`): this process encrypts it with a data key from the daemon. `lines` has many short values.

mod attributes;
mod behind;
mod census;
mod input;
mod line;
mod lines;
mod output;

use std::{
    io::{self, IsTerminal as _, Read, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::{
    command::{Failure, OneKeyring, io_failure, print, print_error, wait},
    status,
};
use crate::{
    cipher::stream::{self, Header, MAGIC, StreamError},
    client::{BatchOperation, Client, ClientError, DataKey},
};
use behind::write_behind;
use input::Input;
use output::Output;

/// The path that means standard input or output.
const STANDARD: &str = "-";

/// A larger payload becomes a stream.
const MAX_REQUEST: usize = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct Payload {
    #[command(flatten)]
    keyring: OneKeyring,
    /// Read this file [default: -, standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Write this file [default: standard output; - allows binary output to a terminal]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the output file if it exists, and keep its owner, mode, ACL, attributes and links
    #[arg(long, requires = "output")]
    force: bool,
    /// Associated data: not secret, not stored, required again to decrypt
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    aad: String,
    #[command(flatten)]
    lines: LineArgs,
}

#[derive(Debug, Args)]
struct LineArgs {
    /// Take each line as a value; decrypt and rewrap take JSON, too
    #[arg(long)]
    lines: bool,
    /// Take each line as JSON: {"id", "plaintext" or "ciphertext", "aad"}
    #[arg(long)]
    ndjson: bool,
    /// Begin at this line
    #[arg(long, value_name = "LINE", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    start: u64,
}

#[derive(Debug, Args)]
pub(super) struct Rewrap {
    #[command(flatten)]
    payload: Payload,
    /// With --lines: only count the values by key
    #[arg(long, conflicts_with = "output")]
    census: bool,
    /// With --census: print JSON
    #[arg(long, requires = "census")]
    json: bool,
}

impl LineArgs {
    /// Whether the input has a value per line. `--start` needs that.
    fn are_meant(&self) -> Result<bool, Failure> {
        if self.lines || self.ndjson {
            return Ok(true);
        }
        if self.start > 1 {
            return Err(Failure::from_error("--start needs --lines"));
        }
        Ok(false)
    }
}

/// `keyringd encrypt`
pub(super) fn encrypt(payload: &Payload) -> Result<ExitCode, Failure> {
    if payload.lines.are_meant()? {
        return lines::run(payload, BatchOperation::Encrypt);
    }
    let mut work = Work::begin(payload)?;
    let name = work.input.name().display().to_string();
    let head = work.input.peek(MAX_REQUEST + 1)?;
    if head.is_empty() {
        print_error(&format!("keyringd: warning: {name} is empty: encrypting an empty value"));
    }
    if head.len() <= MAX_REQUEST {
        match wait(work.client.encrypt(head, work.aad))? {
            // The daemon's limit may be lower. The request of a data key is small.
            Err(ClientError::TooLarge(_)) => {}
            ciphertext => return work.finish_with(format!("{}\n", ciphertext?).as_bytes()),
        }
    }
    let DataKey { key, wrapped } = wait(work.client.data_key(work.aad))??;
    let header = Header::new(wrapped).map_err(Failure::from_error)?;
    work.stream(|input, output, progress| {
        header.write(&mut *output)?;
        stream::seal(&key, &header, input, output, progress)
    })
}

/// `keyringd decrypt`
pub(super) fn decrypt(payload: &Payload) -> Result<ExitCode, Failure> {
    if payload.lines.are_meant()? {
        return lines::run(payload, BatchOperation::Decrypt);
    }
    let mut work = Work::begin(payload)?;
    if !work.is_stream()? {
        let plaintext = wait(work.client.decrypt(&work.input.text()?, work.aad))??;
        return work.finish_with(&plaintext);
    }
    let header = work.header()?;
    let key = wait(work.client.unwrap_data_key(header.wrapped(), work.aad))??;
    work.stream(|input, output, progress| stream::open(&key, &header, input, output, progress))
}

/// `keyringd rewrap`. It rewraps the data key of a stream and copies the segments after verifying them.
pub(super) fn rewrap(Rewrap { payload, census, json }: &Rewrap) -> Result<ExitCode, Failure> {
    if *census {
        let census = lines::census(payload)?;
        // Without a daemon, or the permission for its status, only what was found is shown.
        let keys = wait(payload.keyring.client()?.keys())?.unwrap_or_default();
        print(if *json { status::json(&census.json(&keys)) } else { census.table(&keys) })?;
        return Ok(ExitCode::SUCCESS);
    }
    if payload.lines.are_meant()? {
        return lines::run(payload, BatchOperation::Rewrap);
    }
    let mut work = Work::begin(payload)?;
    if !work.is_stream()? {
        let ciphertext = wait(work.client.rewrap(&work.input.text()?, work.aad))??;
        return work.finish_with(format!("{ciphertext}\n").as_bytes());
    }
    let header = work.header()?;
    let key = wait(work.client.unwrap_data_key(header.wrapped(), work.aad))??;
    let wrapped = wait(work.client.rewrap(header.wrapped(), work.aad))??;
    let header = header.rewrapped(wrapped).map_err(Failure::from_error)?;
    work.stream(|input, output, progress| {
        header.write(&mut *output)?;
        stream::copy_verified(&key, &header, input, output, progress)
    })
}

/// The client, the input and the output of one command.
struct Work<'a> {
    client: Client,
    aad: &'a str,
    input: Input,
    output: Output<'a>,
}

impl<'a> Work<'a> {
    /// Creates the output first, so that an existing file is reported before the input is read.
    fn begin(payload: &'a Payload) -> Result<Self, Failure> {
        Ok(Self {
            client: payload.keyring.client()?,
            aad: &payload.aad,
            output: Output::create(payload.output.as_deref(), payload.force)?,
            input: Input::open(payload.input.as_deref())?,
        })
    }

    fn is_stream(&mut self) -> Result<bool, Failure> {
        Ok(self.input.peek(MAGIC.len())? == MAGIC)
    }

    fn header(&mut self) -> Result<Header, Failure> {
        Header::read(&mut self.input).map_err(|error| self.failure(error))
    }

    /// Processes the rest of the input with `work` and shows the progress.
    fn stream(
        mut self,
        work: impl FnOnce(&mut dyn Read, &mut dyn Write, &mut dyn FnMut(u64)) -> Result<(), StreamError>,
    ) -> Result<ExitCode, Failure> {
        let progress = Progress::new(self.input.len(), &self.output);
        let Self { input, output, .. } = &mut self;
        let (done, written) =
            write_behind(output, |blocks| work(input, blocks, &mut |bytes| progress.set(bytes)));
        drop(progress);
        written.map_err(StreamError::Write).and(done).map_err(|error| self.failure(error))?;
        self.output.finish()
    }

    fn finish_with(mut self, bytes: &[u8]) -> Result<ExitCode, Failure> {
        self.output.write_all(bytes).map_err(io_failure("write", self.output.name()))?;
        self.output.finish()
    }

    fn failure(&self, error: StreamError) -> Failure {
        match error {
            StreamError::Read(error) => io_failure("read", self.input.name())(error),
            StreamError::Write(error) => io_failure("write", self.output.name())(error),
            other => Failure::from_error(other),
        }
    }
}

/// Shorter commands show no progress.
const PROGRESS_DELAY: Duration = Duration::from_millis(500);

/// A progress bar on standard error. It disappears on drop.
struct Progress {
    started: Instant,
    /// `None` if standard error is no terminal, or if the output is on the same terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `len` is the length of the input, if known.
    fn new(len: Option<u64>, output: &Output<'_>) -> Self {
        let visible = io::stderr().is_terminal() && !output.is_terminal();
        Self { started: Instant::now(), bar: visible.then(|| hidden_bar(len)) }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn set(&self, done: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.is_hidden() && self.started.elapsed() > PROGRESS_DELAY {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.set_position(done);
    }
}

fn hidden_bar(len: Option<u64>) -> ProgressBar {
    let template = match len {
        Some(_) => "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        None => "{spinner} {bytes}, {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(len, ProgressDrawTarget::hidden());
    bar.with_style(style).with_finish(ProgressFinish::AndClear)
}
