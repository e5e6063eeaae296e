//! The rate limit of log lines, per place in the source. Clients and servers cause most lines, and must not fill a disk.
//!
//! The audit has its own limit, and at the level trace there is none.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Level, Subscriber, callsite::Identifier};
use tracing_subscriber::{Layer, layer::Context};

/// At most this many lines of one place are written per interval.
const MAX_LINES: u64 = 50;
const INTERVAL: Duration = Duration::from_secs(10);

/// A layer that drops lines over the limit.
#[derive(Default)]
pub(super) struct RateLimit(Mutex<HashMap<Identifier, Window>>);

/// The current interval of one place.
struct Window {
    begun: Instant,
    lines: u64,
}

impl Window {
    /// Counts a line. Returns whether to write it, and how many were dropped in the interval before.
    fn count(&mut self, now: Instant) -> (bool, u64) {
        let mut dropped = 0;
        if now.saturating_duration_since(self.begun) >= INTERVAL {
            dropped = self.lines.saturating_sub(MAX_LINES);
            *self = Self { begun: now, lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= MAX_LINES, dropped)
    }
}

impl<S: Subscriber> Layer<S> for RateLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if metadata.target() == super::AUDIT || *metadata.level() == Level::TRACE {
            return true;
        }
        let now = Instant::now();
        let (written, dropped) = {
            let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            windows.entry(metadata.callsite()).or_insert(Window { begun: now, lines: 0 }).count(now)
        };
        if dropped > 0 {
            let (module, line) = (metadata.module_path(), metadata.line());
            tracing::warn!(dropped, module, line, "log lines over the rate limit were dropped");
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_limit_are_dropped_and_counted() {
        let start = Instant::now();
        let mut window = Window { begun: start, lines: 0 };
        let written = (0..1000).filter(|_| window.count(start).0).count() as u64;
        assert_eq!(written, MAX_LINES);
        assert_eq!(window.count(start + INTERVAL), (true, 1000 - MAX_LINES));
        assert_eq!(window.count(start + INTERVAL * 2), (true, 0));
    }
}
