//! What a request costs the others: the memory to handle its body, and the time of a processor.
//!
//! Memory is reserved before it is allocated. A request that computes for long takes a turn.

use hyper::header::{self, HeaderMap};
use tokio::sync::SemaphorePermit;

use super::{attempt::Action, fields::Item, raw};
use crate::{
    api::{
        body::{RequestBody, over_budget},
        budget::Refused,
        context::{Call, Context},
        error::ApiError,
    },
    keyring::KongFields,
};

/// The most bytes of one item's response beyond those that grow with the item.
pub(super) const ITEM_RESPONSE: usize = 200;

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
    let memory = memory(call, action);
    call.budget.reserve_work(memory).await.map_err(|refused| {
        call.body = RequestBody::default();
        over_budget(refused, &call.config.limits)
    })
}

/// One of as many turns as there are processors, if a request needs one.
pub(super) struct Turn<'c>(Option<SemaphorePermit<'c>>);

impl<'c> Turn<'c> {
    /// Waits for it, unless the memory is needed for another user's request.
    pub(super) async fn take(call: &Call<'c>) -> Result<Self, ApiError> {
        let body = call.body.as_bytes();
        let is_long = body.len() > VERY_LONG
            || items(body, call.config.limits.batch).saturating_mul(ITEM_WORK) > VERY_LONG
                && !raw::is_raw(&call.head.headers);
        if !is_long {
            return Ok(Self(None));
        }
        let context: &'c Context = call.context;
        tokio::select! {
            Ok(turn) = context.turns.acquire() => Ok(Self(Some(turn))),
            () = call.budget.revoked().cancelled() => Err(over_budget(Refused::Busy, &call.config.limits)),
        }
    }

    pub(super) fn work<T>(self, work: impl FnOnce() -> T) -> T {
        if self.0.is_some() { tokio::task::block_in_place(work) } else { work() }
    }
}

/// At least as many items as are parsed of the body's batch: parsing ends at the first over the limit.
fn items(body: &[u8], max_batch: usize) -> usize {
    body.split(|byte| *byte == b'{').count().min(max_batch.saturating_add(1))
}

/// The most bytes that handling a JSON body or a form allocates: parsed items, decoded copies and the response.
fn memory(call: &Call<'_>, action: Option<Action>) -> usize {
    let body = call.body.as_bytes();
    // In quarters of the body. base64 decodes to three of them; rewrap has two such buffers. The response has four.
    let mut quarters: usize = if action == Some(Action::Rewrap) { 10 } else { 7 };
    // A field of Kong's takes two digits per byte.
    let accepts_fields = call.named.is_some_and(|entry| entry.formats.kong_fields == KongFields::Accept);
    quarters += if accepts_fields { 4 } else { 0 };
    // A text with escapes is copied when it is parsed, and once more without line breaks.
    quarters += if body.contains(&b'\\') { 8 } else { 0 };
    // A form is decoded, written as JSON, and may have escapes then.
    quarters += if is_form(&call.head.headers) { 16 } else { 0 };
    let per_item = 2 * size_of::<Item<'_>>() + ITEM_RESPONSE;
    let of_items = items(body, call.config.limits.batch).saturating_mul(per_item);
    (body.len() / 4).saturating_mul(quarters).saturating_add(of_items)
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"))
}
