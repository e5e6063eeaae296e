//! One request from its head to its response: route → authorise → read body → handler → render → record.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use hyper::{Request, body::Incoming, http::Version};
use tracing::Instrument as _;

use super::{
    access::Caller,
    audit::{AuditFields, AuditRecord},
    body::{self, RequestBody},
    budget::ByteBudgetGuard,
    context::{Call, Context, RuntimeConfig},
    error::ApiError,
    headers,
    response::{self, Response},
    routes::{self, Route},
    target::Target,
};
use crate::{
    logging::REQUEST,
    metrics::{GaugeGuard, RequestOutcome},
    operation::Operation,
    settings,
};

/// The number of the next request in the log at debug.
static NEXT_REQUEST: AtomicU64 = AtomicU64::new(1);

/// All lines of the log that the request causes have its number, those of its calls to Vault too.
pub(super) async fn handle(context: &Arc<Context>, caller: &Caller, request: Request<Incoming>) -> Response {
    let span = tracing::debug_span!(REQUEST, id = NEXT_REQUEST.fetch_add(1, Ordering::Relaxed));
    handle_one(context, caller, request).instrument(span).await
}

async fn handle_one(context: &Arc<Context>, caller: &Caller, request: Request<Incoming>) -> Response {
    let config = context.config.load_full();
    let (head, body) = request.into_parts();

    let path = routes::decode(head.uri.path());
    let routed = routes::find(&head, &path, &config);
    let (operation, format) = match &routed {
        Ok(found) => (found.route.operation, found.route.format),
        Err(unrouted) => (Operation::Other, unrouted.format),
    };
    let mut record = RequestRecord::begin(context, caller, &config, operation);
    let authorised = routed.map_err(|unrouted| unrouted.error).and_then(|found| {
        let target = Target::find(&config, operation, found.name);
        record.set_keyring(target.audited());
        target.authorise(caller, &config)?;
        headers::check(&head, &config)?;
        Ok((found.route, target.entry, found.tail))
    });
    let (result, audit) = match authorised {
        Ok((route, keyring, tail)) => {
            let mut call = Call {
                context,
                config: &config,
                head: &head,
                named: keyring.as_ref(),
                tail,
                caller,
                body: RequestBody::default(),
                budget: &mut record.budget,
                audit: AuditFields::default(),
            };
            // A panic ends this request only.
            let answered = AssertUnwindSafe(answer(&mut call, route, body)).catch_unwind();
            let panicked = |_| Err(ApiError::failed("the request failed inside keyringd; see its log"));
            (answered.await.unwrap_or_else(panicked), call.audit)
        }
        Err(error) => {
            if head.version != Version::HTTP_2 {
                body::discard(&head.headers, body);
            }
            let fields = match operation {
                Operation::Other => AuditFields::from_path(&path),
                _ => AuditFields::default(),
            };
            (Err(error), fields)
        }
    };
    let status = result.as_ref().map_or_else(ApiError::status, Response::status);
    let response = result.unwrap_or_else(|error| response::error(error, format));
    record.finish(status.as_u16(), audit, response)
}

async fn answer(call: &mut Call<'_>, route: &Route, body: Incoming) -> Result<Response, ApiError> {
    let limits = &call.config.limits;
    if let Some(size) = route.body_size(limits) {
        call.body = body::read(&call.head.headers, body, size, limits, call.budget).await?;
    }
    (route.handler)(call).await
}

/// Counts and audits one request when it ends, also if the client disconnects before the response.
struct RequestRecord<'a> {
    context: &'a Context,
    caller: &'a Caller,
    audit: settings::Audit,
    budget: ByteBudgetGuard,
    begun: Instant,
    /// Taken when it is recorded.
    record: Option<AuditRecord>,
    _in_flight: GaugeGuard,
}

impl<'a> RequestRecord<'a> {
    fn begin(context: &'a Context, caller: &'a Caller, config: &RuntimeConfig, operation: Operation) -> Self {
        let record = AuditRecord {
            peer: caller.peer.clone(),
            operation,
            keyring: None,
            outcome: RequestOutcome::Aborted,
            status: 0,
            fields: AuditFields::default(),
            received: 0,
            sent: 0,
            took: Duration::ZERO,
        };
        Self {
            context,
            caller,
            audit: config.audit,
            budget: context.budget.guard(caller.uid(), config.limits.inflight_size),
            begun: Instant::now(),
            record: Some(record),
            _in_flight: context.metrics.request_in_flight(),
        }
    }

    fn set_keyring(&mut self, keyring: Option<Arc<str>>) {
        if let Some(record) = &mut self.record {
            record.keyring = keyring;
        }
    }

    /// Records the response, which holds its bytes of the budget until it was sent. A gRPC error's HTTP status is 200, so the
    /// status is passed separately.
    fn finish(mut self, status: u16, fields: AuditFields, mut response: Response) -> Response {
        let bytes = std::mem::take(&mut response.body_mut().bytes);
        if let Some(record) = &mut self.record {
            let batch = fields.batch.unwrap_or_default();
            record.outcome = match fields.missing_key {
                Some(_) => RequestOutcome::MissingKey,
                None => RequestOutcome::from_status(status, batch.items, batch.failed),
            };
            (record.status, record.fields, record.sent) = (status, fields, bytes.len());
        }
        self.record();
        response.body_mut().bytes = self.budget.attach(bytes, &self.caller.closed);
        response
    }

    fn record(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        (record.received, record.took) = (self.budget.received(), self.begun.elapsed());
        let (received, sent) = (record.received, record.sent);
        tracing::debug!(
            operation = record.operation.name(),
            outcome = record.outcome.name(),
            status = record.status,
            microseconds = u64::try_from(record.took.as_micros()).unwrap_or(u64::MAX),
            received,
            sent,
            "request ended"
        );
        self.context.metrics.request_ended(record.operation, record.outcome, record.took, received, sent);
        self.context.audit.record(self.audit, record);
    }
}

impl Drop for RequestRecord<'_> {
    fn drop(&mut self) {
        self.record();
    }
}
