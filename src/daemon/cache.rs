//! The sealed copy of the keys as a task of the daemon; switched off, it is deleted.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    logging::NOTICE,
    metrics::{BackgroundTask, Metrics},
    settings::Cache,
    sync::{
        CopyKeeper, Syncs,
        copy::{self, CopyError, CopyFile},
    },
};

/// The file of the copy, and how long Vault may take before it is used; `None` if there is to be no copy.
pub(super) fn check(cache: &Cache) -> Result<Option<(CopyFile, Duration)>, CopyError> {
    match cache {
        Cache::On(settings) => Ok(Some((CopyFile::new(settings)?, settings.wait))),
        Cache::Off { file, folders } => {
            for deleted in copy::delete(file.as_deref(), folders) {
                match deleted {
                    Ok(path) => {
                        tracing::info!(target: NOTICE, "the sealed copy {} is off and was deleted", path.display());
                    }
                    Err(error) => tracing::warn!("the sealed copy is off: {error}"),
                }
            }
            Ok(None)
        }
    }
}

/// Keeps the copy, supervised. Without one, the task only waits for the stop.
pub(super) fn spawn(
    keeping: Option<((CopyFile, Duration), Arc<Syncs>)>,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let stop = stop.clone();
    let Some(((file, wait), syncs)) = keeping else { return tokio::spawn(stop.cancelled_owned()) };
    let keeper = Arc::new(Mutex::new(CopyKeeper::new(file, wait, syncs, Arc::clone(metrics))));
    super::spawn(BackgroundTask::Copy, metrics, move || {
        let (keeper, stop) = (Arc::clone(&keeper), stop.clone());
        async move { keeper.lock().await.run(stop).await }
    })
}
