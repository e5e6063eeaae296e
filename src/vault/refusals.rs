//! Credentials that Vault refused, so that an unchanged one is not sent until Vault locks its role for every daemon.
//!
//! Vault and OpenBao count failed logins per role: five in 15 minutes lock it, also for clients with the right secret. The
//! record is kept for the process, over reloads.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::error::VaultError;
use crate::secret::wipe_stack;

/// How often an unchanged credential is sent within [`WINDOW`]. Two daemons with it stay below the server's limit of five.
const MAX_ATTEMPTS: u32 = 2;

/// The server's default for counting failed logins.
const WINDOW: Duration = Duration::from_secs(15 * 60);

/// More stack than a hash uses.
const STACK: usize = 4096;

/// The most credentials that are remembered.
const MAX_REMEMBERED: usize = 16;

/// SHA-256 of the parts of a credential, each with its length, so that a change of any of them is a change.
pub(super) type Fingerprint = [u8; 32];

pub(super) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a str>) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let fingerprint = hash.finalize().into();
    wipe_stack::<STACK>(); // the hash keeps parts of what it got
    fingerprint
}

#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<VecDeque<Refused>>);

#[derive(Debug)]
struct Refused {
    credential: Fingerprint,
    first: Instant,
    attempts: u32,
    kind: Refusal,
    cause: String,
}

/// What Vault's answer may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Wrong,
    /// The role may be locked, which attempts do not prolong.
    MaybeLocked,
}

impl Refusals {
    /// # Errors
    /// [`VaultError::RefusedBefore`] while the credential must not be sent.
    pub(super) fn check(&self, credential: &Fingerprint, now: Instant) -> Result<(), VaultError> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held_back = refused.iter().filter(|one| one.attempts >= MAX_ATTEMPTS);
        let known = held_back.filter(|one| one.credential == *credential).find_map(|one| {
            let wait = WINDOW.saturating_sub(now.saturating_duration_since(one.first));
            (!wait.is_zero()).then(|| (wait, one.cause.clone()))
        });
        drop(refused);
        known.map_or(Ok(()), |(wait, cause)| Err(VaultError::RefusedBefore { wait, cause }))
    }

    pub(super) fn add(&self, credential: Fingerprint, kind: Refusal, cause: String, now: Instant) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = refused.iter().position(|one| one.credential == credential);
        let earlier = earlier
            .and_then(|at| refused.remove(at))
            .filter(|one| now.saturating_duration_since(one.first) < WINDOW);
        let (first, attempts) = earlier.map_or((now, 0), |one| (one.first, one.attempts));
        if refused.len() >= MAX_REMEMBERED {
            refused.pop_front();
        }
        refused.push_back(Refused { credential, first, attempts: attempts.saturating_add(1), kind, cause });
    }

    /// Allows what was refused by a lockout: an operator may have ended it.
    pub(super) fn forget_lockouts(&self) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|one| one.kind != Refusal::MaybeLocked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_credential_is_sent_twice_in_15_minutes() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, other) = ([1; 32], [2; 32]);
        for seconds in [0, 1] {
            assert!(refusals.check(&one, at(seconds)).is_ok());
            refusals.add(one, Refusal::Wrong, "planted".to_owned(), at(seconds));
        }
        assert!(matches!(refusals.check(&one, at(899)), Err(VaultError::RefusedBefore { .. })));
        assert!(refusals.check(&other, at(2)).is_ok(), "a changed one is sent at once");
        assert!(refusals.check(&one, at(900)).is_ok());
        refusals.add(one, Refusal::Wrong, "planted".to_owned(), at(900));
        assert!(refusals.check(&one, at(901)).is_ok(), "a new window has begun");
        refusals.add(one, Refusal::MaybeLocked, "planted".to_owned(), at(901));
        assert!(refusals.check(&one, at(902)).is_err());
        refusals.forget_lockouts();
        assert!(refusals.check(&one, at(902)).is_ok());
    }
}
