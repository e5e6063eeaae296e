//! `tokio`, `tokio_util` and `arc_swap` as the models see them. Tasks and locks are Shuttle's; time is that of `models_std`.

pub use shuttle_tokio::*;

pub mod time;

use std::ops::Deref;

use shuttle::sync::atomic::{AtomicBool, Ordering};

pub mod sync {
    pub use shuttle_tokio::sync::*;
    // With its weak senders, which Shuttle's has not.
    pub use tokio::sync::mpsc;
    pub use tokio_util::sync::{CancellationToken, DropGuard};
}

pub mod task {
    pub use shuttle_tokio::task::*;

    /// Tasks whose end can be awaited.
    #[derive(Clone, Debug, Default)]
    pub struct TaskTracker(tokio_util::task::TaskTracker);

    impl TaskTracker {
        pub fn new() -> Self {
            Self::default()
        }

        pub fn spawn<T: Send + 'static>(
            &self,
            task: impl Future<Output = T> + Send + 'static,
        ) -> JoinHandle<T> {
            shuttle_tokio::spawn(self.0.track_future(task))
        }

        pub fn close(&self) {
            self.0.close();
        }

        pub async fn wait(&self) {
            self.0.wait().await;
        }
    }
}

/// Lets the scheduler choose who goes on.
fn point() {
    AtomicBool::new(false).load(Ordering::SeqCst);
}

/// Each use is a step that nothing can interrupt.
#[derive(Debug, Default)]
pub struct ArcSwap<T>(arc_swap::ArcSwap<T>);

#[derive(Debug)]
pub struct ArcSwapOption<T>(arc_swap::ArcSwapOption<T>);

impl<T> ArcSwap<T> {
    pub fn from_pointee(value: T) -> Self {
        Self(arc_swap::ArcSwap::from_pointee(value))
    }
}

impl<T> ArcSwapOption<T> {
    pub fn empty() -> Self {
        Self(arc_swap::ArcSwapOption::empty())
    }
}

impl<T> Default for ArcSwapOption<T> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<T> Deref for ArcSwap<T> {
    type Target = arc_swap::ArcSwap<T>;

    fn deref(&self) -> &Self::Target {
        point();
        &self.0
    }
}

impl<T> Deref for ArcSwapOption<T> {
    type Target = arc_swap::ArcSwapOption<T>;

    fn deref(&self) -> &Self::Target {
        point();
        &self.0
    }
}
