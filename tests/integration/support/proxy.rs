//! A small proxy in front of a real server, which does to its answers what networks and middle boxes do, and counts.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::http;

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    None,
    Latency(Duration),
    /// No answer, and the connection stays open.
    Silence,
    /// The connection ends before an answer.
    Cut,
    /// The answer ends halfway.
    Truncated,
    /// The answer never ends.
    Endless,
    /// The real answer, said to be HTML.
    WrongContentType,
    /// Another answer: its status, further headers, and body.
    Answer(u16, String, String),
    /// A server that is played: method and path, and body, to a status and JSON.
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

pub struct Proxy {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// The last one whose prefix fits counts.
    faults: Vec<(String, Fault)>,
    seen: Vec<String>,
}

impl Shared {
    /// Notes a request and says what happens to it.
    fn take(&mut self, method: &str, path: &str) -> Fault {
        self.seen.push(format!("{method} {path}"));
        let fault = self.faults.iter().rev().find(|(prefix, _)| path.starts_with(prefix.as_str()));
        fault.map_or(Fault::None, |(_, fault)| fault.clone())
    }
}

impl Proxy {
    /// A proxy before the server at `upstream`, an `http://` address.
    pub fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let proxy = Self { port, shared: Arc::clone(&shared) };
        let upstream = upstream.trim_start_matches("http://").to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, upstream) = (Arc::clone(&shared), upstream.clone());
                std::thread::spawn(move || serve(stream, &upstream, &shared));
            }
        });
        proxy
    }

    /// A server of its own, which answers everything with one fault.
    pub fn only(fault: Fault) -> Self {
        let proxy = Self::before("127.0.0.1:1");
        proxy.set("/", fault);
        proxy
    }

    /// A server that is played by a function of method, path and body.
    pub fn playing(play: impl Fn(&str, &[u8]) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::only(Fault::Play(Play(Arc::new(play))))
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on, what happens to requests whose path starts with `prefix`.
    pub fn set(&self, prefix: &str, fault: Fault) {
        self.shared.lock().unwrap().faults.push((prefix.to_owned(), fault));
    }

    /// Takes back the faults that were set since the proxy was made.
    pub fn reset(&self) {
        self.shared.lock().unwrap().faults.truncate(1);
    }

    /// The requests so far, each as its method and path.
    pub fn seen(&self) -> Vec<String> {
        self.shared.lock().unwrap().seen.clone()
    }
}

fn serve(stream: TcpStream, upstream: &str, shared: &Mutex<Shared>) {
    // A client that goes away ends this thread and nothing else.
    let _ = answer(stream, upstream, shared);
}

fn answer(mut stream: TcpStream, upstream: &str, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let mut words = head.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
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
        Fault::Answer(status, headers, body) => say(&mut stream, status, &headers, &body),
        Fault::Play(Play(play)) => {
            let (status, body) = play(&format!("{method} {path}"), &body);
            say(&mut stream, status, "content-type: application/json\r\n", &body)
        }
    }
}

fn say(stream: &mut TcpStream, status: u16, headers: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Said\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn pass(stream: &mut TcpStream, answer: Option<http::Answer>, kind: &str) -> std::io::Result<()> {
    let Some(answer) = answer else { return Ok(()) };
    let (status, len) = (answer.status, answer.body.len());
    let length = if status == 204 { String::new() } else { format!("content-length: {len}\r\n") };
    write!(stream, "HTTP/1.1 {status} Passed\r\ncontent-type: {kind}\r\nconnection: close\r\n{length}\r\n")?;
    stream.write_all(&answer.body)
}

#[expect(clippy::disallowed_methods, reason = "this is the latency that the proxy is there to add")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
