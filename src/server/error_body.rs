//! A body for the response that hyper writes by itself when a request's head is too large: hyper's has none.
//!
//! hyper has no hook for it, so the stream recognises that response, byte for byte, and writes another one in its place. The
//! API never responds with these statuses.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// hyper's responses: all of their bytes but the date.
const BARE: [(&[u8], &str); 2] = [
    (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        "the head of the request is larger than 65536 bytes",
    ),
    (b"HTTP/1.1 414 URI Too Long\r\n", "the path of the request is longer than 65534 bytes"),
];
const END: &[u8] = b"\r\n\r\n";
const MAX_BARE: usize = 256;

/// A stream of HTTP/1.1.
pub(super) struct ErrorBody<S> {
    stream: S,
    /// What replaces hyper's response, and how many bytes of it are written.
    replacement: Option<(Vec<u8>, usize)>,
}

impl<S> ErrorBody<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, replacement: None }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

fn replacement(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() > MAX_BARE || !bytes.ends_with(END) {
        return None;
    }
    let (start, message) = BARE.iter().find(|(start, _)| bytes.starts_with(start))?;
    let body = serde_json::json!({ "errors": [message] }).to_string();
    let mut response = start.to_vec();
    response.extend_from_slice(
        b"content-type: application/json\r\ncache-control: no-store\r\nconnection: close\r\n",
    );
    response.extend_from_slice(format!("content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    Some(response)
}

impl<S: AsyncRead + Unpin> AsyncRead for ErrorBody<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ErrorBody<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        // hyper writes nothing else with it.
        if let [bytes] = slices
            && this.replacement.is_none()
        {
            this.replacement = replacement(bytes).map(|response| (response, 0));
        }
        let Some((response, written)) = &mut this.replacement else {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        };
        while *written < response.len() {
            match ready!(Pin::new(&mut this.stream).poll_write(cx, &response[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => *written += more,
            }
        }
        this.replacement = None;
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn only_hypers_own_response_is_replaced() {
        let bare =
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        for (written, replaced) in
            [(&bare[..], true), (b"HTTP/1.1 200 OK\r\n\r\n", false), (&bare[..60], false)]
        {
            let (mut client, server) = tokio::io::duplex(7); // several writes
            let mut stream = ErrorBody::new(server);
            let writing = async {
                stream.write_all(written).await.unwrap();
                drop(stream);
            };
            let mut read = Vec::new();
            let ((), length) = tokio::join!(writing, client.read_to_end(&mut read));
            assert_eq!(length.unwrap(), read.len());
            let text = String::from_utf8(read).unwrap();
            assert_eq!(text.as_bytes() == written, !replaced, "{text}");
            assert_eq!(
                text.ends_with(
                    "\r\n\r\n{\"errors\":[\"the head of the request is larger than 65536 bytes\"]}"
                ),
                replaced,
                "{text}"
            );
        }
    }
}
