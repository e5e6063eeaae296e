//! The cases: operation, shape and size of a request, and number of connections. Each case runs on each server.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::{
    Effort, echo,
    load::{self, LoadRequest, Measured, Target},
    servers::Servers,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Json,
    Octets,
    /// JSON with this number of items.
    Batch(usize),
}

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub operation: &'static str,
    pub shape: Shape,
    /// The size of one plaintext.
    pub bytes: usize,
    pub connections: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, shape, bytes, connections } = self;
        let shape = match shape {
            Shape::Json => "JSON".to_owned(),
            Shape::Octets => "octets".to_owned(),
            Shape::Batch(items) => format!("batch of {items} ×"),
        };
        let bytes = match bytes {
            mebi if mebi >> 20 > 0 => format!("{} MiB", mebi >> 20),
            kibi if kibi >> 10 > 0 => format!("{} KiB", kibi >> 10),
            bytes => format!("{bytes} B"),
        };
        write!(out, "{operation} {shape} {bytes}, {connections} conn.")
    }
}

/// A case and its results. OpenBao does not support raw bytes.
pub struct Outcome {
    pub case: Case,
    pub keyringd: Measured,
    pub echo: Measured,
    pub openbao: Option<Measured>,
}

pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for connections in [1, 16] {
        for operation in ["encrypt", "decrypt"] {
            for shape in [Shape::Json, Shape::Octets] {
                let case = |bytes| Case { operation, shape, bytes, connections };
                cases.extend([64, 1 << 10, 64 << 10, 1 << 20].map(case));
            }
            let case = |items| Case { operation, shape: Shape::Batch(items), bytes: 64, connections };
            cases.extend([100, 1000].map(case));
        }
    }
    cases
}

pub fn run(case: &Case, servers: &Servers, effort: Effort) -> Outcome {
    let ours = servers.keyringd.target();
    let request = case_request(case, &ours, &[]);
    // The echo receives the same bytes and returns as many.
    let mut for_echo = request.clone();
    for_echo.headers_mut().insert(echo::ANSWER, ours.answer(&request).len().into());
    let theirs = servers.openbao();
    let token = [("x-vault-token", servers.token())];
    let for_openbao = (case.shape != Shape::Octets).then(|| case_request(case, &theirs, &token));
    // In turn, so that other load on the machine affects all servers alike.
    let mut rounds: [Vec<Measured>; 3] = Default::default();
    for _ in 0..effort.rounds {
        rounds[0].push(ours.load(&request, case.connections, effort.time));
        rounds[1].push(servers.echo.target().load(&for_echo, case.connections, effort.time));
        if let Some(request) = &for_openbao {
            rounds[2].push(theirs.load(request, case.connections, effort.time));
        }
    }
    let [keyringd, echo, openbao] = rounds.map(merged);
    Outcome { case: *case, keyringd: keyringd.unwrap(), echo: echo.unwrap(), openbao }
}

/// The medians of the rounds, and all latencies, sorted.
fn merged(rounds: Vec<Measured>) -> Option<Measured> {
    if rounds.is_empty() {
        return None;
    }
    let median = |value: fn(&Measured) -> f64| crate::median(rounds.iter().map(value).collect());
    let (per_second, cpu, peak) =
        (median(|one| one.per_second), median(|one| one.cpu), median(|one| one.peak));
    let mut latencies: Vec<_> = rounds.into_iter().flat_map(|one| one.latencies).collect();
    latencies.sort_unstable();
    Some(Measured { per_second, latencies, cpu, peak })
}

/// A request of the case. For decrypt the server has encrypted the ciphertext.
fn case_request(case: &Case, server: &Target<'_>, headers: &[(&str, &str)]) -> LoadRequest {
    let plaintext = vec![b'p'; case.bytes];
    let post = |operation: &str, headers: &[(&str, &str)], body: Vec<u8>| {
        load::post(&format!("transit/{operation}/keyring"), headers, body)
    };
    if case.shape == Shape::Octets {
        let octets = [("content-type", "application/octet-stream")];
        let seal = post("encrypt", &octets, plaintext);
        return if case.operation == "encrypt" {
            seal
        } else {
            post("decrypt", &octets, server.answer(&seal).to_vec())
        };
    }
    let one = json!({ "plaintext": BASE64_STANDARD.encode(&plaintext) });
    let seal = post("encrypt", headers, many(case.shape, one).to_string().into_bytes());
    if case.operation == "encrypt" {
        return seal;
    }
    let sealed: Value = serde_json::from_slice(&server.answer(&seal)).unwrap();
    let data = &sealed["data"];
    let open = match case.shape {
        Shape::Batch(_) => {
            let items = data["batch_results"].as_array().unwrap().iter();
            let items: Vec<_> = items.map(|item| json!({ "ciphertext": item["ciphertext"] })).collect();
            json!({ "batch_input": items })
        }
        _ => json!({ "ciphertext": data["ciphertext"] }),
    };
    post("decrypt", headers, open.to_string().into_bytes())
}

fn many(shape: Shape, one: Value) -> Value {
    match shape {
        Shape::Batch(items) => json!({ "batch_input": vec![one; items] }),
        _ => one,
    }
}
