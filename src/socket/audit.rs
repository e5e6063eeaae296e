//! The audit: a line in the log for a request, saying who asked for what and how it went, and nothing of what was in it.
//!
//! The fields are the ones written here and no others. Failures of one kind (peer's user, operation, outcome) are folded:
//! the first is told at once, the rest as one line an interval with their count and sums, so that no client can flood the
//! log. Where all is to be told, only requests that gave the client nothing are folded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::access::Peer;
use crate::{
    keyring::KeyId,
    logging::AUDIT,
    metrics::{Answered, Operation},
    settings::Audit as Which,
};

/// How long failures of one kind are folded into one line.
pub const FOLDING: Duration = Duration::from_secs(10);

/// How many kinds are folded by themselves. Further ones share the line of their operation and outcome.
const MOST_KINDS: usize = 512;

/// What a request turned out to be about. Nothing in it is secret.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The key, where there was one alone.
    pub key_id: Option<KeyId>,
    /// What was asked for, where that was secrets by reference.
    pub references: Option<Box<str>>,
    pub batch: Option<Box<Batch>>,
}

/// How many items a batch had.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch {
    pub items: usize,
    pub failed: usize,
}

impl Facts {
    /// The same of a batch.
    #[must_use]
    pub fn of_batch(self, items: usize, failed: usize) -> Self {
        Self { batch: Some(Box::new(Batch { items, failed })), ..self }
    }

    /// What it says of a batch; of a single request, that it had no items.
    pub fn batch(&self) -> Batch {
        self.batch.as_deref().copied().unwrap_or_default()
    }
}

/// One request, as the audit sees it.
#[derive(Clone, Debug)]
pub struct Record {
    pub peer: Option<Arc<Peer>>,
    pub operation: Operation,
    pub outcome: Answered,
    /// 0 without an answer.
    pub status: u16,
    pub facts: Facts,
    /// Bytes of the request's body and of the answer's.
    pub received: usize,
    pub sent: usize,
    pub took: Duration,
}

type Kind = (Option<u32>, Operation, Answered);

/// Failures that were not told yet.
struct Folded {
    since: Instant,
    untold: u64,
    /// The last of them, with the items and bytes of all.
    sum: Record,
}

impl Folded {
    fn add(&mut self, mut record: Record) {
        if self.untold > 0 {
            record.received += self.sum.received;
            record.sent += self.sum.sent;
            let (one, all) = (record.facts.batch(), self.sum.facts.batch());
            if record.facts.batch.is_some() || self.sum.facts.batch.is_some() {
                record.facts = record.facts.of_batch(one.items + all.items, one.failed + all.failed);
            }
        }
        self.untold += 1;
        self.sum = record;
    }
}

/// Writes the lines.
#[derive(Default)]
pub struct Audit(Mutex<HashMap<Kind, Folded>>);

impl Audit {
    /// Tells of a request, or remembers to.
    pub fn record(&self, which: Which, record: Record) {
        let failed = record.outcome != Answered::Success;
        match which {
            Which::Off => {}
            _ if record.operation == Operation::Health => {}
            Which::Failures if !failed => {}
            Which::All if matches!(record.outcome, Answered::Success | Answered::Partial) => {
                tell(&record, None);
            }
            Which::Failures | Which::All => {
                if let Some(first) = self.fold(record, Instant::now()) {
                    tell(&first, None);
                }
            }
        }
    }

    /// Tells what is due, for as long as there is no stop.
    pub async fn tell_until(&self, stop: &CancellationToken) {
        while tokio::time::timeout(FOLDING, stop.cancelled()).await.is_err() {
            self.flush(false);
        }
    }

    /// Tells what is due. To be called about every [`FOLDING`], and with `all` at the end.
    pub fn flush(&self, all: bool) {
        for (record, count) in self.due(Instant::now(), all) {
            tell(&record, Some(count));
        }
    }

    /// Answers the record if it is the first of its kind, to be told at once.
    fn fold(&self, record: Record, now: Instant) -> Option<Record> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = record.peer.as_ref().map(|peer| peer.uid);
        let mut kind = (uid, record.operation, record.outcome);
        if kinds.len() >= MOST_KINDS && !kinds.contains_key(&kind) {
            kind.0 = None;
        }
        if let Some(folded) = kinds.get_mut(&kind) {
            folded.add(record);
            return None;
        }
        kinds.insert(kind, Folded { since: now, untold: 0, sum: record.clone() });
        drop(kinds);
        Some(record)
    }

    fn due(&self, now: Instant, all: bool) -> Vec<(Record, u64)> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        kinds.retain(|_, folded| {
            if !all && now.duration_since(folded.since) < FOLDING {
                return true;
            }
            if folded.untold == 0 {
                return false; // quiet again: the next one is told at once
            }
            due.push((folded.sum.clone(), folded.untold));
            (folded.since, folded.untold) = (now, 0);
            true
        });
        drop(kinds);
        due
    }
}

/// One line. `repeated` counts the failures that it stands for: it has the last one's time, and the sums of their sizes.
fn tell(record: &Record, repeated: Option<u64>) {
    let (peer, facts) = (record.peer.as_ref(), &record.facts);
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: AUDIT,
                operation = record.operation.name(),
                outcome = record.outcome.name(),
                status = Some(record.status).filter(|status| *status != 0),
                uid = peer.map(|peer| peer.uid),
                gid = peer.map(|peer| peer.gid),
                pid = peer.and_then(|peer| peer.pid),
                key_id = facts.key_id.as_ref().map(KeyId::as_str),
                references = facts.references.as_deref(),
                items = facts.batch.as_ref().map(|batch| batch.items),
                failed_items = facts.batch.as_ref().map(|batch| batch.failed),
                received = record.received,
                sent = record.sent,
                microseconds = u64::try_from(record.took.as_micros()).unwrap_or(u64::MAX),
                repeated,
                "request"
            )
        };
    }
    if record.outcome == Answered::Success { line!(info) } else { line!(warn) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(uid: u32) -> Record {
        let peer = Peer { uid, gid: 7, pid: None, groups: Vec::new() };
        Record {
            peer: Some(Arc::new(peer)),
            operation: Operation::Decrypt,
            outcome: Answered::Invalid,
            status: 400,
            facts: Facts::default(),
            received: 1,
            sent: 2,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn failures_of_one_kind_are_one_line_an_interval_with_a_count() {
        let (audit, start, record) = (Audit::default(), Instant::now(), failure(7));
        let told = (0..1000).filter(|_| audit.fold(record.clone(), start).is_some()).count();
        assert_eq!(told, 1);
        assert!(audit.due(start, false).is_empty(), "the first was told at once, the rest are to come");
        let later = start + FOLDING;
        let due = audit.due(later, false);
        let told: Vec<_> = due.iter().map(|(sum, count)| (*count, sum.received, sum.sent)).collect();
        assert_eq!(told, [(999, 999, 2 * 999)]);
        audit.fold(record, later);
        assert!(audit.due(later, false).is_empty());
        assert_eq!(audit.due(later, true)[0].1, 1);
        assert!(audit.due(later + FOLDING, false).is_empty());
        assert!(audit.0.lock().unwrap().is_empty(), "a kind that is quiet is forgotten");
    }

    #[test]
    fn what_is_remembered_is_bounded_whoever_asks() {
        let (audit, now) = (Audit::default(), Instant::now());
        for uid in 0..10_000 {
            audit.fold(failure(uid), now);
        }
        assert!(audit.0.lock().unwrap().len() <= MOST_KINDS + Operation::ALL.len() * Answered::ALL.len());
    }
}
