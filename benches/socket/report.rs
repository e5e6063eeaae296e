//! The results as a table and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{Fact, cases::Outcome, load::Measured};

impl Measured {
    fn json(&self) -> Value {
        json!({
            "requests_per_second": self.per_second,
            "cpu_microseconds_per_request": self.cpu,
            "p50_microseconds": self.percentile(500),
            "p99_microseconds": self.percentile(990),
            "p999_microseconds": self.percentile(999),
            "peak_memory_kib": self.peak,
        })
    }
}

/// One row per case: keyringd's results, their ratios to the other servers, and the latencies.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| case | requests/s | of the echo | × OpenBao | CPU µs | over the echo, µs | of OpenBao's | peak MiB | p50 µs | p99 µs | p99.9 µs | echo's p99.9 |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for Outcome { case, keyringd: ours, echo, openbao } in outcomes {
        let of_echo = ours.per_second / echo.per_second;
        let (times, cpu) = openbao.as_ref().map_or_else(Default::default, |theirs| {
            (format!("{:.1}", ours.per_second / theirs.per_second), format!("1/{:.1}", theirs.cpu / ours.cpu))
        });
        let [p50, p99, p999] = [500, 990, 999].map(|thousandths| ours.percentile(thousandths));
        let _ = writeln!(
            text,
            "| {case} | {:.0} | {of_echo:.2} | {times} | {:.1} | {:+.1} | {cpu} | {:.1} | {p50} | {p99} | {p999} | {} |",
            ours.per_second,
            ours.cpu,
            ours.cpu - echo.cpu,
            ours.peak / 1024.0,
            echo.percentile(999),
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
            "case": one.case.to_string(),
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
