//! The right to ask: the way to the server with a token, for one piece of work. Getting it is `session`'s business.

use super::{
    VaultError,
    transport::{Answer, Request, Transport},
};
use crate::secret::Secret;

/// The way to the server, and a token.
#[derive(Debug)]
pub struct Access<'a> {
    transport: &'a Transport,
    token: &'a Secret<String>,
}

impl<'a> Access<'a> {
    pub const fn new(transport: &'a Transport, token: &'a Secret<String>) -> Self {
        Self { transport, token }
    }

    /// `GET /v1/<segments>?version=<version>`. Answers of 200 and 404 are for the caller to read.
    ///
    /// # Errors
    /// [`VaultError`] for anything else.
    pub async fn get(
        &self,
        segments: impl IntoIterator<Item = &str>,
        version: Option<u64>,
    ) -> Result<Answer, VaultError> {
        let mut url = self.transport.url(segments);
        if let Some(version) = version {
            url.query_pairs_mut().append_pair("version", &version.to_string());
        }
        let answer = self.transport.send(Request::get(url).token(self.token)).await?;
        match answer.status.as_u16() {
            200 | 404 => Ok(answer),
            403 => Err(VaultError::Denied { path: answer.path }),
            status => {
                let (host, path, message) = (self.transport.host(), answer.path, answer.said);
                Err(VaultError::Status { host, path, status, message, retry_after: None })
            }
        }
    }

    /// Which of the paths the token may read, of those given, and what Vault says of the others
    /// (`POST sys/capabilities-self`).
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn capabilities(&self, paths: &[String]) -> Result<Vec<(String, Vec<String>)>, VaultError> {
        let url = self.transport.url(["sys", "capabilities-self"]);
        let request = Request::post(url, &serde_json::json!({ "paths": paths })).token(self.token);
        let answer = self.transport.send(request).await?;
        let data: Option<serde_json::Value> = answer.json();
        let Some(data) = data.filter(|_| answer.status.is_success()) else {
            return Err(VaultError::Denied { path: answer.path });
        };
        let of = |path: &String| {
            let given =
                data.pointer("/data").and_then(|data| data.get(path)).and_then(|given| given.as_array());
            let given = given.into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned));
            (path.clone(), given.collect())
        };
        Ok(paths.iter().map(of).collect())
    }
}
