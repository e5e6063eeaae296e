//! The shares of the byte budget: who holds how much, who gets more, and whose requests make room.
//!
//! Arithmetic without time and without locks; `budget` waits, and gives the bytes back.

use std::collections::{BTreeMap, HashMap};

use tokio_util::sync::CancellationToken;

/// Fair shares are those of at most this many uids.
const MOST_SHARES: usize = 8;

/// A uid above its fair share leaves 1/16 of the limit to the others.
const RESERVE: usize = 16;

/// The most that one uid may hold alone.
pub(super) const fn most(limit: usize) -> usize {
    limit - limit / RESERVE
}

/// What the uids hold, and who waits.
#[derive(Default)]
pub(super) struct Shares {
    pub(super) used: usize,
    numbers: u64,
    users: HashMap<u32, User>,
    /// Requests that are handled: they give back their bytes soon.
    pub(super) handled: usize,
    /// Whole bodies that wait for the memory to handle them.
    pub(super) waiting_bodies: usize,
}

#[derive(Default)]
struct User {
    held: usize,
    /// Requests below its share that wait for bytes.
    waiting: usize,
    requests: BTreeMap<u64, Request>,
}

struct Request {
    held: usize,
    revoked: CancellationToken,
}

/// Bytes that a request asks for.
pub(super) struct Claim {
    pub(super) uid: u32,
    /// Of [`Shares::register`].
    pub(super) number: u64,
    pub(super) bytes: usize,
    /// The limit on all bytes.
    pub(super) limit: usize,
}

pub(super) enum Grant {
    Granted,
    /// Bytes of others are on their way.
    Wait,
    Refused,
}

impl Shares {
    /// The fair share of a uid: the limit without the reserve, divided by the uids that hold bytes or wait for them.
    fn share(&self, uid: u32, limit: usize) -> usize {
        let others = self.users.iter().filter(|(other, user)| **other != uid && user.held + user.waiting > 0);
        most(limit) / (others.count() + 1).min(MOST_SHARES)
    }

    /// Whether a uid may hold that many bytes more, without those of small requests.
    pub(super) fn has_room(&self, uid: u32, limit: usize, bytes: usize) -> bool {
        self.is_below_share(uid, limit, bytes) || self.used + bytes <= most(limit)
    }

    fn is_below_share(&self, uid: u32, limit: usize, bytes: usize) -> bool {
        let mine = self.users.get(&uid).map_or(0, |user| user.held);
        mine + bytes <= self.share(uid, limit)
    }

    /// The number of a new request of this uid, which holds these bytes.
    pub(super) fn register(&mut self, uid: u32, bytes: usize, revoked: &CancellationToken) -> u64 {
        self.numbers += 1;
        let request = Request { held: 0, revoked: revoked.clone() };
        self.users.entry(uid).or_default().requests.insert(self.numbers, request);
        self.add(uid, self.numbers, bytes);
        self.numbers
    }

    /// Adds bytes to a request if they fit beside those of `small` requests. For a uid below its share, requests of others are
    /// revoked.
    pub(super) fn grant(&mut self, claim: &Claim, small: usize) -> Grant {
        let Claim { uid, number, bytes, limit } = *claim;
        let below = self.is_below_share(uid, limit, bytes);
        let most = if below { limit } else { most(limit) };
        let others_wait = self.users.iter().any(|(other, user)| *other != uid && user.waiting > 0);
        if self.used + small + bytes <= most && (below || !others_wait) {
            self.add(uid, number, bytes);
            return Grant::Granted;
        }
        if !below {
            return Grant::Refused;
        }
        self.revoke((self.used + small + bytes).saturating_sub(limit), self.share(uid, limit));
        Grant::Wait
    }

    fn add(&mut self, uid: u32, number: u64, bytes: usize) {
        self.used += bytes;
        let user = self.users.entry(uid).or_default();
        user.held += bytes;
        if let Some(request) = user.requests.get_mut(&number) {
            request.held += bytes;
        }
    }

    /// One more request of this uid, below its share, waits for bytes.
    pub(super) fn wait(&mut self, uid: u32) {
        self.users.entry(uid).or_default().waiting += 1;
    }

    pub(super) fn waited(&mut self, uid: u32) {
        if let Some(user) = self.users.get_mut(&uid) {
            user.waiting -= 1;
            self.forget_idle(uid);
        }
    }

    /// Revokes requests of uids above the share, the largest first, until `missing` bytes will be free.
    fn revoke(&self, missing: usize, share: usize) {
        let revoked = |user: &User| -> usize {
            let requests = user.requests.values().filter(|request| request.revoked.is_cancelled());
            requests.map(|request| request.held).sum()
        };
        let mut free: usize = self.users.values().map(revoked).sum();
        let mut above: Vec<_> = self.users.values().filter(|user| user.held > share).collect();
        above.sort_by_key(|user| std::cmp::Reverse(user.held));
        for user in above {
            let mut excess = user.held.saturating_sub(share).saturating_sub(revoked(user));
            let mut requests: Vec<_> =
                user.requests.values().filter(|request| !request.revoked.is_cancelled()).collect();
            requests.sort_by_key(|request| std::cmp::Reverse(request.held));
            for request in requests {
                if free >= missing || excess == 0 {
                    break;
                }
                request.revoked.cancel();
                free += request.held;
                excess = excess.saturating_sub(request.held);
            }
        }
    }

    /// Takes bytes from a request, which is forgotten with its last one.
    pub(super) fn remove(&mut self, uid: u32, number: u64, bytes: usize) {
        self.used -= bytes;
        let Some(user) = self.users.get_mut(&uid) else { return };
        user.held -= bytes;
        if let Some(request) = user.requests.get_mut(&number) {
            request.held -= bytes;
        }
        if user.requests.get(&number).is_some_and(|request| request.held == 0) {
            user.requests.remove(&number);
        }
        self.forget_idle(uid);
    }

    fn forget_idle(&mut self, uid: u32) {
        if self.users.get(&uid).is_some_and(|user| user.requests.is_empty() && user.waiting == 0) {
            self.users.remove(&uid);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}
