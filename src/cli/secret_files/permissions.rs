//! The permissions of secret files: their mode and their owner.

use clap::Args;

use super::super::command::Failure;
use crate::settings::{access::Accounts as _, source::SystemAccounts};

#[derive(Debug, Args)]
pub(in crate::cli) struct FilePermissions {
    /// The mode of the files, in octal
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = parse_mode)]
    file_mode: u32,
    /// The owner of the files, by name or number: USER or USER:GROUP
    #[arg(long, value_name = "OWNER")]
    file_owner: Option<String>,
}

impl FilePermissions {
    pub(in crate::cli) fn from_texts(mode: Option<&str>, owner: Option<&str>) -> Result<Self, String> {
        Ok(Self { file_mode: mode.map_or(Ok(0o600), parse_mode)?, file_owner: owner.map(str::to_owned) })
    }

    pub(in crate::cli) fn ownership(&self) -> Result<Ownership, Failure> {
        Ok(Ownership { mode: self.file_mode, owner: self.file_owner.as_deref().map(owner).transpose()? })
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o400 != 0);
    mode.ok_or_else(|| format!("expected an octal mode such as 0640, with the owner's right to read: {text}"))
}

fn owner(text: &str) -> Result<(u32, Option<u32>), Failure> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let id = |kind, name: &str, found: Result<Option<u32>, String>| {
        let found = name.parse().map(Some).or(found);
        found
            .ok()
            .flatten()
            .ok_or_else(|| Failure::Operation(format!("the owner of the files: no such {kind}: {name}")))
    };
    let user = id("user", user, SystemAccounts.user(user))?;
    let group = group.map(|group| id("group", group, SystemAccounts.group(group))).transpose()?;
    Ok((user, group))
}

/// Permissions of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Ownership {
    pub(in crate::cli) mode: u32,
    /// User and group; `None` for those of this process.
    pub(in crate::cli) owner: Option<(u32, Option<u32>)>,
}
