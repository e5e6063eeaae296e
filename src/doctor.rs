//! The doctor: checks each step from DNS to the keys, on the code paths of the daemon.
//!
//! Each step reports what was found, or what to do. Nothing is changed or used up: a wrapped secret ID is checked and not
//! unwrapped, others are sent on request only, since they may work once, a token that a login gave is revoked. `report` has the outcomes. How findings are printed is in `cli`.
//! The file is longer than most: it has every check in its order.

mod copy;
mod report;

use std::{
    iter,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::net::{TcpStream, lookup_host};
use tokio_util::sync::CancellationToken;

use crate::{
    client,
    keyring::{Listing, record::Contents},
    metrics::Metrics,
    server::listen,
    settings::{self, Auth, Keyrings, KvSecret, ReferenceSettings, Server, Settings},
    sync::{self, Read, Reader, Rules},
    vault::{
        Client, Kv, SessionName, Sessions, VaultError,
        kv::{self, Purpose},
        transport::{Request, Response},
    },
};
pub use copy::{KEY_COMMAND, needs_key};
pub use report::{Finding, State};
use report::{Report, Step};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// From this difference of clocks on, JWTs and leases may fail.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Health {
    initialized: bool,
    sealed: bool,
    #[serde(default)]
    standby: bool,
    #[serde(default)]
    version: String,
}

/// What is done with an AppRole secret ID. Its role may limit its uses, which nobody can look up without another token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretIds {
    /// Left to the daemon.
    Spare,
    /// One login.
    UseOnce,
}

/// What all steps share.
struct Context {
    sessions: Sessions,
    secret_ids: SecretIds,
    /// The socket of the daemon.
    socket: PathBuf,
}

/// Takes every step that can be taken. `observe` gets each finding as it is made.
pub async fn examine(settings: Settings, secret_ids: SecretIds, observe: impl FnMut(Finding) + Send) {
    let mut report = Report::new(observe);
    socket(&mut report, &settings.socket).await;
    if let Some(Keyrings { server, default }) = &settings.keyrings {
        let location = sync::location(server, &default.secret, default.derivation);
        copy::examine(&mut report, &settings.cache, &default.name, &location);
    }
    let _ = vault(&mut report, settings, secret_ids).await; // a step that ended it is reported
}

async fn socket(report: &mut Report<'_>, settings: &settings::Socket) {
    let (path, mode) = (settings.path.display(), settings.mode);
    match listen::refuse_unless_free(&settings.path).await {
        Ok(()) => {
            if report.require("socket", listen::probe(&settings.path)).is_ok() {
                report
                    .good("socket", format!("{path} is free; keyringd will create it with mode {mode:04o}"));
            }
        }
        Err(listen::ListenError::InUse(_)) => report.good("socket", format!("a daemon serves on {path}")),
        Err(error) => report.failed("socket", error.to_string()),
    }
    if mode & 0o002 != 0 && settings.access.is_none() {
        let message = "keyring_socket_mode lets every user of this machine encrypt and decrypt: set keyring_access, or a mode \
                       such as 0660";
        report.warn("socket", message);
    }
}

async fn vault(report: &mut Report<'_>, settings: Settings, secret_ids: SecretIds) -> Step<()> {
    let sessions = Sessions::new(Arc::new(Metrics::default()), CancellationToken::new());
    let context = Context { sessions, secret_ids, socket: settings.socket.path };
    let done = match settings.keyrings {
        Some(Keyrings { server, default }) => keyring(report, &context, server, &default).await,
        None => Ok(()),
    };
    let ReferenceSettings { hcv, entities, objects, .. } = settings.references;
    let named = entities.into_iter().chain(objects);
    let objects = named.map(|(id, engine)| (SessionName::Object(id), engine.server));
    for (name, server) in iter::once((SessionName::Hcv, hcv.server)).chain(objects) {
        let Some(server) = server else { continue };
        report.set_subject(Some(name.to_string()));
        let _ = references(report, &context, name, server).await; // a step that ended it is reported
    }
    report.set_subject(None);
    context.sessions.end().await;
    done
}

async fn keyring(
    report: &mut Report<'_>,
    context: &Context,
    server: Server,
    keyring: &settings::Keyring,
) -> Step<()> {
    match connect(report, context, SessionName::Keyring, server).await? {
        Some(client) => keys(report, &client, keyring).await,
        None => Ok(()),
    }
}

/// A session of its own for references: up to its login.
async fn references(
    report: &mut Report<'_>,
    context: &Context,
    name: SessionName,
    server: Server,
) -> Step<()> {
    match connect(report, context, name, server).await? {
        Some(client) => login(report, &client).await,
        None => Ok(()),
    }
}

/// The steps up to the login; `None` if that has to be left to the daemon.
async fn connect(
    report: &mut Report<'_>,
    context: &Context,
    name: SessionName,
    server: Server,
) -> Step<Option<Client>> {
    network(report, &server).await?;
    let client = report.require("tls", context.sessions.client(name, server))?;
    health(report, &client).await?;
    if let Some(checked) = client.check_wrapped_secret_id().await {
        report.require("login", checked)?;
        let left_alone = "the wrapped secret ID is valid; it was not unwrapped, since that works once: the daemon checks the rest";
        report.warn("login", left_alone);
        return Ok(None);
    }
    if context.secret_ids == SecretIds::Spare && matches!(client.server().auth, Auth::AppRole(_)) {
        spare(report, context, &client).await;
        return Ok(None);
    }
    Ok(Some(client))
}

/// The daemon's login shows that the secret ID is good. Without it, nothing is known.
async fn spare(report: &mut Report<'_>, context: &Context, client: &Client) {
    const CURE: &str = "`keyringd doctor --login` uses it once and checks the rest";
    if is_logged_in(&context.socket, client.name()).await {
        report.good("login", format!("the running daemon is logged in; the secret ID was not used: {CURE}"));
    } else {
        let reason = "since its role may limit its uses (secret_id_num_uses)";
        report.warn("login", format!("the secret ID was not used, {reason}: {CURE}"));
    }
}

/// Whether a daemon on the socket says so of its session.
async fn is_logged_in(socket: &Path, session: &SessionName) -> bool {
    let Ok(status) = client::Client::new(socket).status().await else { return false };
    let sessions = status.pointer("/source/sessions").and_then(serde_json::Value::as_array);
    let name = session.to_string();
    sessions.into_iter().flatten().any(|one| one["name"] == name.as_str() && one["logged_in"] == true)
}

async fn network(report: &mut Report<'_>, vault: &Server) -> Step<()> {
    let (host, port) =
        (vault.host.host_str().unwrap_or_default(), vault.host.port_or_known_default().unwrap_or(0));
    let bare = host.trim_matches(['[', ']']);
    let cure =
        format!("cannot resolve {bare}: correct {}, or this machine's name resolution", vault.names.host);
    let found = lookup_host((bare, port)).await.map_err(|error| format!("{cure}: {error}"));
    let addresses: Vec<_> = report.require("dns", found)?.collect();
    let ips: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    report.good("dns", format!("{bare} is {}", ips.join(", ")));
    let mut failure = "no address".to_owned();
    for address in &addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                report.good("tcp", format!("{address} accepts connections"));
                return Ok(());
            }
            Ok(Err(error)) => failure = format!("{address}: {error}"),
            Err(_) => failure = format!("{address}: no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        }
    }
    let cure = format!(
        "check that Vault runs, that the port in {} is correct, and that no firewall blocks it",
        vault.names.host
    );
    report.require("tcp", Err(format!("cannot connect to {failure}: {cure}")))
}

async fn health(report: &mut Report<'_>, client: &Client) -> Step<()> {
    let transport = client.transport();
    let mut url = transport.url(["sys", "health"]);
    // Every state of the node is an answer.
    for code in ["standbycode", "sealedcode", "uninitcode", "drsecondarycode", "performancestandbycode"] {
        url.query_pairs_mut().append_pair(code, "200");
    }
    let response = report.require("tls", transport.without_namespace().send(Request::get(url)).await)?;
    match client.server().host.scheme() {
        "https" => {
            report
                .good("tls", format!("the certificate of {} is trusted and for its name", transport.host()));
        }
        _ if client.server().sends_in_the_clear() => report.warn(
            "tls",
            "plain http to another machine: the token and the keys cross the network unencrypted; use https",
        ),
        _ => report.good("tls", "plain http, within this machine"),
    }
    clock(report, &response);
    let setting = client.server().names.host;
    let health = response.json().ok_or_else(|| format!("the server is not a Vault: correct {setting}"));
    let health: Health = report.require("seal", health)?;
    let role = if health.standby { "a standby" } else { "active" };
    match (health.initialized, health.sealed) {
        (false, _) => report.require("seal", Err("Vault is not initialised: run bao operator init")),
        (_, true) => report.require("seal", Err("Vault is sealed: run bao operator unseal")),
        _ => {
            report.good("seal", format!("unsealed, {role}, version {}", health.version));
            Ok(())
        }
    }
}

fn clock(report: &mut Report<'_>, response: &Response) {
    match response.date.map(|date| skew(date, SystemTime::now())) {
        Some(skew) if skew > MAX_CLOCK_SKEW => {
            let seconds = skew.as_secs();
            report.warn(
                "clock",
                format!(
                    "this machine's clock and Vault's differ by {seconds} s: correct them, or JWTs and certificates \
                     are refused"
                ),
            );
        }
        Some(_) => report.good("clock", "this machine's clock and Vault's agree"),
        None => report.warn("clock", "Vault did not send its time"),
    }
}

fn skew(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}

async fn login(report: &mut Report<'_>, client: &Client) -> Step<()> {
    report.require("login", client.log_in().await)?;
    match client.server().auth.name() {
        "token" => report.good("login", "the configured token is used as it is"),
        method => report.good("login", format!("logged in by {method}")),
    }
    for note in client.token_notes() {
        report.warn("login", note);
    }
    Ok(())
}

async fn keys(report: &mut Report<'_>, client: &Client, settings: &settings::Keyring) -> Step<()> {
    login(report, client).await?;
    if client.token_has_limited_uses() {
        report.warn("policy", "the rest was not checked: the uses of the token are left to the daemon");
        return Ok(());
    }
    let (all, problems) = sync::all_keyrings(client, settings).await;
    for problem in problems {
        report.warn("keyrings", problem);
    }
    let mut paths: Vec<_> = all.iter().flat_map(|(_, secret)| kv::read_paths(secret)).collect();
    paths.extend(kv::engine_config_path(&settings.secret));
    capabilities(report, client, &paths).await;
    let mut of_default = Ok(());
    for (at, (name, secret)) in all.iter().enumerate() {
        report.set_subject((all.len() > 1).then(|| format!("keyring {name}")));
        let done = one_keyring(report, client, settings, secret).await;
        if at == 0 {
            of_default = done; // the others do not stop what follows
        }
    }
    report.set_subject(None);
    of_default
}

async fn one_keyring(
    report: &mut Report<'_>,
    client: &Client,
    settings: &settings::Keyring,
    secret: &KvSecret,
) -> Step<()> {
    let mut reader = Reader::default();
    let read = read(report, client, settings, secret, &mut reader).await;
    let Read { built, listing, options, ignored_options, .. } = report.require("secret", read)?;
    let Some(built) = built else { return Ok(()) }; // a new history is always built
    for rejection in built.rejected {
        report.warn("record", rejection.to_string());
    }
    for warning in sync::record_warnings(&reader.history).chain(ignored_options) {
        report.warn("record", warning);
    }
    let keyring = report.require("keyring", built.keyring)?;
    report.good("keyring", format!("{} held, {} is active", keyring.key_count(), keyring.active().key.id()));
    if let Some(listing) = &listing {
        headroom(report, listing);
        if let Some(warning) = sync::expiry_warning(listing) {
            report.warn("versions", warning);
        }
    }
    let id = options.index_key.as_ref().or(settings.index_key.as_ref());
    if let Some(warning) = id.and_then(|id| sync::index_key_warning(&keyring, listing.as_ref(), id)) {
        report.warn("index", warning);
    }
    Ok(())
}

async fn capabilities(report: &mut Report<'_>, client: &Client, paths: &[String]) {
    let capabilities = match client.capabilities(paths).await {
        Ok(capabilities) => capabilities,
        Err(VaultError::Denied { .. }) => {
            let message = "the token's rights cannot be listed: that needs `update` on sys/capabilities-self";
            return report.warn("policy", message);
        }
        Err(error) => return report.warn("policy", format!("the token's rights cannot be listed: {error}")),
    };
    for (path, capabilities) in capabilities {
        let message = format!("{path}: {}", capabilities.join(", "));
        if capabilities.iter().any(|one| one == "read" || one == "root") {
            report.good("policy", message);
        } else if path.ends_with("/config") {
            let cure = "without `read` on it, how many versions Vault keeps is a guess";
            report.warn("policy", format!("{message}: {cure}"));
        } else {
            report.failed("policy", format!("{message}: give the token's policy `read` on it"));
        }
    }
}

async fn read(
    report: &mut Report<'_>,
    client: &Client,
    settings: &settings::Keyring,
    secret: &KvSecret,
    reader: &mut Reader,
) -> Result<Read, VaultError> {
    let kv = Kv::new(client, secret, Purpose::Keyring);
    let observe = |version: Option<u64>, contents: &Contents| {
        let ids: Vec<_> = contents.keys.iter().map(|key| key.id().as_str()).collect();
        if !ids.is_empty() {
            let record =
                version.map_or_else(|| "the secret".to_owned(), |number| format!("version {number}"));
            report.good("record", format!("{record}: {}", ids.join(", ")));
        }
    };
    reader.read(&kv, Rules::from_settings(settings), SystemTime::now(), observe).await
}

fn headroom(report: &mut Report<'_>, listing: &Listing) {
    let max = listing.max_versions;
    match listing.headroom() {
        headroom @ 0..=2 => report.warn(
            "versions",
            format!("after {headroom} more versions Vault destroys the oldest of {max}: raise max_versions"),
        ),
        headroom => report.good("versions", format!("Vault keeps {max}: room for {headroom} more")),
    }
}
