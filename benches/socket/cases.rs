//! The cases: which request in which shape and size from how many connections, and one of them run against each server.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::{
    Effort, echo,
    load::{self, Asking, Measured, Target},
    servers::Servers,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Json,
    Octets,
    /// JSON with so many items.
    Batch(usize),
}

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub operation: &'static str,
    pub shape: Shape,
    /// Of one plaintext.
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

/// A case, and what it took of each server. OpenBao has no octets.
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
    let asking = asking(case, &ours, &[]);
    // The echo gets the same bytes in, and gives as many out.
    let mut for_echo = asking.clone();
    for_echo.headers_mut().insert(echo::ANSWER, ours.answer(&asking).len().into());
    let theirs = servers.openbao();
    let token = [("x-vault-token", servers.token())];
    let for_openbao = (case.shape != Shape::Octets).then(|| self::asking(case, &theirs, &token));
    // In turn, so that whatever else the machine does meets all of them.
    let mut rounds: [Vec<Measured>; 3] = Default::default();
    for _ in 0..effort.rounds {
        rounds[0].push(ours.load(&asking, case.connections, effort.time));
        rounds[1].push(servers.echo.target().load(&for_echo, case.connections, effort.time));
        if let Some(asking) = &for_openbao {
            rounds[2].push(theirs.load(asking, case.connections, effort.time));
        }
    }
    let [keyringd, echo, openbao] = rounds.map(merged);
    Outcome { case: *case, keyringd: keyringd.unwrap(), echo: echo.unwrap(), openbao }
}

/// The medians of some rounds, and all of their latencies, sorted.
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

/// A request of that case. What is to be decrypted, the server has sealed.
fn asking(case: &Case, server: &Target<'_>, headers: &[(&str, &str)]) -> Asking {
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
