//! The account of one request: what is counted and told of it, however it ends. What it is answered is in `request`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Live, Service,
    access::Peer,
    answer::Answer,
    audit::{Facts, Record},
    inflight::Hold,
};
use crate::{
    metrics::{Answered, Handling, Operation},
    settings,
};

/// What is counted and told of one request, also if its client goes away before the answer.
pub struct Account<'a> {
    service: &'a Service,
    audit: settings::Audit,
    pub hold: Hold,
    begun: Instant,
    record: Option<Record>,
    _handling: Handling,
}

impl<'a> Account<'a> {
    pub fn open(service: &'a Service, peer: Option<Arc<Peer>>, live: &Live, operation: Operation) -> Self {
        let record = Record {
            peer,
            operation,
            outcome: Answered::Aborted,
            status: 0,
            facts: Facts::default(),
            received: 0,
            sent: 0,
            took: Duration::ZERO,
        };
        Self {
            service,
            audit: live.audit,
            hold: service.inflight.hold(live.limits.inflight_size),
            begun: Instant::now(),
            record: Some(record),
            _handling: service.metrics.handling(),
        }
    }

    /// There is an answer.
    pub fn settle(&mut self, answer: &mut Answer) {
        if let Some(record) = &mut self.record {
            record.facts = answer.take_facts();
            record.status = answer.status();
            let batch = record.facts.batch();
            record.outcome = Answered::of(record.status, batch.items, batch.failed);
            record.sent = answer.body_len();
        }
    }

    /// Counts and tells, and gives what is held to the answer.
    pub fn close(mut self) -> Hold {
        self.tell();
        std::mem::replace(&mut self.hold, self.service.inflight.hold(0))
    }

    fn tell(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        (record.received, record.took) = (self.hold.received(), self.begun.elapsed());
        let bytes = (record.received, record.sent);
        self.service.metrics.answered(record.operation, record.outcome, record.took, bytes);
        self.service.audit.record(self.audit, record);
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}
