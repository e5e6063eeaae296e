//! The limit on syncs with a caller's token, per uid: nobody may guess tokens through the daemon.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The least time from a failed token to the next one of the same uid.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The uids whose last token failed or is being tried.
#[derive(Debug, Default)]
pub(super) struct TokenLimit(Mutex<HashMap<u32, State>>);

#[derive(Clone, Copy, Debug)]
enum State {
    Trying,
    Failed(Instant),
}

/// One token being tried. On drop it counts as failed.
pub(super) struct Attempt<'a> {
    limit: &'a TokenLimit,
    uid: u32,
    failed: bool,
}

impl TokenLimit {
    /// `None` while another token of this uid is tried, and for [`AFTER_FAILURE`] after a failed one.
    pub(super) fn begin(&self, uid: u32, now: Instant) -> Option<Attempt<'_>> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |state: &State| match state {
            State::Trying => true,
            State::Failed(at) => now.saturating_duration_since(*at) < AFTER_FAILURE,
        };
        states.retain(|_, state| waits(state));
        if states.contains_key(&uid) {
            return None;
        }
        states.insert(uid, State::Trying);
        drop(states);
        Some(Attempt { limit: self, uid, failed: true })
    }
}

impl Attempt<'_> {
    pub(super) fn succeeded(mut self) {
        self.failed = false;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut states = self.limit.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.failed {
            states.insert(self.uid, State::Failed(Instant::now()));
        } else {
            states.remove(&self.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_tries_one_token_at_a_time_and_waits_after_a_failure() {
        let (limit, now) = (TokenLimit::default(), Instant::now());
        let first = limit.begin(1, now).unwrap();
        assert!(limit.begin(1, now).is_none());
        limit.begin(2, now).unwrap().succeeded();
        limit.begin(2, now).unwrap().succeeded();
        drop(first);
        assert!(limit.begin(1, Instant::now()).is_none());
        assert!(limit.begin(1, Instant::now() + AFTER_FAILURE).is_some());
    }
}
