//! How many bytes of requests are being handled, over all connections, and the bound on them.
//!
//! A request holds what arrived of its body, then what its answer is until the client has taken it: slow clients cannot
//! make the daemon hold more than the bound either. One that is refused gives back at once what it held, so that others
//! which began can finish.

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

    /// Takes in so many bytes more. Answers whether there was room for them; if not, nothing is held any more.
    pub fn take_in(&mut self, bytes: usize) -> bool {
        self.received += bytes;
        let fits = self.all.0.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.most;
        self.bytes += bytes;
        if !fits {
            self.give_back();
        }
        fits
    }

    fn give_back(&mut self) {
        self.all.0.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }

    /// How much of the body arrived.
    pub const fn received(&self) -> usize {
        self.received
    }

    /// Goes over to the answer, which is held until it was sent. Being there already, it is not refused any more.
    pub fn keep(mut self, answer: Bytes) -> Bytes {
        self.give_back();
        self.all.0.fetch_add(answer.len(), Ordering::Relaxed);
        self.bytes = answer.len();
        Bytes::from_owner(Kept { answer, _hold: self })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.give_back();
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
        assert!(one.take_in(60) && two.take_in(40) && !two.has_room_for(1));
        assert!(!one.take_in(1), "what is refused is given back at once");
        assert_eq!((all.bytes(), one.received(), two.received()), (40, 61, 40));
        drop(one);
        assert_eq!(all.bytes(), 40);
        assert!(two.take_in(60));
        let answer = two.keep(Bytes::from_static(b"0123456789"));
        assert_eq!((all.bytes(), &answer[..]), (10, b"0123456789".as_slice()));
        drop(answer);
        assert_eq!(all.bytes(), 0);
    }
}
