//! The lines of `--lines`: read in batches, and written with the results.
//!
//! A line is a value, or JSON such as `{"id": 7, "ciphertext": "…", "aad": "…"}`.

use std::io::{BufRead as _, BufReader, Read as _};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::command::{Failure, io_failure},
    Payload,
    input::Input,
};
use crate::{cipher::TEXT_FORMS, client::BatchOperation};

/// The lines and the bytes of one batch.
const BATCH_LINES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// The longest line.
const MAX_LINE: u64 = 32 << 20;

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
pub(super) struct Line {
    pub(super) number: u64,
    form: Form,
    /// A plaintext in base64, or a ciphertext.
    pub(super) value: String,
    pub(super) aad: String,
}

enum Form {
    Text,
    /// With its `id`, and its `aad` if it has one.
    Json(Value, Option<String>),
}

impl Line {
    pub(super) const fn is_json(&self) -> bool {
        matches!(self.form, Form::Json(..))
    }

    /// The lines of the output for a result.
    pub(super) fn output(
        &self,
        operation: BatchOperation,
        outcome: Result<&str, &str>,
    ) -> Result<Vec<u8>, String> {
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
    pub(super) fn failure(&self, operation: BatchOperation, reason: &str) -> Vec<u8> {
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
pub(super) struct Lines<'a> {
    input: BufReader<Input>,
    payload: &'a Payload,
    operation: BatchOperation,
    /// Lines that were read.
    read: u64,
    /// Why there are no further lines. Those before are done first.
    failure: Option<Failure>,
    /// Lines whose result is in the output.
    pub(super) done: u64,
    /// Values among them.
    pub(super) count: u64,
    pub(super) bytes: u64,
}

impl<'a> Lines<'a> {
    pub(super) fn new(input: Input, payload: &'a Payload, operation: BatchOperation) -> Self {
        Self {
            input: BufReader::new(input),
            payload,
            operation,
            read: 0,
            failure: None,
            done: 0,
            count: 0,
            bytes: 0,
        }
    }

    /// The next lines; none at the end.
    pub(super) fn batch(&mut self) -> Result<Vec<Line>, Failure> {
        let mut batch = Vec::new();
        let filled = match self.failure.take() {
            Some(failure) => Err(failure),
            None => self.fill(&mut batch),
        };
        match filled {
            Err(failure) if batch.is_empty() => return Err(failure),
            filled => self.failure = filled.err(),
        }
        Ok(batch)
    }

    fn fill(&mut self, batch: &mut Vec<Line>) -> Result<(), Failure> {
        let mut bytes = 0;
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
        Ok(())
    }

    /// At the end of the input: fails if it ended before the line to begin at.
    pub(super) fn refuse_missing_start(&self) -> Result<(), Failure> {
        let (start, read) = (self.payload.lines.start, self.read);
        if start == 1 || start <= read {
            return Ok(());
        }
        let name = self.input.get_ref().name().display();
        let plural = if read == 1 { "" } else { "s" };
        Err(Failure::Operation(format!(
            "--start {start} is beyond the end of {name}, which has {read} line{plural}: nothing was done"
        )))
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
            let text = str::from_utf8(text)
                .map_err(|_| format!("not a ciphertext: it is binary; expected {TEXT_FORMS}"))?;
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
