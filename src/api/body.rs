//! The request's body: read whole into one buffer, within the limits on size and time.
//!
//! The buffer has headroom, so that a plaintext is encrypted where it was read. The program's allocator wipes it when it is
//! freed, as well as the smaller ones that it outgrew.
//!
//! The byte budget limits what all requests hold together: a request holds its received body, then its response until the
//! client has read it, so slow readers are bounded as well. A refused request gives its bytes back at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt as _;
use hyper::{
    body::{Body as _, Bytes, Incoming},
    header::{self, HeaderMap},
};
use tokio::time::timeout;

use super::error::{ApiError, ErrorKind};
use crate::cipher::{ROOM as HEADROOM, TAG_LEN as TAILROOM};

/// The initial capacity for a body.
const INITIAL_CAPACITY: usize = 64 << 10;

/// From a request's head to the end of its body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What one client can make the daemon handle.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one request's body.
    pub request_size: usize,
    /// Bytes that all requests hold together.
    pub inflight_size: usize,
    /// Items of one batch.
    pub batch: usize,
    /// From a request's head to the end of its body.
    pub body_time: Duration,
}

/// A body behind [`HEADROOM`] free bytes.
#[derive(Default)]
pub(super) struct RequestBody(Vec<u8>);

impl Limits {
    pub const fn new(request_size: usize, inflight_size: usize, batch: usize) -> Self {
        Self { request_size, inflight_size, batch, body_time: BODY_TIME }
    }
}

impl RequestBody {
    pub(super) const HEADROOM: usize = HEADROOM;

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.get(HEADROOM..).unwrap_or_default()
    }

    /// The buffer with its headroom. Only a body that was read has one.
    pub(super) const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Takes the body out.
    pub(super) fn take(&mut self) -> Bytes {
        let buffer = std::mem::take(&mut self.0);
        let body = HEADROOM.min(buffer.len());
        Bytes::from_owner(buffer).slice(body..)
    }
}

/// Reads a body of at most `size` bytes. The error is 413 too large, 429 over the byte budget, 408 too slow or 400 cut off.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Incoming,
    size: usize,
    limits: &Limits,
    budget: &mut ByteBudgetGuard,
) -> Result<RequestBody, ApiError> {
    let announced = body.size_hint().exact().and_then(|len| usize::try_from(len).ok());
    let refused = match announced {
        Some(len) if len > size => Some(too_large(size, limits)),
        Some(len) if !budget.has_room_for(len) => Some(over_budget(limits)),
        _ => None,
    };
    if let Some(error) = refused {
        Box::pin(discard(headers, body, limits)).await;
        return Err(error.closing_connection());
    }
    let read = timeout(limits.body_time, collect(body, announced, size, limits, budget)).await;
    read.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {} s", limits.body_time.as_secs_f32());
        Err(ApiError::new(ErrorKind::TooSlow, message))
    })
    .map_err(ApiError::closing_connection)
}

/// Receives and drops the body of a refused request: a client that is still sending would not read the response. A client
/// that waits for `100 Continue` has sent none.
pub(super) async fn discard(headers: &HeaderMap, body: Incoming, limits: &Limits) {
    let expect = headers.get(header::EXPECT);
    if expect.is_none_or(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        drain(body, limits).await;
    }
}

async fn drain(mut body: Incoming, limits: &Limits) {
    let mut received = 0;
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            received += frame.data_ref().map_or(0, Bytes::len);
            if received > limits.request_size {
                return;
            }
        }
    };
    let _ = timeout(limits.body_time, rest).await;
}

async fn collect(
    mut body: Incoming,
    announced: Option<usize>,
    size: usize,
    limits: &Limits,
    budget: &mut ByteBudgetGuard,
) -> Result<RequestBody, ApiError> {
    // Capacity grows with what arrives: an announced length costs the client nothing, and capacity is wiped when freed.
    let capacity = announced.unwrap_or(INITIAL_CAPACITY).min(INITIAL_CAPACITY) + HEADROOM + TAILROOM;
    let mut buffer = Vec::with_capacity(capacity);
    buffer.resize(HEADROOM, 0);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(ApiError::invalid("the body was cut off")) };
        let Ok(data) = frame.into_data() else { continue };
        let error = if buffer.len() - HEADROOM + data.len() > size {
            too_large(size, limits)
        } else if !budget.take(data.len()) {
            over_budget(limits)
        } else {
            reserve(&mut buffer, data.len(), announced.map_or(0, |len| len + HEADROOM + TAILROOM));
            buffer.extend_from_slice(&data);
            continue;
        };
        drop(buffer);
        Box::pin(drain(body, limits)).await;
        return Err(error);
    }
    Ok(RequestBody(buffer))
}

/// Grows the buffer: by doubling, or to the announced capacity once a quarter of it has arrived.
fn reserve(buffer: &mut Vec<u8>, more: usize, announced: usize) {
    let needed = buffer.len() + more + TAILROOM;
    if needed <= buffer.capacity() {
        return;
    }
    let credible = announced > 0 && needed >= announced / 4;
    let capacity = if credible { announced } else { buffer.capacity() * 2 };
    buffer.reserve_exact(capacity.max(needed) - buffer.len());
}

fn too_large(size: usize, limits: &Limits) -> ApiError {
    let setting =
        if size < limits.request_size { "the limit for this endpoint" } else { "keyring_max_request_size" };
    ApiError::new(ErrorKind::TooLarge, format!("the body is larger than {size} bytes ({setting})"))
}

fn over_budget(limits: &Limits) -> ApiError {
    let limit = limits.inflight_size;
    ApiError::new(
        ErrorKind::Busy,
        format!("requests hold more than {limit} bytes at once (keyring_max_inflight_size): try again"),
    )
}

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
