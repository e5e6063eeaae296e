//! `rotate`: a new key becomes a new version of the secret in Vault, by check-and-set, and the daemon loads it.
//!
//! The key is made here and goes to Vault only: it is in no argument, no file and no log. The token is the operator's, since
//! the daemon's may not write. `plan` decides what to write, and what would be lost by it.
//! The file is longer than most: one way from the token to the daemon's sync, and each end of it.

mod plan;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    command::{Failure, OneKeyring, print, print_error, print_notes, wait, with_hint},
    keygen::{key_id, protect},
    status,
};
use crate::{
    client::{Client, ClientError},
    keyring::KeyId,
    metrics::Metrics,
    settings::{
        self, KeyringPath, KvSecret, OperatorLogin, OperatorSettings, SecretPath,
        credential::{Credential, PathOrigin},
        source::environment::{operator_token, token_helper_file},
    },
    sync::Rules,
    vault::{self, Kv, SessionName, Sessions, kv::Purpose},
};
use plan::Plan;

/// How often the daemon is asked to sync until it has the new key: a standby of Vault may be behind.
const SYNC_ATTEMPTS: u32 = 10;
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    keyring: OneKeyring,
    /// The ID of the new key [default: today's date]
    #[arg(long, value_name = "ID", value_parser = key_id)]
    id: Option<KeyId>,
    /// A file with a token that may write the secret [default: BAO_TOKEN, VAULT_TOKEN or ~/.vault-token]
    #[arg(long, value_name = "FILE", conflicts_with = "login")]
    token_file: Option<PathBuf>,
    /// Log in by the auth method of the settings, with a role that may write the secret
    #[arg(long)]
    login: bool,
    /// Write to Vault without asking the daemon to sync
    #[arg(long)]
    no_wait: bool,
    /// Rotate even if a key is lost by it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Args)]
struct Format {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was written to Vault.
struct Written {
    id: KeyId,
    place: String,
    /// `None` on KV version 1.
    version: Option<u64>,
}

/// `keyringd rotate`
pub(super) fn rotate(rotate: &Rotate) -> Result<ExitCode, Failure> {
    protect();
    let OperatorSettings { server, keyring } = rotate.settings()?;
    let target = Target::find(&keyring, rotate.keyring.name.as_deref())?;
    let daemon = if rotate.no_wait { None } else { Some(target.client(&rotate.keyring)?) };
    wait(async {
        if let Some(daemon) = &daemon {
            check_daemon(daemon, &target).await?;
        }
        let sessions = Sessions::new(Arc::new(Metrics::default()), CancellationToken::new());
        let written = async {
            let client = sessions.client(SessionName::Keyring, server).map_err(Failure::from_error)?;
            write(&client, &target, rotate).await
        };
        let written = written.await;
        sessions.end().await; // revokes the token of a login
        let written = written?;
        // A closed output must not keep the daemon from the new key.
        let printed = if rotate.format.json { Ok(()) } else { print(written.text()) };
        let loaded = match &daemon {
            Some(daemon) => load(daemon, &written.id).await,
            None => Ok(None),
        };
        let status = loaded.as_ref().ok().and_then(Option::as_ref);
        match status {
            _ if rotate.format.json => print(status::json(&written.json(status)))?,
            Some(status) => print(status::outcome(status))?,
            None => {}
        }
        printed?;
        loaded.map(|_| ExitCode::SUCCESS)
    })?
}

impl Written {
    fn text(&self) -> String {
        let version = self.version.map_or_else(String::new, |version| format!(" as version {version}"));
        format!("wrote key {} to {}{version}\n", self.id.as_str(), self.place)
    }

    /// With what the daemon has then, as far as this user may know.
    fn json(&self, status: Option<&Value>) -> Value {
        json!({
            "id": self.id.as_str(),
            "secret": self.place,
            "version": self.version,
            "daemon": status.map(status::outcome_json),
        })
    }
}

impl Rotate {
    fn settings(&self) -> Result<OperatorSettings, Failure> {
        let (loaded, warnings) =
            settings::load_operator(&self.keyring.daemon.sources(), self.operator_login()?);
        print_notes("warning", &warnings);
        loaded.map_err(Failure::Configuration)
    }

    fn operator_login(&self) -> Result<OperatorLogin, Failure> {
        if self.login {
            return Ok(OperatorLogin::AsSet);
        }
        let file = |path: &Path, name| {
            let token = Credential::file(path, PathOrigin::Setting);
            if token.is_world_readable() {
                print_error(&format!(
                    "keyringd: warning: {}: every user of this machine can read the token: chmod 600",
                    path.display()
                ));
            }
            OperatorLogin::Token(token, name)
        };
        if let Some(path) = &self.token_file {
            return Ok(file(path, "--token-file"));
        }
        if let Some((token, variable)) = operator_token() {
            return Ok(OperatorLogin::Token(Credential::Inline(token), variable));
        }
        token_helper_file().map(|path| file(&path, "~/.vault-token, by `bao login`")).ok_or_else(|| {
            Failure::from_error(
                "no token that may write the secret: set VAULT_TOKEN, run `bao login`, or use --token-file or --login; \
                 `keyringd policy --rotate` prints the policy that it needs",
            )
        })
    }
}

/// The keyring to rotate.
struct Target<'a> {
    /// `None` is the default one.
    name: Option<&'a str>,
    secret: KvSecret,
    rules: Rules,
}

impl<'a> Target<'a> {
    /// A client for this keyring: a daemon may call the default one otherwise.
    fn client(&self, keyring: &OneKeyring) -> Result<Client, Failure> {
        Ok(keyring.daemon.client()?.with_keyring(self.name.map(str::to_owned)))
    }

    fn find(keyring: &settings::Keyring, name: Option<&'a str>) -> Result<Self, Failure> {
        let rules = Rules::from_settings(keyring);
        let Some(name) = name.filter(|name| *name != keyring.name) else {
            return Ok(Self { name: None, secret: keyring.secret.clone(), rules });
        };
        let secret = |item: &KeyringPath| match item {
            KeyringPath::Secret { name: other, path } if other == name => Some(path.clone()),
            KeyringPath::Secret { .. } => None,
            KeyringPath::Folder(folder) => {
                Some(SecretPath(folder.segments().chain([name]).map(str::to_owned).collect()))
            }
        };
        // A secret that the settings name comes before any of a folder.
        let (named, folders): (Vec<_>, Vec<_>) =
            keyring.further.iter().partition(|item| matches!(item, KeyringPath::Secret { .. }));
        let mut paths = named.into_iter().filter_map(secret);
        let mut in_folders = folders.into_iter().filter_map(secret);
        match (paths.next(), in_folders.next(), in_folders.next()) {
            (Some(path), ..) | (None, Some(path), None) => {
                Ok(Self { name: Some(name), secret: keyring.secret.at(path), rules })
            }
            (None, Some(_), Some(_)) => Err(Failure::Operation(format!(
                "several folders of keyring_vault_paths could hold {name}: write name=path for it there"
            ))),
            (None, None, _) => Err(Failure::Operation(format!(
                "the settings have no keyring {name}: the default one is {}, and keyring_vault_paths has further ones",
                keyring.name
            ))),
        }
    }
}

/// Writes the new record.
async fn write(client: &vault::Client, target: &Target<'_>, rotate: &Rotate) -> Result<Written, Failure> {
    let secret = &target.secret;
    let kv = Kv::new(client, secret, Purpose::Keyring);
    let Plan { id, fields, expected, losses, warnings } =
        plan::plan(&kv, target.rules, rotate.id.as_ref()).await?;
    for warning in warnings {
        print_error(&format!("keyringd: warning: {warning}"));
    }
    if let Some(losses) = losses {
        if !rotate.force {
            return Err(Failure::Operation(format!("{losses}; --force rotates anyway")));
        }
        print_error(&format!("keyringd: warning: {losses}"));
    }
    let version = kv.write(&fields, expected).await.map_err(Failure::from_error)?;
    Ok(Written { id, place: format!("{}/{}", secret.mount, secret.path), version })
}

/// Before anything is written: that there is a daemon, and that it reads this secret, as far as this user may know.
async fn check_daemon(daemon: &Client, Target { name, secret, .. }: &Target<'_>) -> Result<(), Failure> {
    let status = match daemon.status().await {
        Ok(status) => status,
        Err(ClientError::Refused(_)) => return Ok(()), // no permission for the status
        Err(ClientError::NotFound(message)) => {
            return Err(Failure::Operation(format!(
                "nothing was written: {message}; --no-wait writes the first record of a new keyring in a folder"
            )));
        }
        Err(error) => {
            let message = format!("{}; --no-wait rotates without a daemon", with_hint(&error));
            return Err(Failure::Operation(message));
        }
    };
    let text = |pointer| status.pointer(pointer).and_then(Value::as_str);
    let (mount, path) = (text("/source/mount"), text("/source/path"));
    let wanted = (secret.mount.to_string(), secret.path.to_string());
    // The status has the path of the default keyring. It knows any other by its name.
    if mount == Some(&wanted.0) && (name.is_some() || path == Some(&wanted.1)) {
        return Ok(());
    }
    let reads =
        mount.zip(path).map_or_else(|| "no Vault".to_owned(), |(mount, path)| format!("{mount}/{path}"));
    Err(Failure::Operation(format!(
        "nothing was written: the settings name {}/{}, and the daemon on this socket reads {reads}; correct --socket or \
         -c, or use --no-wait",
        wanted.0, wanted.1
    )))
}

/// Makes the daemon sync until the new key is active. Returns its status then, if this user may read it.
async fn load(daemon: &Client, id: &KeyId) -> Result<Option<Value>, Failure> {
    let mut problem = String::new();
    for attempt in 0..SYNC_ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(SYNC_INTERVAL).await;
        }
        if let Err(error) = daemon.sync().await {
            problem = error.to_string();
            continue;
        }
        let Ok(status) = daemon.status().await else {
            return Ok(None);
        };
        let outcome = status::outcome(&status);
        if status.pointer("/keyring/active").and_then(Value::as_str) == Some(id.as_str()) {
            return Ok(Some(status));
        }
        problem = format!("its active key is another one; {}", outcome.trim().replace('\n', "; "));
    }
    Err(Failure::Operation(format!("the record was written, but the daemon does not use it: {problem}")))
}
