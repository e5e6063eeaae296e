//! Which protocol a connection speaks, told by its first bytes: h2 begins with a preface of its own (RFC 9113, 3.4), and
//! all else is HTTP/1.1. What was read to tell is read again by whoever serves the connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// A stream whose first bytes have been looked at.
#[derive(Debug)]
pub struct Told<S> {
    first: [u8; PREFACE.len()],
    /// Of `first`, what is still to be read again.
    again: std::ops::Range<usize>,
    stream: S,
}

/// Reads until the preface is there, or cannot be any more. The caller bounds the time.
pub async fn tell<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(Protocol, Told<S>)> {
    let (mut first, mut len) = ([0; PREFACE.len()], 0);
    while len < PREFACE.len() && first[..len] == PREFACE[..len] {
        match stream.read(&mut first[len..]).await? {
            0 => break,
            more => len += more,
        }
    }
    let protocol = if first == *PREFACE { Protocol::Http2 } else { Protocol::Http1 };
    Ok((protocol, Told { first, again: 0..len, stream }))
}

impl<S: AsyncRead + Unpin> AsyncRead for Told<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.again.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let now = self.again.len().min(buffer.remaining());
        let start = self.again.start;
        buffer.put_slice(&self.first[start..start + now]);
        self.again.start += now;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Told<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What is told of a client that sends these pieces one after another and then no more, and all that is read then.
    async fn told(pieces: &[&[u8]]) -> (Protocol, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(1);
        let sending = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
            }
            drop(client);
        };
        let reading = async {
            let (protocol, mut stream) = tell(server).await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            (protocol, all)
        };
        tokio::join!(sending, reading).1
    }

    #[tokio::test]
    async fn h2_is_told_by_its_whole_preface_and_nothing_is_lost() {
        assert_eq!(told(&[PREFACE, b"more"]).await, (Protocol::Http2, [&PREFACE[..], b"more"].concat()));
        for other in
            [&b""[..], b"P", b"POST / HTTP/1.1\r\n\r\n", &PREFACE[..23], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r"]
        {
            assert_eq!(told(&[other]).await, (Protocol::Http1, other.to_vec()));
        }
    }
}
