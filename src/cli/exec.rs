//! `exec`: a command whose variables hold secrets where ours hold references.
//!
//! Unless it is to follow changes, the command takes this process's place, so that its signals and its exit code are its
//! own. If it is, this process stays in front of it: it passes signals on and the exit code back, and looks for changes.

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
    time::{Instant, sleep_until, timeout},
};

use super::{Daemon, Failure, say, vault::resolved, wait};
use crate::{secret::Secret, settings::source::environment, signals};

/// How often it is looked for changes. The daemon answers from what it keeps, by the references' own times.
const LOOK: Duration = Duration::from_secs(1);

/// How long a command may take to end that is to be started anew.
const GRACE: Duration = Duration::from_secs(10);

/// A command, and what to do about it.
#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    daemon: Daemon,
    /// What to do when a secret changes: restart the command, signal:NAME, or none
    #[arg(long, value_name = "WHAT", default_value = "none", value_parser = OnChange::parse)]
    on_change: OnChange,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What to do when a secret changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnChange {
    Nothing,
    Restart,
    Signal(Signal),
}

impl OnChange {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::Nothing),
            None if text == "restart" => Ok(Self::Restart),
            Some(("signal", name)) => {
                let name = name.strip_prefix("SIG").unwrap_or(name);
                let signal =
                    format!("SIG{name}").parse().map_err(|_| format!("there is no signal {name}"))?;
                Ok(Self::Signal(signal))
            }
            _ => Err("restart, signal:NAME such as signal:HUP, or none is expected".to_owned()),
        }
    }
}

/// `keyringd exec`.
pub fn exec(exec: &Exec) -> Result<ExitCode, Failure> {
    if exec.on_change != OnChange::Nothing {
        return wait(follow(exec))?;
    }
    let variables = environment::references();
    let values = wait(values(exec, &variables))??;
    let mut command = command(exec, &variables, &values);
    // It returns only when it fails.
    Err(cannot_start(exec, &command.as_std_mut().exec()))
}

type Variables = [(String, String)];

async fn values(exec: &Exec, variables: &Variables) -> Result<Vec<Secret<String>>, Failure> {
    let references: Vec<_> = variables.iter().map(|(_, reference)| reference.as_str()).collect();
    let values = resolved(&exec.daemon, &references).await?;
    for ((name, reference), value) in variables.iter().zip(&values) {
        if value.expose().contains('\0') {
            let message =
                format!("{name}: what {reference} stands for has a NUL byte, which no variable can hold");
            return Err(Failure::Operation(message));
        }
    }
    Ok(values)
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

fn cannot_start(exec: &Exec, error: &io::Error) -> Failure {
    let name = exec.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Failure::Operation(format!("cannot start {name}: {error}"))
}

/// A command that follows the changes of its secrets.
struct Followed<'a> {
    exec: &'a Exec,
    variables: Vec<(String, String)>,
    values: Vec<Secret<String>>,
    signals: UnboundedReceiver<i32>,
    child: Child,
    /// The last look failed, and that was said.
    blind: bool,
}

async fn follow(exec: &Exec) -> Result<ExitCode, Failure> {
    let signals = signals::to_pass_on(io::stdin().is_terminal())
        .map_err(|error| Failure::Operation(format!("cannot handle signals: {error}")))?;
    let variables = environment::references();
    let values = values(exec, &variables).await?;
    let child = start(exec, &variables, &values)?;
    let followed = Followed { exec, variables, values, signals, child, blind: false };
    followed.until_its_end().await
}

fn start(exec: &Exec, variables: &Variables, values: &[Secret<String>]) -> Result<Child, Failure> {
    command(exec, variables, values).spawn().map_err(|error| cannot_start(exec, &error))
}

impl Followed<'_> {
    async fn until_its_end(mut self) -> Result<ExitCode, Failure> {
        let mut next = Instant::now() + LOOK;
        loop {
            let (exec, variables) = (self.exec, &self.variables);
            // A daemon that hangs keeps neither a signal nor the command's end waiting.
            let look = async {
                sleep_until(next).await;
                values(exec, variables).await
            };
            tokio::select! {
                ended = self.child.wait() => return ended.map(exit_code).map_err(Failure::operation),
                Some(signal) = self.signals.recv() => self.pass_on(signal),
                values = look => {
                    if let Some(ended) = self.take(values).await? {
                        return Ok(exit_code(ended));
                    }
                    next = Instant::now() + LOOK;
                }
            }
        }
    }

    fn pass_on(&self, signal: i32) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let (Some(pid), Ok(signal)) = (pid, Signal::try_from(signal)) {
            // One that has just ended is waited for next.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Acts on a change, if there is one. Answers how the command ended if it was asked to stop meanwhile.
    async fn take(
        &mut self,
        values: Result<Vec<Secret<String>>, Failure>,
    ) -> Result<Option<ExitStatus>, Failure> {
        let now = match values {
            Ok(now) => now,
            Err(failure) => {
                if !self.blind {
                    failure.report();
                    say("keyringd: the command goes on with what it has");
                }
                self.blind = true;
                return Ok(None);
            }
        };
        self.blind = false;
        let same = now.iter().zip(&self.values).all(|(now, before)| now.expose() == before.expose());
        if same {
            return Ok(None);
        }
        self.values = now;
        match self.exec.on_change {
            OnChange::Nothing => {}
            OnChange::Signal(signal) => self.pass_on(signal as i32),
            OnChange::Restart => return self.restart().await,
        }
        Ok(None)
    }

    async fn restart(&mut self) -> Result<Option<ExitStatus>, Failure> {
        say("keyringd: a secret has changed: the command is started anew");
        self.pass_on(Signal::SIGTERM as i32);
        let deadline = Instant::now() + GRACE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::select! {
                ended = timeout(left, self.child.wait()) => {
                    if ended.is_err() {
                        self.child.kill().await.map_err(Failure::operation)?;
                    }
                    self.child = start(self.exec, &self.variables, &self.values)?;
                    return Ok(None);
                }
                Some(signal) = self.signals.recv() => {
                    self.pass_on(signal);
                    // Whoever ends us does not want another one.
                    if matches!(Signal::try_from(signal), Ok(Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)) {
                        return self.child.wait().await.map(Some).map_err(Failure::operation);
                    }
                }
            }
        }
    }
}

/// The command's own, or 128 and the signal that ended it, as shells have it.
fn exit_code(ended: ExitStatus) -> ExitCode {
    let code = ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_on_a_change_is_a_word_or_a_signal() {
        assert_eq!(OnChange::parse("none"), Ok(OnChange::Nothing));
        assert_eq!(OnChange::parse("restart"), Ok(OnChange::Restart));
        assert_eq!(OnChange::parse("signal:HUP"), Ok(OnChange::Signal(Signal::SIGHUP)));
        assert_eq!(OnChange::parse("signal:SIGUSR1"), Ok(OnChange::Signal(Signal::SIGUSR1)));
        for wrong in ["", "signal", "signal:", "signal:NOPE", "restart:now", "HUP"] {
            assert!(OnChange::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_exit_code_is_the_commands_or_128_and_its_signal() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), ExitCode::from(7));
        assert_eq!(exit_code(ExitStatus::from_raw(15)), ExitCode::from(143));
    }
}
