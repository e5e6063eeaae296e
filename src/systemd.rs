//! systemd: notifications (sd_notify(3)), the watchdog interval, and socket activation.
//!
//! Without systemd the notifications do nothing, and there is neither a watchdog nor a socket.

use std::{io, os::unix::net::UnixListener, time::Duration};

use listenfd::ListenFd;
use sd_notify::{NotifyState, notify};

/// The Unix stream socket that systemd passed (`systemd.socket(5)`). Call it once, before any thread starts.
pub(crate) fn listener() -> io::Result<Option<UnixListener>> {
    let mut passed = ListenFd::from_env();
    if passed.len() == 0 {
        return Ok(None);
    }
    let listener = passed.take_unix_listener(0)?;
    if let Some(listener) = &listener {
        listener.set_nonblocking(true)?;
    }
    Ok(listener)
}

/// The ping interval: half of the watchdog's timeout (`sd_watchdog_enabled(3)`).
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|time| time / 2)
}

/// The daemon has keys and serves requests.
pub(crate) fn ready() {
    send(&[NotifyState::Ready]);
}

/// The daemon reloads its settings until [`ready`].
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The status line of `systemctl status`.
pub(crate) fn status(text: &str) {
    send(&[NotifyState::Status(&text.replace('\n', " "))]);
}

pub(crate) fn ping_watchdog() {
    send(&[NotifyState::Watchdog]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::debug!(%error, "sd_notify failed");
    }
}
