//! The doctor: checks each step from DNS to the keys, on the code paths of the daemon.
//!
//! Each step reports what was found, or what to do. Nothing is changed: a wrapped secret ID is checked and not unwrapped, a
//! token that a login gave is revoked. `server` has the steps without a token, `keys` those with one, `report` their
//! outcomes. How findings are printed is in `cli`.

mod keys;
mod report;
mod server;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    server::listen,
    settings::{self, Settings},
    vault::{SessionName, Sessions},
};
pub use report::{Finding, State};
use report::{Report, Step};

/// Takes every step that can be taken. `observe` gets each finding as it is made.
pub async fn examine(settings: Settings, observe: impl FnMut(Finding) + Send) {
    let mut report = Report::new(observe);
    socket(&mut report, &settings.socket).await;
    let _ = vault(&mut report, settings).await; // a step that ended it is reported
}

async fn socket(report: &mut Report<impl FnMut(Finding) + Send>, settings: &settings::Socket) {
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
    if mode & 0o002 != 0 {
        report.warn("socket", "keyring_socket_mode lets every user of this machine encrypt and decrypt");
    }
}

async fn vault(report: &mut Report<impl FnMut(Finding) + Send>, settings: Settings) -> Step<()> {
    server::network(report, &settings.server).await?;
    let sessions = Sessions::new(Arc::new(Metrics::default()), CancellationToken::new());
    let client = report.require("tls", sessions.client(SessionName::Keyring, settings.server))?;
    server::health(report, &client).await?;
    if let Some(checked) = client.check_wrapped_secret_id().await {
        report.require("login", checked)?;
        report.warn(
            "login",
            "the wrapped secret ID is valid; it was not unwrapped, since that works once: the daemon checks the rest",
        );
        return Ok(());
    }
    let done = keys::keys(report, &client, &settings.keyring).await;
    sessions.end().await;
    done
}
