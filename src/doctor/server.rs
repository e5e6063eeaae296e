//! The steps without a token: name resolution, connection, trust, clock and seal state.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::net::{TcpStream, lookup_host};

use super::report::{Finding, Report, Step};
use crate::{
    settings,
    vault::{
        Client,
        transport::{Request, Response},
    },
};

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

pub(super) async fn network(
    report: &mut Report<impl FnMut(Finding) + Send>,
    vault: &settings::Server,
) -> Step<()> {
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

pub(super) async fn health(report: &mut Report<impl FnMut(Finding) + Send>, client: &Client) -> Step<()> {
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

fn clock(report: &mut Report<impl FnMut(Finding) + Send>, response: &Response) {
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
