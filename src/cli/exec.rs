//! `exec`: runs a command with secrets in place of references, in its environment and in files.
//!
//! Without files and with `--on-change none` the command replaces this process. Otherwise it is a child: this process
//! forwards signals, returns the exit code, polls for changed secrets and removes the files at the end.

mod child;

use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal as _},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        process::CommandExt as _,
    },
    path::PathBuf,
    process::{ExitCode, ExitStatus},
};

use clap::Args;
use nix::sys::signal::Signal;
use tokio::{
    process::{Child, Command},
    sync::mpsc::UnboundedReceiver,
    time::{Instant, timeout_at},
};

use super::{
    command::{Failure, print_error, wait},
    resolver::{Poll, Resolver, ResolverArgs},
    secret_files::{self, FOLDER_VARIABLE, FilePermissions, SecretFile, SecretFiles},
};
use crate::{
    secret::Secret,
    settings::source::environment,
    signals::{self, Terminal},
};
use child::{STOP_TIMEOUT, exit_code, forward, reap_orphans};

/// In the arguments of the command it stands for the folder of the files.
const FOLDER_ARGUMENT: &[u8] = b"{files}";

#[derive(Debug, Args)]
pub(super) struct Exec {
    #[command(flatten)]
    resolver: ResolverArgs,
    /// Write the value of a reference to this file in a private folder, which {files} in the command and the variable
    /// KEYRINGD_FILES name
    #[arg(long = "file", value_name = "NAME=REFERENCE", value_parser = SecretFile::parse)]
    files: Vec<SecretFile>,
    /// The folder of the files [default: a new one in memory]
    #[arg(long, value_name = "FOLDER", requires = "files")]
    files_dir: Option<PathBuf>,
    #[command(flatten)]
    permissions: FilePermissions,
    /// The action when a secret changes: restart, signal:NAME, command:TEXT for /bin/sh, or none
    #[arg(long, value_name = "ACTION", default_value = "none", value_parser = OnChange::parse)]
    on_change: OnChange,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The action when a secret changes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OnChange {
    Nothing,
    Restart,
    Signal(Signal),
    Command(String),
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
            Some(("command", command)) if !command.trim().is_empty() => Ok(Self::Command(command.to_owned())),
            _ => Err("expected restart, none, signal:NAME such as signal:HUP, or command:TEXT".to_owned()),
        }
    }
}

/// `keyringd exec`
pub(super) fn exec(exec: &Exec) -> Result<ExitCode, Failure> {
    let launch = Launch::new(exec)?;
    if exec.on_change != OnChange::Nothing || launch.files.is_some() {
        return wait(supervise(exec, launch))?;
    }
    let values = wait(async {
        let resolver = Resolver::new(&exec.resolver);
        let values = resolver.values(&launch.references()).await;
        resolver.close().await;
        values
    })??;
    let mut command = launch.command(&values)?;
    // exec(2) returns only on failure.
    Err(launch.start_failure(&command.as_std_mut().exec()))
}

/// What the command is started with.
struct Launch {
    words: Vec<OsString>,
    /// Names and references.
    variables: Vec<(String, String)>,
    files: Option<SecretFiles>,
}

impl Launch {
    fn new(exec: &Exec) -> Result<Self, Failure> {
        let variables = environment::references();
        if exec.files.is_empty() {
            return Ok(Self { words: exec.command.clone(), variables, files: None });
        }
        let files = SecretFiles::create(
            exec.files_dir.as_deref(),
            exec.files.clone(),
            exec.permissions.ownership()?,
        )?;
        let words = exec.command.iter().map(|word| with_folder(word, files.folder().as_os_str())).collect();
        Ok(Self { words, variables, files: Some(files) })
    }

    /// The references of the variables, then those of the files.
    fn references(&self) -> Vec<&str> {
        let variables = self.variables.iter().map(|(_, reference)| reference.as_str());
        variables.chain(self.files.iter().flat_map(SecretFiles::references)).collect()
    }

    /// The command, with these values of the references in its environment.
    fn command(&self, values: &[Secret<String>]) -> Result<Command, Failure> {
        let mut words = self.words.iter();
        let mut command = Command::new(words.next().map_or_else(Default::default, Clone::clone));
        command.args(words);
        for ((name, reference), value) in self.variables.iter().zip(values) {
            if value.expose().contains('\0') {
                return Err(Failure::Operation(format!(
                    "{name}: the value of {reference} contains a NUL byte, which is not allowed in a variable"
                )));
            }
            command.env(name, value.expose());
        }
        if let Some(files) = &self.files {
            command.env(FOLDER_VARIABLE, files.folder());
        }
        Ok(command)
    }

    fn write_files(&mut self, values: &[Secret<String>]) -> Result<(), Failure> {
        let of_the_files = values.get(self.variables.len()..).unwrap_or_default();
        self.files.as_mut().map_or(Ok(()), |files| files.write(of_the_files))
    }

    fn start(&self, values: &[Secret<String>]) -> Result<Child, Failure> {
        self.command(values)?.spawn().map_err(|error| self.start_failure(&error))
    }

    fn start_failure(&self, error: &io::Error) -> Failure {
        let name = self.words.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Failure::Operation(format!("cannot start {name}: {error}"))
    }
}

/// The word with the folder in place of each `{files}`.
fn with_folder(word: &OsStr, folder: &OsStr) -> OsString {
    let (mut rest, mut whole) = (word.as_bytes(), Vec::new());
    while let Some(at) = rest.windows(FOLDER_ARGUMENT.len()).position(|window| window == FOLDER_ARGUMENT) {
        whole.extend_from_slice(&rest[..at]);
        whole.extend_from_slice(folder.as_bytes());
        rest = &rest[at + FOLDER_ARGUMENT.len()..];
    }
    whole.extend_from_slice(rest);
    OsString::from_vec(whole)
}

/// A running command whose secrets are polled.
struct Supervisor<'a> {
    on_change: &'a OnChange,
    launch: Launch,
    values: Vec<Secret<String>>,
    signals: UnboundedReceiver<i32>,
    /// A process ended that could be an orphan. Closed unless this is PID 1.
    ended: UnboundedReceiver<i32>,
    child: Child,
    /// The command of `--on-change` while it runs. No poll begins meanwhile.
    action: Option<Child>,
}

async fn supervise(exec: &Exec, mut launch: Launch) -> Result<ExitCode, Failure> {
    let cannot = |error| Failure::Operation(format!("cannot handle signals: {error}"));
    let terminal = if io::stdin().is_terminal() { Terminal::Shared } else { Terminal::None };
    let signals = signals::to_forward(terminal).map_err(cannot)?;
    let ended = signals::ended_processes().map_err(cannot)?;
    let resolver = Resolver::new(&exec.resolver);
    let values = resolver.values(&launch.references()).await?;
    launch.write_files(&values)?;
    let child = launch.start(&values)?;
    let on_change = &exec.on_change;
    let supervisor = Supervisor { on_change, launch, values, signals, ended, child, action: None };
    let code = supervisor.run(&resolver).await;
    resolver.close().await;
    code
}

impl Supervisor<'_> {
    /// Returns when the command has ended.
    async fn run(mut self, resolver: &Resolver<'_>) -> Result<ExitCode, Failure> {
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
        if let Some(files) = &self.launch.files {
            shell.env(FOLDER_VARIABLE, files.folder());
        }
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

    #[test]
    fn the_folder_replaces_its_placeholder_wherever_it_stands() {
        for (word, whole) in [
            ("{files}", "/run/k"),
            ("--cert={files}/cert.pem:{files}/key.pem", "--cert=/run/k/cert.pem:/run/k/key.pem"),
            ("{file}{files", "{file}{files"),
            ("", ""),
        ] {
            assert_eq!(with_folder(OsStr::new(word), OsStr::new("/run/k")), whole);
        }
    }
}
