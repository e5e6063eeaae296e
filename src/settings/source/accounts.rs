//! The users, groups and ID maps of this machine.

use std::fs;

use nix::unistd::{Group, User};

use crate::settings::access::{Accounts, IdMap, IdMaps};

/// The user and group databases, and `/proc`.
pub(crate) struct SystemAccounts;

impl Accounts for SystemAccounts {
    fn user(&self, name: &str) -> Result<Option<u32>, String> {
        let user = User::from_name(name).map_err(|error| error.desc().to_owned())?;
        Ok(user.map(|user| user.uid.as_raw()))
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        let group = Group::from_name(name).map_err(|error| error.desc().to_owned())?;
        Ok(group.map(|group| group.gid.as_raw()))
    }

    fn id_maps(&self) -> IdMaps {
        let map = |kind: &str| {
            let overflow = fs::read_to_string(format!("/proc/sys/kernel/overflow{kind}"));
            IdMap {
                lines: fs::read_to_string(format!("/proc/self/{kind}_map")).ok(),
                overflow: overflow.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65534),
            }
        };
        IdMaps { users: map("uid"), groups: map("gid") }
    }
}
