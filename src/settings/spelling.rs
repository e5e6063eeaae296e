//! How keys and values are spelled: names that are nearly a setting's, and values that Kong reads differently.
//!
//! Every message names what Kong makes of the line. Values are quoted only where they are not secret.

use super::{
    conf::{KeyForm, Spelling},
    keys,
    setting::Key,
    value,
};

/// The longest distance of a misspelled name from the right one.
const MAX_DISTANCE: usize = 2;

/// The one of `names` with the least distance, and that distance.
fn closest(name: &str, names: impl Iterator<Item = &'static str>) -> Option<(&'static str, usize)> {
    let distances = names.map(|known| (known, strsim::damerau_levenshtein(known, name)));
    distances.min_by_key(|(_, distance)| *distance)
}

fn names() -> impl Iterator<Item = &'static str> {
    keys::all().flat_map(|row| [Some(row.key().name), row.key().alias]).flatten()
}

pub(super) fn nearest(name: &str) -> &'static str {
    closest(name, names()).map_or("", |(known, _)| known)
}

/// The backend in the name of a setting such as `vault_hcv_token`.
fn backend(name: &str) -> Option<&str> {
    name.strip_prefix("vault_")?.split('_').next()
}

/// The setting that an unknown name probably means, if it is nearly the same or differs in case and punctuation.
///
/// A setting of another backend is no misspelling: `vault_env_ttl` does not mean `vault_hcv_ttl`.
pub(super) fn nearly(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let bare = lower.trim_matches('_');
    let bare = ["export_kong_", "export_", "kong_"]
        .iter()
        .find_map(|start| bare.strip_prefix(start))
        .unwrap_or(bare);
    let of_backend = |known: &&str| backend(bare).is_none_or(|of| backend(known) == Some(of));
    let is_near = |(known, distance): &(&str, usize)| *distance <= MAX_DISTANCE.min(known.len() / 8);
    let near = closest(bare, names().filter(of_backend)).filter(is_near);
    // A line of YAML: the rest of the key is the value.
    let is_start =
        || names().find(|known| bare.strip_prefix(known).is_some_and(|rest| rest.starts_with("__")));
    near.map(|(known, _)| known).or_else(is_start)
}

/// What Kong makes of a key that is not plain ASCII.
pub(super) fn key_fault(spelling: &Spelling) -> String {
    match spelling.key {
        KeyForm::Plain | KeyForm::Other => String::new(),
        KeyForm::NotAscii(Some(c)) => format!("has U+{:04X}, which Kong reads as _ per byte; ", u32::from(c)),
        KeyForm::NotAscii(None) => "has bytes that are not UTF-8, which Kong reads as _; ".to_owned(),
    }
}

/// Warnings about a line of a kong.conf whose value Kong reads otherwise, or that probably means something else.
pub(super) fn warnings(key: &Key, spelling: &Spelling, text: &str) -> impl Iterator<Item = String> + use<> {
    let number = spelling.number_in_kong.as_ref().map(|number| {
        if key.is_secret() {
            "Kong reads this as a number, not as written".to_owned()
        } else {
            format!("Kong reads {} instead, because this looks like a number", number.expose())
        }
    });
    let blank = spelling.outer_blank.map(|c| {
        let code = u32::from(c);
        format!("begins or ends with U+{code:04X}, which is part of the value: only ASCII blanks are trimmed")
    });
    [
        value::quotes_warning(text).filter(|_| key.kongs).map(str::to_owned),
        number.filter(|_| key.kongs),
        blank,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_right_names_lead_to_the_setting() {
        for (name, expected) in [
            ("kering_vault_path", "keyring_vault_path"),
            ("vault_hcv_tokn", "vault_hcv_token"),
            ("log_levle", "log_level"),
            ("lua_ssl_trusted_certificates", "lua_ssl_trusted_certificate"),
            ("KEYRING_VAULT_KV", "keyring_vault_kv"),
            ("KONG_KEYRING_VAULT_KV", "keyring_vault_kv"),
            ("KONG_VAULT_HCV_TOKEN", "vault_hcv_token"),
            ("__keyring_name", "keyring_name"),
            ("export_KONG_KEYRING_NAME", "keyring_name"),
            ("vault_hcv_token__hvs_secret__", "vault_hcv_token"),
        ] {
            assert_eq!(nearly(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn other_settings_of_kong_are_not_taken_for_ours() {
        for other in [
            "x",
            "proxy_listen",
            "proxy_error_log",
            "pg_password",
            "database",
            "nginx_http_log_level",
            "my_log",
        ] {
            assert_eq!(nearly(other), None, "{other}");
        }
        for known in names() {
            if let Some((of, setting)) = backend(known).zip(known.splitn(3, '_').last()) {
                // Two letters away, as the name of another backend may be.
                let other = format!("vault_{}xx_{setting}", &of[..1]);
                assert_eq!(nearly(&other), None, "{other}");
            }
        }
    }
}
