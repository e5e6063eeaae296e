//! How many bytes of requests are being handled, over all connections, and the bound on them.
//!
//! A request holds the length of its body from the first byte of it on, so that those which began can finish, then what
//! its answer is until the client has taken it: slow clients cannot make the daemon hold more than the bound either.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hyper::body::Bytes;

/// All bytes that requests hold.
#[derive(Debug, Default)]
pub struct InFlight(AtomicUsize);

/// What one request holds; free again when dropped.
#[derive(Debug)]
pub struct Hold {
    all: Arc<InFlight>,
    most: usize,
    bytes: usize,
    received: usize,
}

impl InFlight {
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A request that holds nothing yet, and may as long as all together hold no more than `most`.
    pub fn hold(self: &Arc<Self>, most: usize) -> Hold {
        Hold { all: Arc::clone(self), most, bytes: 0, received: 0 }
    }
}

impl Hold {
    /// Whether there would be room for that many bytes. Nothing is held for a word alone.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.all.bytes().saturating_add(bytes) <= self.most
    }

    /// Takes in `more` bytes of a body that was announced to be so long. Answers whether there is room for it.
    pub fn take_in(&mut self, more: usize, announced: usize) -> bool {
        let needed = (self.received + more).max(announced);
        let grow = needed.saturating_sub(self.bytes);
        if self.all.0.fetch_add(grow, Ordering::Relaxed).saturating_add(grow) > self.most {
            self.all.0.fetch_sub(grow, Ordering::Relaxed);
            return false;
        }
        (self.bytes, self.received) = (self.bytes + grow, self.received + more);
        true
    }

    /// How much of the body was taken in.
    pub const fn received(&self) -> usize {
        self.received
    }

    /// Goes over to the answer, which is held until it was sent. Being there already, it is not refused any more.
    pub fn keep(mut self, answer: Bytes) -> Bytes {
        self.all.0.fetch_add(answer.len(), Ordering::Relaxed);
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = answer.len();
        Bytes::from_owner(Kept { answer, _hold: self })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Kept {
    answer: Bytes,
    _hold: Hold,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_the_bound_and_give_back_what_they_held() {
        let all = Arc::new(InFlight::default());
        let (mut one, mut two) = (all.hold(100), all.hold(100));
        assert!(one.take_in(1, 60) && two.take_in(40, 0) && !two.has_room_for(1) && !two.take_in(1, 0));
        assert!(one.take_in(59, 60), "what was announced is held from the first byte on");
        assert_eq!((all.bytes(), one.received(), two.received()), (100, 60, 40));
        drop(one);
        assert_eq!(all.bytes(), 40);
        assert!(two.take_in(60, 0));
        let answer = two.keep(Bytes::from_static(b"0123456789"));
        assert_eq!((all.bytes(), &answer[..]), (10, b"0123456789".as_slice()));
        drop(answer);
        assert_eq!(all.bytes(), 0);
    }
}
