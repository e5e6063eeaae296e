//! `encrypt`, `decrypt` and `rewrap`: payloads of any size, from a file or standard input to a file or standard output.
//!
//! What fits into one request goes to the daemon and is a line of text. What does not becomes a stream (`cipher::stream`):
//! the daemon gives a data key for it, and the work is done here. Where bytes come from is in `input`, where they go in
//! `output`, what a terminal shows meanwhile in `progress`.

mod input;
mod output;
mod progress;

use std::{
    io::{Read, Write},
    process::ExitCode,
};

use super::{Failure, Payload, named, wait};
use crate::{
    cipher::stream::{self, Header, MAGIC, StreamError},
    client::{Client, ClientError, DataKey},
};
use input::Input;
use output::Output;
use progress::Progress;

/// What is sent to the daemon as it is. Anything longer is a stream: for less, its header is not worth the while.
const ONE_REQUEST: usize = 1 << 20;

/// `keyringd encrypt`: any bytes in, one line of text out; a stream if they are many.
pub fn encrypt(payload: &Payload) -> Result<ExitCode, Failure> {
    let mut work = Work::begin(payload)?;
    let head = work.input.peek(ONE_REQUEST + 1)?;
    if head.len() <= ONE_REQUEST {
        match wait(work.client.encrypt(head, work.aad))? {
            // It may take less than that in one request; for a data key, hardly anything is sent.
            Err(ClientError::TooLarge(_)) => {}
            ciphertext => return work.finish_with(format!("{}\n", ciphertext?).as_bytes()),
        }
    }
    let DataKey { key, wrapped } = wait(work.client.data_key(work.aad))??;
    let header = Header::new(wrapped).map_err(Failure::operation)?;
    work.stream(|input, output, progress| {
        header.write(&mut *output)?;
        stream::seal(&key, &header, input, output, progress)
    })
}

/// `keyringd decrypt`: what encrypt wrote in, the bytes out.
pub fn decrypt(payload: &Payload) -> Result<ExitCode, Failure> {
    let mut work = Work::begin(payload)?;
    if !work.is_stream()? {
        let plaintext = wait(work.client.decrypt(&work.input.text()?, work.aad))??;
        return work.finish_with(&plaintext);
    }
    let header = work.header()?;
    let key = wait(work.client.unwrap_data_key(header.wrapped(), work.aad))??;
    work.stream(|input, output, progress| stream::open(&key, &header, input, output, progress))
}

/// `keyringd rewrap`: what encrypt wrote in, and the same under the active key out. Of a stream that is the wrapping of
/// its key; the rest is copied, but only as far as it is authentic.
pub fn rewrap(payload: &Payload) -> Result<ExitCode, Failure> {
    let mut work = Work::begin(payload)?;
    if !work.is_stream()? {
        let ciphertext = wait(work.client.rewrap(&work.input.text()?, work.aad))??;
        return work.finish_with(format!("{ciphertext}\n").as_bytes());
    }
    let header = work.header()?;
    let key = wait(work.client.unwrap_data_key(header.wrapped(), work.aad))??;
    let wrapped = wait(work.client.rewrap(header.wrapped(), work.aad))??;
    let header = header.rewrapped(wrapped).map_err(Failure::operation)?;
    work.stream(|input, output, progress| {
        header.write(&mut *output)?;
        stream::copy_verified(&key, &header, input, output, progress)
    })
}

/// One payload on its way through.
struct Work<'a> {
    client: Client,
    aad: &'a str,
    input: Input,
    output: Output<'a>,
}

impl<'a> Work<'a> {
    /// The output first: that it is in the way should be said before anything is read.
    fn begin(payload: &'a Payload) -> Result<Self, Failure> {
        Ok(Self {
            client: Client::new(&payload.daemon.socket()?),
            aad: &payload.aad,
            output: Output::begin(payload.output.as_deref(), payload.force)?,
            input: Input::open(payload.input.as_deref())?,
        })
    }

    fn is_stream(&mut self) -> Result<bool, Failure> {
        Ok(self.input.peek(MAGIC.len())? == MAGIC)
    }

    fn header(&mut self) -> Result<Header, Failure> {
        Header::read(&mut self.input).map_err(|error| self.failure(error))
    }

    /// Passes the rest of the input through `work` into the output.
    fn stream(
        mut self,
        work: impl FnOnce(&mut dyn Read, &mut dyn Write, &mut dyn FnMut(u64)) -> Result<(), StreamError>,
    ) -> Result<ExitCode, Failure> {
        let mut progress = Progress::new(self.input.len(), self.output.is_terminal());
        let done = work(&mut self.input, &mut self.output, &mut |bytes| progress.show(bytes));
        drop(progress);
        done.map_err(|error| self.failure(error))?;
        self.output.finish()
    }

    fn finish_with(mut self, bytes: &[u8]) -> Result<ExitCode, Failure> {
        self.output.write_all(bytes).map_err(named(self.output.name(), "write"))?;
        self.output.finish()
    }

    fn failure(&self, error: StreamError) -> Failure {
        match error {
            StreamError::Read(error) => named(self.input.name(), "read")(error),
            StreamError::Write(error) => named(self.output.name(), "write")(error),
            other => Failure::operation(other),
        }
    }
}
