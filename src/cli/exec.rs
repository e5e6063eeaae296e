//! `exec`: runs a command with secrets in place of references, in its environment and in files.
//!
//! Without files and with `--on-change none` the command replaces this process. Otherwise it is a child: this process
//! forwards signals, returns the exit code, polls for changed secrets and removes the files at the end.

mod child;
mod launch;
mod supervisor;

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;

use super::{
    command::{Failure, wait},
    resolver::{Resolver, ResolverArgs},
    secret_files::{FilePermissions, SecretFile, SecretFiles},
};
use crate::{
    settings::source::environment,
    signals::{self, Terminal},
};
use launch::Launch;
use supervisor::{OnChange, Supervisor};

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

/// `keyringd exec`
pub(super) fn exec(exec: &Exec) -> Result<ExitCode, Failure> {
    let launch = launch(exec)?;
    if exec.on_change != OnChange::Nothing || launch.files().is_some() {
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

fn launch(exec: &Exec) -> Result<Launch, Failure> {
    let ownership = exec.permissions.ownership()?;
    let files = (!exec.files.is_empty())
        .then(|| SecretFiles::create(exec.files_dir.as_deref(), exec.files.clone(), ownership))
        .transpose()?;
    let own_secrets = exec.resolver.secret_variables();
    Ok(Launch::new(&exec.command, environment::references(), files, own_secrets))
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
