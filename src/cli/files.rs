//! `files`: keeps secrets in files for programs that read files, as a service without a child.
//!
//! Ready for systemd once the files are there. A change replaces all of them at once and then runs the reload command. The
//! files are removed at the end, as in `exec`.

use std::{collections::BTreeMap, fs, io, path::PathBuf, process::ExitCode};

use clap::Args;
use serde::Deserialize;
use tokio::{process::Command, sync::mpsc::UnboundedReceiver};

use super::{
    command::{Failure, io_failure, print_error, wait},
    resolver::{Poll, Resolver, ResolverArgs},
    secret_files::{self, FOLDER_VARIABLE, FilePermissions, SecretFile, SecretFiles},
};
use crate::{
    signals::{self, Signal},
    systemd,
};

#[derive(Debug, Args)]
pub(super) struct Files {
    #[command(flatten)]
    resolver: ResolverArgs,
    /// JSON: {"folder": "…", "files": {"NAME": "REFERENCE", …}, "mode"?, "owner"?, "on_change"?}
    #[arg(long = "config", value_name = "FILE")]
    files_config: PathBuf,
}

/// The content of `--config`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilesConfig {
    folder: PathBuf,
    /// References by file name.
    files: BTreeMap<String, String>,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    owner: Option<String>,
    /// A command for `/bin/sh` after a change.
    #[serde(default)]
    on_change: Option<String>,
}

/// `keyringd files`
pub(super) fn files(files: &Files) -> Result<ExitCode, Failure> {
    let config = FilesConfig::read(&files.files_config)?;
    let signals =
        signals::watch().map_err(|error| Failure::Operation(format!("cannot handle signals: {error}")))?;
    wait(async {
        let resolver = Resolver::new(&files.resolver);
        let outcome = serve(&config, &resolver, signals).await;
        resolver.close().await;
        outcome
    })?
}

impl FilesConfig {
    fn read(path: &std::path::Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(io_failure("read", path))?;
        let config: Self = serde_json::from_str(&text)
            .map_err(|error| Failure::Unusable(format!("{}: {error}", path.display())))?;
        if config.files.is_empty() {
            return Err(Failure::Unusable(format!("{}: `files` names no file", path.display())));
        }
        Ok(config)
    }

    fn secret_files(&self) -> Result<SecretFiles, Failure> {
        let files = self.files.iter().map(|(name, reference)| SecretFile::new(name, reference));
        let files = files.collect::<Result<Vec<_>, _>>().map_err(Failure::Unusable)?;
        let permissions = FilePermissions::from_texts(self.mode.as_deref(), self.owner.as_deref());
        let ownership = permissions.map_err(Failure::Unusable)?.ownership()?;
        SecretFiles::create(Some(&self.folder), files, ownership)
    }
}

async fn serve(
    config: &FilesConfig,
    resolver: &Resolver<'_>,
    mut signals: UnboundedReceiver<Signal>,
) -> Result<ExitCode, Failure> {
    let references: Vec<_> = config.files.values().map(String::as_str).collect();
    let mut files = config.secret_files()?;
    let mut current = resolver.values(&references).await?;
    files.write(&current)?;
    systemd::ready();
    systemd::status(&format!("{} files in {}", references.len(), config.folder.display()));
    let mut poll = Poll::default();
    loop {
        tokio::select! {
            signal = signals.recv() => if matches!(signal, Some(Signal::Stop) | None) {
                systemd::stopping();
                return Ok(ExitCode::SUCCESS);
            },
            values = poll.next(resolver, &references) => {
                if secret_files::are_equal(&values, &current) {
                    continue;
                }
                match files.write(&values) {
                    Ok(()) => {
                        current = values;
                        run(config).await;
                    }
                    Err(failure) => drop(failure.report()), // the next poll tries again
                }
            }
        }
    }
}

/// Runs the reload command, if there is one.
async fn run(config: &FilesConfig) {
    let Some(text) = &config.on_change else { return };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", text]).env(FOLDER_VARIABLE, &config.folder);
    let outcome: io::Result<_> = shell.status().await;
    match outcome {
        Ok(status) if status.success() => {}
        Ok(status) => print_error(&format!("keyringd: the command of on_change failed: {status}")),
        Err(error) => print_error(&format!("keyringd: cannot start the command of on_change: {error}")),
    }
}
