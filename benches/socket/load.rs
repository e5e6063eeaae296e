//! The load: clients that repeat one request, each on its own connection, and the measurements.
//!
//! They use hyper, like applications, and share the cores with the server.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, runtime::Runtime, task::JoinSet, time::timeout};

/// A request that can be repeated.
pub type LoadRequest = Request<Full<Bytes>>;

/// A server under load: its socket and its process.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub socket: &'a Path,
    pub pid: u32,
}

/// The measurements of one load.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub per_second: f64,
    /// The latency of each request in microseconds, sorted.
    pub latencies: Vec<u32>,
    /// The server's CPU time in microseconds per request.
    pub cpu: f64,
    /// The server's peak resident memory in KiB.
    pub peak: f64,
}

impl Measured {
    /// The latency percentile in microseconds.
    pub fn percentile(&self, thousandths: usize) -> u32 {
        let at = (self.latencies.len() * thousandths / 1000).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or(0)
    }
}

/// The time for one response.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Target<'_> {
    /// Repeats a request on several connections for a time.
    pub fn load(&self, request: &LoadRequest, connections: usize, time: Duration) -> Measured {
        Runtime::new().unwrap().block_on(async {
            let mut clients = Vec::new();
            for _ in 0..connections {
                let mut client = Client::connect(self.socket).await;
                client.send(request).await;
                clients.push(client);
            }
            forget_peak(self.pid);
            let (started, cpu) = (Instant::now(), cpu_seconds(self.pid));
            let end = started + time;
            let asked: JoinSet<_> =
                clients.into_iter().map(|client| client.send_until(end, request.clone())).collect();
            let mut latencies: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
            latencies.sort_unstable();
            let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(self.pid) - cpu);
            #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
            let requests = latencies.len().max(1) as f64;
            let peak = memory(self.pid, "VmHWM:");
            Measured { per_second: requests / elapsed, cpu: cpu * 1e6 / requests, peak, latencies }
        })
    }

    /// The body of the response to one request.
    pub fn answer(&self, request: &LoadRequest) -> Bytes {
        Runtime::new().unwrap().block_on(async { Client::connect(self.socket).await.send(request).await })
    }
}

/// The CPU time of the process so far.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime of proc(5), in ticks of 10 ms on all Linux platforms.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// A value of `/proc/<pid>/status` in KiB.
pub fn memory(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    value.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Resets `VmHWM`, see proc(5) on `clear_refs`.
fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// One connection.
struct Client(SendRequest<Full<Bytes>>);

impl Client {
    async fn connect(socket: &Path) -> Self {
        let stream = TokioIo::new(UnixStream::connect(socket).await.unwrap());
        let (client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self(client)
    }

    /// Repeats the request until `end` and returns each latency in microseconds.
    async fn send_until(mut self, end: Instant, request: LoadRequest) -> Vec<u32> {
        let mut latencies = Vec::new();
        while Instant::now() < end {
            let sent = Instant::now();
            self.send(&request).await;
            latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap());
        }
        latencies
    }

    /// Sends a request and returns the body of the response, which must be a success.
    async fn send(&mut self, request: &LoadRequest) -> Bytes {
        let answer = async {
            self.0.ready().await.unwrap();
            let answer = self.0.send_request(request.clone()).await.unwrap();
            let (status, body) = (answer.status(), answer.into_body().collect().await.unwrap().to_bytes());
            assert!(status.is_success(), "{status}: {:?}", String::from_utf8_lossy(&body));
            body
        };
        timeout(TIMEOUT, answer).await.expect("a response in time")
    }
}

/// A request under `/v1`.
pub fn post(path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> LoadRequest {
    let mut request = Request::post(format!("/v1/{path}")).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}
