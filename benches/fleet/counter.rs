//! A TCP proxy that counts requests: it records the time of each end of a request head. While the server is down, it closes
//! new connections.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// The end of a request head. It does not occur in bodies: those of logins are JSON on one line.
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

pub struct Counter {
    port: u16,
    seen: Arc<Mutex<Seen>>,
}

/// The times of requests, and the start of the phase.
struct Seen {
    since: Instant,
    at: Vec<Instant>,
}

/// The requests of a phase.
pub struct Counts {
    pub time: Duration,
    /// The time of each request since the start of the phase.
    came: Vec<Duration>,
}

impl Seen {
    fn none() -> Self {
        Self { since: Instant::now(), at: Vec::new() }
    }
}

impl Counter {
    /// A proxy for `server`, an `http://` address.
    pub fn start(server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::none()));
        let (server, noted) = (server.trim_start_matches("http://").to_owned(), Arc::clone(&seen));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if let Ok(server) = TcpStream::connect(&server) {
                    connect(&client, &server, &noted);
                }
            }
        });
        Self { port, seen }
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests since the last call.
    pub fn since_last(&self) -> Counts {
        let Seen { since, at } = std::mem::replace(&mut *self.seen.lock().unwrap(), Seen::none());
        Counts { time: since.elapsed(), came: at.into_iter().map(|at| at.duration_since(since)).collect() }
    }
}

impl Counts {
    pub const fn all(&self) -> usize {
        self.came.len()
    }

    /// The maximum within any window of one second.
    pub fn most_in_a_second(&self) -> usize {
        let within = |at: &Duration| {
            self.came.iter().filter(|came| **came >= *at && **came < *at + Duration::from_secs(1)).count()
        };
        self.came.iter().map(within).max().unwrap_or(0)
    }
}

fn connect(client: &TcpStream, server: &TcpStream, seen: &Arc<Mutex<Seen>>) {
    let pair = || (client.try_clone().unwrap(), server.try_clone().unwrap());
    let ((from_client, to_server), (to_client, from_server)) = (pair(), pair());
    let seen = Arc::clone(seen);
    thread::spawn(move || {
        pass(from_client, to_server, |bytes| {
            let heads = bytes.windows(END_OF_HEAD.len()).filter(|four| *four == END_OF_HEAD).count();
            seen.lock().unwrap().at.extend(std::iter::repeat_n(Instant::now(), heads));
        });
    });
    thread::spawn(move || pass(from_server, to_client, |_| {}));
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut note: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        note(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
