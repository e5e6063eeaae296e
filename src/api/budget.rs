//! The byte budget: how many bytes all requests hold together, and the limit on them.
//!
//! A request holds its received body, then its response until the client has read it, so slow readers are bounded as well.
//! A refused request gives its bytes back at once, so that others can finish.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hyper::body::Bytes;

/// The bytes that all requests hold.
#[derive(Debug, Default)]
pub(super) struct ByteBudget(AtomicUsize);

/// The bytes that one request holds. They are given back on drop.
#[derive(Debug)]
pub(super) struct ByteBudgetGuard {
    budget: Arc<ByteBudget>,
    limit: usize,
    held: usize,
    received: usize,
}

impl ByteBudget {
    pub(super) fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A guard that holds nothing yet. It takes bytes while all requests together hold at most `limit`.
    pub(super) fn guard(self: &Arc<Self>, limit: usize) -> ByteBudgetGuard {
        ByteBudgetGuard { budget: Arc::clone(self), limit, held: 0, received: 0 }
    }
}

impl ByteBudgetGuard {
    /// Whether that many bytes would fit now. An announced length reserves nothing.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.budget.used().saturating_add(bytes) <= self.limit
    }

    /// Takes received bytes and returns whether they fit. If not, the guard holds nothing any more.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        self.received += bytes;
        let fits = self.budget.0.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.limit;
        self.held += bytes;
        if !fits {
            self.release();
        }
        fits
    }

    fn release(&mut self) {
        self.budget.0.fetch_sub(std::mem::take(&mut self.held), Ordering::Relaxed);
    }

    /// How many bytes of the body arrived.
    pub(super) const fn received(&self) -> usize {
        self.received
    }

    /// Holds the response instead of the body, until it was sent. An existing response is never refused.
    pub(super) fn attach(mut self, response: Bytes) -> Bytes {
        self.release();
        self.budget.0.fetch_add(response.len(), Ordering::Relaxed);
        self.held = response.len();
        Bytes::from_owner(HeldBytes { bytes: response, _guard: self })
    }
}

impl Drop for ByteBudgetGuard {
    fn drop(&mut self) {
        self.release();
    }
}

struct HeldBytes {
    bytes: Bytes,
    _guard: ByteBudgetGuard,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_the_limit_and_give_back_their_bytes() {
        let budget = Arc::new(ByteBudget::default());
        let (mut one, mut two) = (budget.guard(100), budget.guard(100));
        assert!(one.take(60) && two.take(40) && !two.has_room_for(1));
        assert!(!one.take(1), "a refused request gives back its bytes at once");
        assert_eq!((budget.used(), one.received(), two.received()), (40, 61, 40));
        drop(one);
        assert_eq!(budget.used(), 40);
        assert!(two.take(60));
        let response = two.attach(Bytes::from_static(b"0123456789"));
        assert_eq!((budget.used(), &response[..]), (10, b"0123456789".as_slice()));
        drop(response);
        assert_eq!(budget.used(), 0);
    }
}
