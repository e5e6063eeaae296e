//! The request's body: read whole into one buffer, within the limits on size and time.
//!
//! The buffer has headroom, so that a plaintext is encrypted where it was read. The program's allocator wipes it when it is
//! freed, as well as the smaller ones that it outgrew.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::{
    body::{Body as _, Bytes, Incoming},
    header::{self, HeaderMap},
};
use tokio::time::timeout;

use super::{
    budget::ByteBudgetGuard,
    error::{ApiError, ErrorKind},
};
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

    pub(super) fn into_bytes(self) -> Bytes {
        let body = HEADROOM.min(self.0.len());
        Bytes::from_owner(self.0).slice(body..)
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
