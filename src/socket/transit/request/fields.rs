//! The fields of a request, read one by one: texts are borrowed, unknown fields that say something are refused by name,
//! and a batch that is too long is refused where it becomes so. What they add up to is in `request`.

use std::{fmt, ops::Deref};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::{Item, skip::SKIP};

/// A text of the body: borrowed, or unescaped into a copy.
pub enum Text<'a> {
    Borrowed(&'a str),
    Unescaped(String),
}

/// The fields of a request, or of one item of its batch.
#[derive(Default)]
pub struct Fields<'a> {
    pub item: Item<'a>,
    pub batch: Option<Vec<Item<'a>>>,
    pub partial_failure_status: Option<u16>,
    pub format: Option<Text<'a>>,
    pub bits: Option<u16>,
}

/// Marks a message as one of ours, which quotes no value.
pub const OURS: &str = "\u{1}";

pub fn refused<E: de::Error>(message: impl fmt::Display) -> E {
    E::custom(format_args!("{OURS}{message}"))
}

/// Whether a field's name is one, and not a payload that slipped into its place.
fn is_name(field: &str) -> bool {
    field.len() <= 64 && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Reads the fields of a request, of an item, which has no batch of its own, or of a request for a data key.
#[derive(Clone, Copy)]
pub enum FieldsOf {
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
                    map.next_value_seed(SKIP)?; // accepted and ignored
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

/// Takes in a field's value, unless it had one.
fn once<T, E: de::Error>(field: &mut Option<T>, value: Option<T>) -> Result<(), E> {
    if field.is_some() {
        return Err(refused("a field stands twice"));
    }
    *field = value;
    Ok(())
}

/// Reads `batch_input`: a list, or null.
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

/// A number as one, or as the text that command lines make of it; null and an empty text are none.
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
