//! Kong's `/keyring` API, on the default keyring.

use hyper::{
    StatusCode,
    header::{self, HeaderMap},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    context::Call,
    error::ApiError,
    response::{self, Response},
};
use crate::secret::Secret;

/// `GET /keyring` → `{"active": "…", "ids": ["…"]}`; without keys, `{"ids": []}`.
pub(super) async fn list(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let body = match call.keyring.published.keyring() {
        None => json!({ "ids": [] }),
        Some(keyring) => {
            let ids: Vec<_> = keyring.newest_first().iter().map(|held| held.key.id().as_str()).collect();
            json!({ "active": keyring.active().key.id().as_str(), "ids": ids })
        }
    };
    Ok(response::json(StatusCode::OK, &body))
}

/// `GET /keyring/active` → `{"id": "…"}`; 503 without one.
pub(super) async fn active(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let keyring = call.keyring.published.keyring();
    let keyring = keyring.ok_or_else(|| ApiError::unavailable(call.keyring.no_keys()))?;
    Ok(response::json(StatusCode::OK, &json!({ "id": keyring.active().key.id().as_str() })))
}

/// `POST /keyring/vault/sync` → 204. A `token` in a JSON or form body is used for this sync only.
pub(super) async fn sync(call: &mut Call<'_>) -> Result<Response, ApiError> {
    let token = token(&call.head.headers, call.body.as_bytes()).map_err(ApiError::invalid)?;
    call.context.upstream.sync(token).await.map_err(ApiError::failed)?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}

fn token(headers: &HeaderMap, body: &[u8]) -> Result<Option<Secret<String>>, &'static str> {
    #[derive(Deserialize)]
    struct Body {
        token: Option<Secret<String>>,
    }
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/x-www-form"));
    let token = if form && !body.starts_with(b"{") {
        let mut fields = url::form_urlencoded::parse(body);
        fields.find(|(name, _)| name == "token").map(|(_, value)| Secret::new(value.into_owned()))
    } else {
        let body: Body = serde_json::from_slice(body)
            .map_err(|_| "the body must be empty, a form, or JSON: {\"token\": \"…\"}")?;
        body.token
    };
    let token = token.filter(|token| !token.expose().is_empty());
    match &token {
        Some(text) if !text.expose().bytes().all(|b| b.is_ascii_graphic()) => {
            Err("the token has a space or a character that is not ASCII")
        }
        _ => Ok(token),
    }
}
