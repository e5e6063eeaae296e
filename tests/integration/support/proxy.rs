//! A small proxy before a real server. It injects the faults of networks and middleboxes, and records requests.
//! The file is longer than most: connections, TLS and responses are one state.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{certificates::Issued, http};

/// The treatment of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    None,
    Latency(Duration),
    /// No response, and the connection stays open.
    Silence,
    /// The connection is closed before a response.
    Cut,
    /// The response is truncated.
    Truncated,
    /// The response never ends.
    Endless,
    /// The real response with the content type of HTML.
    WrongContentType,
    /// Another response: its status, further headers, and body.
    Answer(u16, String, String),
    /// A simulated server: from method and path, and body, to a status and JSON.
    Play(Play),
}

#[derive(Clone)]
pub struct Play(Arc<Player>);

type Player = dyn Fn(&str, &[u8]) -> (u16, String) + Send + Sync;

impl std::fmt::Debug for Play {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Play")
    }
}

impl Fault {
    pub fn status(status: u16) -> Self {
        Self::Answer(status, String::new(), r#"{"errors":["as the test wants it"]}"#.to_owned())
    }
}

/// The treatment of a connection, before there is a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    #[default]
    Open,
    /// Nothing listens.
    Closed,
    /// It is accepted, and nothing is ever sent.
    Silent,
}

pub struct Proxy {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    /// The door changed.
    changed: Arc<Condvar>,
}

#[derive(Default)]
struct Shared {
    door: Door,
    tls: Option<Arc<ServerConfig>>,
    /// How many requests or connections a fault has met.
    met: usize,
    /// The last entry with a matching prefix applies.
    faults: Vec<(String, Fault)>,
    seen: Vec<String>,
}

impl Shared {
    /// Records a request and returns its fault.
    fn take(&mut self, method: &str, path: &str) -> Fault {
        self.seen.push(format!("{method} {path}"));
        let fault = self.faults.iter().rev().find(|(prefix, _)| path.starts_with(prefix.as_str()));
        let fault = fault.map_or(Fault::None, |(_, fault)| fault.clone());
        self.met += usize::from(!matches!(fault, Fault::None));
        fault
    }
}

impl Proxy {
    /// A proxy for the server at `upstream`, an `http://` address.
    pub fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (shared, changed) = <(Arc<Mutex<Shared>>, Arc<Condvar>)>::default();
        let proxy = Self { port, shared: Arc::clone(&shared), changed: Arc::clone(&changed) };
        let upstream = upstream.trim_start_matches("http://").to_owned();
        std::thread::spawn(move || listen(listener, &upstream, &shared, &changed));
        proxy
    }

    /// The same with a listener for TLS, whose address is that of [`Proxy::https`].
    pub fn with_tls(upstream: &str, certificate: &Issued) -> Self {
        let proxy = Self::before(upstream);
        proxy.set_certificate(certificate);
        proxy
    }

    /// From now on connections get this certificate.
    pub fn set_certificate(&self, issued: &Issued) {
        let chain = CertificateDer::pem_file_iter(&issued.certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&issued.key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        self.shared.lock().unwrap().tls = Some(Arc::new(config.with_single_cert(chain, key).unwrap()));
    }

    /// Changes the treatment of connections. A closed door refuses them when this returns.
    pub fn set_door(&self, door: Door) {
        let mut shared = self.shared.lock().unwrap();
        shared.door = door;
        drop(shared);
        self.changed.notify_all();
        // Wakes the listener until it has noticed, and waits until it is back.
        super::wait_for("the door", || {
            let connected = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            (connected == (door != Door::Closed)).then_some(())
        });
    }

    pub fn https(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// How many requests or connections have met a fault so far.
    pub fn met(&self) -> usize {
        self.shared.lock().unwrap().met
    }

    /// A server that treats every request with one fault.
    pub fn only(fault: Fault) -> Self {
        let proxy = Self::before("127.0.0.1:1");
        proxy.set("/", fault);
        proxy
    }

    /// A server that is simulated by a function of method, path and body.
    pub fn playing(play: impl Fn(&str, &[u8]) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::only(Fault::Play(Play(Arc::new(play))))
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets the fault of requests whose path starts with `prefix`.
    pub fn set(&self, prefix: &str, fault: Fault) {
        self.shared.lock().unwrap().faults.push((prefix.to_owned(), fault));
    }

    /// Removes all faults but the first.
    pub fn reset(&self) {
        self.shared.lock().unwrap().faults.truncate(1);
    }

    /// The requests so far, each as its method and path.
    pub fn seen(&self) -> Vec<String> {
        self.shared.lock().unwrap().seen.clone()
    }
}

/// Accepts connections. A closed door closes the listener, so that the kernel refuses them.
fn listen(mut listener: TcpListener, upstream: &str, shared: &Arc<Mutex<Shared>>, changed: &Condvar) {
    let address = listener.local_addr().unwrap();
    loop {
        let accepted = listener.accept();
        let state = shared.lock().unwrap();
        if state.door == Door::Closed {
            drop((accepted, listener));
            drop(changed.wait_while(state, |state| state.door == Door::Closed).unwrap());
            listener = super::wait_for("the port", || TcpListener::bind(address).ok());
            continue;
        }
        drop(state);
        let Ok((stream, _)) = accepted else { continue };
        let (shared, upstream) = (Arc::clone(shared), upstream.to_owned());
        std::thread::spawn(move || {
            // An I/O error ends only this thread.
            let _ = serve(stream, &upstream, &shared);
        });
    }
}

fn serve(mut stream: TcpStream, upstream: &str, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut state = shared.lock().unwrap();
    let (door, tls) = (state.door, state.tls.clone());
    state.met += usize::from(door == Door::Silent);
    drop(state);
    if door == Door::Silent {
        return std::io::copy(&mut stream, &mut std::io::sink()).map(|_| ());
    }
    let Some(config) = tls else { return answer(stream, upstream, shared) };
    let mut connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
    if let Err(error) = connection.complete_io(&mut stream) {
        shared.lock().unwrap().met += 1;
        return Err(error);
    }
    let mut stream = StreamOwned::new(connection, stream);
    answer(&mut stream, upstream, shared)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn answer(mut stream: impl Read + Write, upstream: &str, shared: &Mutex<Shared>) -> std::io::Result<()> {
    // The peer sends nothing behind its request, which the reader could keep.
    let mut reader = BufReader::new(&mut stream);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let mut request_line = head.split(' ');
    let (Some(method), Some(path)) = (request_line.next(), request_line.next()) else { return Ok(()) };
    let fault = shared.lock().unwrap().take(method, path);
    let forward = || {
        let keep =
            |name: &str| !["host", "connection", "content-length"].contains(&name.to_lowercase().as_str());
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers: Vec<_> = headers.filter(|(name, _)| keep(name)).collect();
        let upstream = TcpStream::connect(upstream).ok()?;
        http::exchange(upstream, method, path, &headers, &body)
    };
    match fault {
        Fault::None => pass(&mut stream, forward(), "application/json"),
        Fault::Latency(time) => {
            pause(time);
            pass(&mut stream, forward(), "application/json")
        }
        Fault::WrongContentType => pass(&mut stream, forward(), "text/html"),
        Fault::Silence => stream.read(&mut [0]).map(|_| ()),
        Fault::Cut => Ok(()),
        Fault::Truncated => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"data\": {"),
        Fault::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b' '; 8192])?;
            }
        }
        Fault::Answer(status, headers, body) => respond(&mut stream, status, &headers, &body),
        Fault::Play(Play(play)) => {
            let (status, body) = play(&format!("{method} {path}"), &body);
            respond(&mut stream, status, "content-type: application/json\r\n", &body)
        }
    }
}

fn respond(stream: &mut impl Write, status: u16, headers: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Simulated\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn pass(stream: &mut impl Write, answer: Option<http::Answer>, kind: &str) -> std::io::Result<()> {
    let Some(answer) = answer else { return Ok(()) };
    let (status, len) = (answer.status, answer.body.len());
    let length = if status == 204 { String::new() } else { format!("content-length: {len}\r\n") };
    write!(stream, "HTTP/1.1 {status} Passed\r\ncontent-type: {kind}\r\nconnection: close\r\n{length}\r\n")?;
    stream.write_all(&answer.body)
}

#[expect(clippy::disallowed_methods, reason = "this is the injected latency")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
