//! Signals: as values on a channel for the daemon and for `exec`, and cleanup before a command is terminated.
//!
//! A second SIGTERM or SIGINT terminates the daemon immediately.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use signal_hook::{
    consts::{SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGXCPU},
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
pub(crate) fn watch() -> io::Result<mpsc::UnboundedReceiver<Signal>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal sets the flag, and the second finds it set and exits.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stopping))?;
        flag::register(signal, Arc::clone(&stopping))?;
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    on_each(&[SIGTERM, SIGINT, SIGUSR1, SIGHUP], move |signal| {
        let _ = sender.send(match signal {
            SIGUSR1 => Signal::Sync,
            SIGHUP => Signal::Reload,
            _ => Signal::Stop,
        });
    })?;
    Ok(receiver)
}

/// Whether a terminal sends its signals to this process and to the child alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal {
    Shared,
    None,
}

/// Leaves the signals of the terminal to a child, which gets them too and ends when it is done.
pub(crate) fn leave_terminal_to_child() -> io::Result<()> {
    for signal in [SIGINT, SIGQUIT] {
        flag::register(signal, Arc::default())?;
    }
    Ok(())
}

/// Receives the signals that a parent forwards to its child. Signals of a shared terminal are excluded, because the child
/// gets them too. Job control signals keep their default action.
pub(crate) fn to_forward(terminal: Terminal) -> io::Result<mpsc::UnboundedReceiver<i32>> {
    const FROM_TERMINAL: [i32; 3] = [SIGINT, SIGQUIT, SIGWINCH];
    let forwarded = [&FROM_TERMINAL[..], &[SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM]].concat();
    let (sender, receiver) = mpsc::unbounded_channel();
    on_each(&forwarded, move |signal| {
        if terminal == Terminal::None || !FROM_TERMINAL.contains(&signal) {
            let _ = sender.send(signal);
        }
    })?;
    Ok(receiver)
}

/// Receives a value when processes of this one ended, if it is PID 1 and so the parent of all orphans; else nothing.
pub(crate) fn ended_processes() -> io::Result<mpsc::UnboundedReceiver<i32>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    if std::process::id() == 1 {
        on_each(&[SIGCHLD], move |signal| {
            let _ = sender.send(signal);
        })?;
    }
    Ok(receiver)
}

/// The signals from outside that terminate a process by default.
const TERMINATING: [i32; 8] = [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGXCPU];

/// Removes the file if a signal terminates the process, since destructors do not run then.
pub(crate) fn remove_on_termination(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    on_each(&TERMINATING, move |signal| {
        let _ = fs::remove_file(&path);
        let _ = emulate_default_handler(signal);
    })
}

fn on_each(signals: &[i32], mut act: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new(signals)?;
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || signals.forever().for_each(&mut act)).map(drop)
}
