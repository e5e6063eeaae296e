//! `POST /v1/resolve`: what references to other secrets stand for, as the daemon answers it.

use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Client, ClientError, Envelope, parsed};
use crate::secret::Secret;

/// The most references of one request.
const AT_ONCE: usize = 100;

/// What a reference stands for.
#[derive(Debug)]
pub struct Resolved {
    pub value: Secret<String>,
    /// By how much it is older than it should be, since it cannot be read anew.
    pub stale: Option<Duration>,
}

#[derive(Deserialize)]
struct Batch {
    batch_results: Vec<Told>,
}

#[derive(Deserialize)]
struct Told {
    value: Option<Secret<String>>,
    stale_seconds: Option<u64>,
    error: Option<String>,
}

impl Client {
    /// What references to other secrets stand for, in their order: the first that stands for nothing is the error.
    ///
    /// # Errors
    /// [`ClientError`], for people.
    pub async fn resolve(&self, references: &[&str]) -> Result<Vec<Resolved>, ClientError> {
        let mut resolved = Vec::new();
        for some in references.chunks(AT_ONCE) {
            resolved.extend(self.resolve_some(some).await?);
        }
        Ok(resolved)
    }

    async fn resolve_some(&self, references: &[&str]) -> Result<Vec<Resolved>, ClientError> {
        let batch: Vec<_> = references.iter().map(|reference| json!({ "reference": reference })).collect();
        let asked = Zeroizing::new(json!({ "batch_input": batch }).to_string().into_bytes());
        let answer = self.request(Method::POST, "/v1/resolve", asked).await?;
        let Envelope { data: Batch { batch_results } } = parsed(&answer.results()?)?;
        if batch_results.len() != references.len() {
            return Err(ClientError::Unexpected("not as many results as references"));
        }
        let resolved = batch_results.into_iter().map(|one| match one {
            Told { value: Some(value), stale_seconds, .. } => {
                Ok(Resolved { value, stale: stale_seconds.map(Duration::from_secs) })
            }
            Told { error, .. } => {
                Err(error.map_or(ClientError::Unexpected("no value"), ClientError::Refused))
            }
        });
        resolved.collect()
    }
}
