//! The load: clients that send one request again and again on connections of their own, and what that took.
//!
//! They are hyper's, as applications have them, and share the cores with the server.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, runtime::Runtime, task::JoinSet, time::timeout};

/// A whole request, which can be sent again and again.
pub type Asking = Request<Full<Bytes>>;

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
    /// Of each request, in microseconds, sorted.
    pub latencies: Vec<u32>,
    /// Of the server's time on all cores, in microseconds a request.
    pub cpu: f64,
    /// The most memory that the server had resident meanwhile, in KiB.
    pub peak: f64,
}

impl Measured {
    /// The latency that this share of the requests did not exceed, in microseconds.
    pub fn percentile(&self, thousandths: usize) -> u32 {
        let at = (self.latencies.len() * thousandths / 1000).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or(0)
    }
}

/// How long a server may take over one answer.
const PATIENCE: Duration = Duration::from_secs(30);

impl Target<'_> {
    /// Sends `asking` from so many connections at once for a time.
    pub fn load(&self, asking: &Asking, connections: usize, time: Duration) -> Measured {
        Runtime::new().unwrap().block_on(async {
            let mut clients = Vec::new();
            for _ in 0..connections {
                let mut client = Client::connect(self.socket).await;
                client.ask(asking).await;
                clients.push(client);
            }
            forget_peak(self.pid);
            let (started, cpu) = (Instant::now(), cpu_seconds(self.pid));
            let end = started + time;
            let asked: JoinSet<_> =
                clients.into_iter().map(|client| client.ask_until(end, asking.clone())).collect();
            let mut latencies: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
            latencies.sort_unstable();
            let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(self.pid) - cpu);
            #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
            let requests = latencies.len().max(1) as f64;
            let peak = memory(self.pid, "VmHWM:");
            Measured { per_second: requests / elapsed, cpu: cpu * 1e6 / requests, peak, latencies }
        })
    }

    /// The body of the answer to one request.
    pub fn answer(&self, asking: &Asking) -> Bytes {
        Runtime::new().unwrap().block_on(async { Client::connect(self.socket).await.ask(asking).await })
    }
}

/// What the process has used of all cores so far.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // utime and stime of proc(5), in ticks of a hundredth of a second on every Linux there is.
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// What `/proc/pid/status` says in KiB under this name.
pub fn memory(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    value.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Has the kernel count `VmHWM` from now on, see proc(5) on `clear_refs`.
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

    /// Asks again and again, and says how long each took, in microseconds.
    async fn ask_until(mut self, end: Instant, asking: Asking) -> Vec<u32> {
        let mut latencies = Vec::new();
        while Instant::now() < end {
            let sent = Instant::now();
            self.ask(&asking).await;
            latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap());
        }
        latencies
    }

    /// Takes in the whole answer, which must be a success, and gives its body.
    async fn ask(&mut self, asking: &Asking) -> Bytes {
        let answer = async {
            self.0.ready().await.unwrap();
            let answer = self.0.send_request(asking.clone()).await.unwrap();
            let (status, body) = (answer.status(), answer.into_body().collect().await.unwrap().to_bytes());
            assert!(status.is_success(), "{status}: {:?}", String::from_utf8_lossy(&body));
            body
        };
        timeout(PATIENCE, answer).await.expect("an answer in time")
    }
}

/// A request under `/v1`.
pub fn post(path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Asking {
    let mut request = Request::post(format!("/v1/{path}")).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}
