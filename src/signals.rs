//! Signals: to the daemon, values on a channel; to a command, its end, once what it leaves unfinished is removed.
//!
//! A second request to stop ends the daemon at once, whatever it is doing.

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

/// Takes the signals from here on.
///
/// # Errors
/// When the kernel refuses a handler or a thread.
pub fn watch() -> io::Result<mpsc::UnboundedReceiver<Signal>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag unset and sets it, the second finds it set and ends it all.
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

/// Takes the signals that a command is sent which stands in front of another: those that a terminal sends to both of them
/// only if there is none. What stops and continues both is left alone.
///
/// # Errors
/// When the kernel refuses a handler or a thread.
pub fn to_pass_on(has_terminal: bool) -> io::Result<mpsc::UnboundedReceiver<i32>> {
    let by_terminal = [SIGINT, SIGQUIT, SIGWINCH];
    let others = [SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM];
    let taken = others.into_iter().chain(by_terminal);
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut signals = Signals::new(taken)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let came_to_both = has_terminal && by_terminal.contains(&signal);
            if !came_to_both && sender.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// What ends a process that does not handle it, and may come from outside; no signal of its own failing.
const ENDS: [i32; 8] = [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGXCPU];

/// From here on signals that end the process remove this file before they do: it drops nothing then.
///
/// # Errors
/// When the kernel refuses a handler or a thread.
pub fn remove_when_ended(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    let mut signals = Signals::new(ENDS)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let _ = fs::remove_file(&path);
            let _ = emulate_default_handler(signal);
        }
    })?;
    Ok(())
}
