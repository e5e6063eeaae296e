//! A request of the daemon to the model of Vault, and its answer.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::oracle::Record;
use crate::keyring::key::VersionId;

pub(super) struct Request {
    pub(super) path: String,
    pub(super) version: Option<u64>,
    pub(super) token: Option<String>,
    pub(super) body: Value,
}

impl Request {
    pub(super) fn new(request: &reqwest::Request) -> Self {
        let query = request.url().query().unwrap_or_default();
        let token = request.headers().get("x-vault-token").map(|token| token.to_str().unwrap().to_owned());
        let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
        Self {
            path: request.url().path().to_owned(),
            version: query.strip_prefix("version=").map(|number| number.parse().unwrap()),
            token,
            body: serde_json::from_slice(body).unwrap_or_default(),
        }
    }
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) retry_after: Option<u64>,
    pub(super) tells: Tells,
}

/// What an answer tells of the secret, for the oracle.
pub(super) enum Tells {
    Nothing,
    Versions(BTreeMap<VersionId, bool>),
    Record(VersionId, Arc<Record>),
    /// The content of a secret of KV v1.
    Fields(Arc<Record>),
    Removed(VersionId),
    Token(String),
}

impl Answer {
    pub(super) fn ok(body: &Value, tells: Tells) -> Self {
        Self { status: 200, body: body.to_string().into_bytes(), retry_after: None, tells }
    }

    /// The data of a response that the oracle need not know of.
    pub(super) fn data(data: &Value) -> Self {
        Self::ok(&json!({ "data": data }), Tells::Nothing)
    }

    pub(super) fn error(status: u16, message: &str) -> Self {
        let errors: &[&str] = if message.is_empty() { &[] } else { &[message] };
        Self { status, ..Self::ok(&json!({ "errors": errors }), Tells::Nothing) }
    }
}
