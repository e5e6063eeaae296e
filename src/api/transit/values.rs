//! The values of a Transit request's fields: texts, which are borrowed from the body, numbers and booleans in any of the forms
//! that Transit reads, and values that are skipped without memory or deep recursion. Which field has which is in `fields`.
//!
//! The file is longer than others: serde takes a visitor per kind of value.

use std::{borrow::Cow, fmt, ops::Deref};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// A text of the body: borrowed, or unescaped into a copy.
#[derive(Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// Marks a message of ours, which quotes no value: serde's own messages do.
pub(super) const SAFE: &str = "\u{1}";

pub(super) fn refused<E: de::Error>(message: impl fmt::Display) -> E {
    E::custom(format_args!("{SAFE}{message}"))
}

/// Refuses the kinds of values that a field does not take, by the field's name and not by the value.
macro_rules! refuse_other_kinds {
    ($expected:literal: $($visit:ident $kind:ty),*) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str($expected)
        }

        $(fn $visit<E: de::Error>(self, _: $kind) -> Result<Self::Value, E> {
            Err(refused(format_args!("{:?} must be {}", self.0, $expected)))
        })*

        fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(refused(format_args!("{:?} must be {}", self.0, $expected)))
        }

        fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
            Err(refused(format_args!("{:?} must be {}", self.0, $expected)))
        }
    };
}

/// The value of a field with this name: a number, or its text form, which command lines and forms send. Null and an empty
/// text are `None`.
pub(super) struct Number<'n>(pub(super) &'n str);

impl<'de> DeserializeSeed<'de> for Number<'_> {
    type Value = Option<i64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<i64>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Number<'_> {
    type Value = Option<i64>;

    refuse_other_kinds!("a number": visit_f64 f64);

    fn visit_unit<E: de::Error>(self) -> Result<Option<i64>, E> {
        Ok(None)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Option<i64>, E> {
        Ok(Some(value.into())) // as Transit takes it
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Option<i64>, E> {
        let number = i64::try_from(number);
        number.map(Some).map_err(|_| refused(format_args!("{:?} is out of range", self.0)))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Option<i64>, E> {
        Ok(Some(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<i64>, E> {
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| refused(format_args!("{:?} must be a number", self.0)))
    }
}

/// The value of a field with this name that is false, in any of the forms that Transit reads. Null and an empty text are.
pub(super) struct False<'n>(pub(super) &'n str);

impl<'de> DeserializeSeed<'de> for False<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for False<'_> {
    type Value = bool;

    refuse_other_kinds!("false": visit_f64 f64, visit_i64 i64);

    fn visit_unit<E: de::Error>(self) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<bool, E> {
        Ok(!value)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<bool, E> {
        Ok(number == 0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<bool, E> {
        Ok(matches!(text, "" | "0" | "f" | "F" | "false" | "FALSE" | "False"))
    }
}

/// The text of a field with this name; null is `None`.
pub(super) struct TextOf<'n>(pub(super) &'n str);

impl<'de> DeserializeSeed<'de> for TextOf<'_> {
    type Value = Option<Text<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextOf<'_> {
    type Value = Option<Text<'de>>;

    refuse_other_kinds!("text": visit_bool bool, visit_u64 u64, visit_i64 i64, visit_f64 f64);

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Text(Cow::Borrowed(text))))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Text(Cow::Owned(text.to_owned()))))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// What a skipped value was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Skipped {
    Null,
    EmptyText,
    Set,
}

/// Skips a value without keeping any of it.
#[derive(Clone, Copy)]
pub(super) struct Skip {
    /// How many more levels of nesting are allowed.
    depth: usize,
}

/// Deeper than anything that a client of Transit sends.
pub(super) const SKIP: Skip = Skip { depth: 32 };

impl Skip {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        depth.map(|depth| Self { depth }).ok_or_else(|| refused("a field is nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Skip {
    type Value = Skipped;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Skipped, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Skip {
    type Value = Skipped;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Skipped, E> {
        Ok(Skipped::Null)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Skipped, E> {
        Ok(Skipped::Set)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Skipped, E> {
        Ok(Skipped::Set)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Skipped, E> {
        Ok(Skipped::Set)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Skipped, E> {
        Ok(Skipped::Set)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Skipped, E> {
        Ok(if text.is_empty() { Skipped::EmptyText } else { Skipped::Set })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Skipped, A::Error> {
        let items = self.deeper()?;
        while seq.next_element_seed(items)?.is_some() {}
        Ok(Skipped::Set)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Skipped, A::Error> {
        let values = self.deeper()?;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(values)?;
        }
        Ok(Skipped::Set)
    }
}
