//! The options of a keyring that its secret carries as custom metadata of KV v2, so that all hosts of a fleet agree.
//!
//! What is absent, unknown or invalid leaves the daemon's settings in force; the latter two are warnings.

use std::collections::BTreeMap;

use super::{
    format::{Format, KongFields},
    key::{KeyDerivation, KeyId},
};

/// What the names of all options begin with.
pub(crate) const PREFIX: &str = "keyringd_";

/// How many characters of an invalid value a warning quotes.
const MAX_QUOTED: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `keyringd_derivation`
    pub derivation: Option<KeyDerivation>,
    /// `keyringd_format`: what encrypt writes.
    pub format: Option<Format>,
    /// `keyringd_index_key`: the record whose key makes blind indexes.
    pub index_key: Option<KeyId>,
}

impl Options {
    /// Reads the metadata, and returns a warning for each entry that has no effect.
    pub fn parse(metadata: &BTreeMap<String, String>, kong_fields: KongFields) -> (Self, Vec<String>) {
        let (mut options, mut warnings) = (Self::default(), Vec::new());
        for (name, value) in metadata {
            let Some(option) = name.strip_prefix(PREFIX) else { continue };
            if let Err(accepted) = options.set(option, value, kong_fields) {
                let quoted: String = value.chars().take(MAX_QUOTED).collect();
                warnings.push(match accepted {
                    Some(accepted) => format!(
                        "custom_metadata {name:?} of the secret is {quoted:?} and has no effect: accepts {accepted}"
                    ),
                    None => format!(
                        "custom_metadata {name:?} of the secret is unknown and has no effect: there are \
                         keyringd_derivation, keyringd_format and keyringd_index_key"
                    ),
                });
            }
        }
        (options, warnings)
    }

    /// The error is what the option accepts; `None` for an unknown one.
    fn set(
        &mut self,
        option: &str,
        value: &str,
        kong_fields: KongFields,
    ) -> Result<(), Option<&'static str>> {
        match option {
            "derivation" => {
                self.derivation = Some(match value {
                    "sha256" => KeyDerivation::Sha256,
                    "raw" => KeyDerivation::Raw,
                    _ => return Err(Some("sha256 or raw")),
                });
            }
            "format" => {
                self.format = Some(match value {
                    "native" => Format::Native,
                    "transit" if kong_fields == KongFields::Accept => {
                        return Err(Some(
                            "native with keyring_kong_fields = on: transit uses the same key and cipher",
                        ));
                    }
                    "transit" => Format::Transit,
                    _ => return Err(Some("native or transit")),
                });
            }
            "index_key" => {
                self.index_key = Some(KeyId::parse(value).map_err(|_| Some("the id of a record"))?);
            }
            _ => return Err(None),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &[(&str, &str)], kong_fields: KongFields) -> (Options, Vec<String>) {
        let entries = entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Options::parse(&entries.collect(), kong_fields)
    }

    #[test]
    fn valid_options_are_read_and_other_metadata_is_ignored() {
        let metadata = [
            ("keyringd_derivation", "raw"),
            ("keyringd_format", "transit"),
            ("keyringd_index_key", "k1"),
            ("owner", "x"),
        ];
        let (options, warnings) = parse(&metadata, KongFields::Refuse);
        assert_eq!((options.derivation, options.format), (Some(KeyDerivation::Raw), Some(Format::Transit)));
        assert_eq!((options.index_key.unwrap().as_str(), warnings.len()), ("k1", 0));
    }

    #[test]
    fn unknown_and_invalid_options_are_warnings_and_the_settings_hold() {
        let metadata = [
            ("keyringd_derivation", "RAW"),
            ("keyringd_format", "kong"),
            ("keyringd_index_key", "a b"),
            ("keyringd_x", "1"),
        ];
        let (options, warnings) = parse(&metadata, KongFields::Refuse);
        assert_eq!(options, Options::default());
        for (warning, part) in
            warnings.iter().zip(["sha256 or raw", "native or transit", "the id", "is unknown"])
        {
            assert!(warning.contains(part), "{part} in {warning}");
        }
        assert_eq!(warnings.len(), 4);
        let (options, warnings) = parse(&[("keyringd_format", "transit")], KongFields::Accept);
        assert!(options.format.is_none() && warnings[0].contains("keyring_kong_fields"), "{warnings:?}");
    }
}
