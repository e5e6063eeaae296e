//! The audit: one log line per request with peer, operation, outcome and sizes, and never a payload.
//!
//! Failures of one kind (user, operation, outcome, keyring) are folded, so that no client can flood the log: the first is logged at
//! once, the rest as one line per interval with their count and sums. With `keyring_audit = all`, requests that gave the
//! client a result are never folded.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::access::Peer;
use crate::{
    keyring::KeyId, logging::AUDIT, metrics::RequestOutcome, operation::Operation,
    settings::Audit as AuditLevel,
};

/// How long failures of one kind are folded into one line.
const FOLDING: Duration = Duration::from_secs(10);

/// How many kinds are folded separately. Further ones are folded by operation and outcome only.
const MAX_KINDS: usize = 512;

/// What a handler adds to the line. Nothing in it is secret.
#[derive(Clone, Debug, Default)]
pub(super) struct AuditFields {
    /// The key of a request with a single item.
    pub(super) key_id: Option<KeyId>,
    /// The references that were resolved, separated by spaces.
    pub(super) references: Option<Box<str>>,
    /// The hash of a Kubernetes `key_id` that no key has.
    pub(super) missing_key: Option<Box<str>>,
    pub(super) batch: Option<BatchCount>,
    /// The start of a path that no route serves.
    pub(super) path: Option<Box<str>>,
}

/// The most characters of a path in a line.
const MAX_PATH: usize = 60;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchCount {
    pub(super) items: usize,
    pub(super) failed: usize,
}

impl AuditFields {
    pub(super) fn from_key(id: &KeyId) -> Self {
        Self { key_id: Some(id.clone()), ..Self::default() }
    }

    /// Of a request that no route serves. Its query may have anything.
    pub(super) fn from_path(path: &str) -> Self {
        let visible = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        let cut = if path.chars().count() > MAX_PATH { "…" } else { "" };
        let path = path.chars().take(MAX_PATH).map(visible).chain(cut.chars()).collect::<String>();
        Self { path: Some(path.into()), ..Self::default() }
    }
}

/// One request that has ended.
#[derive(Clone, Debug)]
pub(super) struct AuditRecord {
    pub(super) peer: Option<Arc<Peer>>,
    pub(super) operation: Operation,
    /// The name of the keyring that it was about.
    pub(super) keyring: Option<Arc<str>>,
    pub(super) outcome: RequestOutcome,
    /// 0 without a response.
    pub(super) status: u16,
    pub(super) fields: AuditFields,
    /// Bytes of the request's body.
    pub(super) received: usize,
    /// Bytes of the response's body.
    pub(super) sent: usize,
    pub(super) took: Duration,
}

impl AuditRecord {
    /// Forgets what `other`, which is folded into the same line, does not have.
    fn keep_common(&mut self, other: &Self) {
        fn keep<T: PartialEq>(one: &mut Option<T>, other: Option<&T>) {
            if one.as_ref() != other {
                *one = None;
            }
        }
        keep(&mut self.fields.key_id, other.fields.key_id.as_ref());
        keep(&mut self.fields.references, other.fields.references.as_ref());
        keep(&mut self.fields.missing_key, other.fields.missing_key.as_ref());
        keep(&mut self.fields.path, other.fields.path.as_ref());
        if self.status != other.status {
            self.status = 0;
        }
        let pid = |record: &Self| record.peer.as_ref().and_then(|peer| peer.pid);
        if pid(self) != pid(other) {
            self.peer = self.peer.take().map(|peer| Arc::new(Peer { pid: None, ..Peer::clone(&peer) }));
        }
    }
}

type Kind = (Option<u32>, Operation, RequestOutcome, Option<Arc<str>>);

/// Failures of one kind that are not logged yet.
struct Folded {
    since: Instant,
    count: u64,
    /// What all of them have, with the items and bytes of all and the time of the last.
    sum: AuditRecord,
}

impl Folded {
    fn add(&mut self, mut record: AuditRecord) {
        if self.count > 0 {
            record.received += self.sum.received;
            record.sent += self.sum.sent;
            record.fields.batch = match (record.fields.batch, self.sum.fields.batch) {
                (Some(a), Some(b)) => {
                    Some(BatchCount { items: a.items + b.items, failed: a.failed + b.failed })
                }
                (one, other) => one.or(other),
            };
            record.keep_common(&self.sum);
        }
        self.count += 1;
        self.sum = record;
    }
}

/// Which folded failures are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Expired,
    All,
}

#[derive(Default)]
pub(super) struct Audit(Mutex<HashMap<Kind, Folded>>);

impl Audit {
    /// Logs a request, or folds it.
    pub(super) fn record(&self, level: AuditLevel, record: AuditRecord) {
        match level {
            AuditLevel::Off => {}
            _ if record.operation == Operation::Health => {}
            AuditLevel::Failures if record.outcome == RequestOutcome::Success => {}
            AuditLevel::All
                if matches!(record.outcome, RequestOutcome::Success | RequestOutcome::Partial) =>
            {
                log(&record, None);
            }
            AuditLevel::Failures | AuditLevel::All => {
                if let Some(first) = self.fold(record, Instant::now()) {
                    log(&first, None);
                }
            }
        }
    }

    /// Logs folded failures while `serving` runs, and the rest at its end.
    pub(super) async fn during<T>(&self, serving: impl Future<Output = T>) -> T {
        let mut serving = pin!(serving);
        loop {
            if let Ok(output) = timeout(FOLDING, serving.as_mut()).await {
                self.log_due(Instant::now(), Due::All);
                return output;
            }
            self.log_due(Instant::now(), Due::Expired);
        }
    }

    fn log_due(&self, now: Instant, due: Due) {
        for (record, count) in self.take_due(now, due) {
            log(&record, Some(count));
        }
    }

    /// Returns the record if it is the first of its kind, to be logged at once.
    fn fold(&self, record: AuditRecord, now: Instant) -> Option<AuditRecord> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = record.peer.as_ref().map(|peer| peer.uid);
        let mut kind = (uid, record.operation, record.outcome, record.keyring.clone());
        if kinds.len() >= MAX_KINDS && !kinds.contains_key(&kind) {
            (kind.0, kind.3) = (None, None);
        }
        if let Some(folded) = kinds.get_mut(&kind) {
            folded.add(record);
            return None;
        }
        kinds.insert(kind, Folded { since: now, count: 0, sum: record.clone() });
        drop(kinds);
        Some(record)
    }

    fn take_due(&self, now: Instant, which: Due) -> Vec<(AuditRecord, u64)> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        kinds.retain(|_, folded| {
            if which == Due::Expired && now.duration_since(folded.since) < FOLDING {
                return true;
            }
            if folded.count == 0 {
                return false; // the next failure of this kind is logged at once
            }
            due.push((folded.sum.clone(), folded.count));
            (folded.since, folded.count) = (now, 0);
            true
        });
        drop(kinds);
        due
    }
}

/// Writes one line. `repeated` is how many folded failures it covers: durations are the last one's, sizes are sums.
fn log(record: &AuditRecord, repeated: Option<u64>) {
    let (peer, fields) = (record.peer.as_ref(), &record.fields);
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: AUDIT,
                operation = record.operation.name(),
                keyring = record.keyring.as_deref(),
                outcome = record.outcome.name(),
                status = Some(record.status).filter(|status| *status != 0),
                uid = peer.map(|peer| peer.uid),
                gid = peer.map(|peer| peer.gid),
                pid = peer.and_then(|peer| peer.pid),
                key_id = fields.key_id.as_ref().map(KeyId::as_str),
                references = fields.references.as_deref(),
                key_id_hash = fields.missing_key.as_deref(),
                path = fields.path.as_deref(),
                items = fields.batch.as_ref().map(|batch| batch.items),
                failed_items = fields.batch.as_ref().map(|batch| batch.failed),
                received = record.received,
                sent = record.sent,
                microseconds = u64::try_from(record.took.as_micros()).unwrap_or(u64::MAX),
                repeated,
                "request"
            )
        };
    }
    if record.outcome == RequestOutcome::Success { line!(info) } else { line!(warn) }
}

#[cfg(test)]
mod tests {
    use enum_map::EnumMap;

    use super::*;

    fn failure(uid: u32) -> AuditRecord {
        let peer = Peer { uid, gid: 7, pid: None, groups: Vec::new() };
        AuditRecord {
            peer: Some(Arc::new(peer)),
            operation: Operation::Decrypt,
            keyring: None,
            outcome: RequestOutcome::Invalid,
            status: 400,
            fields: AuditFields::default(),
            received: 1,
            sent: 2,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn failures_of_one_kind_are_one_line_per_interval_with_a_count() {
        let (audit, start, record) = (Audit::default(), Instant::now(), failure(7));
        let logged = (0..1000).filter(|_| audit.fold(record.clone(), start).is_some()).count();
        assert_eq!(logged, 1);
        assert!(audit.take_due(start, Due::Expired).is_empty(), "the rest waits for the interval");
        let later = start + FOLDING;
        let due = audit.take_due(later, Due::Expired);
        let sums: Vec<_> = due.iter().map(|(sum, count)| (*count, sum.received, sum.sent)).collect();
        assert_eq!(sums, [(999, 999, 2 * 999)]);
        audit.fold(record, later);
        assert!(audit.take_due(later, Due::Expired).is_empty());
        assert_eq!(audit.take_due(later, Due::All)[0].1, 1);
        assert!(audit.take_due(later + FOLDING, Due::Expired).is_empty());
        assert!(audit.0.lock().unwrap().is_empty(), "a kind without failures is forgotten");
    }

    #[test]
    fn a_folded_line_has_only_what_all_have() {
        let (audit, start) = (Audit::default(), Instant::now());
        let with = |status, pid, id: &str| {
            let peer = Peer { uid: 7, gid: 7, pid: Some(pid), groups: Vec::new() };
            let fields = AuditFields::from_key(&KeyId::parse(id).unwrap());
            AuditRecord { peer: Some(Arc::new(peer)), status, fields, ..failure(7) }
        };
        for record in [with(400, 1, "a"), with(400, 1, "a"), with(404, 2, "b"), with(404, 2, "b")] {
            audit.fold(record, start);
        }
        let [(sum, 3)] = &audit.take_due(start, Due::All)[..] else { panic!() };
        assert_eq!((sum.status, sum.fields.key_id.as_ref()), (0, None));
        assert_eq!(sum.peer.as_ref().map(|peer| (peer.uid, peer.pid)), Some((7, None)));
        audit.fold(with(400, 1, "a"), start);
        assert_eq!(audit.take_due(start, Due::All)[0].0.status, 400);
    }

    #[test]
    fn a_path_is_cut_and_visible() {
        let path = |path: &str| AuditFields::from_path(path).path.unwrap();
        assert_eq!(&*path("/v1/x\u{1b}[2J"), "/v1/x?[2J");
        assert_eq!(path(&"/a".repeat(100)).chars().count(), MAX_PATH + 1);
    }

    #[test]
    fn memory_is_bounded_for_any_number_of_peers() {
        let (audit, now) = (Audit::default(), Instant::now());
        for uid in 0..10_000 {
            audit.fold(failure(uid), now);
        }
        let (operations, outcomes) =
            (EnumMap::<Operation, ()>::default(), EnumMap::<RequestOutcome, ()>::default());
        assert!(audit.0.lock().unwrap().len() <= MAX_KINDS + operations.len() * outcomes.len());
    }
}
