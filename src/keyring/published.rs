//! The published snapshot: where the sync and the socket meet, and all that they know of each other.
//!
//! The sync stores a whole keyring and a whole report; readers load either without a lock. Nothing here waits.

use std::{sync::Arc, time::SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{Keyring, Listing, history::Rejection};

/// The keyring that serves, and the report of the sync that made it.
#[derive(Debug, Default)]
pub struct Published {
    keyring: ArcSwapOption<Keyring>,
    report: ArcSwap<Report>,
}

/// What an operator wants to know of the last syncs. Nothing in it is secret.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub last_attempt: Option<SystemTime>,
    pub last_success: Option<SystemTime>,
    /// Why the newest attempt failed; `None` after a success.
    pub last_error: Option<String>,
    /// Attempts that failed since the last success.
    pub failures: u32,
    /// What Vault listed last; `None` on KV v1 and before the first success.
    pub listing: Option<Listing>,
    pub rejected: Vec<Rejection>,
    /// What an operator should see to before it hurts.
    pub warnings: Vec<String>,
}

impl Published {
    /// A keyring that is there from the start.
    pub fn with(keyring: Keyring) -> Self {
        let published = Self::default();
        published.publish(keyring);
        published
    }

    /// The snapshot to serve a whole request from; `None` before the first one.
    pub fn keyring(&self) -> Option<Arc<Keyring>> {
        self.keyring.load_full()
    }

    pub fn publish(&self, keyring: Keyring) {
        self.keyring.store(Some(Arc::new(keyring)));
    }

    pub fn report(&self) -> Arc<Report> {
        self.report.load_full()
    }

    pub fn set_report(&self, report: Report) {
        self.report.store(Arc::new(report));
    }
}
