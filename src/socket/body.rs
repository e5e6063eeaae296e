//! A request's body: read whole, within the limits on size and time, into a buffer that is wiped.

use http_body_util::BodyExt as _;
use hyper::{
    body::{Body as _, Incoming},
    header::{self, HeaderMap},
};
use zeroize::Zeroizing;

use super::{Limits, answer::Answer};

/// The room that every body has at first.
const FIRST_ROOM: usize = 64 << 10;

/// The body, or the answer that refuses it: 413 too large, 408 too slow, 400 cut off.
pub async fn read(
    headers: &HeaderMap,
    body: Incoming,
    limits: &Limits,
) -> Result<Zeroizing<Vec<u8>>, Answer> {
    let announced = body.size_hint().exact().and_then(|len| usize::try_from(len).ok());
    if announced.is_some_and(|len| len > limits.request_size) && headers.contains_key(header::EXPECT) {
        return Err(too_large(limits)); // the client waits for our word before it sends anything
    }
    match tokio::time::timeout(limits.body_time, collect(body, announced, limits)).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let message = format!("the body did not arrive within {} s", limits.body_time.as_secs_f32());
            Err(Answer::errors(408, message).and_close())
        }
    }
}

async fn collect(
    mut body: Incoming,
    announced: Option<usize>,
    limits: &Limits,
) -> Result<Zeroizing<Vec<u8>>, Answer> {
    // Room as it comes, not as it is announced: a word costs a client nothing, and room is wiped when it is given back.
    let mut collected = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(FIRST_ROOM).min(FIRST_ROOM)));
    let mut beyond = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Answer::errors(400, "the body was cut off").and_close()) };
        let Ok(data) = frame.into_data() else { continue };
        if beyond == 0 && collected.len() + data.len() <= limits.request_size {
            make_room(&mut collected, data.len(), announced.unwrap_or(0).min(limits.request_size));
            collected.extend_from_slice(&data);
            continue;
        }
        // A client that is still sending would not read an answer: take in as much again, and keep none of it.
        beyond += data.len();
        if beyond > limits.request_size {
            break;
        }
    }
    if beyond == 0 { Ok(collected) } else { Err(too_large(limits)) }
}

/// Grows the buffer by wiping the old one: by doubling, or at once to the announced size when a quarter of it is there.
fn make_room(collected: &mut Zeroizing<Vec<u8>>, more: usize, announced: usize) {
    let needed = collected.len() + more;
    if needed <= collected.capacity() {
        return;
    }
    let credible = announced > 0 && needed >= announced / 4;
    let room = if credible { announced } else { collected.capacity() * 2 };
    let mut grown = Zeroizing::new(Vec::with_capacity(room.max(needed)));
    grown.extend_from_slice(collected);
    *collected = grown;
}

fn too_large(limits: &Limits) -> Answer {
    let message = format!("the body is larger than {} bytes (keyring_max_request_size)", limits.request_size);
    Answer::errors(413, message).and_close()
}
