//! What a request costs the others: the memory to handle its body, and the time of a processor.
//!
//! Memory is reserved before it is allocated. A request that computes for long takes a turn.

use memchr::{memchr, memchr_iter};
use tokio::sync::SemaphorePermit;

use super::{
    attempt::Action,
    fields::Item,
    place::Place,
    raw,
    request::{FORM_GROWTH, is_form, unescape},
};
use crate::{
    api::{
        body::{RequestBody, over_budget},
        budget::Refused,
        context::{Call, Context},
        error::ApiError,
    },
    keyring::KongFields,
};

/// The most bytes of one item's response beyond its texts, which are not longer than in the request: the names, the nonce and
/// the tag in base64, two key IDs of 64 characters, or an error.
pub(super) const ITEM_RESPONSE: usize = 336;

/// The most bytes of a nonce.
const NONCE: usize = 24;

/// From this size on, a body takes a good part of a millisecond: other requests go first.
const LONG: usize = 256 << 10;

/// From this work on, a request takes a turn and the other tasks move to another thread, which costs more than half a
/// millisecond with as many threads as processors. In bytes of a body, of which a MiB takes about a millisecond.
const VERY_LONG: usize = 2 << 20;

/// The work of one item of a batch, in the same bytes.
const ITEM_WORK: usize = 2 << 10;

/// Lets other requests go first if the body is long, and reserves the memory to handle it.
pub(super) async fn prepare(call: &mut Call<'_>, action: Option<Action>) -> Result<(), ApiError> {
    if call.body.as_bytes().len() > LONG {
        tokio::task::yield_now().await;
    }
    // Raw bytes are handled where they are.
    if action.is_some() && raw::is_raw(&call.head.headers) {
        return Ok(());
    }
    if !is_form(&call.head.headers, call.body.as_bytes()) && !call.body.as_bytes().is_empty() {
        unescape(call.body.buffer(), RequestBody::HEADROOM);
    }
    let memory = memory(call);
    call.budget.reserve_work(memory).await.map_err(|refused| {
        call.body = RequestBody::default();
        over_budget(refused, &call.config.limits)
    })
}

/// One of as many turns as there are processors, if a request needs one.
pub(super) struct Turn<'c>(Option<SemaphorePermit<'c>>);

impl<'c> Turn<'c> {
    /// Waits for it, unless the memory is needed for another user's request.
    pub(super) async fn take(call: &mut Call<'c>) -> Result<Self, ApiError> {
        let body = call.body.as_bytes();
        let is_long = body.len() > VERY_LONG
            || body.len() > VERY_LONG / ITEM_WORK
                && !raw::is_raw(&call.head.headers)
                && items(body, call.config.limits.batch).saturating_mul(ITEM_WORK) > VERY_LONG;
        if !is_long {
            return Ok(Self(None));
        }
        let (context, revoked): (&'c Context, _) = (call.context, call.budget.revoked());
        tokio::select! {
            Ok(turn) = context.turns.acquire() => Ok(Self(Some(turn))),
            () = revoked.cancelled() => Err(over_budget(Refused::Busy, &call.config.limits)),
        }
    }

    pub(super) fn work<T>(self, work: impl FnOnce() -> T) -> T {
        if self.0.is_some() { tokio::task::block_in_place(work) } else { work() }
    }
}

/// At least as many items as are parsed of the body's batch: parsing ends at the first over the limit.
fn items(body: &[u8], max_batch: usize) -> usize {
    memchr_iter(b'{', body).count().min(max_batch).saturating_add(1)
}

/// The most bytes that handling a JSON body or a form allocates. Texts are decoded, encrypted and decrypted where they are, so
/// that JSON costs its body twice: the body, and a response that is as long.
fn memory(call: &Call<'_>) -> usize {
    let body = call.body.as_bytes();
    let mut bytes = body.len();
    // A field of Kong's takes two digits per byte.
    let accepts_fields = call.named.is_some_and(|entry| entry.formats.kong_fields == KongFields::Accept);
    if accepts_fields {
        bytes = bytes.saturating_add(body.len() / 2);
    }
    // A form's texts are decoded, and written as JSON, which may have escapes then.
    let form = is_form(&call.head.headers, body);
    if form {
        bytes = bytes.saturating_add(body.len().saturating_mul(1 + FORM_GROWTH));
    }
    // A text with escapes is copied when it is parsed, into a buffer that grows by doubling, and out of it.
    if form || memchr(b'\\', body).is_some() {
        bytes = bytes.saturating_add(body.len().saturating_mul(3));
    }
    // The list of items grows by doubling, and has a copy meanwhile.
    let per_item = 3 * size_of::<Item<Place>>() + NONCE + ITEM_RESPONSE;
    bytes.saturating_add(items(body, call.config.limits.batch).saturating_mul(per_item))
}
