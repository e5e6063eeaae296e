//! Response-wrapped secret IDs of the model of Vault: each wrapping token unwraps once.

use std::collections::BTreeMap;

use serde_json::json;

use super::message::{Answer, Request};

/// What became of a wrapping token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Unspent,
    /// The daemon asked to unwrap it, whether or not Vault got that far.
    Sent,
    Delivered,
}

#[derive(Debug, Default)]
pub(super) struct Wrapping {
    tokens: BTreeMap<String, (String, Token)>,
    newest: String,
    /// The daemon asked to unwrap a token a second time.
    is_sent_twice: bool,
}

impl Wrapping {
    /// A new wrapping token around this secret ID.
    pub(super) fn issue(&mut self, secret_id: &str) -> String {
        self.newest = format!("wrapping-{}", self.tokens.len());
        self.tokens.insert(self.newest.clone(), (secret_id.to_owned(), Token::Unspent));
        self.newest.clone()
    }

    /// Whether the newest token is spent and gave nothing, so that an operator must issue another.
    pub(super) fn is_lost(&self) -> bool {
        self.tokens.get(&self.newest).is_some_and(|(_, token)| *token == Token::Sent)
    }

    pub(super) fn check(&self) {
        assert!(!self.is_sent_twice, "a wrapping token was sent to be unwrapped a second time");
    }

    /// The token that a request asks to unwrap.
    fn asked(&mut self, request: &Request) -> Option<&mut (String, Token)> {
        let is_unwrap = request.path == "/v1/sys/wrapping/unwrap";
        request.token.as_ref().filter(|_| is_unwrap).and_then(|token| self.tokens.get_mut(token))
    }

    /// A request leaves the daemon.
    pub(super) fn note(&mut self, request: &Request) {
        if let Some((_, token)) = self.asked(request) {
            let before = std::mem::replace(token, Token::Sent);
            self.is_sent_twice |= before != Token::Unspent;
        }
    }

    /// The response reaches the daemon.
    pub(super) fn deliver(&mut self, request: &Request, status: u16) {
        if let Some((_, token)) = self.asked(request).filter(|_| status == 200) {
            *token = Token::Delivered;
        }
    }

    pub(super) fn look_up(&self, token: &str) -> Answer {
        match self.tokens.get(token) {
            Some((_, Token::Unspent)) => {
                Answer::data(&json!({ "creation_path": "auth/approle/role/app/secret-id" }))
            }
            _ => Answer::error(400, "wrapping token is not valid or does not exist"),
        }
    }

    pub(super) fn unwrap(&mut self, request: &Request) -> Answer {
        match self.asked(request) {
            Some((secret_id, _)) => Answer::data(&json!({ "secret_id": secret_id })),
            None => Answer::error(400, "wrapping token is not valid or does not exist"),
        }
    }
}
