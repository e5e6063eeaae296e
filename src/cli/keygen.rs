//! `keygen`: a record with a random key, as JSON on standard output. Nothing secret is in an argument.

use std::{process::ExitCode, time::SystemTime};

use clap::Args;

use super::command::{Failure, print, print_error};
use crate::{
    hardening,
    keyring::{
        KeyId,
        key::KeyError,
        new_record::{self, NewRecordError},
    },
};

#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// The ID of the key [default: today's date and four random digits]
    #[arg(long, value_name = "ID", value_parser = key_id)]
    id: Option<KeyId>,
}

/// `keyringd keygen`
pub(super) fn keygen(keygen: &Keygen) -> Result<ExitCode, Failure> {
    protect();
    let id = match &keygen.id {
        Some(id) => id.clone(),
        // No keyring is known here, so the date alone may be in use.
        None => dated_id(|id| id.as_str().len() == DATE_LEN).map_err(Failure::from_error)?,
    };
    let mut record = new_record::single(&id).map_err(Failure::from_error)?;
    record.expose_mut().push('\n');
    print(record.expose())?;
    Ok(ExitCode::SUCCESS)
}

/// The length of `2026-11-28`.
const DATE_LEN: usize = 10;

/// The parser of `--id`.
pub(super) fn key_id(text: &str) -> Result<KeyId, KeyError> {
    KeyId::parse(text)
}

/// The date of today in UTC; with random digits where `is_used` says that there is such an ID.
pub(super) fn dated_id(is_used: impl Fn(&KeyId) -> bool) -> Result<KeyId, NewRecordError> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let today: String = now.chars().take(DATE_LEN).collect();
    let mut id = valid(&today);
    while is_used(&id) {
        id = valid(&format!("{today}-{:04x}", getrandom::u32()? & 0xffff));
    }
    Ok(id)
}

fn valid(text: &str) -> KeyId {
    KeyId::parse(text).unwrap_or_else(|_| unreachable!("digits and dashes make a key id"))
}

/// Keeps the new key out of core dumps and from other processes of this user.
pub(super) fn protect() {
    if let Err(error) = hardening::disable_dumps() {
        print_error(&format!("keyringd: warning: a core dump of this process may contain the key: {error}"));
    }
}
