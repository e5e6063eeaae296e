//! The request's body: read whole into one buffer, within the limits on size and time.
//!
//! The buffer has headroom, so that a plaintext is encrypted where it was read. The program's allocator wipes it when it is
//! freed, as well as the smaller ones that it outgrew.

#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, reason = "times and sizes from outside must not overflow")
)]

use std::{
    future::{Future, pending},
    pin::pin,
    time::Duration,
};

use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::{
    body::{Body as _, Bytes, Incoming},
    header::{self, HeaderMap},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    budget::{ByteBudgetGuard, Refused, SMALL},
    error::{ApiError, ErrorKind},
};
use crate::cipher::{ROOM as HEADROOM, TAG_LEN as TAILROOM};

/// The initial capacity for a body. It fits into what a small request may hold without waiting.
const INITIAL_CAPACITY: usize = 4 << 10;

/// How much of a refused body is received and dropped, and for how long.
const MAX_DISCARDED: usize = 96 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

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

    pub(super) fn as_bytes_mut(&mut self) -> &mut [u8] {
        self.0.get_mut(HEADROOM..).unwrap_or_default()
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
    mut body: Incoming,
    size: usize,
    limits: &Limits,
    budget: &mut ByteBudgetGuard,
) -> Result<RequestBody, ApiError> {
    let announced = body.size_hint().exact().and_then(|len| usize::try_from(len).ok());
    let refused = match announced {
        Some(len) if len > size => Some(too_large(size, limits)),
        Some(len) if !budget.has_room_for(len) => Some(over_budget(Refused::Busy, limits)),
        _ => None,
    };
    if let Some(error) = refused {
        discard(headers, body);
        return Err(error.closing_connection());
    }
    let revoked = (!announced.is_some_and(is_small)).then(|| budget.revoked());
    let read = in_time(collect(&mut body, announced, size, limits, budget), limits, revoked).await;
    read.map_err(|error| {
        discard(headers, body);
        error.closing_connection()
    })
}

/// What `reading` returns within the time for a body, unless its bytes are revoked. Most bodies arrive with their head: they
/// need no timer.
async fn in_time<T>(
    reading: impl Future<Output = Result<T, ApiError>>,
    limits: &Limits,
    revoked: Option<CancellationToken>,
) -> Result<T, ApiError> {
    let mut reading = pin!(reading);
    if let Some(read) = reading.as_mut().now_or_never() {
        return read;
    }
    let revoked = async {
        match revoked {
            Some(revoked) => revoked.cancelled().await,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        read = timeout(limits.body_time, reading) => read.unwrap_or_else(|_| {
            let message = format!("the body did not arrive within {} s", limits.body_time.as_secs_f32());
            Err(ApiError::new(ErrorKind::TooSlow, message))
        }),
        () = revoked => Err(over_budget(Refused::Busy, limits)),
    }
}

/// Receives and drops what is left of a refused request's body, while the response is sent: most clients send everything
/// before they read. A client that waits for `100 Continue` has sent nothing.
pub(super) fn discard(headers: &HeaderMap, body: Incoming) {
    let expect = headers.get(header::EXPECT);
    let waits = expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if !waits && !body.is_end_stream() {
        tokio::spawn(timeout(DISCARD_TIME, drain(body)));
    }
}

async fn drain(mut body: Incoming) {
    let mut received = 0_usize;
    while let Some(Ok(frame)) = body.frame().await {
        received = received.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if received > MAX_DISCARDED {
            return;
        }
    }
}

async fn collect(
    body: &mut Incoming,
    announced: Option<usize>,
    size: usize,
    limits: &Limits,
    budget: &mut ByteBudgetGuard,
) -> Result<RequestBody, ApiError> {
    // Capacity grows with what arrives: an announced length costs the client nothing, and capacity is wiped when freed.
    let capacity = with_room(announced.unwrap_or(INITIAL_CAPACITY).min(INITIAL_CAPACITY));
    reserve(budget, capacity, limits).await?;
    let mut buffer = Vec::with_capacity(capacity);
    buffer.resize(HEADROOM, 0);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(ApiError::invalid("the body was cut off")) };
        let Ok(data) = frame.into_data() else { continue };
        budget.count_received(data.len());
        let len = buffer.len().saturating_add(data.len());
        if len.saturating_sub(HEADROOM) > size {
            return Err(too_large(size, limits));
        }
        let announced = announced.map_or(0, with_room);
        if let Some(capacity) = grown_capacity(len, buffer.capacity(), announced) {
            // Both buffers exist while the old one is copied.
            reserve(budget, capacity, limits).await?;
            let outgrown = buffer.capacity();
            buffer.reserve_exact(capacity.saturating_sub(buffer.len()));
            budget.release(outgrown);
        }
        buffer.extend_from_slice(&data);
    }
    Ok(RequestBody(buffer))
}

async fn reserve(budget: &mut ByteBudgetGuard, bytes: usize, limits: &Limits) -> Result<(), ApiError> {
    budget.reserve(bytes).await.map_err(|refused| over_budget(refused, limits))
}

/// Whether the request stays small, so that its bytes are never revoked.
const fn is_small(announced: usize) -> bool {
    with_room(announced) <= SMALL
}

/// A body's length with the room before and behind it.
const fn with_room(len: usize) -> usize {
    len.saturating_add(HEADROOM).saturating_add(TAILROOM)
}

/// The new capacity for `len` bytes, if the old one is too small: four times of what arrived, but not more than
/// announced, or the double.
fn grown_capacity(len: usize, capacity: usize, announced: usize) -> Option<usize> {
    let needed = len.saturating_add(TAILROOM);
    if needed <= capacity {
        return None;
    }
    let capacity =
        if announced > 0 { announced.min(needed.saturating_mul(4)) } else { capacity.saturating_mul(2) };
    Some(capacity.max(needed))
}

fn too_large(size: usize, limits: &Limits) -> ApiError {
    let setting =
        if size < limits.request_size { "the limit for this endpoint" } else { "keyring_max_request_size" };
    ApiError::new(ErrorKind::TooLarge, format!("the body is larger than {size} bytes ({setting})"))
}

pub(super) fn over_budget(refused: Refused, limits: &Limits) -> ApiError {
    let limit = limits.inflight_size;
    let (kind, message) = match refused {
        Refused::Busy => (
            ErrorKind::Busy,
            format!("requests hold more than {limit} bytes at once (keyring_max_inflight_size): try again"),
        ),
        Refused::TooLarge => (
            ErrorKind::TooLarge,
            format!(
                "the request takes more memory than {limit} bytes (keyring_max_inflight_size): send less"
            ),
        ),
    };
    ApiError::new(kind, message)
}
