//! A request before it is sent: the URL, the token, the body, and which secrets it holds.

use reqwest::Method;
use serde::Serialize;
use url::Url;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// No `Debug`: its body may hold secrets.
pub struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) token: Option<&'a Secret<String>>,
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
    pub(super) form: bool,
    pub(super) secrets: Vec<&'a Secret<String>>,
}

impl<'a> Request<'a> {
    pub(crate) fn get(url: Url) -> Self {
        Self { method: Method::GET, url, token: None, body: None, form: false, secrets: Vec::new() }
    }

    pub(crate) fn post(url: Url, body: &impl Serialize) -> Self {
        // Large enough for a certificate chain or a JWT: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
        // Writing plain values into memory cannot fail.
        let _ = serde_json::to_writer(&mut *bytes, body);
        Self { method: Method::POST, body: Some(bytes), ..Self::get(url) }
    }

    pub(crate) fn post_form(url: Url, form: &Zeroizing<String>) -> Self {
        let bytes = Zeroizing::new(form.as_bytes().to_vec());
        Self { method: Method::POST, body: Some(bytes), form: true, ..Self::get(url) }
    }

    pub(crate) fn token(mut self, token: &'a Secret<String>) -> Self {
        self.token = Some(token);
        self.holding(token)
    }

    /// The body holds this secret: a response that repeats it is not quoted.
    pub(crate) fn holding(mut self, secret: &'a Secret<String>) -> Self {
        self.secrets.push(secret);
        self
    }
}
