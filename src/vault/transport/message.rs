//! What a request holds before it is sent, and what may be quoted of its outcome without any of its secrets.

use std::{error::Error as _, fmt::Write as _};

use reqwest::Method;
use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded::byte_serialize};
use zeroize::Zeroizing;

use crate::{logging::without_error_numbers, secret::Secret};

/// The most characters of a server's message that are quoted.
const MAX_MESSAGE: usize = 200;

/// No `Debug`: its body may hold secrets.
pub struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) token: Option<&'a Secret<String>>,
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
    pub(super) form: bool,
    /// The credentials of HTTP Basic, in base64.
    pub(super) basic: Option<&'a Secret<String>>,
    pub(super) secrets: Vec<&'a Secret<String>>,
}

impl<'a> Request<'a> {
    pub(crate) fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            token: None,
            body: None,
            form: false,
            basic: None,
            secrets: Vec::new(),
        }
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

    pub(crate) fn basic(mut self, credentials: &'a Secret<String>) -> Self {
        self.basic = Some(credentials);
        self.holding(credentials)
    }

    /// The body holds this secret: a response that repeats it is not quoted.
    pub(crate) fn holding(mut self, secret: &'a Secret<String>) -> Self {
        self.secrets.push(secret);
        self
    }
}

/// The message of a Vault error response, on one line and shortened. A response that repeats a secret is not quoted, nor
/// is one that does not have Vault's form: another server's page may repeat the secret in any encoding.
pub(super) fn response_message(body: &[u8], secrets: &[&Secret<String>]) -> Option<String> {
    #[derive(Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<String>,
        #[serde(default)]
        warnings: Option<Vec<String>>,
    }
    let response: Errors = serde_json::from_slice(body).ok()?;
    let text = response
        .errors
        .into_iter()
        .chain(response.warnings.into_iter().flatten())
        .collect::<Vec<_>>()
        .join("; ");
    quotable(&text, secrets)
}

/// A server's text as [`printable`]; `None` if it is empty or repeats a secret.
pub(in crate::vault) fn quotable(text: &str, secrets: &[&Secret<String>]) -> Option<String> {
    let line = printable(text);
    (!line.is_empty() && !repeats(text, secrets)).then_some(line)
}

/// A text of a server's on one line of at most [`MAX_MESSAGE`] characters, for logs, the status and terminals. Control
/// characters and invisible ones, such as those that change the direction of a line, become spaces.
pub(super) fn printable(text: &str) -> String {
    let invisible = |c: char| {
        c.is_control()
            || matches!(
                c,
                '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                    | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
            )
    };
    let line: String = text.chars().map(|c| if invisible(c) { ' ' } else { c }).take(MAX_MESSAGE).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a text holds one of the secrets, as it is or in the encoding of URLs and forms.
pub(super) fn repeats(text: &str, secrets: &[&Secret<String>]) -> bool {
    let lower = text.to_lowercase();
    secrets.iter().any(|secret| {
        let plain = Zeroizing::new(secret.expose().to_lowercase());
        let in_form: Zeroizing<String> = Zeroizing::new(byte_serialize(secret.expose().as_bytes()).collect());
        lower.contains(plain.as_str()) || lower.contains(&in_form.to_lowercase())
    })
}

/// The error's causes, outermost first, without the URL.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, "{}{error}", if text.is_empty() { "" } else { ": " });
        cause = error.source();
    }
    if text.is_empty() { "the connection failed".to_owned() } else { without_error_numbers(&text) }
}

/// The first cause of this type.
pub(super) fn source_of<'e, E: std::error::Error + 'static>(
    error: &'e (dyn std::error::Error + 'static),
) -> Option<&'e E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An `io::Error` hides the error it carries from `source`.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    None
}
