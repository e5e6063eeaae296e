//! APISIX's objects: what each ID in `$secret://vault/<id>/…` stands for, as JSON in one setting.
//!
//! The fields are those that APISIX stores, and some of ours. A token may be a reference to a variable. No message quotes
//! the setting, which holds tokens.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::{Engine, LONGEST, trust};
use crate::{
    secret::Secret,
    settings::{
        Auth, KvVersion, SecretPath, Server, SettingNames,
        credential::Credential,
        keys,
        reader::Reader,
        reference::{Caching, apisix::Apisix, is_reference},
        resolve::Named,
        value::{self, Parsed},
    },
};

/// An object as APISIX stores it, and the fields that we have beside.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    uri: Option<String>,
    /// The mount, and what stands before each path.
    prefix: String,
    token: Option<Secret<String>>,
    namespace: Option<String>,
    /// Where the mount's own path is longer than its first segment.
    mount: Option<String>,
    kv: Option<String>,
    ttl: Option<u64>,
    neg_ttl: Option<u64>,
    resurrect_ttl: Option<u64>,
}

pub fn read(reader: &mut Reader) -> Option<BTreeMap<String, Engine>> {
    let text = reader.secret(&keys::SECRET_OBJECTS, |text| parsed(text).map(|_| ()))?;
    let stored = parsed(text.read().ok()?.expose()).ok()?;
    let mut objects = BTreeMap::new();
    for (id, stored) in stored {
        match object(reader, stored) {
            Ok(engine) => {
                objects.insert(id, engine);
            }
            Err(why) => reader.mistake(&keys::SECRET_OBJECTS, format!("the object {id:?} {why}")),
        }
    }
    Some(objects)
}

fn parsed(text: &str) -> Parsed<BTreeMap<String, Stored>> {
    const FORM: &str = r#"JSON such as {"1": {"uri": "https://vault.example.com:8200", "prefix": "kv/apisix", "token": "$ENV://NAME"}}, with namespace, mount, kv, ttl, neg_ttl and resurrect_ttl as further fields"#;
    let objects: BTreeMap<String, Stored> = serde_json::from_str(text).map_err(|error| {
        format!("{FORM}; it ends to be that at line {} column {}", error.line(), error.column())
    })?;
    let is_id =
        |id: &String| !id.is_empty() && id.len() <= 64 && !id.contains(|c: char| c == '/' || c.is_control());
    if objects.keys().all(is_id) {
        Ok(objects)
    } else {
        value::expected("IDs without / and control characters")
    }
}

/// What an object says; the error stands behind its ID.
fn object(reader: &mut Reader, stored: Stored) -> Result<Engine, String> {
    let field = |name: &'static str| move |expected: String| format!("has another {name} than {expected}");
    let prefix = value::secret_path(&stored.prefix).map_err(field("prefix"))?;
    let mount = stored.mount.as_deref().map(value::secret_path).transpose().map_err(field("mount"))?;
    let mount = mount.unwrap_or_else(|| SecretPath(prefix.0[..1].to_vec()));
    let below =
        prefix.0.strip_prefix(mount.0.as_slice()).ok_or("has a mount that its prefix does not begin with")?;
    let kv = stored.kv.as_deref().map_or(Ok(KvVersion::V1), value::kv_version).map_err(field("kv"))?;
    let times = [stored.ttl, stored.neg_ttl, stored.resurrect_ttl];
    if times.iter().flatten().any(|seconds| *seconds > LONGEST) {
        return Err(format!("has a time of more than {LONGEST} seconds"));
    }
    let [ttl, neg_ttl, resurrect_ttl] = times.map(|time| time.map(Duration::from_secs));
    let server = match (&stored.uri, stored.token) {
        (Some(uri), Some(token)) => {
            let host = value::base_url(uri).map_err(field("uri"))?;
            let namespace =
                stored.namespace.as_deref().filter(|name| !name.is_empty()).map(value::namespace).transpose();
            let auth = Auth::Token(Credential::Inline(object_token(reader, token)?));
            let tls = trust(reader).ok_or("cannot be trusted")?;
            Some(Server {
                host,
                namespace: namespace.map_err(field("namespace"))?,
                auth,
                tls,
                names: SettingNames {
                    host: keys::SECRET_OBJECTS.name,
                    token: keys::SECRET_OBJECTS.name,
                    prefix: keys::SECRET_OBJECTS.name,
                },
            })
        }
        (None, None) if stored.namespace.is_none() => None,
        _ => {
            return Err(
                "needs both uri and token, or neither, nor namespace, for the keyring's session".to_owned()
            );
        }
    };
    Ok(Engine {
        server,
        below: below.to_vec(),
        mount: Some(mount),
        kv: Some(kv),
        caching: Caching { ttl, neg_ttl, resurrect_ttl },
        decode_base64: false,
    })
}

/// A token as it stands, or the variable that it refers to.
fn object_token(reader: &mut Reader, token: Secret<String>) -> Result<Secret<String>, String> {
    let named = if is_reference(token.expose()) {
        Named::by(token.expose()).map_err(|why| format!("has a token that {why}"))?
    } else {
        match Apisix::parse(token.expose()) {
            Ok(Apisix::Variable { name, field }) => Named::exactly(name, field),
            Ok(Apisix::Secret { .. }) => {
                return Err(
                    "has a token that is a secret's reference, where only $ENV:// can lead to one".to_owned()
                );
            }
            Err(_) => return checked(token),
        }
    };
    let held = reader.variable(&named.variable);
    named.value(held).map_err(|why| format!("has a token that {why}")).and_then(checked)
}

fn checked(token: Secret<String>) -> Result<Secret<String>, String> {
    let good = value::token(token.expose()).and_then(|()| {
        if token.expose().is_empty() { value::expected("a token that is not empty") } else { Ok(()) }
    });
    good.map(|()| token).map_err(|expected| format!("has another token than {expected}"))
}
