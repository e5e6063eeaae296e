//! A model of Vault: versions of one secret, tokens with leases, wrapping, and the faults of a server and of the way to it.
//!
//! It answers in virtual time. It notes what the daemon was given, for the [`Oracle`], and every request.
//! The file is longer than most: one server, each of its answers, and each way in which they fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hyper::{Response, header};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    configuration::ROLE_ID,
    folder::{self, Folder},
    message::{Answer, Request, Tells},
    oracle::{Oracle, Record},
    random::Random,
    wrapping::Wrapping,
};
use crate::{
    keyring::key::VersionId,
    settings::KvVersion,
    vault::transport::simulated::{Answering, Loss, Network},
};

/// The true time at the start of every simulation: 2026-01-01.
const START: Duration = Duration::from_secs(1_767_225_600);

/// What is wrong with the server, or with the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection is accepted.
    Down,
    /// Requests vanish.
    Silent,
    /// Requests are executed, and their responses vanish.
    LosesResponses,
    Sealed,
    /// 500, as a standby without a leader.
    NoLeader,
    /// A standby that is behind: 412 at times, and otherwise what was true at the start of the fault.
    Lags,
    /// 429 for most requests, with or without a time to wait.
    Limits(Option<u64>),
    /// Responses take up to 12 s.
    Slow,
    /// 200 with something else.
    Garbles,
    /// The policy of the tokens lacks the secret.
    Denies,
    /// No login succeeds.
    RefusesLogins,
}

pub(super) const FAULTS: &[Fault] = &[
    Fault::Down,
    Fault::Silent,
    Fault::LosesResponses,
    Fault::Sealed,
    Fault::NoLeader,
    Fault::Lags,
    Fault::Limits(None),
    Fault::Limits(Some(5)),
    Fault::Limits(Some(300)),
    Fault::Slow,
    Fault::Garbles,
    Fault::Denies,
    Fault::RefusesLogins,
];

impl Fault {
    /// How long it may take from its end to the first good sync of a daemon whose interval is shorter.
    pub(super) fn recovery(self) -> Duration {
        let seconds = match self {
            // A secret ID that was refused is sent again after 15 minutes.
            Self::RefusesLogins | Self::Garbles => 900,
            Self::Limits(Some(seconds)) => seconds.max(300),
            _ => 300,
        };
        // The jitter adds up to a quarter.
        Duration::from_secs(seconds).mul_f64(1.25)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) created: SystemTime,
    pub(super) deletion: Option<SystemTime>,
    pub(super) destroyed: bool,
    pub(super) record: Arc<Record>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Secret {
    pub(super) versions: BTreeMap<u64, Version>,
    pub(super) current: u64,
    pub(super) max_versions: u64,
    /// It is beside the secret, and a standby that lags lags in it too.
    pub(super) folder: Folder,
}

#[derive(Debug)]
pub(super) struct Token {
    expiry: Duration,
    end_of_life: Duration,
    revoked: bool,
    /// Whether the daemon got it.
    delivered: bool,
    /// Whether the daemon tried to revoke it.
    returned: bool,
}

/// The lease of new tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leases {
    pub(super) ttl: Duration,
    pub(super) max_ttl: Duration,
    pub(super) renewable: bool,
}

#[derive(Debug)]
pub(super) struct Vault {
    /// The engine's. For version 1, the newest version is the content of the secret.
    pub(super) kv: KvVersion,
    pub(super) secret: Secret,
    /// What a standby that lags answers.
    stale: Secret,
    pub(super) secret_id: String,
    /// Secret IDs are response-wrapped, if so.
    pub(super) wrapping: Option<Wrapping>,
    pub(super) leases: Leases,
    pub(super) faults: Vec<(Fault, Duration)>,
    tokens: BTreeMap<String, Token>,
    pub(super) oracle: Oracle,
    /// The hour of each request that arrived, and how many arrived in it.
    pub(super) requests: BTreeMap<u64, u64>,
    pub(super) random: Random,
    /// The true time at the start of the daemon's present life.
    before: Duration,
    since: Instant,
}

/// Shared by the network and the driver.
pub(super) type Shared = Arc<Mutex<Vault>>;

pub(super) fn lock(vault: &Shared) -> std::sync::MutexGuard<'_, Vault> {
    vault.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vault {
    pub(super) fn new(mut random: Random) -> Self {
        let ttl = Duration::from_secs(random.of(&[300, 1200, 3600, 86_400]));
        let max_ttl = ttl * u32::try_from(random.of(&[1_u64, 2, 24])).unwrap();
        Self {
            kv: if random.one_in(4) { KvVersion::V1 } else { KvVersion::V2 },
            secret: Secret { max_versions: random.of(&[3, 10, 20]), ..Secret::default() },
            stale: Secret::default(),
            secret_id: "first".to_owned(),
            wrapping: random.one_in(3).then(Wrapping::default),
            leases: Leases { ttl, max_ttl, renewable: !random.one_in(4) },
            faults: Vec::new(),
            tokens: BTreeMap::new(),
            oracle: Oracle::default(),
            requests: BTreeMap::new(),
            random,
            before: Duration::ZERO,
            since: Instant::now(),
        }
    }

    /// Since the start of the simulation.
    pub(super) fn now(&self) -> Duration {
        self.before + self.since.elapsed()
    }

    /// The clock of a further life of the daemon has begun.
    pub(super) fn resume(&mut self, before: Duration) {
        (self.before, self.since) = (before, Instant::now());
    }

    pub(super) fn true_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + START + self.now()
    }

    pub(super) fn begin(&mut self, fault: Fault, lasts: Duration) {
        if fault == Fault::Lags && !self.has(fault) {
            self.stale = self.secret.clone();
        }
        self.faults.push((fault, self.now() + lasts));
    }

    /// Whether a fault is present, or nothing usable is there to read.
    pub(super) fn is_troubled(&mut self) -> bool {
        let now = self.now();
        self.faults.retain(|(_, end)| *end > now);
        self.is_wrapping_lost() || !self.faults.is_empty() || !self.is_usable()
    }

    /// Whether the secret makes a keyring.
    fn is_usable(&self) -> bool {
        let usable = |version: &Version| self.is_live(version) && version.record.key.is_some();
        match self.kv {
            KvVersion::V1 => {
                self.content(&self.secret).is_some_and(|one| self.oracle.records_with(one).is_some())
            }
            KvVersion::V2 => self.secret.versions.values().any(usable),
        }
    }

    /// What KV v1 holds.
    fn content<'a>(&self, secret: &'a Secret) -> Option<&'a Arc<Record>> {
        let (_, newest) = secret.versions.last_key_value()?;
        self.is_live(newest).then_some(&newest.record)
    }

    /// Whether the daemon's wrapping token is spent and gave nothing.
    pub(super) fn is_wrapping_lost(&self) -> bool {
        self.wrapping.as_ref().is_some_and(Wrapping::is_lost)
    }

    /// The credential that an operator puts into the settings.
    pub(super) fn issue(&mut self) -> String {
        let Self { secret_id, wrapping, .. } = self;
        wrapping.as_mut().map_or_else(|| secret_id.clone(), |wrapping| wrapping.issue(secret_id))
    }

    pub(super) fn is_live(&self, version: &Version) -> bool {
        !version.destroyed && version.deletion.is_none_or(|at| at > self.true_time())
    }

    /// A new version, as the operator writes it. The oldest ones are pruned.
    pub(super) fn write(&mut self, record: Arc<Record>, lives: Option<Duration>) {
        let created = self.true_time();
        let deletion = lives.map(|lives| created + lives);
        self.secret.current += 1;
        self.secret
            .versions
            .insert(self.secret.current, Version { created, deletion, destroyed: false, record });
        while self.secret.versions.len() as u64 > self.secret.max_versions {
            self.secret.versions.pop_first();
        }
    }

    /// Deletes a version softly, as `kv delete` does.
    pub(super) fn delete(&mut self, number: u64) {
        let now = self.true_time();
        self.secret.versions.entry(number).and_modify(|version| version.deletion = Some(now));
    }

    pub(super) fn revoke_all(&mut self) {
        self.tokens.values_mut().for_each(|token| token.revoked = true);
    }

    /// The tokens of the daemon that are valid, and that it did not try to revoke.
    pub(super) fn tokens_in_use(&self) -> usize {
        let now = self.now();
        let in_use = |token: &&Token| {
            token.delivered
                && !token.returned
                && !token.revoked
                && token.expiry > now + Duration::from_secs(30)
        };
        self.tokens.values().filter(in_use).count()
    }

    /// The daemon was killed: its tokens are nobody's.
    pub(super) fn forget_tokens(&mut self) {
        self.tokens.values_mut().for_each(|token| token.delivered = false);
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault(|one| one == fault).is_some()
    }

    fn fault(&self, is_it: impl Fn(Fault) -> bool) -> Option<Fault> {
        let now = self.now();
        self.faults.iter().find(|(fault, end)| is_it(*fault) && *end > now).map(|(fault, _)| *fault)
    }
}

/// The network to this Vault.
pub(super) fn network(vault: &Shared) -> Network {
    let vault = Arc::clone(vault);
    Arc::new(move |request| {
        let request = Request::new(request);
        let vault = Arc::clone(&vault);
        Box::pin(async move { exchange(&vault, request).await }) as Answering
    })
}

async fn exchange(vault: &Shared, request: Request) -> Result<Response<Vec<u8>>, Loss> {
    let (there, back) = {
        let mut vault = lock(vault);
        let hour = vault.now().as_secs() / 3600;
        *vault.requests.entry(hour).or_default() += 1;
        vault.note_return(&request);
        if let Some(wrapping) = &mut vault.wrapping {
            wrapping.note(&request);
        }
        let most = if vault.has(Fault::Slow) { 6000 } else { 40 };
        (vault.random.below(most), vault.random.below(most) + 1)
    };
    tokio::time::sleep(Duration::from_millis(there)).await;
    let (answer, answered, lost) = {
        let mut vault = lock(vault);
        if vault.has(Fault::Down) {
            return Err(Loss::Refused);
        }
        let lost = vault.has(Fault::Silent) || vault.has(Fault::LosesResponses);
        let answer = (!vault.has(Fault::Silent)).then(|| vault.answer(&request));
        (answer, vault.true_time(), lost)
    };
    let (Some(answer), false) = (answer, lost) else {
        tokio::time::sleep(Duration::from_secs(60)).await;
        return Err(Loss::Silence);
    };
    tokio::time::sleep(Duration::from_millis(back)).await;
    let mut vault = lock(vault);
    vault.deliver(&request, &answer);
    let mut response = Response::builder().status(answer.status);
    if let Some(seconds) = answer.retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    drop(vault);
    let response = response.header(header::DATE, httpdate::fmt_http_date(answered));
    Ok(response.body(answer.body).unwrap())
}

impl Vault {
    fn answer(&mut self, request: &Request) -> Answer {
        if self.has(Fault::Sealed) {
            return Answer::error(503, "Vault is sealed");
        }
        if self.has(Fault::NoLeader) {
            return Answer::error(500, "local node not active but active cluster node not found");
        }
        if self.has(Fault::Lags) && self.random.one_in(3) {
            return Answer::error(412, "required index state not present");
        }
        if let Some(Fault::Limits(retry_after)) = self.fault(|fault| matches!(fault, Fault::Limits(_)))
            && !self.random.one_in(4)
        {
            return Answer { retry_after, ..Answer::error(429, "request path quota exceeded") };
        }
        if self.has(Fault::Garbles) && self.random.one_in(2) {
            let body =
                self.random.of(&["", "<html>", r#"{"data": null}"#, r#"{"data": {"keys": 1}, "auth": {}}"#]);
            return Answer { status: 200, body: body.into(), retry_after: None, tells: Tells::Nothing };
        }
        match request.path.as_str() {
            "/v1/auth/approle/login" => self.log_in(&request.body),
            "/v1/auth/token/renew-self" => self.renew(request),
            "/v1/sys/wrapping/lookup" => {
                self.wrapping.as_ref().unwrap().look_up(request.body["token"].as_str().unwrap())
            }
            "/v1/sys/wrapping/unwrap" => self.wrapping.as_mut().unwrap().unwrap(request),
            path => {
                if self.valid(request).is_none() {
                    return Answer::error(403, "permission denied");
                }
                match path {
                    "/v1/auth/token/lookup-self" => Answer::ok(&json!({ "data": {} }), Tells::Nothing),
                    "/v1/auth/token/revoke-self" => self.revoke(request),
                    _ if self.has(Fault::Denies) => Answer::error(403, "permission denied"),
                    "/v1/secret/config" => {
                        Answer::ok(&json!({ "data": { "max_versions": 10 } }), Tells::Nothing)
                    }
                    "/v1/secret/app" => match self.content(self.seen()) {
                        Some(record) => {
                            let tells = Tells::Fields(Arc::clone(record));
                            Answer::ok(&json!({ "data": record.fields }), tells)
                        }
                        None => Answer::error(404, ""),
                    },
                    "/v1/secret/metadata/app" => self.metadata(),
                    "/v1/secret/data/app" => self.data(request.version.unwrap()),
                    other => self.folder(other),
                }
            }
        }
    }

    /// The answer to a path of the folder.
    fn folder(&self, path: &str) -> Answer {
        let mut parts = path.trim_start_matches("/v1/secret/").split('/');
        let endpoint = if self.kv == KvVersion::V2 { parts.next() } else { None };
        assert_eq!(parts.next(), Some(folder::PATH), "an unexpected request: {path}");
        self.seen().folder.answer(endpoint, parts.next())
    }

    fn valid(&mut self, request: &Request) -> Option<&mut Token> {
        let now = self.now();
        let token = self.tokens.get_mut(request.token.as_deref()?)?;
        Some(token).filter(|token| !token.revoked && token.expiry > now)
    }

    fn log_in(&mut self, body: &Value) -> Answer {
        if self.has(Fault::RefusesLogins)
            || body["role_id"] != ROLE_ID
            || body["secret_id"] != *self.secret_id
        {
            return Answer::error(400, "invalid role or secret ID");
        }
        let (name, now) = (format!("token-{}", self.tokens.len()), self.now());
        let Leases { ttl, max_ttl, .. } = self.leases;
        let token = Token {
            expiry: now + ttl,
            end_of_life: now + max_ttl,
            revoked: false,
            delivered: false,
            returned: false,
        };
        self.tokens.insert(name.clone(), token);
        Answer::ok(&self.auth(&name, ttl), Tells::Token(name))
    }

    fn renew(&mut self, request: &Request) -> Answer {
        let (now, ttl, renewable) = (self.now(), self.leases.ttl, self.leases.renewable);
        let Some(token) = self.valid(request) else { return Answer::error(403, "permission denied") };
        if !renewable || token.end_of_life <= now {
            return Answer::error(400, "lease is not renewable");
        }
        token.expiry = (now + ttl).min(token.end_of_life);
        let granted = token.expiry.saturating_sub(now);
        Answer::ok(&self.auth(request.token.as_deref().unwrap(), granted), Tells::Nothing)
    }

    fn auth(&self, name: &str, ttl: Duration) -> Value {
        let renewable = self.leases.renewable;
        json!({ "auth": { "client_token": name, "lease_duration": ttl.as_secs(), "renewable": renewable } })
    }

    fn revoke(&mut self, request: &Request) -> Answer {
        if let Some(token) = self.valid(request) {
            token.revoked = true;
        }
        Answer { status: 204, ..Answer::ok(&Value::Null, Tells::Nothing) }
    }

    fn note_return(&mut self, request: &Request) {
        if request.path == "/v1/auth/token/revoke-self"
            && let Some(token) = request.token.as_ref().and_then(|name| self.tokens.get_mut(name))
        {
            token.returned = true;
        }
    }

    /// What a reader sees.
    fn seen(&self) -> &Secret {
        if self.has(Fault::Lags) { &self.stale } else { &self.secret }
    }

    fn metadata(&self) -> Answer {
        let secret = self.seen();
        if secret.versions.is_empty() {
            return Answer::error(404, "");
        }
        let versions: serde_json::Map<_, _> = secret
            .versions
            .iter()
            .map(|(number, version)| (number.to_string(), Self::version_metadata(*number, version)))
            .collect();
        // A version that is deleted within this second may count as deleted.
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs((START + self.now()).as_secs() + 1);
        let live = |(number, version): (&u64, &Version)| {
            let is_live = self.is_live(version) && version.deletion.is_none_or(|at| at > second);
            (VersionId { number: *number, created: version.created }, is_live)
        };
        let tells = Tells::Versions(secret.versions.iter().map(live).collect());
        let (current, max) = (secret.current, secret.max_versions);
        let data = json!({ "current_version": current, "max_versions": max, "versions": versions });
        Answer::ok(&json!({ "data": data }), tells)
    }

    fn data(&self, number: u64) -> Answer {
        let Some(version) = self.seen().versions.get(&number) else { return Answer::error(404, "") };
        let (id, metadata) =
            (VersionId { number, created: version.created }, Self::version_metadata(number, version));
        if self.is_live(version) {
            let data = json!({ "data": version.record.fields, "metadata": metadata });
            return Answer::ok(&json!({ "data": data }), Tells::Record(id, Arc::clone(&version.record)));
        }
        let body = json!({ "data": { "data": null, "metadata": metadata } });
        Answer { status: 404, ..Answer::ok(&body, Tells::Removed(id)) }
    }

    fn version_metadata(number: u64, version: &Version) -> Value {
        let text = |time| humantime::format_rfc3339_nanos(time).to_string();
        json!({
            "version": number,
            "created_time": text(version.created),
            "deletion_time": version.deletion.map(text).unwrap_or_default(),
            "destroyed": version.destroyed,
        })
    }

    fn deliver(&mut self, request: &Request, answer: &Answer) {
        if let Some(wrapping) = &mut self.wrapping {
            wrapping.deliver(request, answer.status);
        }
        match &answer.tells {
            Tells::Nothing => {}
            Tells::Versions(versions) => self.oracle.listed(versions.clone()),
            Tells::Record(id, record) => self.oracle.read(*id, record),
            Tells::Fields(record) => self.oracle.read_fields(record),
            Tells::Removed(id) => self.oracle.removed(*id),
            Tells::Token(name) => {
                assert!(request.body["secret_id"] == *self.secret_id, "a login with another secret ID");
                self.tokens.get_mut(name).unwrap().delivered = true;
            }
        }
    }
}
