//! One request, from its head to its answer: whether the client may, what it gets, and what is counted and told of it.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use hyper::{
    Request,
    body::Incoming,
    http::{Version, request::Parts},
};
use tokio::sync::Notify;

use super::{
    Limits, Live, Service,
    accept::{Door, Place},
    access::Peer,
    account::Account,
    admin,
    answer::Answer,
    body::{self, Wanted},
    connection::Activity,
    inflight::Hold,
    kms, resolve,
    route::Route,
    transit::{self, octets},
};
use crate::{keyring::Keyring, metrics::Operation};

/// From this size on, what waits goes first: a body takes a good part of a millisecond.
const LONG: usize = 256 << 10;

/// From this size on a body is worth moving everything else to another thread. That costs more than half a millisecond
/// where there are as many threads as processors.
const VERY_LONG: usize = 4 << 20;

/// A connected client.
pub struct Client {
    pub activity: Activity,
    place: Place,
    peer: Option<Arc<Peer>>,
    /// Holds a permit once there was a request.
    asked: Notify,
}

impl Client {
    pub fn new(place: Place, peer: Option<Peer>) -> Self {
        Self { activity: Activity::default(), place, peer: peer.map(Arc::new), asked: Notify::new() }
    }

    /// Waits until there was a request.
    pub async fn has_asked(&self) {
        self.asked.notified().await;
    }

    /// Where it came in.
    pub const fn door(&self) -> Door {
        self.place.door
    }

    /// What it may take of the daemon, as that is now.
    pub fn limits(&self) -> Limits {
        self.place.service.live().limits
    }

    /// Answers one request, counts it and tells the audit.
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        self.asked.notify_one();
        let service = &self.place.service;
        let live = service.live();
        let _under_way = self.activity.request();
        let (head, body) = request.into_parts();
        let in_grpc = kms::is_grpc(&head);
        let routed = match head.version {
            _ if in_grpc => Route::of_call(&head.uri),
            // A client of h2 can leave an answer untaken for as long as it likes: long ones are for HTTP/1.1.
            Version::HTTP_2 => {
                Err(Answer::errors(404, "over HTTP/2 there is gRPC alone: ask this in HTTP/1.1"))
            }
            _ => Route::of(&head.method, &head.uri, &live.name),
        };
        let (operation, admitted) = match routed {
            Ok(route) => (route.counted_as(), self.admit(route, &live).map(|()| route)),
            Err(answer) => (Operation::Other, Err(answer)),
        };
        let mut account = Account::open(service, self.peer.clone(), &live, operation);
        let mut answer = match admitted {
            Ok(route) => {
                let asked = Asked { service, live: &live, head: &head };
                // A panic ends that request and nothing else.
                let answered =
                    AssertUnwindSafe(asked.answer(route, body, &mut account.hold)).catch_unwind().await;
                let failed =
                    |_| Answer::errors(500, "the request failed inside keyringd; its log says where");
                answered.unwrap_or_else(failed)
            }
            Err(answer) if head.version == Version::HTTP_2 => answer,
            Err(answer) => {
                Box::pin(body::discard(&head.headers, body, &live.limits)).await;
                answer
            }
        };
        if in_grpc {
            answer = kms::in_grpc(answer);
        }
        account.settle(&mut answer);
        answer.holding(account.close())
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
    service: &'a Arc<Service>,
    live: &'a Arc<Live>,
    head: &'a Parts,
}

impl Asked<'_> {
    async fn answer(&self, route: Route, body: Incoming, hold: &mut Hold) -> Answer {
        let (published, live) = (&self.service.published, self.live);
        let answered = match route {
            Route::Transit(operation) => self.transit(operation, body, hold).await,
            // Boxed: rare, and every connection has room for the largest of these.
            Route::DataKey(form) => Box::pin(self.data_key(form, body, hold)).await,
            Route::Sync => Box::pin(self.sync(body, hold)).await,
            Route::Resolve => Box::pin(self.resolve(body, hold)).await,
            Route::Key => {
                let read = |keyring: Arc<Keyring>| transit::keys::read(&keyring, &live.name, live.formats);
                self.keyring().await.map(read)
            }
            Route::KeyNames => Ok(transit::keys::names(&live.name)),
            Route::Keyring => Ok(admin::keyring(published)),
            Route::ActiveKey => Ok(admin::active(published)),
            Route::Status => Ok(admin::status(self.service)),
            Route::Alive => Ok(Answer::text(200, "ok\n").named(&live.name)),
            Route::Ready => Ok(admin::ready(published, live.max_stale)),
            Route::Metrics => Ok(admin::metrics(self.service)),
            Route::Kms(_) => Box::pin(self.kms(body, hold)).await,
        };
        answered.unwrap_or_else(|refusal| refusal)
    }

    async fn keyring(&self) -> Result<Arc<Keyring>, Answer> {
        self.service.keyring().await.ok_or_else(|| admin::no_keys(&self.service.published))
    }

    async fn read(&self, body: Incoming, room: usize, hold: &mut Hold) -> Result<Vec<u8>, Answer> {
        let limits = &self.live.limits;
        body::read(&self.head.headers, body, Wanted { limits, size: limits.request_size, room }, hold).await
    }

    async fn transit(
        &self,
        operation: transit::Operation,
        body: Incoming,
        hold: &mut Hold,
    ) -> Result<Answer, Answer> {
        let as_octets = octets::are_meant(&self.head.headers);
        let sealed = as_octets && operation == transit::Operation::Encrypt;
        let mut body = self.read(body, if sealed { octets::ROOM } else { 0 }, hold).await?;
        let (formats, limits) = (self.live.formats, &self.live.limits);
        let len = body.len();
        let mut run = |keyring: &Keyring| {
            let mut run = || {
                if as_octets {
                    let headers = &self.head.headers;
                    octets::run(operation, keyring, formats, headers, &mut body, limits.request_size)
                } else {
                    operation.run(keyring, formats, &body, limits)
                }
            };
            // Others go on being served meanwhile, on another thread.
            if len > VERY_LONG { tokio::task::block_in_place(run) } else { run() }
        };
        if len > LONG {
            tokio::task::yield_now().await;
        }
        let keyring = self.keyring().await?;
        let outcome = run(&keyring);
        if !outcome.unknown_key {
            return Ok(outcome.answer);
        }
        match Box::pin(self.service.newer_than(&keyring)).await {
            Some(newer) => Ok(run(&newer).answer),
            None => Ok(outcome.answer),
        }
    }

    async fn data_key(
        &self,
        form: transit::datakey::Form,
        body: Incoming,
        hold: &mut Hold,
    ) -> Result<Answer, Answer> {
        let body = self.read(body, 0, hold).await?;
        Ok(form.run(&*self.keyring().await?, self.live.formats, &body))
    }

    async fn resolve(&self, body: Incoming, hold: &mut Hold) -> Result<Answer, Answer> {
        let body = self.read(body, 0, hold).await?;
        Ok(resolve::answer(self.service.upstream.as_ref(), &body).await)
    }

    async fn sync(&self, body: Incoming, hold: &mut Hold) -> Result<Answer, Answer> {
        let body = self.read(body, 0, hold).await?;
        Ok(admin::sync(self.service.upstream.as_ref(), &self.head.headers, &body).await)
    }

    async fn kms(&self, body: Incoming, hold: &mut Hold) -> Result<Answer, Answer> {
        let limits = &self.live.limits;
        let wanted = Wanted { limits, size: kms::MAX_MESSAGE.min(limits.request_size), room: 0 };
        let body = body::read(&self.head.headers, body, wanted, hold).await?;
        Ok(kms::answer(self.service, self.live, self.head, body).await)
    }
}
