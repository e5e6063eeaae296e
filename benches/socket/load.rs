//! The load: clients that send one request again and again on connections of their own, and what that took.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

/// A server under load: its socket and its process.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub socket: &'a Path,
    pub pid: u32,
}

/// What a load came to.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub per_second: f64,
    /// Of each request, in microseconds.
    pub latencies: Vec<u32>,
    /// Of the server's time on all cores, in microseconds a request.
    pub cpu: f64,
}

impl Target<'_> {
    /// Sends `request` from so many connections at once for a time.
    pub fn load(&self, request: &[u8], connections: usize, time: Duration) -> Measured {
        let begin = Barrier::new(connections + 1);
        thread::scope(|scope| {
            let clients: Vec<_> = (0..connections)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = Client::connect(self.socket);
                        client.ask(request);
                        begin.wait();
                        let (end, mut latencies) = (Instant::now() + time, Vec::new());
                        while Instant::now() < end {
                            let sent = Instant::now();
                            client.ask(request);
                            latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap());
                        }
                        latencies
                    })
                })
                .collect();
            begin.wait();
            let (started, cpu) = (Instant::now(), cpu_seconds(self.pid));
            let latencies: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
            let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(self.pid) - cpu);
            #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
            let requests = latencies.len().max(1) as f64;
            Measured { per_second: requests / elapsed, cpu: cpu * 1e6 / requests, latencies }
        })
    }

    /// The length of the answer's body to one request.
    pub fn answer_len(&self, request: &[u8]) -> usize {
        Client::connect(self.socket).ask(request)
    }

    /// The body of the answer to one request.
    pub fn answer(&self, request: &[u8]) -> Vec<u8> {
        let mut client = Client::connect(self.socket);
        let len = client.ask(request);
        client.buffer[client.body_at..][..len].to_vec()
    }
}

/// What the process has used of all cores so far.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime of proc(5), in ticks of a hundredth of a second on every Linux there is.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
    body_at: usize,
}

impl Client {
    fn connect(socket: &Path) -> Self {
        Self { stream: UnixStream::connect(socket).unwrap(), buffer: vec![0; 64 << 10], body_at: 0 }
    }

    /// Sends a request, takes in the whole answer, which must be a success, and says how long its body is.
    fn ask(&mut self, request: &[u8]) -> usize {
        self.stream.write_all(request).unwrap();
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(read > 0, "the server went away: {:?}", String::from_utf8_lossy(&self.buffer[..filled]));
            filled += read;
            let Some(head) = self.buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            self.body_at = head + 4;
            let head = str::from_utf8(&self.buffer[..head]).unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let len = body_len(head);
            let whole = self.body_at + len;
            if self.buffer.len() < whole {
                self.buffer.resize(whole, 0);
            }
            self.stream.read_exact(&mut self.buffer[filled..whole]).unwrap();
            return len;
        }
    }
}

fn body_len(head: &str) -> usize {
    let of = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    };
    head.lines().find_map(of).expect("a length")
}
