//! The cases: which request in which shape and size from how many connections, and one of them run against each server.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::{
    Effort, echo,
    load::{Measured, Target},
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
    let request = request_for(case, &ours, "");
    // The echo gets the same bytes in, and gives as many out.
    let header = format!("{}: {}\r\n", echo::ANSWER, ours.answer_len(&request));
    let for_echo = request_for(case, &ours, &header);
    let token = format!("x-vault-token: {}\r\n", servers.token());
    let theirs = servers.openbao();
    let for_openbao = (case.shape != Shape::Octets).then(|| request_for(case, &theirs, &token));
    // In turn, so that whatever else the machine does meets all of them.
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

/// The medians of some rounds, and all of their latencies, sorted.
fn merged(rounds: Vec<Measured>) -> Option<Measured> {
    let median = |value: fn(&Measured) -> f64| {
        let mut values: Vec<_> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let (per_second, cpu) = (median(|one| one.per_second)?, median(|one| one.cpu)?);
    let mut latencies: Vec<_> = rounds.into_iter().flat_map(|one| one.latencies).collect();
    latencies.sort_unstable();
    Some(Measured { per_second, latencies, cpu })
}

/// A whole request. What is to be decrypted, the server has sealed.
fn request_for(case: &Case, server: &Target<'_>, header: &str) -> Vec<u8> {
    let plaintext = vec![b'p'; case.bytes];
    let seal = if case.shape == Shape::Octets {
        http("encrypt", &format!("{header}{OCTETS}"), &plaintext)
    } else {
        let one = json!({ "plaintext": BASE64_STANDARD.encode(&plaintext) });
        http("encrypt", header, many(case.shape, one).to_string().as_bytes())
    };
    if case.operation == "encrypt" {
        return seal;
    }
    let sealed = server.answer(&seal);
    if case.shape == Shape::Octets {
        return http("decrypt", &format!("{header}{OCTETS}"), &sealed);
    }
    let sealed: Value = serde_json::from_slice(&sealed).unwrap();
    let data = &sealed["data"];
    let open = match case.shape {
        Shape::Batch(_) => {
            let items = data["batch_results"].as_array().unwrap().iter();
            let items: Vec<_> = items.map(|item| json!({ "ciphertext": item["ciphertext"] })).collect();
            json!({ "batch_input": items })
        }
        _ => json!({ "ciphertext": data["ciphertext"] }),
    };
    http("decrypt", header, open.to_string().as_bytes())
}

const OCTETS: &str = "content-type: application/octet-stream\r\n";

fn many(shape: Shape, one: Value) -> Value {
    match shape {
        Shape::Batch(items) => json!({ "batch_input": vec![one; items] }),
        _ => one,
    }
}

fn http(operation: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let head = format!(
        "POST /v1/transit/{operation}/keyring HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {len}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}
