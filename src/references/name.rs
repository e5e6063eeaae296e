//! What a reference names, whichever notation it is in: an engine, a secret below it, a field, and how long to keep it.
//!
//! The grammars are in `settings::reference`. What names a variable is told from the rest by `settings::resolve`.

use super::ResolveError;
use crate::settings::reference::{
    Caching, Reference,
    apisix::{self, Apisix},
};

/// A secret, and what is wanted of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Name {
    pub engine: EngineName,
    pub path: Vec<String>,
    /// The whole secret unless there is one.
    pub field: Option<String>,
    pub version: Option<u64>,
    pub caching: Caching,
}

#[derive(Debug, PartialEq, Eq)]
pub enum EngineName {
    /// A backend of Kong's, or a prefix that stands for one.
    Kong(String),
    /// An object of APISIX's.
    Object(String),
}

impl Name {
    pub fn parse(text: &str) -> Result<Self, ResolveError> {
        let name = if apisix::is_reference(text) { Self::of_apisix(text) } else { Self::of_kong(text) }?;
        // Servers and libraries would take the first two for steps on the path.
        let bad = |segment: &String| {
            matches!(segment.as_str(), "." | "..") || segment.chars().any(char::is_control)
        };
        if name.path.iter().any(bad) { Err(ResolveError::BadPath) } else { Ok(name) }
    }

    fn of_kong(text: &str) -> Result<Self, ResolveError> {
        let Reference { backend, path, key, caching, version } = Reference::parse(text)?;
        Ok(Self { engine: EngineName::Kong(backend), path, field: key, version, caching })
    }

    fn of_apisix(text: &str) -> Result<Self, ResolveError> {
        match Apisix::parse(text)? {
            Apisix::Secret { id, path, field } => Ok(Self {
                engine: EngineName::Object(id),
                path,
                field: Some(field),
                version: None,
                caching: Caching::default(),
            }),
            Apisix::Variable { .. } => Err(apisix::Malformed::NoReference.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_name_the_same() {
        let kong = Name::parse("{vault://hcv/ssl/test.com.crt}").unwrap();
        let apisix = Name::parse("$secret://vault/hcv/ssl/test.com.crt").unwrap();
        assert_eq!((kong.path, kong.field), (apisix.path, apisix.field));
    }

    #[test]
    fn a_path_leads_nowhere_else() {
        for text in [
            "{vault://hcv/a/../b/c}",
            "{vault://hcv/%2e%2e/b}",
            "{vault://hcv/./b}",
            "{vault://hcv/a%0ab/c}",
            "$secret://vault/1/../b",
            "$secret://vault/1/a\nb/c",
        ] {
            assert!(matches!(Name::parse(text), Err(ResolveError::BadPath)), "{text}");
        }
        // A field is looked for, and sent nowhere.
        assert!(Name::parse("{vault://hcv/a/..}").is_ok());
        assert_eq!(Name::parse("{vault://hcv/a%2Fb/c}").unwrap().path, ["a/b"]);
    }
}
