//! What systemd is told and what it gives: sd_notify(3), the watchdog's interval, and a socket that it listens on for us.
//!
//! Nothing of ours is imported here. Where no systemd is, nothing is told and nothing given.

use std::{io, os::unix::net::UnixListener, time::Duration};

use listenfd::ListenFd;
use sd_notify::{NotifyState, notify};

/// The socket that systemd listens on for this service (`systemd.socket(5)`), if there is one.
///
/// To be asked once, before any thread starts.
///
/// # Errors
/// When what was passed is something else than a Unix stream socket.
pub fn listener() -> io::Result<Option<UnixListener>> {
    let mut given = ListenFd::from_env();
    if given.len() == 0 {
        return Ok(None);
    }
    let listener = given.take_unix_listener(0)?;
    if let Some(listener) = &listener {
        listener.set_nonblocking(true)?;
    }
    Ok(listener)
}

/// How often the watchdog wants a sign of life: twice in its time (`sd_watchdog_enabled(3)`).
pub fn sign_of_life_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|time| time / 2)
}

/// The daemon serves with keys.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The settings are being loaded anew, until [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// In words, for `systemctl status`.
pub fn status(words: &str) {
    tell(&[NotifyState::Status(&words.replace('\n', " "))]);
}

/// The serving loop goes round.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::debug!("systemd cannot be told: {error}");
    }
}
