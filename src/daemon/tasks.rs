//! The tasks of a daemon: runs until a signal, or until one of them ends, and stops them in order.

use std::{process::ExitCode, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{Receiver, UnboundedReceiver},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{reload::Event, upstream::ReloadDone};
use crate::{
    logging::NOTICE,
    metrics::{BackgroundTask, Metrics},
    signals::Signal,
    supervise::supervise,
    systemd,
    vault::Sessions,
};

/// How long the end waits for a sealed copy that is being written. A disk that hangs must not hold up a restart, and the file is
/// whole at any point.
const COPY_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts a supervised task.
pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(
    task: BackgroundTask,
    metrics: &Arc<Metrics>,
    run: impl FnMut() -> F + Send + 'static,
) -> JoinHandle<()> {
    let metrics = Arc::clone(metrics);
    tokio::spawn(async move { supervise(task, &metrics, run).await })
}

/// The tasks of a daemon.
pub(super) struct Tasks {
    pub(super) serving: JoinHandle<usize>,
    pub(super) syncing: JoinHandle<()>,
    pub(super) refreshing: JoinHandle<()>,
    pub(super) copying: JoinHandle<()>,
    pub(super) notifying: JoinHandle<()>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) stop: CancellationToken,
}

impl Tasks {
    /// Runs until a signal to stop, which is a success, or until a task ends, which is a failure.
    pub(super) async fn run(
        mut self,
        mut signals: UnboundedReceiver<Signal>,
        mut reloads: Receiver<ReloadDone>,
        mut act: impl FnMut(Event),
    ) -> ExitCode {
        let has_failed = loop {
            tokio::select! {
                _ = &mut self.serving => break true,
                _ = &mut self.syncing => break true,
                _ = &mut self.refreshing => break true,
                _ = &mut self.copying => break true,
                _ = &mut self.notifying => break true,
                () = self.sessions.crashed() => break true,
                signal = signals.recv() => match signal {
                    Some(Signal::Stop) | None => break false,
                    Some(signal) => act(Event::Signal(signal)),
                },
                Some(done) = reloads.recv() => act(Event::Reload(done)),
            }
        };
        if has_failed {
            tracing::error!(
                "a task of the daemon ended, so it stops: this is a defect of keyringd, please report it"
            );
            return ExitCode::FAILURE;
        }
        self.shut_down().await
    }

    async fn shut_down(self) -> ExitCode {
        tracing::info!(target: NOTICE, "shutting down, draining requests");
        self.notifying.abort();
        systemd::stopping();
        self.stop.cancel();
        match self.serving.await {
            Ok(0) => tracing::info!(target: NOTICE, "stopped"),
            Ok(cut) => {
                tracing::warn!(cut, "stopped; connections that did not finish were cut");
            }
            Err(_) => return ExitCode::FAILURE,
        }
        let _ = (self.syncing.await, self.refreshing.await);
        if tokio::time::timeout(COPY_TIMEOUT, self.copying).await.is_err() {
            tracing::warn!("the sealed copy is still being written: the former one stays");
        }
        self.sessions.end().await; // they began to end with the drain
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// The exit code of a daemon whose task of this number panics.
    async fn exit_code_when_one_panics(panics: usize) -> ExitCode {
        let task = |at: usize| {
            tokio::spawn(async move {
                assert_ne!(at, panics, "planted");
                std::future::pending::<()>().await;
            })
        };
        let serving = task(0);
        let serving = tokio::spawn(async move {
            serving.await.unwrap();
            0
        });
        let stop = CancellationToken::new();
        let tasks = Tasks {
            serving,
            syncing: task(1),
            refreshing: task(2),
            copying: task(3),
            notifying: task(4),
            sessions: Arc::new(Sessions::new(Arc::default(), stop.clone())),
            stop,
        };
        let (_signals, received) = mpsc::unbounded_channel();
        let (_reloads, next_reload) = mpsc::channel(1);
        tasks.run(received, next_reload, |_| ()).await
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_the_daemon_with_a_failure() {
        for panics in 0..5 {
            assert_eq!(exit_code_when_one_panics(panics).await, ExitCode::FAILURE, "{panics}");
        }
    }
}
