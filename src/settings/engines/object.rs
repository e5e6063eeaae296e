//! The objects of `keyring_secret_objects`, in JSON or YAML: APISIX's secret resources and Kong's Vault entities, as their
//! tools export them. Which fields there are is decided here, and what they mean in `engines`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    secret::Secret,
    settings::{
        keys::{self, REFERENCES_LOGIN},
        setting::{Key, Row},
    },
};

/// The start of the names of Kong's settings for the backend, without which they are an entity's fields.
const PREFIX: &str = "vault_hcv_";

/// What tools store beside an object's own fields.
const STORED: [&str; 7] =
    ["id", "create_time", "update_time", "created_at", "updated_at", "tags", "description"];

/// One object, by its kind.
pub(super) enum Object {
    Apisix(Box<ApisixObject>),
    Entity(Entity),
}

/// A secret resource of APISIX, with our fields from `mount` on.
#[derive(Default)]
pub(super) struct ApisixObject {
    pub(super) uri: Option<String>,
    /// The mount, and the start of each path.
    pub(super) prefix: String,
    pub(super) token: Option<Secret<String>>,
    pub(super) namespace: Option<String>,
    /// For a mount of more than one segment.
    pub(super) mount: Option<String>,
    pub(super) kv: Option<String>,
    pub(super) ttl: Option<u64>,
    pub(super) neg_ttl: Option<u64>,
    pub(super) resurrect_ttl: Option<u64>,
}

/// A Vault entity of Kong for HashiCorp Vault.
pub(super) struct Entity {
    /// A second name in references.
    pub(super) prefix: Option<String>,
    /// The configuration, by the settings that have the same meaning.
    pub(super) settings: Vec<(&'static Key, Secret<String>)>,
}

/// A value of JSON or YAML. Its texts may be secret.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Flag(bool),
    Number(u64),
    Text(Secret<String>),
    List(Vec<Self>),
    Fields(BTreeMap<String, Self>),
    /// `null`, and what has no meaning for a setting.
    Other(Option<serde::de::IgnoredAny>),
}

/// Why the text is not a map of objects.
pub(super) struct Malformed {
    pub(super) language: &'static str,
    pub(super) line: u64,
    pub(super) column: u64,
}

/// The objects by name, each with its fields or the mistake in it.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Result<Object, String>>, Malformed> {
    let objects: BTreeMap<String, BTreeMap<String, Value>> = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| Malformed {
            language: "JSON",
            line: error.line() as u64,
            column: error.column() as u64,
        })?
    } else {
        serde_saphyr::from_str(text).map_err(|error| {
            let at = error.location();
            let (line, column) = at.map_or((0, 0), |at| (at.line(), at.column()));
            Malformed { language: "YAML", line, column }
        })?
    };
    Ok(objects.into_iter().map(|(name, fields)| (name, object(fields))).collect())
}

fn object(mut fields: BTreeMap<String, Value>) -> Result<Object, String> {
    for stored in STORED {
        fields.remove(stored);
    }
    let kind = take_text(&mut fields, "kind")?;
    let config = match fields.remove("config") {
        Some(Value::Fields(config)) => Some(config),
        Some(_) => return Err("`config` must be an object".to_owned()),
        None => None,
    };
    match (kind.as_deref(), config) {
        (None | Some("hcv"), Some(config)) => entity(fields, config),
        (Some("hcv"), None) => {
            let prefix = take_text(&mut fields, "prefix")?;
            Ok(Object::Entity(Entity { prefix, settings: settings(fields)? }))
        }
        (None | Some("vault"), None) => apisix(fields).map(|object| Object::Apisix(Box::new(object))),
        (Some(_), _) => Err("`kind` must be hcv, or vault for an object of APISIX".to_owned()),
    }
}

/// An entity as Kong's tools export it.
fn entity(mut fields: BTreeMap<String, Value>, config: BTreeMap<String, Value>) -> Result<Object, String> {
    if take_text(&mut fields, "name")?.is_some_and(|name| name != "hcv") {
        return Err("`name` must be hcv: other backends of Kong are not read".to_owned());
    }
    let prefix = take_text(&mut fields, "prefix")?;
    refuse_rest(&fields)?;
    Ok(Object::Entity(Entity { prefix, settings: settings(config)? }))
}

/// The settings with the names of these fields.
fn settings(fields: BTreeMap<String, Value>) -> Result<Vec<(&'static Key, Secret<String>)>, String> {
    let mut settings = Vec::new();
    for (name, value) in fields {
        let key = key(&name).ok_or_else(|| unknown(&name))?;
        if let Some(text) = text(&name, value)? {
            settings.push((key, text));
        }
    }
    Ok(settings)
}

/// All settings that an entity can have.
pub(super) fn keys() -> impl Iterator<Item = &'static Key> {
    let engine: [&'static Key; 10] = [
        &keys::HCV_PROTOCOL.key,
        &keys::HCV_HOST.key,
        &keys::HCV_PORT.key,
        &keys::HCV_MOUNT.key,
        &keys::HCV_KV.key,
        &keys::HCV_NAMESPACE.key,
        &keys::HCV_TTL.key,
        &keys::HCV_NEG_TTL.key,
        &keys::HCV_RESURRECT_TTL.key,
        &keys::HCV_DECODE_BASE64.key,
    ];
    engine.into_iter().chain(REFERENCES_LOGIN.rows().map(Row::key))
}

fn key(field: &str) -> Option<&'static Key> {
    // The entity's name for it differs from the setting's.
    let field = if field == "base64_decode" { "decode_base64" } else { field };
    let name = format!("{PREFIX}{field}");
    keys().find(|key| key.name == name || key.alias == Some(name.as_str()))
}

/// The field of an entity that a setting stands for.
pub(super) fn field(setting: &str) -> &str {
    setting.strip_prefix(PREFIX).unwrap_or(setting)
}

fn apisix(mut fields: BTreeMap<String, Value>) -> Result<ApisixObject, String> {
    let object = ApisixObject {
        uri: take_text(&mut fields, "uri")?,
        prefix: take_text(&mut fields, "prefix")?.ok_or("`prefix` is required")?,
        token: fields.remove("token").map_or(Ok(None), |value| text("token", value))?,
        namespace: take_text(&mut fields, "namespace")?,
        mount: take_text(&mut fields, "mount")?,
        kv: take_text(&mut fields, "kv")?,
        ttl: take_number(&mut fields, "ttl")?,
        neg_ttl: take_number(&mut fields, "neg_ttl")?,
        resurrect_ttl: take_number(&mut fields, "resurrect_ttl")?,
    };
    refuse_rest(&fields)?;
    Ok(object)
}

fn take_text(fields: &mut BTreeMap<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.remove(name) {
        None | Some(Value::Other(None)) => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text.expose().clone())),
        Some(_) => Err(format!("`{name}` must be text")),
    }
}

fn take_number(fields: &mut BTreeMap<String, Value>, name: &str) -> Result<Option<u64>, String> {
    match fields.remove(name) {
        None | Some(Value::Other(None)) => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number)),
        Some(_) => Err(format!("`{name}` must be a number")),
    }
}

/// The text of a value in a kong.conf; `None` for null.
fn text(name: &str, value: Value) -> Result<Option<Secret<String>>, String> {
    match value {
        Value::Text(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(Secret::new(number.to_string()))),
        Value::Flag(flag) => Ok(Some(Secret::new(if flag { "on" } else { "off" }.to_owned()))),
        Value::Other(None) => Ok(None),
        Value::List(items) => {
            let items: Vec<_> = items.into_iter().map(|item| text(name, item)).collect::<Result<_, _>>()?;
            let texts: Vec<_> = items.iter().flatten().map(|item| item.expose().as_str()).collect();
            Ok(Some(Secret::new(texts.join(","))))
        }
        Value::Fields(_) | Value::Other(Some(_)) => Err(format!("`{name}` must be text, a number or a flag")),
    }
}

fn refuse_rest(fields: &BTreeMap<String, Value>) -> Result<(), String> {
    fields.keys().next().map_or(Ok(()), |name| Err(unknown(name)))
}

fn unknown(name: &str) -> String {
    let names = || keys().map(|key| field(key.name));
    let near = names().min_by_key(|known| strsim::damerau_levenshtein(known, name));
    let near = near.filter(|known| strsim::damerau_levenshtein(known, name) <= 2);
    let tip = near.map_or_else(String::new, |known| format!("; did you mean `{known}`?"));
    format!("no such field: {name:?}{tip}")
}
