//! Which settings a reload changed, as lines for the operator who asked for it. Secrets are not shown.

use std::slice;

use crate::settings::Effective;

/// A line for each setting whose value or origin differs.
pub(super) fn between(before: &[Effective], after: &[Effective]) -> Vec<String> {
    let changed = |after: &Effective| {
        let before = before.iter().find(|before| before.key.name == after.key.name)?;
        let is_hidden = before.secret || after.secret;
        if before.value == after.value && (!is_hidden || before.origin == after.origin) {
            return None;
        }
        let shown = |one: &Effective| one.value.clone().unwrap_or_else(|| "unset".to_owned());
        let change = if is_hidden {
            format!("now from {}", after.origin)
        } else {
            format!("{} -> {} ({})", shown(before), shown(after), after.origin)
        };
        let when = if after.key.at_start { ", at the next start" } else { "" };
        Some(format!("{}: {change}{when}", after.key.name))
    };
    after.iter().filter_map(changed).collect()
}

/// The values that are in use from now on, and the settings whose new values need a restart.
pub(super) fn merge(before: Vec<Effective>, after: Vec<Effective>) -> (Vec<Effective>, Vec<&'static str>) {
    let waiting = after
        .iter()
        .filter(|after| after.key.at_start && !between(&before, slice::from_ref(*after)).is_empty());
    let waiting = waiting.map(|after| after.key.name).collect();
    let at_start = before.into_iter().filter(|one| one.key.at_start);
    let applied = after.into_iter().filter(|one| !one.key.at_start);
    (applied.chain(at_start).collect(), waiting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{
        keys::{self, KEYRING_LOGIN},
        setting::Key,
        source::Origin,
    };

    fn one(key: &'static Key, value: Option<&str>, line: usize) -> Effective {
        let origin = Origin::File { path: "kong.conf".into(), line };
        Effective { key, value: value.map(str::to_owned), secret: value.is_none(), origin }
    }

    #[test]
    fn a_line_per_change_and_no_secret() {
        let before = [
            one(&keys::LOG_LEVEL.key, Some("notice"), 1),
            one(&keys::SOCKET_MODE.key, Some("0660"), 2),
            one(&keys::AUDIT.key, Some("all"), 3),
            one(&KEYRING_LOGIN.token.key, None, 4),
        ];
        let after = [
            one(&keys::LOG_LEVEL.key, Some("debug"), 1),
            one(&keys::SOCKET_MODE.key, Some("0600"), 2),
            one(&keys::AUDIT.key, Some("all"), 5),
            one(&KEYRING_LOGIN.token.key, None, 6),
        ];
        assert_eq!(
            between(&before, &after),
            [
                "log_level: notice -> debug (kong.conf:1)",
                "keyring_socket_mode: 0660 -> 0600 (kong.conf:2), at the next start",
                "keyring_vault_token: now from kong.conf:6",
            ]
        );
    }

    #[test]
    fn what_needs_a_restart_is_pending_until_then() {
        let started =
            vec![one(&keys::LOG_LEVEL.key, Some("notice"), 1), one(&keys::SOCKET_MODE.key, Some("0660"), 2)];
        let reload = || {
            vec![one(&keys::LOG_LEVEL.key, Some("debug"), 1), one(&keys::SOCKET_MODE.key, Some("0600"), 2)]
        };
        let (in_use, waiting) = merge(started, reload());
        assert_eq!(waiting, ["keyring_socket_mode"]);
        let mode = "keyring_socket_mode: 0660 -> 0600 (kong.conf:2), at the next start";
        assert_eq!(between(&in_use, &reload()), [mode]);
    }
}
