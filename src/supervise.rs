//! Restarts a background task that panics. Only a crash loop ends the daemon.
//!
//! The owner of a task gives a closure that runs it from the state that it left behind.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;

use crate::metrics::{BackgroundTask, Metrics};

/// A task is restarted this often within the period; one panic more ends the daemon.
const MAX_RESTARTS: usize = 2;
const PERIOD: Duration = Duration::from_secs(60);

/// Runs a task until it ends by itself.
///
/// # Panics
/// When the task panics once more than it may be restarted.
pub(crate) async fn supervise<F: Future<Output = ()>>(
    task: BackgroundTask,
    metrics: &Metrics,
    mut run: impl FnMut() -> F,
) {
    let mut restarts: Vec<Instant> = Vec::new();
    while let Err(panic) = AssertUnwindSafe(run()).catch_unwind().await {
        let now = Instant::now();
        restarts.retain(|at| now.saturating_duration_since(*at) < PERIOD);
        if restarts.len() >= MAX_RESTARTS {
            resume_unwind(panic);
        }
        restarts.push(now);
        metrics.task_restarted(task);
        tracing::error!(?task, "a background task panicked and is restarted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_restarted_and_one_that_goes_on_panicking_is_not() {
        let (metrics, mut runs) = (Metrics::default(), 0);
        supervise(BackgroundTask::Sync, &metrics, || {
            runs += 1;
            let run = runs;
            async move { assert!(run > 2, "planted") }
        })
        .await;
        assert_eq!(runs, 3);
        let mut runs = 0;
        let crashing = supervise(BackgroundTask::Sync, &metrics, || {
            runs += 1;
            async { panic!("planted") }
        });
        assert!(AssertUnwindSafe(crashing).catch_unwind().await.is_err());
        assert_eq!(runs, 3);
    }
}
