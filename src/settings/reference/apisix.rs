//! The grammar of APISIX's references: `$secret://vault/<id>/<path…>/<field>` and `$ENV://<name>[/<field>]`.
//!
//! Pure. No error quotes the text. APISIX decodes no escapes. The objects of the IDs are in `settings::engines`.

const SECRET: &str = "$secret://";
const VARIABLE: &str = "$env://";

/// The parts of a reference.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Apisix {
    /// A text field of a secret below the prefix of the object with this ID.
    Secret { id: String, path: Vec<String>, field: String },
    /// An environment variable by its exact name, or a text field of the JSON object in it.
    Variable { name: String, field: Option<String> },
}

/// Why a text is not a well-formed reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it must begin with $secret:// or $ENV://")]
    NoReference,
    #[error("the secret manager after $secret:// must be vault")]
    Manager,
    #[error("it has no ID after $secret://vault/")]
    NoId,
    #[error("it has no path after the ID")]
    NoPath,
    #[error("it has no field after the last /")]
    NoField,
    #[error("it has no variable after $ENV://")]
    NoVariable,
}

/// Whether a value begins like a reference. APISIX ignores the case of the prefixes.
pub(crate) fn is_reference(text: &str) -> bool {
    behind(text, SECRET).or_else(|| behind(text, VARIABLE)).is_some()
}

fn behind<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (begins, rest) = text.split_at_checked(prefix.len())?;
    begins.eq_ignore_ascii_case(prefix).then_some(rest)
}

impl Apisix {
    pub(crate) fn parse(text: &str) -> Result<Self, Malformed> {
        if let Some(rest) = behind(text, VARIABLE) {
            return variable(rest);
        }
        let rest = behind(text, SECRET).ok_or(Malformed::NoReference)?;
        let (manager, rest) = rest.split_once('/').unwrap_or((rest, ""));
        if manager != "vault" {
            return Err(Malformed::Manager);
        }
        let (id, rest) = rest.split_once('/').unwrap_or((rest, ""));
        if id.is_empty() {
            return Err(Malformed::NoId);
        }
        let (path, field) = rest.rsplit_once('/').ok_or(Malformed::NoPath)?;
        let path: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect();
        match (path.is_empty(), field.is_empty()) {
            (true, _) => Err(Malformed::NoPath),
            (false, true) => Err(Malformed::NoField),
            (false, false) => Ok(Self::Secret { id: id.to_owned(), path, field: field.to_owned() }),
        }
    }
}

fn variable(rest: &str) -> Result<Apisix, Malformed> {
    let (name, field) = rest.split_once('/').map_or((rest, None), |(name, field)| (name, Some(field)));
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(Malformed::NoVariable);
    }
    if field == Some("") {
        return Err(Malformed::NoField);
    }
    Ok(Apisix::Variable { name: name.to_owned(), field: field.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::reference::tests::cases;

    /// The parts in the form of the table of cases.
    fn shown(text: &str) -> Result<String, String> {
        match Apisix::parse(text) {
            Ok(Apisix::Secret { id, path, field }) => Ok(format!("secret {id} {} {field}", path.join(","))),
            Ok(Apisix::Variable { name, field }) => {
                Ok(format!("variable {name} {}", field.as_deref().unwrap_or("-")))
            }
            Err(malformed) => Err(format!("{malformed:?}")),
        }
    }

    #[test]
    fn each_case_of_the_table_is_parsed_or_rejected() {
        let cases = cases("apisix");
        assert!(cases.len() > 20);
        for (text, expected) in cases {
            assert_eq!(shown(&text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, inside in "[a-z/.$%é]{0,40}") {
            for text in [text, format!("$secret://{inside}"), format!("$ENV://{inside}")] {
                let _ = (Apisix::parse(&text), is_reference(&text));
            }
        }

        #[test]
        fn parts_are_parsed_unchanged(id in "[a-z0-9]{1,8}", path in "[a-z.]{1,8}(/[a-z.]{1,8}){0,3}", field in "[^/]{1,12}") {
            let text = format!("$secret://vault/{id}/{path}/{field}");
            let path = path.split('/').map(str::to_owned).collect();
            prop_assert_eq!(Apisix::parse(&text), Ok(Apisix::Secret { id, path, field }));
        }
    }
}
