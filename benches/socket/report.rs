//! The table for people, and the JSON for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    cases::{Outcome, Shape},
    footprint::Fact,
    load::Measured,
};

impl Measured {
    /// The latency that this share of the requests did not exceed, in microseconds. They are sorted.
    fn percentile(&self, thousandths: usize) -> u32 {
        let at = (self.latencies.len() * thousandths / 1000).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or(0)
    }

    fn json(&self) -> Value {
        json!({
            "requests_per_second": self.per_second,
            "cpu_microseconds_per_request": self.cpu,
            "p50_microseconds": self.percentile(500),
            "p99_microseconds": self.percentile(990),
            "p999_microseconds": self.percentile(999),
        })
    }
}

impl Outcome {
    fn name(&self) -> String {
        let case = &self.case;
        let shape = match case.shape {
            Shape::Json => "JSON".to_owned(),
            Shape::Octets => "octets".to_owned(),
            Shape::Batch(items) => format!("batch of {items}"),
        };
        format!("{} {shape} {} B, {} conn.", case.operation, case.bytes, case.connections)
    }
}

pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| case | requests/s | p50 µs | p99 µs | p99.9 µs | CPU µs | of the echo | × OpenBao | CPU of OpenBao's |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        let ours = &outcome.keyringd;
        let of_echo = ours.per_second / outcome.echo.per_second;
        let (times, cpu) = outcome.openbao.as_ref().map_or_else(Default::default, |theirs| {
            (format!("{:.1}", ours.per_second / theirs.per_second), format!("1/{:.1}", theirs.cpu / ours.cpu))
        });
        let _ = writeln!(
            text,
            "| {} | {:.0} | {} | {} | {} | {:.1} | {of_echo:.2} | {times} | {cpu} |",
            outcome.name(),
            ours.per_second,
            ours.percentile(500),
            ours.percentile(990),
            ours.percentile(999),
            ours.cpu,
        );
    }
    text
}

pub fn facts(facts: &[Fact]) -> String {
    facts.iter().fold(String::new(), |mut text, fact| {
        let _ = writeln!(text, "{}: {:.1} {}", fact.name, fact.value, fact.unit);
        text
    })
}

pub fn json(outcomes: &[Outcome], facts: &[Fact]) -> String {
    let outcome = |one: &Outcome| {
        json!({
            "case": one.name(),
            "keyringd": one.keyringd.json(),
            "echo": one.echo.json(),
            "openbao": one.openbao.as_ref().map(Measured::json),
        })
    };
    let fact = |one: &Fact| json!({ "name": one.name, "value": one.value, "unit": one.unit });
    let all = json!({
        "cases": outcomes.iter().map(outcome).collect::<Vec<_>>(),
        "facts": facts.iter().map(fact).collect::<Vec<_>>(),
    });
    format!("{all:#}\n")
}
