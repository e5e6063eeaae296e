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
        Cache::On(settings) => {
            let file = CopyFile::new(settings)?;
            if let Some(error) = file.folder_warning() {
                tracing::warn!(%error, "the sealed copy is not safe there, and no new one is written");
            }
            Ok(Some((file, settings.wait)))
        }
        Cache::Off { file, folders } => {
            for deleted in copy::delete(file.as_deref(), folders) {
                match deleted {
                    Ok(path) => {
                        tracing::info!(target: NOTICE, path = %path.display(), "the sealed copy is off and was deleted");
                    }
                    Err(error) => tracing::warn!(%error, "the sealed copy is off, and its file stays"),
                }
            }
            Ok(None)
        }
    }
}

/// The keeper of the copy, if there is to be one.
pub(super) fn keeper(
    keeping: Option<(CopyFile, Duration)>,
    syncs: Option<&Arc<Syncs>>,
    metrics: &Arc<Metrics>,
) -> Option<CopyKeeper> {
    let ((file, wait), syncs) = keeping.zip(syncs)?;
    Some(CopyKeeper::new(file, wait, Arc::clone(syncs), Arc::clone(metrics)))
}

/// Keeps the copy, supervised. Without one, the task only waits for the stop.
pub(super) fn spawn(
    keeper: Option<CopyKeeper>,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let stop = stop.clone();
    let Some(keeper) = keeper else { return tokio::spawn(stop.cancelled_owned()) };
    let keeper = Arc::new(Mutex::new(keeper));
    super::spawn(BackgroundTask::Copy, metrics, move || {
        let (keeper, stop) = (Arc::clone(&keeper), stop.clone());
        async move { keeper.lock().await.run(stop).await }
    })
}
