//! The fields of a Transit request, deserialised one by one.
//!
//! Texts are borrowed from the body. A set field that is not supported is refused by name, a batch at the first item over the
//! limit, and ignored values are skipped without memory or deep recursion. `request` checks the fields together. The file is
//! longer than others: serde takes a visitor per kind of value.

use std::{fmt, ops::Deref};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// A text of the body: borrowed, or unescaped into a copy.
pub(super) enum Text<'a> {
    Borrowed(&'a str),
    Unescaped(String),
}

/// One item of a request.
#[derive(Default)]
pub(super) struct Item<'a> {
    pub(super) plaintext: Option<Text<'a>>,
    pub(super) ciphertext: Option<Text<'a>>,
    pub(super) associated_data: Option<Text<'a>>,
    pub(super) reference: Option<Text<'a>>,
}

/// The fields of a request, or of one item of its batch.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) item: Item<'a>,
    pub(super) batch: Option<Vec<Item<'a>>>,
    pub(super) partial_failure_status: Option<u16>,
    pub(super) format: Option<Text<'a>>,
    pub(super) bits: Option<u16>,
}

impl Item<'_> {
    /// Empty texts count as absent, except for the plaintext.
    pub(super) fn normalised(mut self) -> Self {
        self.ciphertext = self.ciphertext.filter(|text| !text.is_empty());
        self.associated_data = self.associated_data.filter(|text| !text.is_empty());
        self
    }

    /// `None` if it is not base64.
    pub(super) fn decoded_associated_data(&self) -> Option<Vec<u8>> {
        self.associated_data.as_deref().map_or_else(|| Some(Vec::new()), decode_associated_data)
    }
}

/// `None` if it is not base64.
pub(super) fn decode_associated_data(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).or_else(|_| BASE64_STANDARD.decode(without_line_breaks(text))).ok()
}

/// Transit ignores line breaks in base64, which base64(1) writes.
pub(super) fn without_line_breaks(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect()
}

/// Marks a message of this file, which quotes no value: serde's own messages do.
pub(super) const SAFE: &str = "\u{1}";

fn refused<E: de::Error>(message: impl fmt::Display) -> E {
    E::custom(format_args!("{SAFE}{message}"))
}

/// Whether a field's name is safe to quote: it may be a payload in the wrong place.
fn is_name(field: &str) -> bool {
    field.len() <= 64 && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Which fields are allowed: those of a request, of an item of a batch, or of a data key request.
#[derive(Clone, Copy)]
pub(super) enum FieldsOf {
    Request { max_batch: usize },
    Item,
    DataKey,
}

impl<'de> DeserializeSeed<'de> for FieldsOf {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsOf {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Text<'de>>()? {
            match (&*name, self) {
                ("associated_data", _) => once(&mut fields.item.associated_data, map.next_value()?)?,
                ("type", _) => {
                    map.next_value_seed(SKIP)?;
                }
                ("bits", Self::DataKey) => once(&mut fields.bits, map.next_value::<Number>()?.0)?,
                ("plaintext", Self::Request { .. } | Self::Item) => {
                    once(&mut fields.item.plaintext, map.next_value()?)?;
                }
                ("ciphertext", Self::Request { .. } | Self::Item) => {
                    once(&mut fields.item.ciphertext, map.next_value()?)?;
                }
                ("reference", Self::Request { .. } | Self::Item) => {
                    once(&mut fields.item.reference, map.next_value()?)?;
                }
                ("format", Self::Request { .. }) => once(&mut fields.format, map.next_value()?)?,
                ("batch_input", Self::Request { max_batch }) => {
                    once(&mut fields.batch, map.next_value_seed(Batch { max: max_batch })?)?;
                }
                ("partial_failure_response_code", Self::Request { .. }) => {
                    once(&mut fields.partial_failure_status, map.next_value::<Number>()?.0)?;
                }
                (other, _) => {
                    if map.next_value_seed(SKIP)? {
                        let name = if is_name(other) { format!("{other:?}") } else { "a field".to_owned() };
                        return Err(refused(format_args!("{name} is not supported here")));
                    }
                }
            }
        }
        Ok(fields)
    }
}

/// Sets a field that is not set yet.
fn once<T, E: de::Error>(field: &mut Option<T>, value: Option<T>) -> Result<(), E> {
    if field.is_some() {
        return Err(refused("a field is set twice"));
    }
    *field = value;
    Ok(())
}

/// `batch_input`: a list or null.
struct Batch {
    max: usize,
}

impl<'de> DeserializeSeed<'de> for Batch {
    type Value = Option<Vec<Item<'de>>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Batch {
    type Value = Option<Vec<Item<'de>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(fields) = seq.next_element_seed(FieldsOf::Item)? {
            if items.len() == self.max {
                let message =
                    format_args!("batch_input has more than {} items (keyring_max_batch)", self.max);
                return Err(refused(message));
            }
            items.push(fields.item);
        }
        Ok(Some(items))
    }
}

/// A number, or its text form, which command lines send. Null and an empty text are `None`.
struct Number(Option<u16>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;

        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Number, E> {
                Ok(Number(None))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                u16::try_from(number).map(|number| Number(Some(number))).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                if text.is_empty() {
                    return Ok(Number(None));
                }
                text.parse().map(|number| Number(Some(number))).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(NumberVisitor)
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Unescaped(text) => text,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text::Borrowed(text))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text::Unescaped(text.to_owned()))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// Skips a value without keeping any of it. Returns whether the value is set: null and an empty text are not.
#[derive(Clone, Copy)]
struct Skip {
    /// How many more levels of nesting are allowed.
    depth: usize,
}

/// Deeper than anything that a client of Transit sends.
const SKIP: Skip = Skip { depth: 32 };

impl Skip {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        depth.map(|depth| Self { depth }).ok_or_else(|| refused("a field is nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: de::Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<bool, E> {
        Ok(!text.is_empty())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let items = self.deeper()?;
        while seq.next_element_seed(items)?.is_some() {}
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let values = self.deeper()?;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(values)?;
        }
        Ok(true)
    }
}
