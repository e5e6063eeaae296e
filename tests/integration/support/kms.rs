//! A client of KMS v2 with its own gRPC framing over hyper's h2, and an API server that follows Kubernetes' rules.
//!
//! It shares only the message types with keyringd.

use std::{convert::Infallible, os::unix::net::UnixStream, path::Path};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    client::conn::http2::{self, SendRequest},
    header::HeaderMap,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyringd::api::kms::messages::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use prost::Message;
use tokio::runtime::Runtime;

/// Status codes of gRPC.
pub const INVALID_ARGUMENT: u32 = 3;
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const NOT_FOUND: u32 = 5;
pub const PERMISSION_DENIED: u32 = 7;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const UNIMPLEMENTED: u32 = 12;
pub const UNAVAILABLE: u32 = 14;

/// An error status.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: u32,
    pub message: String,
}

/// One connection with blocking calls.
pub struct Kms {
    runtime: Runtime,
    connection: Connection,
}

/// One connection.
#[derive(Clone)]
pub struct Connection(SendRequest<Full<Bytes>>);

impl Kms {
    pub fn connect(socket: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let connection = runtime.block_on(Connection::open(socket));
        Self { runtime, connection }
    }

    pub fn status(&self) -> Result<StatusResponse, Refused> {
        self.call("Status", &StatusRequest {})
    }

    pub fn encrypt(&self, plaintext: &[u8]) -> Result<EncryptResponse, Refused> {
        self.call("Encrypt", &encrypt_request(plaintext))
    }

    pub fn decrypt(&self, ciphertext: &[u8], key_id: &str) -> Result<Vec<u8>, Refused> {
        let answer: DecryptResponse = self.call("Decrypt", &decrypt_request(ciphertext, key_id))?;
        Ok(answer.plaintext.into())
    }

    pub fn call<A: Message + Default>(&self, name: &str, message: &impl Message) -> Result<A, Refused> {
        self.raw(&format!("/v2.KeyManagementService/{name}"), framed(&message.encode_to_vec()))
    }

    /// Sends any bytes to any path.
    pub fn raw<A: Message + Default>(&self, path: &str, body: Vec<u8>) -> Result<A, Refused> {
        self.runtime.block_on(self.connection.clone().raw(path, body))
    }

    /// A call that never sends its message. Returns the status code of its timeout.
    pub fn stalled_call(socket: &Path) -> u32 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), stream(socket)).await.unwrap();
            tokio::spawn(connection);
            let never = http_body_util::StreamBody::new(futures_util::stream::pending::<
                Result<Frame<Bytes>, Infallible>,
            >());
            let answer = sender.send_request(call("/v2.KeyManagementService/Encrypt", never)).await.unwrap();
            answered::<EncryptResponse>(answer).await.unwrap_err().code
        })
    }

    /// A request without gRPC. Returns the HTTP status.
    pub fn get(&self, path: &str) -> u16 {
        let request = Request::get(format!("http://localhost{path}")).body(Full::default()).unwrap();
        let answer = self.runtime.block_on(self.connection.clone().0.send_request(request));
        answer.unwrap().status().as_u16()
    }
}

impl Connection {
    pub async fn open(socket: &Path) -> Self {
        // Like grpc-go, it opens no more calls than the server allows, whose settings hyper does not wait for.
        let mut client = http2::Builder::new(TokioExecutor::new());
        client.initial_max_send_streams(16);
        let (sender, connection) = client.handshake(stream(socket)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub async fn call<A: Message + Default>(self, name: &str, message: &impl Message) -> Result<A, Refused> {
        self.raw(&format!("/v2.KeyManagementService/{name}"), framed(&message.encode_to_vec())).await
    }

    async fn raw<A: Message + Default>(mut self, path: &str, body: Vec<u8>) -> Result<A, Refused> {
        let request = call(path, Full::new(body.into()));
        answered(self.0.send_request(request).await.unwrap()).await
    }
}

fn stream(socket: &Path) -> TokioIo<tokio::net::UnixStream> {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_nonblocking(true).unwrap();
    TokioIo::new(tokio::net::UnixStream::from_std(stream).unwrap())
}

fn call<B>(path: &str, body: B) -> Request<B> {
    Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

async fn answered<A: Message + Default>(answer: Response<Incoming>) -> Result<A, Refused> {
    let (head, body) = answer.into_parts();
    assert_eq!(
        (head.status.as_u16(), &head.headers["content-type"]),
        (200, &"application/grpc".parse().unwrap())
    );
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or(head.headers);
    outcome(&trailers)?;
    let bytes = collected.to_bytes();
    let (frame, message) = bytes.split_at(5);
    assert_eq!(frame, [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..]].concat());
    Ok(A::decode(message).unwrap())
}

fn outcome(trailers: &HeaderMap) -> Result<(), Refused> {
    let text = |name: &str| trailers.get(name).map_or("", |value| value.to_str().unwrap());
    match text("grpc-status").parse().unwrap() {
        0 => Ok(()),
        code => {
            let message = text("grpc-message").replace("%20", " ").replace("%25", "%");
            Err(Refused { code, message })
        }
    }
}

/// A gRPC frame: the flag "not compressed", the length, the message.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).unwrap();
    [&[0], &len.to_be_bytes()[..], message].concat()
}

pub fn encrypt_request(plaintext: &[u8]) -> EncryptRequest {
    EncryptRequest { plaintext: plaintext.to_vec().into(), uid: "a-uid".to_owned() }
}

pub fn decrypt_request(ciphertext: &[u8], key_id: &str) -> DecryptRequest {
    DecryptRequest {
        ciphertext: ciphertext.to_vec().into(),
        uid: "a-uid".to_owned(),
        key_id: key_id.to_owned(),
        annotations: [("keyringd.example".to_owned(), Bytes::from_static(b"ignored"))].into(),
    }
}

/// An API server's use of a plugin: it encrypts under the key_id of the last Status, refuses another key_id, and stores
/// each ciphertext with its key_id.
#[derive(Default)]
pub struct ApiServer {
    key_id: String,
    stored: Vec<(Vec<u8>, String, Vec<u8>)>,
}

impl ApiServer {
    /// Polls Status. Returns the key_id.
    pub fn poll(&mut self, kms: &Kms) -> String {
        let status = kms.status().unwrap();
        assert_eq!((status.version.as_str(), status.healthz.as_str()), ("v2", "ok"));
        assert!((1..=1024).contains(&status.key_id.len()));
        self.key_id.clone_from(&status.key_id);
        status.key_id
    }

    /// Stores a secret. Returns its key_id.
    pub fn write(&mut self, kms: &Kms, plaintext: &[u8]) -> String {
        let sealed = kms.encrypt(plaintext).unwrap();
        assert_eq!(sealed.key_id, self.key_id, "an API server refuses another key_id than that of Status");
        assert!((1..=1024).contains(&sealed.ciphertext.len()) && sealed.annotations.is_empty());
        self.stored.push((sealed.ciphertext.into(), sealed.key_id.clone(), plaintext.to_vec()));
        sealed.key_id
    }

    /// Reads all stored secrets. Returns their number.
    pub fn read_all(&self, kms: &Kms) -> usize {
        for (ciphertext, key_id, plaintext) in &self.stored {
            assert_eq!(kms.decrypt(ciphertext, key_id).as_ref(), Ok(plaintext));
        }
        self.stored.len()
    }
}
