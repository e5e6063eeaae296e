//! Requests: how many by operation and outcome, how long and how large by operation. Counting takes no lock.
//!
//! Only series that occurred have a line, and those whose first increase an alert must see: Prometheus computes a rate from
//! two samples, so such a series has to be there with 0 before.

use std::{fmt, sync::Arc, time::Duration};

use enum_map::EnumMap;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::Counter},
    registry::{Registry, Unit},
};

use super::{RequestOutcome, latency::Latency};
use crate::operation::Operation;

/// The outcomes that alerts count.
const ALERTED: [RequestOutcome; 4] =
    [RequestOutcome::Denied, RequestOutcome::Failed, RequestOutcome::Limited, RequestOutcome::Unavailable];

/// The counts of all requests. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests(Arc<EnumMap<Operation, Counts>>);

#[derive(Debug, Default)]
struct Counts {
    outcomes: EnumMap<RequestOutcome, Counter>,
    latency: Latency,
    received: Counter,
    sent: Counter,
}

/// One metric of the counts.
#[derive(Debug)]
struct View {
    requests: Requests,
    part: Part,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Outcomes,
    Latency,
    Received,
    Sent,
}

impl Requests {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let requests = Self::default();
        let view = |part| View { requests: requests.clone(), part };
        registry.register("requests", "Requests by operation and outcome", view(Part::Outcomes));
        let help = "Seconds from the head of a request to its response";
        registry.register_with_unit("request", help, Unit::Seconds, view(Part::Latency));
        registry.register_with_unit("received", "Bytes of request bodies", Unit::Bytes, view(Part::Received));
        registry.register_with_unit("sent", "Bytes of response bodies", Unit::Bytes, view(Part::Sent));
        requests
    }

    pub(super) fn ended(
        &self,
        operation: Operation,
        outcome: RequestOutcome,
        took: Duration,
        [received, sent]: [usize; 2],
    ) {
        let counts = &self.0[operation];
        counts.outcomes[outcome].inc();
        counts.latency.observe(took);
        counts.received.inc_by(received as u64);
        counts.sent.inc_by(sent as u64);
    }
}

impl Counts {
    fn occurred(&self) -> bool {
        self.outcomes.values().any(|count| count.get() > 0)
    }

    /// Whether an outcome has a line.
    fn is_shown(&self, operation: Operation, outcome: RequestOutcome) -> bool {
        let is_expected = matches!(operation, Operation::Encrypt | Operation::Decrypt) || self.occurred();
        let is_alerted = match (operation, outcome) {
            (Operation::KmsDecrypt, RequestOutcome::MissingKey) => true,
            _ => is_expected && ALERTED.contains(&outcome),
        };
        is_alerted || self.outcomes[outcome].get() > 0
    }
}

impl EncodeMetric for View {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let mut operations: Vec<_> = self.requests.0.iter().collect();
        operations.sort_unstable_by_key(|(operation, _)| operation.name());
        for (operation, counts) in operations {
            let labels = [("operation", operation.name())];
            match self.part {
                Part::Outcomes => {
                    let mut outcomes: Vec<_> = counts.outcomes.iter().collect();
                    outcomes.sort_unstable_by_key(|(outcome, _)| outcome.name());
                    for (outcome, count) in outcomes {
                        if counts.is_shown(operation, outcome) {
                            let labels = [labels[0], ("outcome", outcome.name())];
                            count.encode(encoder.encode_family(&labels)?)?;
                        }
                    }
                }
                _ if !counts.occurred() => {}
                Part::Latency => counts.latency.encode(encoder.encode_family(&labels)?)?,
                Part::Received => counts.received.encode(encoder.encode_family(&labels)?)?,
                Part::Sent => counts.sent.encode(encoder.encode_family(&labels)?)?,
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        match self.part {
            Part::Latency => MetricType::Histogram,
            Part::Outcomes | Part::Received | Part::Sent => MetricType::Counter,
        }
    }
}
