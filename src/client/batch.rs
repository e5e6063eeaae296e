//! Many values over one connection: batches of Transit's `batch_input`, in order, each value with its own outcome.
//!
//! A batch that the daemon finds too large is split. While the daemon is busy or restarts, the batch is sent again.

use std::time::Duration;

use hyper::Method;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    TransitRequest,
    exchange::{Client, ClientError, Connection},
};
use crate::secret::Secret;

/// How often a batch is sent again, and the time between two attempts: a restart of the daemon takes less.
const ATTEMPTS: u32 = 30;
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchOperation {
    Encrypt,
    Decrypt,
    Rewrap,
}

/// One value: a plaintext in base64 or a ciphertext, and its associated data as it is.
#[derive(Clone, Copy)]
pub(crate) struct BatchItem<'a> {
    pub value: &'a str,
    pub associated_data: &'a str,
}

/// The plaintext in base64 or the ciphertext, or why there is none.
pub(crate) type BatchOutcome = Result<Secret<String>, String>;

/// Sends batches of one operation.
pub(crate) struct Batches<'a> {
    client: &'a Client,
    operation: BatchOperation,
    path: String,
    connection: Option<Connection>,
}

#[derive(Serialize)]
struct Body<'a> {
    batch_input: Vec<TransitRequest<'a>>,
}

#[derive(Deserialize)]
struct Response {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    batch_results: Vec<ResultItem>,
}

#[derive(Deserialize)]
struct ResultItem {
    plaintext: Option<Secret<String>>,
    ciphertext: Option<Secret<String>>,
    error: Option<String>,
}

impl<'a> Batches<'a> {
    pub(crate) async fn new(client: &'a Client, operation: BatchOperation) -> Result<Self, ClientError> {
        let name = client.keyring_name().await?;
        let word = match operation {
            BatchOperation::Encrypt => "encrypt",
            BatchOperation::Decrypt => "decrypt",
            BatchOperation::Rewrap => "rewrap",
        };
        let path = format!("/v1/transit/{word}/{name}");
        Ok(Self { client, operation, path, connection: None })
    }

    /// The outcome of each item, in their order.
    pub(crate) async fn run(&mut self, items: &[BatchItem<'_>]) -> Result<Vec<BatchOutcome>, ClientError> {
        let mut outcomes = Vec::with_capacity(items.len());
        // The next items to send, the first on top.
        let mut parts = if items.is_empty() { Vec::new() } else { vec![items] };
        while let Some(part) = parts.pop() {
            match self.send_patiently(part).await {
                Ok(part_outcomes) => outcomes.extend(part_outcomes),
                Err(error) if is_size(&error) && part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(ClientError::TooLarge(message)) => outcomes.push(Err(message)),
                Err(error) => return Err(error),
            }
        }
        Ok(outcomes)
    }

    async fn send_patiently(&mut self, items: &[BatchItem<'_>]) -> Result<Vec<BatchOutcome>, ClientError> {
        let mut attempts = 1;
        loop {
            match self.send(items).await {
                Err(
                    ClientError::Busy(_)
                    | ClientError::NoResponse { .. }
                    | ClientError::Stale { .. }
                    | ClientError::NoSocket { .. },
                ) if attempts < ATTEMPTS => {
                    self.connection = None;
                    attempts += 1;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn send(&mut self, items: &[BatchItem<'_>]) -> Result<Vec<BatchOutcome>, ClientError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.client.connect().await?,
        };
        let response = connection.request(Method::POST, &self.path, self.body(items)).await?;
        let Response { data: Data { batch_results } } = response.batch_json()?;
        self.connection = Some(connection); // a refusal may have left a body unread
        if batch_results.len() != items.len() {
            return Err(ClientError::Unexpected("the number of results differs from the number of values"));
        }
        Ok(batch_results.into_iter().map(|result| self.outcome(result)).collect())
    }

    fn outcome(&self, result: ResultItem) -> BatchOutcome {
        let value = match self.operation {
            BatchOperation::Decrypt => result.plaintext,
            BatchOperation::Encrypt | BatchOperation::Rewrap => result.ciphertext,
        };
        match (result.error, value) {
            (None, Some(value)) => Ok(value),
            (error, _) => Err(error.unwrap_or_else(|| "no result".to_owned())),
        }
    }

    /// Allocated once, so that no copy remains.
    fn body(&self, items: &[BatchItem<'_>]) -> Zeroizing<Vec<u8>> {
        let texts = items.iter().map(|item| item.value.len() + item.associated_data.len() * 2 + 64);
        let mut json = Zeroizing::new(Vec::with_capacity(texts.sum::<usize>() + 64));
        let is_plain = self.operation == BatchOperation::Encrypt;
        let batch_input = items
            .iter()
            .map(|item| {
                let value = Some(item.value);
                TransitRequest {
                    plaintext: value.filter(|_| is_plain),
                    ciphertext: value.filter(|_| !is_plain),
                    ..TransitRequest::with_associated_data(item.associated_data)
                }
            })
            .collect();
        // Serialising strings into memory cannot fail.
        let _ = serde_json::to_writer(&mut *json, &Body { batch_input });
        json
    }
}

/// Whether fewer items may be accepted.
fn is_size(error: &ClientError) -> bool {
    match error {
        ClientError::TooLarge(_) => true,
        ClientError::Invalid(message) => message.contains("keyring_max_batch"),
        _ => false,
    }
}
