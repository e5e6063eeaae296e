//! A request's body: read whole, within the limits on size and time, into a buffer that is wiped.

use http_body_util::BodyExt as _;
use hyper::{
    body::{Body as _, Incoming},
    header::{self, HeaderMap},
};
use zeroize::Zeroizing;

use super::{Limits, answer::Answer};

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
    // Room for the whole at once, where its size is known: a buffer that grows leaves copies behind.
    let room = announced.unwrap_or(4096).min(limits.request_size);
    let mut collected = Zeroizing::new(Vec::with_capacity(room));
    let mut beyond = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Answer::errors(400, "the body was cut off").and_close()) };
        let Ok(data) = frame.into_data() else { continue };
        if beyond == 0 && collected.len() + data.len() <= limits.request_size {
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

fn too_large(limits: &Limits) -> Answer {
    let message = format!("the body is larger than {} bytes (keyring_max_request_size)", limits.request_size);
    Answer::errors(413, message).and_close()
}
