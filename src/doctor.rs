//! The doctor: goes the whole way to the keys for real, step by step, on the code paths of the daemon.
//!
//! Each step says what was found, or what to do. Nothing is changed: a wrapped secret ID is looked at and not opened, a
//! token that was logged in for is revoked. How the findings are printed is in `cli`. The file is longer than most: it is
//! one way, told in order.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::net::{TcpStream, lookup_host};

use crate::{
    keyring::{History, KeyDerivation, KeyId, Listing, history::Built, record::Contents},
    metrics::Metrics,
    server::listen,
    settings::{self, Auth, KvVersion, Settings},
    vault::{
        Access, Kv, Session, VaultError,
        login::approle,
        policy,
        transport::{Request, Transport},
    },
};

/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(3);

/// A difference of clocks from which on JWTs and leases may suffer.
const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// What one step came to.
#[derive(Debug)]
pub struct Finding {
    pub step: &'static str,
    pub state: State,
    pub says: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Good,
    Warning,
    Failed,
}

/// A step that failed, so that those after it cannot be taken.
struct Stopped;

type Step<T> = Result<T, Stopped>;

/// Takes every step that can be taken. `tell` hears of each as it is done.
pub async fn examine(settings: Settings, tell: impl FnMut(Finding) + Send) {
    let mut doctor = Doctor { tell };
    doctor.socket(&settings.socket).await;
    let _ = doctor.vault(settings).await; // what stopped it has been told
}

struct Doctor<T> {
    tell: T,
}

impl<T: FnMut(Finding) + Send> Doctor<T> {
    fn say(&mut self, step: &'static str, state: State, says: impl Into<String>) {
        (self.tell)(Finding { step, state, says: says.into() });
    }

    fn good(&mut self, step: &'static str, says: impl Into<String>) {
        self.say(step, State::Good, says);
    }

    fn warn(&mut self, step: &'static str, says: impl Into<String>) {
        self.say(step, State::Warning, says);
    }

    /// What a step gave, or its failure told.
    fn must<V, E: std::fmt::Display>(&mut self, step: &'static str, result: Result<V, E>) -> Step<V> {
        result.map_err(|error| {
            self.say(step, State::Failed, error.to_string());
            Stopped
        })
    }

    async fn socket(&mut self, settings: &settings::Socket) {
        let (path, mode) = (settings.path.display(), settings.mode);
        match listen::refuse_unless_free(&settings.path).await {
            Ok(()) if !listen::parent_folder(&settings.path).is_dir() => {
                let _ = self.must::<(), _>(
                    "socket",
                    Err(format!(
                        "the folder of {path} does not exist: create it, writable for keyringd's user alone"
                    )),
                );
            }
            Ok(()) => {
                if self.must("socket", listen::probe(&settings.path)).is_ok() {
                    self.good("socket", format!("{path} is free, and will be made with mode {mode:04o}"));
                }
            }
            Err(listen::ListenError::InUse(_)) => self.good("socket", format!("a daemon serves on {path}")),
            Err(error) => self.say("socket", State::Failed, error.to_string()),
        }
        if mode & 0o002 != 0 {
            self.warn("socket", "keyring_socket_mode lets every user of this machine encrypt and decrypt");
        }
    }

    async fn vault(&mut self, settings: Settings) -> Step<()> {
        self.network(&settings.vault).await?;
        let derivation = settings.keyring.derivation;
        let session = Session::new(settings.vault, Arc::new(Metrics::default()));
        let mut session = self.must("tls", session)?;
        self.server(session.transport(), session.settings()).await?;
        if let Auth::AppRole(settings) = &session.settings().auth
            && settings.wrapped
        {
            let looked = approle::look_at_wrapping(session.transport(), settings).await;
            self.must("login", looked)?;
            self.warn("login", "the wrapped secret ID is good and was not opened, since that works once: the rest is for the daemon to find out");
            return Ok(());
        }
        let done = self.keys(&mut session, derivation).await;
        session.end().await;
        done
    }

    async fn network(&mut self, vault: &settings::Vault) -> Step<()> {
        let (host, port) =
            (vault.host.host_str().unwrap_or_default(), vault.host.port_or_known_default().unwrap_or(0));
        let bare = host.trim_matches(['[', ']']);
        let cure =
            format!("cannot resolve {bare}: correct keyring_vault_host, or this machine's name resolution");
        let found = lookup_host((bare, port)).await.map_err(|error| format!("{cure}: {error}"));
        let addresses: Vec<_> = self.must("dns", found)?.collect();
        let shown: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
        self.good("dns", format!("{bare} is {}", shown.join(", ")));
        let mut last = "no address".to_owned();
        for address in &addresses {
            match tokio::time::timeout(CONNECT_TIME, TcpStream::connect(address)).await {
                Ok(Ok(_)) => {
                    self.good("tcp", format!("{address} accepts connections"));
                    return Ok(());
                }
                Ok(Err(error)) => last = format!("{address}: {error}"),
                Err(_) => last = format!("{address}: no answer within {} s", CONNECT_TIME.as_secs()),
            }
        }
        let cure =
            "is Vault running, is the port in keyring_vault_host right, does a firewall stand between?";
        self.must("tcp", Err(format!("cannot connect to {last}: {cure}")))
    }

    /// What can be learned without a token: trust, clock, seal.
    async fn server(&mut self, transport: &Transport, vault: &settings::Vault) -> Step<()> {
        #[derive(Deserialize)]
        struct Health {
            initialized: bool,
            sealed: bool,
            #[serde(default)]
            standby: bool,
            #[serde(default)]
            version: String,
        }
        let mut url = transport.url(["sys", "health"]);
        // Whatever the node's state is, it is an answer.
        for code in ["standbycode", "sealedcode", "uninitcode", "drsecondarycode", "performancestandbycode"] {
            url.query_pairs_mut().append_pair(code, "200");
        }
        let answer = self.must("tls", transport.without_namespace().send(Request::get(url)).await)?;
        match vault.host.scheme() {
            "https" => self.good("tls", format!("{} shows a certificate that is trusted, for its name", transport.host())),
            _ if vault.sends_in_the_clear() => self.warn("tls", "plain http to another machine: the token and the keys cross the network unencrypted; use https"),
            _ => self.good("tls", "plain http, within this machine"),
        }
        match answer.date.map(|date| skew(date, SystemTime::now())) {
            Some(skew) if skew > CLOCK_SKEW => self.warn("clock", format!("this machine's clock and Vault's differ by {} s: set them right, or JWTs and certificates are refused", skew.as_secs())),
            Some(_) => self.good("clock", "this machine's clock and Vault's agree"),
            None => self.warn("clock", "Vault did not say its time"),
        }
        let health: Option<Health> = answer.json();
        let health = self.must("seal", health.ok_or("this is not a Vault: correct keyring_vault_host"))?;
        let role = if health.standby { "a standby" } else { "active" };
        match (health.initialized, health.sealed) {
            (false, _) => self.must("seal", Err("Vault is not initialised: bao operator init")),
            (_, true) => self.must("seal", Err("Vault is sealed: bao operator unseal")),
            _ => {
                self.good("seal", format!("unsealed, {role}, version {}", health.version));
                Ok(())
            }
        }
    }

    async fn keys(&mut self, session: &mut Session, derivation: KeyDerivation) -> Step<()> {
        let method = session.settings().auth.name();
        let login = session.access().await.map(|_| ());
        self.must("login", login)?;
        match method {
            "token" => self.good("login", "the configured token is used as it is"),
            _ => self.good("login", format!("logged in by {method}")),
        }
        let found = self.read(session, derivation).await;
        let (built, listing, short) = match found {
            Err(VaultError::Denied { path }) => {
                let meaning = session.after_denial(path.clone()).await;
                // A new login was made, which the daemon would make too: the next run tells whether it helps.
                let meaning = meaning.and(Err(VaultError::Denied { path }));
                return self.must("secret", meaning);
            }
            other => self.must("secret", other)?,
        };
        for rejection in built.rejected {
            self.warn("record", rejection.to_string());
        }
        for (version, id) in short {
            self.warn("record", format!("version {version}: the key text of {id} is short for a key"));
        }
        let keyring = self.must("keyring", built.keyring)?;
        self.good(
            "keyring",
            format!("{} held, {} is active", keyring.key_count(), keyring.active().key.id()),
        );
        match listing.map(|listing| (listing.headroom(), listing.max_versions)) {
            Some((headroom @ 0..=2, max)) => self.warn(
                "versions",
                format!(
                    "after {headroom} more versions Vault destroys the oldest of {max}: raise max_versions"
                ),
            ),
            Some((headroom, max)) => {
                self.good("versions", format!("{headroom} more fit into the {max} that Vault keeps"));
            }
            None => {}
        }
        Ok(())
    }

    /// What the token may do, and all that is to be read.
    async fn read(
        &mut self,
        session: &mut Session,
        derivation: KeyDerivation,
    ) -> Result<(Built, Option<Listing>, Vec<(u64, KeyId)>), VaultError> {
        let paths = policy::read_paths(session.settings());
        let (kv, version) = (Kv::new(session.settings(), derivation), session.settings().kv);
        let access = session.access().await?;
        self.capabilities(&access, &paths).await;
        let mut history = History::default();
        let (built, listing) = match version {
            KvVersion::V1 => {
                let contents = kv.read_v1(&access).await?;
                self.record("the secret", &contents);
                (history.replace(contents, SystemTime::now()), None)
            }
            KvVersion::V2 => {
                let listing = kv.list(&access, SystemTime::now()).await?;
                let mut fetched = Vec::new();
                for id in history.missing(&listing) {
                    let Some(contents) = kv.read(&access, id.number).await? else { continue };
                    self.record(&format!("version {}", id.number), &contents);
                    fetched.push((id, contents));
                }
                (history.advance(&listing, fetched), Some(listing))
            }
        };
        Ok((built, listing, history.short_keys()))
    }

    async fn capabilities(&mut self, access: &Access<'_>, paths: &[String]) {
        let given = match access.capabilities(paths).await {
            Ok(given) => given,
            Err(error) => {
                return self.warn("policy", format!("the token may not ask what it may do: {error}"));
            }
        };
        for (path, capabilities) in given {
            let says = format!("{path}: {}", capabilities.join(", "));
            if capabilities.iter().any(|one| one == "read" || one == "root") {
                self.good("policy", says);
            } else {
                self.say("policy", State::Failed, format!("{says}: give the token's policy `read` on it"));
            }
        }
    }

    fn record(&mut self, of: &str, contents: &Contents) {
        let ids: Vec<_> = contents.keys.iter().map(|key| key.id().as_str()).collect();
        if !ids.is_empty() {
            self.good("record", format!("{of}: {}", ids.join(", ")));
        }
    }
}

fn skew(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}
