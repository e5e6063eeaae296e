//! `POST /v1/resolve`: the values of references to Vault secrets.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::exchange::{Client, ClientError};
use crate::secret::Secret;

/// The daemon's limit of references per request.
const BATCH_SIZE: usize = 100;

/// The value of a reference.
#[derive(Debug)]
pub struct Resolved {
    pub value: Secret<String>,
    /// The time since expiry, if the value is expired and Vault cannot be read.
    pub stale: Option<Duration>,
}

#[derive(Deserialize)]
struct ResolveResponse {
    data: BatchData,
}

#[derive(Deserialize)]
struct BatchData {
    batch_results: Vec<BatchResult>,
}

#[derive(Deserialize)]
struct BatchResult {
    value: Option<Secret<String>>,
    stale_seconds: Option<u64>,
    error: Option<String>,
}

impl Client {
    /// Resolves all references, in their order.
    ///
    /// # Errors
    /// The error of the first reference that cannot be resolved.
    pub async fn resolve(&self, references: &[&str]) -> Result<Vec<Resolved>, ClientError> {
        let mut resolved = Vec::new();
        for batch in references.chunks(BATCH_SIZE) {
            resolved.extend(self.resolve_batch(batch).await?);
        }
        Ok(resolved)
    }

    async fn resolve_batch(&self, references: &[&str]) -> Result<Vec<Resolved>, ClientError> {
        let batch: Vec<_> = references.iter().map(|reference| json!({ "reference": reference })).collect();
        let request = Zeroizing::new(json!({ "batch_input": batch }).to_string().into_bytes());
        let response = self.post("/v1/resolve", request).await?;
        let ResolveResponse { data: BatchData { batch_results } } = response.batch_json()?;
        if batch_results.len() != references.len() {
            return Err(ClientError::Unexpected(
                "the number of results differs from the number of references",
            ));
        }
        let resolved = batch_results.into_iter().map(|one| match one {
            BatchResult { value: Some(value), stale_seconds, .. } => {
                Ok(Resolved { value, stale: stale_seconds.map(Duration::from_secs) })
            }
            BatchResult { error, .. } => {
                Err(error.map_or(ClientError::Unexpected("no field value"), ClientError::Refused))
            }
        });
        resolved.collect()
    }
}
