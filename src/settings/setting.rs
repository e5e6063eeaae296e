//! One row of the table of settings: names, default, help text, flags, and the parser of its values.
//!
//! The text that says what is accepted is derived from the parser, so help and checks cannot differ. The rows are in
//! `keys`, the parsers of single kinds in `value` and `pem`.

use std::time::Duration;

/// The start of every environment variable that sets a setting.
pub(crate) const VARIABLE_PREFIX: &str = "KONG_";

/// The facts about a setting that do not depend on the type of its values.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// Another name for the same setting.
    pub alias: Option<&'static str>,
    pub default: Option<&'static str>,
    /// One or two sentences of help.
    pub about: &'static str,
    pub content: Content,
    /// Kong reads this setting too, by its own rules.
    pub kongs: bool,
    /// An empty value is a mistake, and does not mean the default.
    pub rejects_empty: bool,
    /// A reload leaves it: another value takes effect at the next start.
    pub at_start: bool,
}

/// What a value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Public,
    Secret,
    /// PEM, base64 of PEM, or the path of a PEM file. Only the path is not secret.
    Pem,
}

impl Key {
    /// A public setting without a default, which only keyringd reads.
    pub(super) const fn new(name: &'static str, about: &'static str) -> Self {
        let (alias, default) = (None, None);
        let (kongs, rejects_empty, at_start) = (false, false, false);
        Self { name, alias, default, about, content: Content::Public, kongs, rejects_empty, at_start }
    }

    pub(crate) fn is_secret(&self) -> bool {
        self.content != Content::Public
    }

    /// The environment variable that sets this setting.
    pub(crate) fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_ascii_uppercase())
    }
}

/// A setting with values of type `T`. A secret is `()`: its text is checked and not kept.
#[derive(Debug)]
pub struct Setting<T: 'static> {
    pub key: Key,
    pub parser: Parser<T>,
}

impl<T: Clone> Setting<T> {
    /// The default as a value. For settings that have one; a unit test parses every default.
    pub(crate) fn default_value(&self) -> T {
        let value = self.key.default.and_then(|text| self.parser.parse(text));
        value.unwrap_or_else(|| unreachable!("{} has a default that its parser accepts", self.key.name))
    }
}

/// A setting of any type, for listings.
pub trait Row: Sync {
    fn key(&self) -> &Key;

    /// What is accepted, as a noun phrase.
    fn accepts(&self) -> String;

    fn is_valid(&self, text: &str) -> bool;
}

impl<T: Clone + Sync> Row for Setting<T> {
    fn key(&self) -> &Key {
        &self.key
    }

    fn accepts(&self) -> String {
        self.parser.accepts()
    }

    fn is_valid(&self, text: &str) -> bool {
        self.parser.parse(text).is_some()
    }
}

/// How a text becomes a value. Parsers are pure, and never quote the text, which may be a secret.
#[derive(Debug)]
pub enum Parser<T: 'static> {
    /// One of these words, exactly.
    Words(&'static [(&'static str, T)]),
    /// A whole number from `min` to `max`.
    Number {
        min: u64,
        max: u64,
        unit: Unit,
        convert: fn(u64) -> Option<T>,
    },
    Text {
        accepts: &'static str,
        convert: fn(&str) -> Option<T>,
    },
    /// PEM. The error says what was found instead.
    Pem {
        accepts: &'static str,
        convert: fn(&str) -> Result<T, String>,
    },
}

/// What a number counts.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    None,
    Seconds,
    /// As nginx writes sizes: `512`, `64k`, `32m`, `1g`.
    Bytes,
}

impl Parser<usize> {
    pub(super) const fn count(min: u64, max: u64) -> Self {
        Self::Number { min, max, unit: Unit::None, convert: |number| usize::try_from(number).ok() }
    }

    pub(super) const fn size(min: u64, max: u64) -> Self {
        Self::Number { min, max, unit: Unit::Bytes, convert: |number| usize::try_from(number).ok() }
    }
}

impl Parser<Duration> {
    pub(super) const fn seconds(min: u64, max: u64) -> Self {
        Self::Number { min, max, unit: Unit::Seconds, convert: |number| Some(Duration::from_secs(number)) }
    }
}

impl Parser<String> {
    pub(super) const fn text(accepts: &'static str) -> Self {
        Self::Text { accepts, convert: |text| Some(text.to_owned()) }
    }
}

impl<T: Clone> Parser<T> {
    pub(super) fn parse(&self, text: &str) -> Option<T> {
        match self {
            Self::Words(words) => {
                words.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone())
            }
            Self::Number { unit: Unit::Bytes, .. } => self.parse_number(bytes(text)?),
            Self::Number { .. } => self.parse_number(digits(text)?),
            Self::Text { convert, .. } => convert(text),
            Self::Pem { convert, .. } => convert(text).ok(),
        }
    }

    /// What a text that is not accepted holds instead, if that is known.
    pub(super) fn fault(&self, text: &str) -> Option<String> {
        match self {
            Self::Pem { convert, .. } => convert(text).err(),
            _ => None,
        }
    }

    /// The value of a number that came without a text, such as one in JSON.
    pub(super) fn parse_number(&self, number: u64) -> Option<T> {
        match self {
            Self::Number { min, max, convert, .. } if (*min..=*max).contains(&number) => convert(number),
            _ => None,
        }
    }

    pub(super) fn accepts(&self) -> String {
        match self {
            Self::Words(words) => alternatives(&words.iter().map(|(word, _)| *word).collect::<Vec<_>>()),
            Self::Number { min, max, unit, .. } => match unit {
                Unit::None => format!("a whole number from {min} to {max}"),
                Unit::Seconds => format!("whole seconds from {min} to {max}"),
                Unit::Bytes => {
                    format!("a size from {} to {}, such as 512k or 32m", nginx_size(*min), nginx_size(*max))
                }
            },
            Self::Text { accepts, .. } | Self::Pem { accepts, .. } => (*accepts).to_owned(),
        }
    }
}

/// `a`, `a or b`, `a, b, or c`.
fn alternatives(words: &[&str]) -> String {
    match words {
        [before @ .., last] if before.len() > 1 => format!("{}, or {last}", before.join(", ")),
        few => few.join(" or "),
    }
}

const SIZE_SUFFIXES: [(char, u32); 3] = [('g', 30), ('m', 20), ('k', 10)];

fn bytes(text: &str) -> Option<u64> {
    let with_suffix = SIZE_SUFFIXES.iter().find_map(|(suffix, shift)| {
        let number = text.strip_suffix([*suffix, suffix.to_ascii_uppercase()])?;
        Some((number, 1 << shift))
    });
    match with_suffix {
        Some((number, unit)) => digits::<u64>(number)?.checked_mul(unit),
        None => digits(text),
    }
}

fn nginx_size(bytes: u64) -> String {
    let whole = SIZE_SUFFIXES.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    whole.map_or_else(|| bytes.to_string(), |(suffix, shift)| format!("{}{suffix}", bytes >> shift))
}

/// A number of digits alone, without a sign.
pub(super) fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes_and_name_their_range() {
        let parser = Parser::size(1 << 10, 1 << 30);
        for (text, bytes) in [("1k", 1024), ("32m", 32 << 20), ("2048", 2048), ("1G", 1 << 30)] {
            assert_eq!(parser.parse(text), Some(bytes), "{text}");
        }
        for bad in ["", "m", "1023", "2g", "1.5m", "-1m", "+1m", "1mm", "99999999999999g", "é"] {
            assert_eq!(parser.parse(bad), None, "{bad}");
        }
        assert_eq!(parser.accepts(), "a size from 1k to 1g, such as 512k or 32m");
    }

    #[test]
    fn numbers_are_decimal_digits_within_the_range() {
        let parser = Parser::count(1, 10);
        assert_eq!((parser.parse("5"), parser.parse_number(10)), (Some(5), Some(10)));
        for bad in ["", "0", "11", "+5", "5.0", "1e1", "five", "99999999999999999999"] {
            assert_eq!(parser.parse(bad), None, "{bad}");
        }
        assert_eq!(parser.accepts(), "a whole number from 1 to 10");
    }

    #[test]
    fn words_are_listed_with_commas_from_three_on() {
        let lists = [["v1"].as_slice(), &["v1", "v2"], &["off", "failures", "all"]].map(alternatives);
        assert_eq!(lists, ["v1", "v1 or v2", "off, failures, or all"]);
    }
}
