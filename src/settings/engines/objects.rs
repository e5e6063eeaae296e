//! APISIX's objects: the engine of each ID in `$secret://vault/<id>/…`, as JSON in one setting.
//!
//! The fields are those of APISIX, and some of ours. A token may be a reference to a variable. No message quotes the
//! setting, which holds tokens.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::EngineSettings;
use crate::{
    secret::Secret,
    settings::{
        auth::Auth,
        keys::{CACHE_TIME, SECRET_OBJECTS},
        reader::Reader,
        reference::{Caching, apisix::Apisix, is_reference},
        resolve::EnvReference,
        server::{self, Server, SettingNames},
        setting::Parser,
        source::credential::Credential,
        value::{BASE_URL, KV_VERSION, KvVersion, NAMESPACE, SECRET_PATH, SecretPath, TOKEN},
    },
};

/// An object as APISIX stores it, with our fields from `mount` on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    uri: Option<String>,
    /// The mount, and the start of each path.
    prefix: String,
    token: Option<Secret<String>>,
    namespace: Option<String>,
    /// For a mount of more than one segment.
    mount: Option<String>,
    kv: Option<String>,
    ttl: Option<u64>,
    neg_ttl: Option<u64>,
    resurrect_ttl: Option<u64>,
}

pub(in crate::settings) fn read(reader: &mut Reader) -> Option<BTreeMap<String, EngineSettings>> {
    let text = reader.credential(&SECRET_OBJECTS)?.read().ok()?;
    let objects: BTreeMap<String, Object> = match serde_json::from_str(text.expose()) {
        Ok(objects) => objects,
        Err(error) => {
            let (accepts, line, column) = (SECRET_OBJECTS.parser.accepts(), error.line(), error.column());
            let message = format!("expected {accepts}: invalid JSON at line {line} column {column}");
            reader.mistake(&SECRET_OBJECTS.key, message);
            return None;
        }
    };
    let mut engines = BTreeMap::new();
    for (id, object) in objects {
        match engine(reader, &id, object) {
            Ok(engine) => {
                engines.insert(id, engine);
            }
            Err(why) => reader.mistake(&SECRET_OBJECTS.key, format!("object {id:?}: {why}")),
        }
    }
    Some(engines)
}

fn engine(reader: &mut Reader, id: &str, object: Object) -> Result<EngineSettings, String> {
    if !(1..=64).contains(&id.len()) || id.contains(|c: char| c == '/' || c.is_control()) {
        return Err("the ID must have 1 to 64 characters, without / and control characters".to_owned());
    }
    let prefix = field("prefix", &SECRET_PATH, &object.prefix)?;
    let mount = match &object.mount {
        Some(mount) => field("mount", &SECRET_PATH, mount)?,
        None => SecretPath(prefix.0[..1].to_vec()),
    };
    let below = prefix.0.strip_prefix(mount.0.as_slice()).ok_or("`prefix` must begin with `mount`")?.to_vec();
    let kv = object.kv.as_deref().map_or(Ok(KvVersion::V1), |kv| field("kv", &KV_VERSION, kv))?;
    let caching = Caching {
        ttl: time("ttl", object.ttl)?,
        neg_ttl: time("neg_ttl", object.neg_ttl)?,
        resurrect_ttl: time("resurrect_ttl", object.resurrect_ttl)?,
    };
    let server = server(reader, object)?;
    Ok(EngineSettings { server, mount: Some(mount), kv: Some(kv), below, caching, decode_base64: false })
}

fn field<T: Clone>(name: &str, parser: &Parser<T>, text: &str) -> Result<T, String> {
    parser.parse(text).ok_or_else(|| format!("`{name}` must be {}", parser.accepts()))
}

fn time(name: &str, seconds: Option<u64>) -> Result<Option<Duration>, String> {
    let time = seconds.map(|seconds| CACHE_TIME.parse_number(seconds));
    if time == Some(None) {
        Err(format!("`{name}` must be {}", CACHE_TIME.accepts()))
    } else {
        Ok(time.flatten())
    }
}

/// The server of an object; `None` for the keyring's session.
fn server(reader: &mut Reader, object: Object) -> Result<Option<Server>, String> {
    let namespace = object.namespace.as_deref();
    let (uri, token) = match (object.uri, object.token) {
        (Some(uri), Some(token)) => (uri, token),
        (None, None) if namespace.is_none() => return Ok(None),
        _ => {
            return Err("set both `uri` and `token`, or none of `uri`, `token` and `namespace` for the keyring's session"
                .to_owned());
        }
    };
    let host = field("uri", &BASE_URL, &uri)?;
    let namespace = namespace.filter(|name| !name.is_empty());
    let namespace = namespace.map(|name| field("namespace", &NAMESPACE, name)).transpose()?;
    let auth = Auth::Token(Credential::Inline(resolved_token(reader, token)?));
    let tls = server::read_tls(reader).ok_or("the trust settings have mistakes")?;
    let name = SECRET_OBJECTS.key.name;
    let names = SettingNames { host: name, token: name, prefix: name };
    Ok(Some(Server { host, namespace, auth, tls, names }))
}

/// The token, or the content of the variable that it refers to.
fn resolved_token(reader: &mut Reader, token: Secret<String>) -> Result<Secret<String>, String> {
    let reference = if is_reference(token.expose()) {
        EnvReference::parse(token.expose()).map_err(|why| format!("`token` {why}"))?
    } else {
        match Apisix::parse(token.expose()) {
            Ok(Apisix::Variable { name, field }) => EnvReference::new(name, field),
            Ok(Apisix::Secret { .. }) => {
                return Err("`token` cannot be a reference to a secret: use $ENV://NAME".to_owned());
            }
            Err(_) => return checked(token),
        }
    };
    let content = reader.variable(&reference.variable);
    reference.value(content).map_err(|why| format!("`token` {why}")).and_then(checked)
}

fn checked(token: Secret<String>) -> Result<Secret<String>, String> {
    if token.expose().is_empty() {
        return Err("`token` must not be empty".to_owned());
    }
    field("token", &TOKEN, token.expose()).map(|()| token)
}
