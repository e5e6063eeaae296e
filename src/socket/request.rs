//! One request, from its head to its answer: whether the client may, what it gets, and what is counted and told of it.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use hyper::{Request, body::Incoming, header::HeaderMap};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::{
    Live, Service,
    accept::{Door, Place},
    access::Peer,
    admin,
    answer::Answer,
    audit::Record,
    body::{self, Wanted},
    inflight::Hold,
    route::Route,
    transit::{self, octets},
};
use crate::{
    keyring::Keyring,
    metrics::{Answered, Operation},
};

/// How long a decrypt waits for the sync that looks for its key.
const UNKNOWN_KEY_WAIT: Duration = Duration::from_secs(2);

/// A connected client.
pub struct Client {
    place: Place,
    peer: Option<Arc<Peer>>,
    /// Holds a permit once there was a request.
    asked: Notify,
}

impl Client {
    pub fn new(place: Place, peer: Option<Peer>) -> Self {
        Self { place, peer: peer.map(Arc::new), asked: Notify::new() }
    }

    /// Waits until there was a request.
    pub async fn has_asked(&self) {
        self.asked.notified().await;
    }

    /// Answers one request, counts it and tells the audit.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.asked.notify_one();
        let (service, begun) = (&self.place.service, Instant::now());
        let (live, handling) = (service.live(), service.metrics.handling());
        let (head, body) = request.into_parts();
        let mut hold = service.inflight.hold(live.limits.inflight_size);
        let (operation, admitted) = match Route::of(&head.method, &head.uri, &live.name) {
            Ok(route) => (route.counted_as(), self.admit(route, &live).map(|()| route)),
            Err(answer) => (Operation::Other, Err(answer)),
        };
        let mut answer = match admitted {
            Ok(route) => {
                let asked = Asked { service, live: &live, headers: &head.headers };
                // A panic ends that request and nothing else.
                let answered = AssertUnwindSafe(asked.answer(route, body, &mut hold)).catch_unwind().await;
                let failed =
                    |_| Answer::errors(500, "the request failed inside keyringd; its log says where");
                answered.unwrap_or_else(failed)
            }
            Err(answer) => {
                body::discard(&head.headers, body, &live.limits).await;
                answer
            }
        };
        let facts = answer.take_facts();
        let record = Record {
            peer: self.peer.clone(),
            operation,
            outcome: Answered::of(answer.status(), facts.failed_items),
            status: answer.status(),
            facts,
            received: hold.received(),
            sent: answer.body_len(),
            took: begun.elapsed(),
        };
        service.metrics.answered(operation, record.outcome, record.took, (record.received, record.sent));
        service.audit.record(live.audit, record);
        drop(handling);
        answer.holding(hold)
    }

    /// Whether this client may ask for that here. `Err` is the 403 or 404.
    fn admit(&self, route: Route, live: &Live) -> Result<(), Answer> {
        match (&self.peer, self.place.door) {
            (Some(peer), Door::Socket) => peer.check(live.access.as_ref(), route.needs()),
            _ if route.is_public() => Ok(()),
            _ => Err(Answer::errors(
                404,
                "here are /metrics, /livez and /readyz; all else is on the Unix socket",
            )),
        }
    }
}

/// A request that may be answered, and what it is answered from.
struct Asked<'a> {
    service: &'a Service,
    live: &'a Live,
    headers: &'a HeaderMap,
}

impl Asked<'_> {
    async fn answer(&self, route: Route, body: Incoming, hold: &mut Hold) -> Answer {
        let (published, live) = (&self.service.published, self.live);
        let answered = match route {
            Route::Transit(operation) => self.transit(operation, body, hold).await,
            Route::DataKey(form) => self.data_key(form, body, hold).await,
            Route::Sync => self.sync(body, hold).await,
            Route::Key => {
                self.keyring().map(|keyring| transit::keys::read(&keyring, &live.name, live.formats))
            }
            Route::KeyNames => Ok(transit::keys::names(&live.name)),
            Route::Keyring => Ok(admin::keyring(published)),
            Route::ActiveKey => Ok(admin::active(published)),
            Route::Status => Ok(admin::status(self.service)),
            Route::Alive => Ok(Answer::text(200, "ok\n").named(&live.name)),
            Route::Ready => Ok(admin::ready(published, live.max_stale)),
            Route::Metrics => Ok(admin::metrics(self.service)),
        };
        answered.unwrap_or_else(|refusal| refusal)
    }

    fn keyring(&self) -> Result<Arc<Keyring>, Answer> {
        self.service.published.keyring().ok_or_else(|| admin::no_keys(&self.service.published))
    }

    async fn read(&self, body: Incoming, room: usize, hold: &mut Hold) -> Result<Zeroizing<Vec<u8>>, Answer> {
        body::read(self.headers, body, Wanted { limits: &self.live.limits, room }, hold).await
    }

    async fn transit(
        &self,
        operation: transit::Operation,
        body: Incoming,
        hold: &mut Hold,
    ) -> Result<Answer, Answer> {
        let as_octets = octets::are_meant(self.headers);
        let sealed = as_octets && operation == transit::Operation::Encrypt;
        let mut body = self.read(body, if sealed { octets::ROOM } else { 0 }, hold).await?;
        let (formats, most) = (self.live.formats, self.live.limits.batch);
        let mut run = |keyring: &Keyring| {
            if as_octets {
                octets::run(operation, keyring, formats, self.headers, &mut body)
            } else {
                operation.run(keyring, formats, &body, most)
            }
        };
        let keyring = self.keyring()?;
        let outcome = run(&keyring);
        if !outcome.unknown_key {
            return Ok(outcome.answer);
        }
        let looked = tokio::time::timeout(UNKNOWN_KEY_WAIT, self.service.upstream.look_for_new_keys()).await;
        match self.service.published.keyring() {
            Some(newer) if looked.is_ok() && !Arc::ptr_eq(&newer, &keyring) => Ok(run(&newer).answer),
            _ => Ok(outcome.answer),
        }
    }

    async fn data_key(
        &self,
        form: transit::datakey::Form,
        body: Incoming,
        hold: &mut Hold,
    ) -> Result<Answer, Answer> {
        let body = self.read(body, 0, hold).await?;
        Ok(form.run(&*self.keyring()?, self.live.formats, &body))
    }

    async fn sync(&self, body: Incoming, hold: &mut Hold) -> Result<Answer, Answer> {
        let body = self.read(body, 0, hold).await?;
        Ok(admin::sync(self.service.upstream.as_ref(), self.headers, &body).await)
    }
}
