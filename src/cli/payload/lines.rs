//! `--lines`: many short values, one per line, in batches over one connection and in their order.
//!
//! A line is a value, or JSON such as `{"id": 7, "ciphertext": "…", "aad": "…"}`. `rewrap` prints only what changed, the old
//! value with the new one, so that an UPDATE can be conditional, and that a second run has only the rest to do. Counts by key
//! are on standard error.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::command::{Failure, io_failure, print_error, wait, with_hint},
    Payload, Progress,
    census::{Census, Label},
    input::Input,
    output::Output,
};
use crate::client::{BatchItem, BatchOperation, Batches, Client};

/// The lines and the bytes of one batch.
const BATCH_LINES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// The longest line.
const MAX_LINE: u64 = 32 << 20;

/// Further lines that fail are counted only.
const MAX_FAILURES_SHOWN: u64 = 20;

/// A line as JSON.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    #[serde(default)]
    id: Value,
    plaintext: Option<String>,
    plaintext_base64: Option<String>,
    ciphertext: Option<String>,
    aad: Option<String>,
}

/// One value of the input.
struct Line {
    number: u64,
    form: Form,
    /// A plaintext in base64, or a ciphertext.
    value: String,
    aad: String,
}

enum Form {
    Text,
    /// With its `id`, and its `aad` if it has one.
    Json(Value, Option<String>),
}

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
            return Ok(census);
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

impl Line {
    const fn is_json(&self) -> bool {
        matches!(self.form, Form::Json(..))
    }

    /// The lines of the output for a result.
    fn output(&self, operation: BatchOperation, outcome: Result<&str, &str>) -> Result<Vec<u8>, String> {
        let value = outcome.map_err(str::to_owned)?;
        let mut line = match (&self.form, operation) {
            (Form::Text, BatchOperation::Encrypt) => value.as_bytes().to_vec(),
            (Form::Text, BatchOperation::Rewrap) => format!("{}\t{value}", self.value).into_bytes(),
            (Form::Text, BatchOperation::Decrypt) => {
                let plaintext = decoded(value)?;
                if plaintext.contains(&b'\n') {
                    return Err("the plaintext has a line break: use --ndjson".to_owned());
                }
                plaintext
            }
            (Form::Json(id, aad), _) => {
                let mut object = match operation {
                    BatchOperation::Encrypt => json!({ "ciphertext": value }),
                    BatchOperation::Rewrap => json!({ "old": self.value, "new": value }),
                    BatchOperation::Decrypt => match String::from_utf8(decoded(value)?) {
                        Ok(text) => json!({ "plaintext": text }),
                        Err(_) => json!({ "plaintext_base64": value }),
                    },
                };
                add(&mut object, "id", id.clone());
                add(&mut object, "aad", aad.clone().into());
                object.to_string().into_bytes()
            }
        };
        line.push(b'\n');
        Ok(line)
    }

    /// The line of the output for a failure. A rewrap prints only what changed.
    fn failure(&self, operation: BatchOperation, reason: &str) -> Vec<u8> {
        match &self.form {
            Form::Json(id, _) if operation != BatchOperation::Rewrap => {
                let mut object = json!({ "error": reason });
                add(&mut object, "id", id.clone());
                format!("{object}\n").into_bytes()
            }
            _ => Vec::new(),
        }
    }
}

fn add(object: &mut Value, name: &str, value: Value) {
    if !value.is_null() {
        object[name] = value;
    }
}

fn decoded(base64: &str) -> Result<Vec<u8>, String> {
    BASE64_STANDARD.decode(base64).map_err(|_| "the daemon's plaintext is not base64".to_owned())
}

/// The lines of the input, in batches.
struct Lines<'a> {
    input: BufReader<Input>,
    payload: &'a Payload,
    operation: BatchOperation,
    /// Lines that were read.
    read: u64,
    /// Lines whose result is in the output.
    done: u64,
    /// Values among them.
    count: u64,
    bytes: u64,
}

impl<'a> Lines<'a> {
    fn new(input: Input, payload: &'a Payload, operation: BatchOperation) -> Self {
        Self { input: BufReader::new(input), payload, operation, read: 0, done: 0, count: 0, bytes: 0 }
    }

    /// The next lines; none at the end.
    fn batch(&mut self) -> Result<Vec<Line>, Failure> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_LINES && bytes < BATCH_BYTES {
            let Some(text) = self.line()? else { break };
            bytes += text.len();
            if self.read < self.payload.lines.start {
                self.done = self.read;
                continue;
            }
            let failed = |reason: String| Failure::Operation(format!("line {}: {reason}", self.read));
            if let Some(line) = self.parse(&text).map_err(failed)? {
                self.count += 1;
                batch.push(line);
            }
        }
        Ok(batch)
    }

    fn line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut text = Vec::new();
        let read = (&mut self.input).take(MAX_LINE + 1).read_until(b'\n', &mut text);
        let read = read.map_err(|error| io_failure("read", self.input.get_ref().name())(error))? as u64;
        if read == 0 {
            return Ok(None);
        }
        (self.read, self.bytes) = (self.read + 1, self.bytes + read);
        if read > MAX_LINE {
            let message = format!(
                "line {} has more than {} MiB: use encrypt without --lines",
                self.read,
                MAX_LINE >> 20
            );
            return Err(Failure::Operation(message));
        }
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        Ok(Some(text))
    }

    /// `None` for an empty line of ciphertexts.
    fn parse(&self, bytes: &[u8]) -> Result<Option<Line>, String> {
        let is_plain = self.operation == BatchOperation::Encrypt;
        let (number, default_aad) = (self.read, &self.payload.aad);
        let text = bytes.trim_ascii();
        // No ciphertext begins like an object.
        if self.payload.lines.ndjson || !is_plain && text.first() == Some(&b'{') {
            let Record { id, plaintext, plaintext_base64, ciphertext, aad } =
                serde_json::from_slice(text).map_err(|_| expected(self.operation))?;
            let value = match (is_plain, plaintext, plaintext_base64, ciphertext) {
                (true, Some(text), None, None) => BASE64_STANDARD.encode(text),
                (true, None, Some(base64), None) => base64,
                (false, None, None, Some(ciphertext)) => ciphertext,
                _ => return Err(expected(self.operation)),
            };
            let used = aad.clone().unwrap_or_else(|| default_aad.clone());
            return Ok(Some(Line { number, form: Form::Json(id, aad), value, aad: used }));
        }
        let value = if is_plain {
            BASE64_STANDARD.encode(bytes)
        } else {
            let text = str::from_utf8(text).map_err(|_| "not a ciphertext: it is binary".to_owned())?;
            if text.is_empty() && self.operation == BatchOperation::Rewrap {
                return Ok(None);
            }
            text.to_owned()
        };
        Ok(Some(Line { number, form: Form::Text, value, aad: default_aad.clone() }))
    }
}

fn expected(operation: BatchOperation) -> String {
    let fields = match operation {
        BatchOperation::Encrypt => r#"{"id", "plaintext" or "plaintext_base64", "aad"}"#,
        BatchOperation::Decrypt | BatchOperation::Rewrap => r#"{"id", "ciphertext", "aad"}"#,
    };
    format!("expected JSON of the form {fields}, where id and aad are optional")
}
