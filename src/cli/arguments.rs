//! Arguments that several commands share: the settings file, and the daemon to talk to.

use std::path::PathBuf;

use clap::Args;

use super::process::{Failure, print_notes};
use crate::{
    client::Client,
    settings::{self, Loaded, Settings, source},
};

#[derive(Debug, Args)]
pub struct SettingsFile {
    /// The kong.conf to read
    #[arg(short, long = "conf", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Daemon {
    #[command(flatten)]
    file: SettingsFile,
    /// The daemon's socket [default: keyring_socket_path]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl SettingsFile {
    pub fn load(&self) -> Loaded {
        settings::load(&source::of_this_process(self.config.as_deref()))
    }
}

/// Prints the warnings and returns the settings.
pub fn valid_settings(loaded: Loaded) -> Result<Settings, Failure> {
    print_notes("warning", &loaded.warnings);
    loaded.settings.map_err(Failure::Configuration)
}

impl Daemon {
    pub fn client(&self) -> Result<Client, Failure> {
        if let Some(path) = &self.socket {
            return Ok(Client::new(path));
        }
        let sources = source::of_this_process(self.file.config.as_deref());
        settings::socket_path(&sources).map(|path| Client::new(&path)).map_err(Failure::Configuration)
    }
}
