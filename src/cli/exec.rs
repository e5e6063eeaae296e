//! `exec`: runs a command in whose environment references are replaced by secrets.
//!
//! With `--on-change none` the command replaces this process. Otherwise the command is a child: this process forwards
//! signals, returns the exit code, and polls for changed secrets.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use clap::Args;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    command::{Daemon, Failure, print_error, wait},
    vault::resolve,
};
use crate::{
    secret::Secret,
    settings::source::environment,
    signals::{self, Terminal},
};

/// The interval between polls. The daemon answers from its cache, whose TTLs are the references' own.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The time between SIGTERM and SIGKILL at a restart.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Exec {
    #[command(flatten)]
    daemon: Daemon,
    /// The action when a secret changes: restart, signal:NAME or none
    #[arg(long, value_name = "ACTION", default_value = "none", value_parser = OnChange::parse)]
    on_change: OnChange,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The action when a secret changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnChange {
    Nothing,
    Restart,
    Signal(Signal),
}

impl OnChange {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::Nothing),
            None if text == "restart" => Ok(Self::Restart),
            Some(("signal", name)) => {
                let name = name.strip_prefix("SIG").unwrap_or(name);
                let signal = format!("SIG{name}").parse();
                signal.map(Self::Signal).map_err(|_| format!("unknown signal {name}"))
            }
            _ => Err("expected restart, none, or signal:NAME such as signal:HUP".to_owned()),
        }
    }
}

/// `keyringd exec`
pub(super) fn exec(exec: &Exec) -> Result<ExitCode, Failure> {
    if exec.on_change != OnChange::Nothing {
        return wait(supervise(exec))?;
    }
    let variables = environment::references();
    let values = wait(values(exec, &variables))??;
    let mut command = command(exec, &variables, &values);
    // exec(2) returns only on failure.
    Err(start_failure(exec, &command.as_std_mut().exec()))
}

type Variables = [(String, String)];

async fn values(exec: &Exec, variables: &Variables) -> Result<Vec<Secret<String>>, Failure> {
    let references: Vec<_> = variables.iter().map(|(_, reference)| reference.as_str()).collect();
    let values = resolve(&exec.daemon, &references).await?;
    match variables.iter().zip(&values).find(|(_, value)| value.expose().contains('\0')) {
        None => Ok(values),
        Some(((name, reference), _)) => Err(Failure::Operation(format!(
            "{name}: the value of {reference} contains a NUL byte, which is not allowed in a variable"
        ))),
    }
}

fn command(exec: &Exec, variables: &Variables, values: &[Secret<String>]) -> Command {
    let mut words = exec.command.iter();
    let mut command = Command::new(words.next().map_or_else(Default::default, Clone::clone));
    command.args(words);
    for ((name, _), value) in variables.iter().zip(values) {
        command.env(name, value.expose());
    }
    command
}

fn start_failure(exec: &Exec, error: &io::Error) -> Failure {
    let name = exec.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Failure::Operation(format!("cannot start {name}: {error}"))
}

/// A running command whose secrets are polled.
struct Supervisor<'a> {
    exec: &'a Exec,
    variables: Vec<(String, String)>,
    values: Vec<Secret<String>>,
    signals: UnboundedReceiver<i32>,
    child: Child,
    /// The last poll failed. Only the first failure is reported.
    failing: bool,
}

async fn supervise(exec: &Exec) -> Result<ExitCode, Failure> {
    let terminal = if io::stdin().is_terminal() { Terminal::Shared } else { Terminal::None };
    let signals = signals::to_forward(terminal)
        .map_err(|error| Failure::Operation(format!("cannot handle signals: {error}")))?;
    let variables = environment::references();
    let values = values(exec, &variables).await?;
    let child = start(exec, &variables, &values)?;
    Supervisor { exec, variables, values, signals, child, failing: false }.run().await
}

fn start(exec: &Exec, variables: &Variables, values: &[Secret<String>]) -> Result<Child, Failure> {
    command(exec, variables, values).spawn().map_err(|error| start_failure(exec, &error))
}

impl Supervisor<'_> {
    /// Returns when the command has ended.
    async fn run(mut self) -> Result<ExitCode, Failure> {
        let mut next = Instant::now() + POLL_INTERVAL;
        loop {
            let (exec, variables) = (self.exec, &self.variables);
            // Part of the select, so that a slow daemon delays neither signals nor the end of the command.
            let poll = async {
                sleep_until(next).await;
                values(exec, variables).await
            };
            tokio::select! {
                ended = self.child.wait() => return ended.map(exit_code).map_err(Failure::from_error),
                Some(signal) = self.signals.recv() => self.forward(signal),
                values = poll => {
                    if let Some(ended) = self.apply(values).await? {
                        return Ok(exit_code(ended));
                    }
                    next = Instant::now() + POLL_INTERVAL;
                }
            }
        }
    }

    fn forward(&self, signal: i32) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let (Some(pid), Ok(signal)) = (pid, Signal::try_from(signal)) {
            // Fails if the child has just ended; `run` waits for it next.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Acts on changed values. Returns the exit status if the command was stopped by a signal meanwhile.
    async fn apply(
        &mut self,
        values: Result<Vec<Secret<String>>, Failure>,
    ) -> Result<Option<ExitStatus>, Failure> {
        let values = match values {
            Ok(values) => values,
            Err(failure) => {
                if !self.failing {
                    failure.report();
                    print_error("keyringd: the command keeps its current secrets");
                }
                self.failing = true;
                return Ok(None);
            }
        };
        self.failing = false;
        if values.iter().zip(&self.values).all(|(new, old)| new.expose() == old.expose()) {
            return Ok(None);
        }
        self.values = values;
        match self.exec.on_change {
            OnChange::Nothing => {}
            OnChange::Signal(signal) => self.forward(signal as i32),
            OnChange::Restart => return self.restart().await,
        }
        Ok(None)
    }

    async fn restart(&mut self) -> Result<Option<ExitStatus>, Failure> {
        print_error("keyringd: a secret changed; restarting the command");
        self.forward(Signal::SIGTERM as i32);
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            tokio::select! {
                ended = timeout_at(deadline, self.child.wait()) => {
                    if ended.is_err() {
                        self.child.kill().await.map_err(Failure::from_error)?;
                    }
                    self.child = start(self.exec, &self.variables, &self.values)?;
                    return Ok(None);
                }
                Some(signal) = self.signals.recv() => {
                    self.forward(signal);
                    // The sender wants this process to end, so the command is not started again.
                    if matches!(Signal::try_from(signal), Ok(Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)) {
                        return self.child.wait().await.map(Some).map_err(Failure::from_error);
                    }
                }
            }
        }
    }
}

/// The exit code of the command, or 128 plus the number of its signal, as in shells.
fn exit_code(ended: ExitStatus) -> ExitCode {
    let code = ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_change_is_a_keyword_or_a_signal() {
        assert_eq!(OnChange::parse("none"), Ok(OnChange::Nothing));
        assert_eq!(OnChange::parse("restart"), Ok(OnChange::Restart));
        assert_eq!(OnChange::parse("signal:HUP"), Ok(OnChange::Signal(Signal::SIGHUP)));
        assert_eq!(OnChange::parse("signal:SIGUSR1"), Ok(OnChange::Signal(Signal::SIGUSR1)));
        for wrong in ["", "signal", "signal:", "signal:NOPE", "restart:now", "HUP"] {
            assert!(OnChange::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_exit_code_is_the_commands_or_128_plus_its_signal() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), ExitCode::from(7));
        assert_eq!(exit_code(ExitStatus::from_raw(15)), ExitCode::from(143));
    }
}
