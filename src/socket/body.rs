//! A request's body: read whole, within the limits on size and time, into one buffer. Like whatever is freed, it is wiped by
//! the program's allocator, and so are the smaller ones that it grew out of.

use http_body_util::BodyExt as _;
use hyper::{
    body::{Body as _, Bytes, Incoming},
    header::{self, HeaderMap},
};
use tokio::time::timeout;

use super::{Limits, answer::Answer, inflight::Hold};

/// The room that every body has at first.
const FIRST_ROOM: usize = 64 << 10;

/// The room behind every body, for the tag of what is sealed where it is.
const TAIL: usize = 16;

/// What a body is read into.
pub struct Wanted<'a> {
    pub limits: &'a Limits,
    /// The most bytes of it: what the limits say, or less.
    pub size: usize,
    /// Free bytes ahead of it, for what will stand there once it is sealed.
    pub room: usize,
}

/// The body behind its room, or the answer that refuses it: 413 too large, 429 too much at once, 408 too slow, 400 cut
/// off.
pub async fn read(
    headers: &HeaderMap,
    body: Incoming,
    wanted: Wanted<'_>,
    hold: &mut Hold,
) -> Result<Vec<u8>, Answer> {
    let limits = wanted.limits;
    let announced = body.size_hint().exact().and_then(|len| usize::try_from(len).ok());
    let refused = match announced {
        Some(len) if len > wanted.size => Some(too_large(&wanted)),
        Some(len) if !hold.has_room_for(len) => Some(too_much_at_once(limits)),
        _ => None,
    };
    match refused {
        Some(answer) => {
            Box::pin(discard(headers, body, limits)).await;
            Err(answer)
        }
        None => match timeout(limits.body_time, collect(body, announced, wanted, hold)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let message = format!("the body did not arrive within {} s", limits.body_time.as_secs_f32());
                Err(Answer::errors(408, message).and_close())
            }
        },
    }
}

/// Takes in a body that nobody wants, and keeps none of it: a client that is still sending would not read an answer.
/// One that waits for our word before it sends anything gets none.
pub async fn discard(headers: &HeaderMap, body: Incoming, limits: &Limits) {
    if headers.get(header::EXPECT).is_none_or(|word| !word.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        take_in(body, limits).await;
    }
}

async fn take_in(mut body: Incoming, limits: &Limits) {
    let mut taken = 0;
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, Bytes::len);
            if taken > limits.request_size {
                return;
            }
        }
    };
    let _ = timeout(limits.body_time, rest).await;
}

async fn collect(
    mut body: Incoming,
    announced: Option<usize>,
    wanted: Wanted<'_>,
    hold: &mut Hold,
) -> Result<Vec<u8>, Answer> {
    let (limits, room) = (wanted.limits, wanted.room);
    // Room as it comes, not as it is announced: a word costs a client nothing, and room is wiped when it is given back.
    let first = announced.unwrap_or(FIRST_ROOM).min(FIRST_ROOM) + room + TAIL;
    let mut collected = Vec::with_capacity(first);
    collected.resize(room, 0);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Answer::errors(400, "the body was cut off").and_close()) };
        let Ok(data) = frame.into_data() else { continue };
        let refused = if collected.len() - room + data.len() > wanted.size {
            too_large(&wanted)
        } else if !hold.take_in(data.len()) {
            too_much_at_once(limits)
        } else {
            make_room(&mut collected, data.len(), announced.map_or(0, |len| len + room + TAIL));
            collected.extend_from_slice(&data);
            continue;
        };
        drop(collected);
        Box::pin(take_in(body, limits)).await;
        return Err(refused);
    }
    Ok(collected)
}

/// Grows the buffer: by doubling, or at once to the announced size when a quarter of it is there.
fn make_room(collected: &mut Vec<u8>, more: usize, announced: usize) {
    let needed = collected.len() + more + TAIL;
    if needed <= collected.capacity() {
        return;
    }
    let credible = announced > 0 && needed >= announced / 4;
    let room = if credible { announced } else { collected.capacity() * 2 };
    collected.reserve_exact(room.max(needed) - collected.len());
}

fn too_large(wanted: &Wanted<'_>) -> Answer {
    let size = wanted.size;
    let why = if size < wanted.limits.request_size {
        "all that this ever takes"
    } else {
        "keyring_max_request_size"
    };
    Answer::errors(413, format!("the body is larger than {size} bytes ({why})")).and_close()
}

fn too_much_at_once(limits: &Limits) -> Answer {
    let message = format!(
        "more than {} bytes of requests are being handled at once (keyring_max_inflight_size): try again",
        limits.inflight_size
    );
    Answer::errors(429, message).try_again().and_close()
}
