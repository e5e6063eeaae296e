//! The fields of a Transit request, deserialised one by one.
//!
//! What each endpoint does with a field is in [`slot`]; a field that would change the meaning is refused by name, an unknown
//! one is ignored with a warning, as in Transit. A batch is refused at the first item over the limit. `values` reads the
//! values, and `request` checks the fields together.
//! The file is longer than most: the table and its reader are one thing.

use std::fmt;

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::{
    error::ItemError,
    values::{False, Number, SKIP, Skipped, Text, TextOf, refused},
};
use crate::cipher::encoding;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Encrypt,
    Decrypt,
    Rewrap,
    DataKey,
    Hmac,
    Verify,
    Random,
    Hash,
}

/// One item of a request, with its texts, or where they are.
#[derive(Default)]
pub(super) struct Item<T> {
    /// `plaintext` or `input`.
    pub(super) clear: Option<T>,
    /// `ciphertext` or `hmac`.
    pub(super) sealed: Option<T>,
    /// Of an HMAC it is the label of a blind index.
    pub(super) associated_data: Option<T>,
    pub(super) context: Option<T>,
    /// The width of a blind index.
    pub(super) bits: Option<i64>,
    pub(super) reference: Option<T>,
    pub(super) key_version: Option<i64>,
    /// `signature` is set: it is for asymmetric keys.
    pub(super) signed: bool,
}

/// The fields of a request, or of one item of its batch.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) item: Item<Text<'a>>,
    pub(super) batch: Option<Vec<Item<Text<'a>>>>,
    pub(super) partial_failure_code: Option<i64>,
    pub(super) format: Option<Text<'a>>,
    /// `bits` or `bytes`.
    pub(super) count: Option<i64>,
    pub(super) algorithm: Option<Text<'a>>,
    /// Names of fields that are unknown here.
    pub(super) ignored: Vec<Box<str>>,
    /// Names of fields whose value is the path's.
    pub(super) replaced: Vec<Box<str>>,
}

/// What becomes of a field.
#[derive(Clone, Copy)]
enum Slot {
    Clear,
    Sealed,
    Signature,
    AssociatedData,
    Context,
    Bits,
    Reference,
    KeyVersion,
    Format,
    Count,
    Algorithm,
    Batch,
    PartialFailureCode,
    /// The path has the value.
    Path,
    /// It has no effect on a key of this type.
    NoEffect,
    /// It would change the meaning unless it is empty.
    Empty,
    /// It would change the meaning unless it is false.
    False,
    /// The same of convergent encryption.
    NotConvergent,
    Unknown,
}

/// Which part of the request a field is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Request,
    Item,
}

/// The table: what each endpoint does with a field.
fn slot(endpoint: Endpoint, level: Level, name: &str) -> Slot {
    use Endpoint::{DataKey, Decrypt, Encrypt, Hash, Hmac, Random, Rewrap, Verify};
    match (name, endpoint) {
        ("plaintext", Encrypt) | ("input", Hmac | Verify | Hash) => Slot::Clear,
        ("ciphertext", Decrypt | Rewrap) | ("hmac", Verify) => Slot::Sealed,
        ("signature", Verify) => Slot::Signature,
        ("associated_data", Encrypt | Decrypt | Rewrap | DataKey | Hmac) => Slot::AssociatedData,
        ("context", Encrypt | Decrypt | Rewrap | DataKey | Hmac | Verify) => Slot::Context,
        ("bits", Hmac) => Slot::Bits,
        ("key_version", Encrypt | Rewrap | DataKey | Hmac) => Slot::KeyVersion,
        ("context" | "nonce" | "iv", _) => Slot::Empty,
        ("convergent_encryption", _) => Slot::NotConvergent,
        ("derived", _) => Slot::False,
        ("type", Encrypt) => Slot::NoEffect,
        _ if level == Level::Item => match name {
            "reference" => Slot::Reference,
            _ => Slot::NoEffect,
        },
        ("format", Encrypt | Decrypt | Rewrap | Random | Hash) => Slot::Format,
        ("bits", DataKey) | ("bytes", Random) => Slot::Count,
        ("algorithm", Hmac | Verify | Hash) | ("hash_algorithm", Verify) => Slot::Algorithm,
        ("batch_input", Encrypt | Decrypt | Rewrap | Hmac | Verify) => Slot::Batch,
        ("partial_failure_response_code", Encrypt | Decrypt) => Slot::PartialFailureCode,
        ("prehashed" | "signature_algorithm" | "marshaling_algorithm" | "salt_length", Verify) => {
            Slot::NoEffect
        }
        ("name", Encrypt | Decrypt | Rewrap | DataKey | Hmac | Verify)
        | ("plaintext", DataKey)
        | ("source", Random) => Slot::Path,
        _ => Slot::Unknown,
    }
}

/// Whether Transit has a field, so that it does not warn of it.
fn is_known(endpoint: Endpoint, name: &str) -> bool {
    match name {
        "context" => !matches!(endpoint, Endpoint::Random | Endpoint::Hash),
        "convergent_encryption" => endpoint == Endpoint::Encrypt,
        _ => false,
    }
}

impl<T> Item<T> {
    /// The same with each text replaced by what `map` makes of it.
    pub(super) fn map<U>(self, map: impl Fn(T) -> U) -> Item<U> {
        Item {
            clear: self.clear.map(&map),
            sealed: self.sealed.map(&map),
            associated_data: self.associated_data.map(&map),
            context: self.context.map(&map),
            bits: self.bits,
            reference: self.reference.map(&map),
            key_version: self.key_version,
            signed: self.signed,
        }
    }
}

impl Item<Text<'_>> {
    /// Empty texts count as absent, except for a plaintext or an input.
    pub(super) fn normalised(mut self) -> Self {
        self.sealed = self.sealed.filter(|text| !text.is_empty());
        self.associated_data = self.associated_data.filter(|text| !text.is_empty());
        self.context = self.context.filter(|text| !text.is_empty());
        self
    }

    pub(super) fn decoded_associated_data(&self) -> Result<Vec<u8>, ItemError> {
        decode("associated_data", self.associated_data.as_deref().unwrap_or(""))
    }

    /// Empty for none.
    pub(super) fn decoded_context(&self) -> Result<Vec<u8>, ItemError> {
        decode("context", self.context.as_deref().unwrap_or(""))
    }
}

/// The bytes of a text in base64, which the field or header `name` holds.
pub(super) fn decode(name: &'static str, text: &str) -> Result<Vec<u8>, ItemError> {
    let mut bytes = text.as_bytes().to_vec();
    let len = encoding::decode_in_place(&mut bytes).map_err(|_| ItemError::NotBase64(name))?.len();
    bytes.truncate(len);
    Ok(bytes)
}

/// A field's name, if it is safe to quote: it may be a payload in the wrong place.
fn quoted(field: &str) -> &str {
    let safe = field.len() <= 64 && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if safe { field } else { "a field" }
}

/// How many names a response quotes: a client cannot make it longer than that.
const MAX_QUOTED: usize = 16;

fn quote(names: &mut Vec<Box<str>>, name: &str) {
    if names.len() < MAX_QUOTED {
        names.push(quoted(name).into());
    }
}

/// Reads the fields of a request, or of an item of its batch.
#[derive(Clone, Copy)]
pub(super) struct FieldsOf {
    endpoint: Endpoint,
    level: Level,
    max_batch: usize,
}

impl FieldsOf {
    pub(super) const fn request(endpoint: Endpoint, max_batch: usize) -> Self {
        Self { endpoint, level: Level::Request, max_batch }
    }

    fn set<'de, A: MapAccess<'de>>(
        self,
        fields: &mut Fields<'de>,
        name: &str,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let item = &mut fields.item;
        match slot(self.endpoint, self.level, name) {
            // To Transit a null input is no bytes. A null plaintext is absent: sealing nothing would lose it.
            Slot::Clear if self.endpoint != Endpoint::Encrypt => {
                let text = map.next_value_seed(TextOf(name))?;
                once(&mut item.clear, Some(text.unwrap_or_default()))
            }
            Slot::Clear => once(&mut item.clear, map.next_value_seed(TextOf(name))?),
            Slot::Sealed => once(&mut item.sealed, map.next_value_seed(TextOf(name))?),
            Slot::AssociatedData => once(&mut item.associated_data, map.next_value_seed(TextOf(name))?),
            Slot::Context => once(&mut item.context, map.next_value_seed(TextOf(name))?),
            Slot::Bits => once(&mut item.bits, map.next_value_seed(Number(name))?),
            Slot::Reference => once(&mut item.reference, map.next_value_seed(TextOf(name))?),
            Slot::KeyVersion => once(&mut item.key_version, map.next_value_seed(Number(name))?),
            Slot::Format => once(&mut fields.format, map.next_value_seed(TextOf(name))?),
            Slot::Count => once(&mut fields.count, map.next_value_seed(Number(name))?),
            Slot::Algorithm => once(&mut fields.algorithm, map.next_value_seed(TextOf(name))?),
            Slot::PartialFailureCode => {
                once(&mut fields.partial_failure_code, map.next_value_seed(Number(name))?)
            }
            Slot::Batch => once(&mut fields.batch, map.next_value_seed(Batch(self))?),
            Slot::Signature => {
                item.signed |= map.next_value_seed(SKIP)? != Skipped::Null;
                Ok(())
            }
            Slot::Path => {
                if map.next_value_seed(SKIP)? != Skipped::Null {
                    quote(&mut fields.replaced, name);
                }
                Ok(())
            }
            Slot::NoEffect => map.next_value_seed(SKIP).map(drop),
            Slot::Empty if map.next_value_seed(SKIP)? == Skipped::Set => Err(changes_meaning(name)),
            Slot::False if !map.next_value_seed(False(name))? => Err(changes_meaning(name)),
            Slot::NotConvergent if !map.next_value_seed(False(name))? => Err(refused(format_args!(
                "{name:?} is not supported here: equal plaintexts would be seen; to search, store a blind index (hmac with \
                 associated_data and bits)"
            ))),
            Slot::Empty | Slot::False | Slot::NotConvergent => {
                if self.level == Level::Request && !is_known(self.endpoint, name) {
                    quote(&mut fields.ignored, name);
                }
                Ok(())
            }
            Slot::Unknown => {
                map.next_value_seed(SKIP)?;
                quote(&mut fields.ignored, name);
                Ok(())
            }
        }
    }
}

fn changes_meaning<E: de::Error>(name: &str) -> E {
    refused(format_args!(
        "{name:?} is not supported here: keys are not convergent, and derived by context only"
    ))
}

impl<'de> DeserializeSeed<'de> for FieldsOf {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldsOf {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Fields<'de>, E> {
        Ok(Fields::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Text<'de>>()? {
            self.set(&mut fields, &name, &mut map)?;
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

/// `batch_input`: a list; null and an empty text are none.
struct Batch(FieldsOf);

impl<'de> DeserializeSeed<'de> for Batch {
    type Value = Option<Vec<Item<Text<'de>>>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Batch {
    type Value = Option<Vec<Item<Text<'de>>>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text.is_empty() { Ok(None) } else { Err(refused("batch_input must be a list")) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (mut items, max) = (Vec::new(), self.0.max_batch);
        let of_item = FieldsOf { level: Level::Item, ..self.0 };
        while let Some(fields) = seq.next_element_seed(of_item)? {
            if items.len() == max {
                let message = format_args!("batch_input has more than {max} items (keyring_max_batch)");
                return Err(refused(message));
            }
            items.push(fields.item);
        }
        Ok(Some(items))
    }
}
