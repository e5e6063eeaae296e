//! Signals: as values on a channel for the daemon and for `exec`, and cleanup before a command is terminated.
//!
//! A second SIGTERM or SIGINT terminates the daemon immediately.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use signal_hook::{
    consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGXCPU},
    flag,
    iterator::Signals,
    low_level::emulate_default_handler,
};
use tokio::sync::mpsc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGUSR1.
    Sync,
    /// SIGHUP.
    Reload,
}

/// Installs the daemon's handlers.
pub fn watch() -> io::Result<mpsc::UnboundedReceiver<Signal>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal sets the flag, and the second finds it set and exits.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stopping))?;
        flag::register(signal, Arc::clone(&stopping))?;
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGHUP])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let signal = match signal {
                SIGUSR1 => Signal::Sync,
                SIGHUP => Signal::Reload,
                _ => Signal::Stop,
            };
            if sender.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Whether a terminal sends its signals to this process and to the child alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    Shared,
    None,
}

/// Receives the signals that a parent forwards to its child. Signals of a shared terminal are excluded, because the child
/// gets them too. Job control signals keep their default action.
pub fn to_forward(terminal: Terminal) -> io::Result<mpsc::UnboundedReceiver<i32>> {
    let from_terminal = [SIGINT, SIGQUIT, SIGWINCH];
    let others = [SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM];
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut signals = Signals::new(others.into_iter().chain(from_terminal))?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let child_has_it = terminal == Terminal::Shared && from_terminal.contains(&signal);
            if !child_has_it && sender.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The signals from outside that terminate a process by default.
const TERMINATING: [i32; 8] = [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGXCPU];

/// Removes the file if a signal terminates the process, since destructors do not run then.
pub fn remove_on_termination(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    let mut signals = Signals::new(TERMINATING)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let _ = fs::remove_file(&path);
            let _ = emulate_default_handler(signal);
        }
    })?;
    Ok(())
}
