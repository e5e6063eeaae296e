//! `POST /v1/resolve`: what references to other secrets stand for, one or a batch, in the shapes of Transit's requests.
//!
//! Resolving is for the side that talks to Vault; here are the request, the answer, and what the audit is told: the
//! references, and never what they stand for.

use std::{borrow::Cow, time::Duration};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::{Upstream, answer::Answer, audit::Facts};
use crate::secret::Secret;

/// The most references of one batch: each is named in the audit.
const MOST: usize = 100;

/// The longest reference. Vault's own paths are shorter.
const LONGEST: usize = 1024;

/// What a reference stands for.
pub struct Value {
    pub text: Secret<String>,
    /// By how much it is older than it should be, since it cannot be read anew.
    pub stale: Option<Duration>,
}

/// Why there is none.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub message: String,
    /// Whether the text is a reference: one that is not could be a secret in the wrong place.
    pub is_reference: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    #[serde(borrow)]
    reference: Option<Cow<'a, str>>,
    #[serde(borrow)]
    batch_input: Option<Vec<One<'a>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One<'a> {
    #[serde(borrow)]
    reference: Cow<'a, str>,
}

#[derive(Serialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Serialize)]
struct Results<'a> {
    batch_results: Vec<Told<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Told<'a> {
    Value {
        value: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        stale_seconds: Option<u64>,
    },
    Error {
        error: &'a str,
    },
}

const FORM: &str =
    r#"the body must be JSON: {"reference": "…"}, or {"batch_input": [{"reference": "…"}, …]}"#;

pub async fn answer(upstream: &dyn Upstream, body: &[u8]) -> Answer {
    match serde_json::from_slice::<Asked<'_>>(body) {
        Ok(Asked { reference: Some(one), batch_input: None }) => answer_one(upstream, &one).await,
        Ok(Asked { reference: None, batch_input: Some(batch) }) if batch.is_empty() => {
            Answer::errors(400, "batch_input is empty")
        }
        Ok(Asked { reference: None, batch_input: Some(batch) }) if batch.len() > MOST => {
            Answer::errors(400, format!("batch_input has more than {MOST} references"))
        }
        Ok(Asked { reference: None, batch_input: Some(batch) }) => answer_batch(upstream, &batch).await,
        _ => Answer::errors(400, FORM),
    }
}

async fn answer_one(upstream: &dyn Upstream, reference: &str) -> Answer {
    let outcome = resolve(upstream, reference).await;
    let facts = Facts { references: named(&[reference], std::slice::from_ref(&outcome)), ..Facts::default() };
    let answer = match &outcome {
        Ok(value) => written(200, value.text.expose().len(), &told(&outcome)),
        Err(refusal) if refusal.status == 503 => Answer::not_yet(&refusal.message),
        Err(refusal) => Answer::errors(refusal.status, &refusal.message),
    };
    answer.about(facts)
}

/// A failed one makes the status 400, as in Transit.
async fn answer_batch(upstream: &dyn Upstream, batch: &[One<'_>]) -> Answer {
    let references: Vec<_> = batch.iter().map(|one| &*one.reference).collect();
    let outcomes = join_all(references.iter().map(|reference| resolve(upstream, reference))).await;
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let facts = Facts { references: named(&references, &outcomes), ..Facts::default() };
    let facts = facts.of_batch(outcomes.len(), failed);
    let room = outcomes.iter().map(|outcome| outcome.as_ref().map_or(0, |value| value.text.expose().len()));
    let results = Results { batch_results: outcomes.iter().map(told).collect() };
    written(if failed == 0 { 200 } else { 400 }, room.sum(), &results).about(facts)
}

async fn resolve(upstream: &dyn Upstream, reference: &str) -> Result<Value, Refusal> {
    if reference.len() > LONGEST {
        let message = format!("the text is longer than {LONGEST} bytes, which no reference is");
        return Err(Refusal { status: 400, message, is_reference: false });
    }
    upstream.resolve(reference).await
}

fn told(outcome: &Result<Value, Refusal>) -> Told<'_> {
    match outcome {
        Ok(Value { text, stale }) => {
            Told::Value { value: text.expose(), stale_seconds: stale.map(|stale| stale.as_secs()) }
        }
        Err(refusal) => Told::Error { error: &refusal.message },
    }
}

/// For the audit: the references that are some.
fn named(references: &[&str], outcomes: &[Result<Value, Refusal>]) -> Option<Box<str>> {
    let is_one = |outcome: &Result<Value, Refusal>| outcome.as_ref().err().is_none_or(|why| why.is_reference);
    let both = references.iter().zip(outcomes).filter(|(_, outcome)| is_one(outcome));
    let names: Vec<_> = both.map(|(reference, _)| reference.escape_debug().to_string()).collect();
    (!names.is_empty()).then(|| names.join(" ").into())
}

/// Into one buffer, with room for the values and what their line breaks become.
fn written(status: u16, values: usize, data: &impl Serialize) -> Answer {
    let mut json = Vec::with_capacity(values + values / 8 + (16 << 10));
    // Writing texts and numbers into memory cannot fail.
    let _ = serde_json::to_writer(&mut json, &Envelope { data });
    Answer::written(status, json)
}
