//! A running command whose secrets are polled: signals go to it, and a change acts on it.

use std::{
    io,
    process::{ExitCode, ExitStatus},
};

use nix::sys::signal::Signal;
use tokio::{
    process::{Child, Command},
    sync::mpsc::UnboundedReceiver,
    time::{Instant, timeout_at},
};

use super::{
    super::{
        command::{Failure, print_error},
        resolver::{Poll, Resolver},
        secret_files,
    },
    child::{STOP_TIMEOUT, exit_code, forward, reap_orphans},
    launch::Launch,
};
use crate::secret::Secret;

/// The action when a secret changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OnChange {
    Nothing,
    Restart,
    Signal(Signal),
    Command(String),
}

impl OnChange {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::Nothing),
            None if text == "restart" => Ok(Self::Restart),
            Some(("signal", name)) => {
                let name = name.strip_prefix("SIG").unwrap_or(name);
                let signal = format!("SIG{name}").parse();
                signal.map(Self::Signal).map_err(|_| format!("unknown signal {name}"))
            }
            Some(("command", command)) if !command.trim().is_empty() => Ok(Self::Command(command.to_owned())),
            _ => Err("expected restart, none, signal:NAME such as signal:HUP, or command:TEXT".to_owned()),
        }
    }
}

/// A running command whose secrets are polled.
pub(super) struct Supervisor<'a> {
    pub(super) on_change: &'a OnChange,
    pub(super) launch: Launch,
    pub(super) values: Vec<Secret<String>>,
    pub(super) signals: UnboundedReceiver<i32>,
    /// A process ended that could be an orphan. Closed unless this is PID 1.
    pub(super) ended: UnboundedReceiver<i32>,
    pub(super) child: Child,
    /// The command of `--on-change` while it runs. No poll begins meanwhile.
    pub(super) action: Option<Child>,
}

impl Supervisor<'_> {
    /// Returns when the command has ended.
    pub(super) async fn run(mut self, resolver: &Resolver<'_>) -> Result<ExitCode, Failure> {
        let mut poll = Poll::default();
        let references: Vec<_> = self.launch.references().into_iter().map(str::to_owned).collect();
        let references: Vec<_> = references.iter().map(String::as_str).collect();
        loop {
            // The poll is part of the select, so that a slow daemon delays neither signals nor the end of the command.
            tokio::select! {
                ended = self.child.wait() => return ended.map(exit_code).map_err(Failure::from_error),
                Some(signal) = self.signals.recv() => forward(&self.child, signal),
                Some(_) = self.ended.recv() => self.reap(),
                outcome = end_of(&mut self.action) => self.report_action(outcome),
                values = poll.next(resolver, &references), if self.action.is_none() => {
                    if let Some(ended) = self.apply(values).await? {
                        return Ok(exit_code(ended));
                    }
                }
            }
        }
    }

    fn reap(&self) {
        reap_orphans(std::iter::once(&self.child).chain(&self.action));
    }

    fn report_action(&mut self, outcome: io::Result<ExitStatus>) {
        self.action = None;
        match outcome {
            Ok(status) if status.success() => {}
            Ok(status) => print_error(&format!("keyringd: the command of --on-change failed: {status}")),
            Err(error) => print_error(&format!("keyringd: the command of --on-change: {error}")),
        }
        self.reap();
    }

    /// Acts on changed values. Returns the exit status if the command was stopped by a signal meanwhile.
    async fn apply(&mut self, values: Vec<Secret<String>>) -> Result<Option<ExitStatus>, Failure> {
        if secret_files::are_equal(&values, &self.values) {
            return Ok(None);
        }
        let usable = self.launch.command(&values).map(drop);
        if let Err(failure) = usable.and_then(|()| self.launch.write_files(&values)) {
            failure.report();
            return Ok(None); // the next poll tries again
        }
        self.values = values;
        match self.on_change {
            OnChange::Nothing => {}
            OnChange::Signal(signal) => forward(&self.child, *signal as i32),
            OnChange::Command(text) => self.act(text),
            OnChange::Restart => return self.restart().await,
        }
        Ok(None)
    }

    fn act(&mut self, text: &str) {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", text]);
        self.launch.prepare(&mut shell);
        match shell.spawn() {
            Ok(started) => self.action = Some(started),
            Err(error) => print_error(&format!("keyringd: cannot start the command of --on-change: {error}")),
        }
    }

    async fn restart(&mut self) -> Result<Option<ExitStatus>, Failure> {
        print_error("keyringd: a secret changed; restarting the command");
        forward(&self.child, Signal::SIGTERM as i32);
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            tokio::select! {
                ended = timeout_at(deadline, self.child.wait()) => {
                    if ended.is_err() {
                        self.child.kill().await.map_err(Failure::from_error)?;
                    }
                    self.child = self.launch.start(&self.values)?;
                    return Ok(None);
                }
                Some(signal) = self.signals.recv() => {
                    forward(&self.child, signal);
                    // The sender wants this process to end, so the command is not started again.
                    if matches!(Signal::try_from(signal), Ok(Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)) {
                        return self.child.wait().await.map(Some).map_err(Failure::from_error);
                    }
                }
            }
        }
    }
}

/// The end of a child that may not be there: then it never comes.
async fn end_of(child: &mut Option<Child>) -> io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_change_is_a_keyword_a_signal_or_a_command() {
        assert_eq!(OnChange::parse("none"), Ok(OnChange::Nothing));
        assert_eq!(OnChange::parse("restart"), Ok(OnChange::Restart));
        assert_eq!(OnChange::parse("signal:HUP"), Ok(OnChange::Signal(Signal::SIGHUP)));
        assert_eq!(OnChange::parse("signal:SIGUSR1"), Ok(OnChange::Signal(Signal::SIGUSR1)));
        assert_eq!(OnChange::parse("command:a b:c"), Ok(OnChange::Command("a b:c".to_owned())));
        for wrong in ["", "signal", "signal:", "signal:NOPE", "restart:now", "HUP", "command:", "command: "] {
            assert!(OnChange::parse(wrong).is_err(), "{wrong}");
        }
    }
}
