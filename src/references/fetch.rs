//! Reads one secret in an engine's session, with a limit on concurrent reads.
//!
//! The limit keeps references from flooding a server. While a server is unreachable, all reads that wait for their turn fail
//! at once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::{
    secret::Secret,
    settings::KvSecret,
    vault::{Client, Kv, VaultError, kv::Purpose},
};

/// How many secrets of one engine are read at once.
const CONCURRENT_READS: usize = 8;

/// A secret, and its version if the reference names one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SecretAddress {
    pub(super) secret: KvSecret,
    pub(super) version: Option<u64>,
}

/// Reads the fields of a secret, as JSON text.
pub(super) type Fetch =
    Arc<dyn Fn(SecretAddress) -> BoxFuture<'static, Result<Secret<String>, VaultError>> + Send + Sync>;

pub(super) fn from_client(client: Client) -> Fetch {
    let limit = Arc::new(Limit::default());
    Arc::new(move |address| {
        let (client, limit) = (client.clone(), Arc::clone(&limit));
        Box::pin(async move { limit.run(read(&client, &address)).await })
    })
}

async fn read(client: &Client, address: &SecretAddress) -> Result<Secret<String>, VaultError> {
    Kv::new(client, &address.secret, Purpose::Reference).read(address.version).await
}

struct Limit {
    permits: Semaphore,
    /// The last failure to reach the server, and when it ended.
    unreachable: Mutex<Option<(Instant, VaultError)>>,
}

impl Default for Limit {
    fn default() -> Self {
        Self { permits: Semaphore::new(CONCURRENT_READS), unreachable: Mutex::default() }
    }
}

impl Limit {
    async fn run(
        &self,
        read: impl Future<Output = Result<Secret<String>, VaultError>> + Send,
    ) -> Result<Secret<String>, VaultError> {
        let start = Instant::now();
        let _permit = self.permits.acquire().await;
        if let Some(error) = self.unreachable_since(start) {
            return Err(error);
        }
        let outcome = read.await;
        if let Err(error) = &outcome
            && let Some(error) = error.for_other_requests()
        {
            *self.unreachable.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error));
        }
        outcome
    }

    fn unreachable_since(&self, start: Instant) -> Option<VaultError> {
        let unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        unreachable.as_ref().filter(|(at, _)| *at >= start).and_then(|(_, error)| error.for_other_requests())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn reads_that_wait_for_an_unreachable_server_fail_at_once() {
        let (limit, sent) = (Arc::new(Limit::default()), Arc::new(AtomicUsize::new(0)));
        let gate = Arc::new(Semaphore::new(0));
        let reads: Vec<_> = (0..100)
            .map(|_| {
                let (limit, sent, gate) = (Arc::clone(&limit), Arc::clone(&sent), Arc::clone(&gate));
                tokio::spawn(async move {
                    let read = async {
                        sent.fetch_add(1, Ordering::Relaxed);
                        gate.acquire().await.unwrap().forget();
                        Err(VaultError::Timeout { host: "planted".into() })
                    };
                    limit.run(read).await
                })
            })
            .collect();
        while sent.load(Ordering::Relaxed) < CONCURRENT_READS {
            tokio::task::yield_now().await;
        }
        gate.add_permits(100);
        for read in reads {
            assert!(matches!(read.await.unwrap(), Err(VaultError::Timeout { .. })));
        }
        assert_eq!(sent.load(Ordering::Relaxed), CONCURRENT_READS);
    }
}
