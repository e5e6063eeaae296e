//! The keyrings beside the default one, and what the settings say of keyrings by name.

use std::collections::HashSet;

use super::{KeyringPath, SecretPath, keys, reader::Reader};

/// `keyring_vault_paths`, checked against the default keyring and among themselves.
pub(super) fn further(
    reader: &mut Reader,
    default_name: Option<&str>,
    default_path: Option<&SecretPath>,
) -> Vec<KeyringPath> {
    let further = reader.optional(&keys::VAULT_PATHS).unwrap_or_default();
    let mut names: HashSet<_> = default_name.into_iter().collect();
    let mut paths: HashSet<_> = default_path.into_iter().collect();
    for item in &further {
        let (KeyringPath::Secret { path, .. } | KeyringPath::Folder(path)) = item;
        if !paths.insert(path) {
            let path = quoted(reader, &path.to_string());
            let message =
                format!("lists a path{path} twice, or that of the default keyring: a secret is one keyring");
            reader.mistake(&keys::VAULT_PATHS.key, message);
        }
        if let KeyringPath::Secret { name, .. } = item
            && !names.insert(name)
        {
            let name = quoted(reader, name);
            let message = format!(
                "gives a name{name} to two keyrings, or that of the default one: write name=path for one of them"
            );
            reader.mistake(&keys::VAULT_PATHS.key, message);
        }
    }
    further
}

/// `keyring_kms_name`. Which names a folder gives is known later.
pub(super) fn kms_name(
    reader: &mut Reader,
    default_name: Option<&str>,
    further: &[KeyringPath],
) -> Option<String> {
    let name = reader.optional(&keys::KMS_NAME)?;
    if default_name.is_some_and(|default| !may_exist(&name, default, further)) {
        let message = "names no keyring: it must be keyring_name, or a name of keyring_vault_paths";
        reader.mistake(&keys::KMS_NAME.key, message);
    }
    Some(name)
}

/// Whether a keyring has this name, or a folder may give it.
pub(super) fn may_exist(name: &str, default: &str, further: &[KeyringPath]) -> bool {
    let gives = |item: &KeyringPath| match item {
        KeyringPath::Secret { name: other, .. } => other == name,
        KeyringPath::Folder(_) => true,
    };
    name == default || further.iter().any(gives)
}

fn quoted(reader: &Reader, text: &str) -> String {
    reader.quoted(&keys::VAULT_PATHS.key, text).map_or_else(String::new, |text| format!(" {text}"))
}
