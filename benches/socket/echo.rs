//! The limit: a bare hyper server on a Unix socket. It reads a body and returns the requested number of bytes.

use std::{convert::Infallible, path::Path};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

/// The request header with the length of the response.
pub const ANSWER: &str = "x-answer-length";

pub fn serve(socket: &Path) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let listener = UnixListener::bind(socket).unwrap();
        // Allocated once, as long as the longest response.
        let answer = Bytes::from(vec![b'a'; 4 << 20]);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let handle = service_fn(move |request| respond(request, answer.clone()));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), handle));
        }
    });
}

async fn respond(request: Request<Incoming>, answer: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let len = request.headers().get(ANSWER).and_then(|len| len.to_str().ok()?.parse().ok()).unwrap_or(0);
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    Ok(Response::new(Full::new(answer.slice(..len))))
}
