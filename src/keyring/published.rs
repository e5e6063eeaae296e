//! The published snapshot: the only state that the sync and the API share.
//!
//! The sync stores a keyring and a report; readers load both without a lock.

use std::{sync::Arc, time::SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{
    history::{Listing, Rejection},
    snapshot::Keyring,
};

/// The current keyring, and the report of the sync that built it.
#[derive(Debug, Default)]
pub struct Published {
    keyring: ArcSwapOption<Keyring>,
    report: ArcSwap<Report>,
}

/// The result of the last syncs. It contains no secret.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub last_attempt: Option<SystemTime>,
    pub last_success: Option<SystemTime>,
    /// `None` after a success.
    pub last_error: Option<String>,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// Vault's last listing; `None` on KV v1 and before the first success.
    pub listing: Option<Listing>,
    pub rejected: Vec<Rejection>,
    pub warnings: Vec<String>,
}

impl Published {
    pub fn with(keyring: Keyring) -> Self {
        let published = Self::default();
        published.publish(keyring);
        published
    }

    /// The current snapshot; `None` before the first sync. A request loads it once.
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
