//! What Transit computes without a key: random bytes and hashes.
//!
//! Paths: `random[/{source}][/{bytes}]` and `hash[/{algorithm}]`, below `/v1/transit/` and `/v1/sys/tools/`.
//! <https://openbao.org/api-docs/secret/transit/#generate-random-bytes>

use hyper::StatusCode;

use super::{
    error::ItemError,
    fields::{Endpoint, decode},
    hmac::algorithm,
    request::{Request, as_json},
    work::{self, Turn},
};
use crate::{
    api::{
        context::Call,
        envelope,
        error::ApiError,
        response::{self, Response},
    },
    cipher::encoding,
};

/// As in Transit.
const MAX_RANDOM: usize = 128 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Base64,
    Hex,
}

/// `POST /v1/transit/random[/{source}][/{bytes}]`
pub(in crate::api) async fn random(call: &mut Call<'_>) -> Result<Response, ApiError> {
    call.keyring()?;
    let body = as_json(&call.head.headers, call.body.as_bytes()).map_err(ApiError::invalid)?;
    let mut request = Request::parse(Endpoint::Random, &body, 0).map_err(ApiError::invalid)?;
    let (source, count) = match call.tail.split_once('/') {
        Some((source, count)) => (source, Some(count)),
        None if matches!(call.tail, "" | "platform" | "seal" | "all") => (call.tail, None),
        None => ("", Some(call.tail)),
    };
    match source {
        "" | "platform" | "all" => {}
        "seal" => request.warnings.push("no seal is a source of entropy here: the operating system is used"),
        _ => return Err(ApiError::invalid("unsupported source: platform, seal and all are")),
    }
    let count = match count {
        Some(digits) => {
            digits.parse().map_err(|_| ApiError::invalid("the byte count in the path is no number"))?
        }
        None => request.count.unwrap_or(32),
    };
    let count = usize::try_from(count).ok().filter(|count| (1..=MAX_RANDOM).contains(count));
    let count = count.ok_or_else(|| ApiError::invalid("bytes must be from 1 to 131072"))?;
    let encoding = encoding_of(&request, Encoding::Base64)?;
    let mut bytes = vec![0; count];
    getrandom::fill(&mut bytes).map_err(|error| ApiError::failed(error.to_string()))?;
    Ok(answer("random_bytes", &bytes, encoding, &request))
}

/// `POST /v1/transit/hash[/{algorithm}]`
pub(in crate::api) async fn hash(call: &mut Call<'_>) -> Result<Response, ApiError> {
    call.keyring()?;
    work::prepare(call, None).await?;
    Turn::take(call).await?.work(|| sum(call))
}

fn sum(call: &Call<'_>) -> Result<Response, ApiError> {
    let body = as_json(&call.head.headers, call.body.as_bytes()).map_err(ApiError::invalid)?;
    let request = Request::parse(Endpoint::Hash, &body, 0).map_err(ApiError::invalid)?;
    let algorithm = algorithm(call.tail, &request)?;
    let input = decode("input", request.items()[0].clear.as_deref().ok_or(ItemError::Missing("input"))?)?;
    let encoding = encoding_of(&request, Encoding::Hex)?;
    Ok(answer("sum", &algorithm.hash(&input), encoding, &request))
}

fn encoding_of(request: &Request<'_>, default: Encoding) -> Result<Encoding, ApiError> {
    match request.format.as_deref() {
        None => Ok(default),
        Some("base64") => Ok(Encoding::Base64),
        Some("hex") => Ok(Encoding::Hex),
        Some(_) => Err(ApiError::invalid("format must be hex or base64")),
    }
}

fn answer(field: &str, bytes: &[u8], encoding: Encoding, request: &Request<'_>) -> Response {
    let mut out = Vec::with_capacity(envelope::LEN + 64 + 2 * bytes.len());
    envelope::open(&mut out);
    out.extend_from_slice(br#"{""#);
    out.extend_from_slice(field.as_bytes());
    out.extend_from_slice(br#"":""#);
    match encoding {
        Encoding::Base64 => encoding::encode(bytes, &mut out),
        Encoding::Hex => hex_simd::encode_append(bytes, &mut out, hex_simd::AsciiCase::Lower),
    }
    out.extend_from_slice(br#""}"#);
    envelope::close(&request.warnings, &mut out);
    response::written(StatusCode::OK, out)
}
