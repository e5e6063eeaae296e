//! The engines that references lead to: Kong's `hcv` backend, by its `vault_hcv_*` settings, and the objects of one setting,
//! which are Kong's further Vault entities and APISIX's objects.
//!
//! An engine without a server and login of its own uses the keyring's session. No message quotes the objects, which hold
//! tokens. Reading and caching are in `references`.
//! The file is longer than most: it has each kind of engine with its checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

mod object;

use super::{
    keys::{self, CACHE_TIME, REFERENCES_LOGIN, SECRET_OBJECTS},
    reader::Reader,
    reference::{Caching, apisix::Apisix, is_reference},
    resolve::{EnvBackend, EnvReference},
    server::{self, Auth, Server, SettingNames},
    setting::{Key, Parser, Row},
    source::credential::{Credential, PathOrigin},
    value::{BASE_URL, KV_VERSION, KvVersion, NAMESPACE, SECRET_PATH, SecretPath, TOKEN},
};
use crate::secret::Secret;
use object::{ApisixObject, Object};

/// The settings of references to secrets.
#[derive(Debug)]
pub struct ReferenceSettings {
    pub hcv: EngineSettings,
    /// Other names of `hcv` in Kong's references.
    pub prefixes: Vec<String>,
    /// Further Vault entities of Kong by name.
    pub entities: BTreeMap<String, EngineSettings>,
    /// Their names by their prefixes, which are second names in references.
    pub entity_prefixes: BTreeMap<String, String>,
    /// APISIX's objects by ID.
    pub objects: BTreeMap<String, EngineSettings>,
    /// The environment variables that settings refer to. They hold the daemon's own secrets, so no client may name them.
    pub own_variables: BTreeSet<String>,
    pub env: EnvBackend,
}

/// A KV secrets engine, and a path in it.
#[derive(Debug)]
pub struct EngineSettings {
    /// `None` for the keyring's session.
    pub server: Option<Server>,
    /// `None` for the keyring's mount.
    pub mount: Option<SecretPath>,
    /// `None` for the keyring's version.
    pub kv: Option<KvVersion>,
    /// The segments before the path of each reference.
    pub below: Vec<String>,
    pub caching: Caching,
    pub decode_base64: bool,
}

impl ReferenceSettings {
    /// Whether any engine has a server of its own.
    pub fn names_a_server(&self) -> bool {
        self.engines().any(|engine| engine.server.is_some())
    }

    /// Whether any engine uses the session of the keyring.
    pub(super) fn uses_the_keyrings(&self) -> bool {
        self.engines().any(|engine| engine.server.is_none())
    }

    fn engines(&self) -> impl Iterator<Item = &EngineSettings> {
        std::iter::once(&self.hcv).chain(self.entities.values()).chain(self.objects.values())
    }
}

/// Kong's defaults for an engine with a server of its own.
const DEFAULT_MOUNT: &str = "secret";
const DEFAULT_KV: KvVersion = KvVersion::V1;

/// Messages of a session of an object name the one setting.
const OBJECT_NAMES: SettingNames = SettingNames {
    host: SECRET_OBJECTS.key.name,
    protocol: SECRET_OBJECTS.key.name,
    token: SECRET_OBJECTS.key.name,
    prefix: SECRET_OBJECTS.key.name,
};

pub(super) fn read(reader: &mut Reader) -> Option<ReferenceSettings> {
    let (hcv, named) = (hcv(reader), named(reader));
    let prefixes = reader.optional(&keys::HCV_PREFIXES).unwrap_or_default();
    let env = read_env(reader);
    let Named { entities, entity_prefixes, objects } = named?;
    let own_variables = reader.referred.clone();
    Some(ReferenceSettings {
        hcv: hcv?,
        prefixes,
        entities,
        entity_prefixes,
        objects,
        own_variables,
        env: env?,
    })
}

fn hcv(reader: &mut Reader) -> Option<EngineSettings> {
    let mount = reader.optional(&keys::HCV_MOUNT);
    let kv = reader.optional(&keys::HCV_KV);
    let caching = Caching {
        ttl: reader.optional(&keys::HCV_TTL),
        neg_ttl: reader.optional(&keys::HCV_NEG_TTL),
        resurrect_ttl: reader.optional(&keys::HCV_RESURRECT_TTL),
    };
    let decode_base64 = reader.required(&keys::HCV_DECODE_BASE64)?;
    let engine = EngineSettings { server: None, mount, kv, below: Vec::new(), caching, decode_base64 };
    if !has_own_server(reader) {
        return Some(engine);
    }
    Some(EngineSettings {
        server: Some(hcv_server(reader)?),
        mount: engine.mount.or_else(|| Some(SecretPath(vec![DEFAULT_MOUNT.to_owned()]))),
        kv: engine.kv.or(Some(DEFAULT_KV)),
        ..engine
    })
}

fn has_own_server(reader: &Reader) -> bool {
    let rows: [&'static Key; 4] =
        [&keys::HCV_PROTOCOL.key, &keys::HCV_HOST.key, &keys::HCV_PORT.key, &keys::HCV_NAMESPACE.key];
    rows.into_iter().chain(REFERENCES_LOGIN.rows().map(Row::key)).any(|key| reader.is_given(key))
}

fn hcv_server(reader: &mut Reader) -> Option<Server> {
    let protocol = reader.required(&keys::HCV_PROTOCOL);
    let host = reader.required(&keys::HCV_HOST);
    let port = reader.required(&keys::HCV_PORT);
    let url = protocol.zip(host).zip(port);
    let url = url.and_then(|((protocol, host), port)| BASE_URL.parse(&format!("{protocol}://{host}:{port}")));
    let names = [keys::HCV_HOST.key.name, keys::HCV_PROTOCOL.key.name];
    server::read(reader, url, names, &keys::HCV_NAMESPACE, &REFERENCES_LOGIN)
}

/// The engines of `keyring_secret_objects`, by their names in references.
#[derive(Default)]
struct Named {
    /// Kong's entities.
    entities: BTreeMap<String, EngineSettings>,
    /// The entities' names by their prefixes.
    entity_prefixes: BTreeMap<String, String>,
    /// APISIX's objects by ID.
    objects: BTreeMap<String, EngineSettings>,
}

fn named(reader: &mut Reader) -> Option<Named> {
    let mut named = Named::default();
    if !reader.is_given(&SECRET_OBJECTS.key) {
        return Some(named);
    }
    let text = objects_text(reader)?;
    let objects = match object::parse(text.expose()) {
        Ok(objects) => objects,
        Err(object::Malformed { language, line, column }) => {
            let accepts = SECRET_OBJECTS.parser.accepts();
            let message = format!("expected {accepts}: invalid {language} at line {line} column {column}");
            reader.mistake(&SECRET_OBJECTS.key, message);
            return None;
        }
    };
    for (id, object) in objects {
        let added = object.and_then(|object| named.add(reader, &id, object));
        if let Err(why) = added {
            reader.mistake(&SECRET_OBJECTS.key, format!("object {id:?}: {why}"));
        }
    }
    Some(named)
}

/// The text of the setting, or of the file that it names.
fn objects_text(reader: &mut Reader) -> Option<Secret<String>> {
    let text = reader.credential(&SECRET_OBJECTS)?.read().ok()?;
    let path = text.expose().trim();
    // No other text is quoted: it may be a secret in the wrong place.
    if !path.starts_with(['/', '.']) || path.contains('\n') {
        return Some(text);
    }
    let file = Credential::file(path, PathOrigin::Setting);
    let read = file.read();
    read.map_err(|error| reader.mistake(&SECRET_OBJECTS.key, error.to_string())).ok()
}

impl Named {
    fn add(&mut self, reader: &mut Reader, id: &str, object: Object) -> Result<(), String> {
        if !(1..=64).contains(&id.len()) || id.contains(|c: char| c == '/' || c.is_control()) {
            return Err("the name must have 1 to 64 characters, without / and control characters".to_owned());
        }
        match object {
            Object::Apisix(object) => {
                self.objects.insert(id.to_owned(), engine(reader, *object)?);
            }
            Object::Entity(entity) => {
                let prefix = entity.prefix.filter(|prefix| prefix != id);
                let is_taken = |name: &&str| {
                    matches!(*name, "hcv" | "env")
                        || self.entities.contains_key(*name)
                        || self.entity_prefixes.contains_key(*name)
                };
                if let Some(taken) = prefix.as_deref().into_iter().chain([id]).find(is_taken) {
                    return Err(format!("{taken:?} is the name of another backend: choose another one"));
                }
                let engine = entity_engine(reader, entity.settings)?;
                self.entities.insert(id.to_owned(), engine);
                self.entity_prefixes.extend(prefix.map(|prefix| (prefix, id.to_owned())));
            }
        }
        Ok(())
    }
}

/// An entity is read like the `vault_hcv_*` settings, with its values in their place.
fn entity_engine(
    reader: &mut Reader,
    values: Vec<(&'static Key, Secret<String>)>,
) -> Result<EngineSettings, String> {
    let resolved = values.into_iter().map(|(key, text)| {
        let value = resolved(reader, text).map_err(|why| format!("`{}` {why}", object::field(key.name)))?;
        Ok((key, value))
    });
    let values = resolved.collect::<Result<Vec<_>, String>>()?;
    let (engine, mistakes) = reader.with_values(object::keys(), values, hcv);
    if let Some(mistake) = mistakes.first() {
        let field = mistake.key.as_deref().map_or("config", object::field);
        return Err(format!("`{field}` {}", mistake.message));
    }
    let mut engine = engine.ok_or("it has mistakes")?;
    if let Some(server) = &mut engine.server {
        server.names = OBJECT_NAMES;
    }
    Ok(engine)
}

/// An object of APISIX.
fn engine(reader: &mut Reader, object: ApisixObject) -> Result<EngineSettings, String> {
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
    let server = object_server(reader, object)?;
    Ok(EngineSettings { server, mount: Some(mount), kv: Some(kv), below, caching, decode_base64: false })
}

fn field<T: Clone>(name: &str, parser: &Parser<T>, text: &str) -> Result<T, String> {
    parser.parse(text).ok_or_else(|| format!("`{name}` must be {}", parser.accepts()))
}

fn time(name: &str, seconds: Option<u64>) -> Result<Option<Duration>, String> {
    let wrong = || format!("`{name}` must be {}", CACHE_TIME.accepts());
    seconds.map(|seconds| CACHE_TIME.parse_number(seconds).ok_or_else(wrong)).transpose()
}

/// The server of an object; `None` for the keyring's session.
fn object_server(reader: &mut Reader, object: ApisixObject) -> Result<Option<Server>, String> {
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
    Ok(Some(Server { host, namespace, auth, identity: None, tls, names: OBJECT_NAMES }))
}

/// How the env backend is set. `merge` has read it, since other settings may refer to that backend.
pub(super) fn read_env(reader: &mut Reader) -> Option<EnvBackend> {
    reader.optional(&keys::ENV_PREFIX);
    reader.required(&keys::ENV_DECODE_BASE64)?;
    Some(reader.env.clone())
}

fn resolved_token(reader: &mut Reader, token: Secret<String>) -> Result<Secret<String>, String> {
    resolved(reader, token).map_err(|why| format!("`token` {why}")).and_then(checked)
}

/// The text, or the content of the variable that it refers to.
fn resolved(reader: &mut Reader, text: Secret<String>) -> Result<Secret<String>, String> {
    let reference = if is_reference(text.expose()) {
        EnvReference::parse(text.expose(), &reader.env).map_err(|why| why.to_string())?
    } else {
        match Apisix::parse(text.expose()) {
            Ok(Apisix::Variable { name, field }) => {
                EnvReference { variable: name, field, decode_base64: false }
            }
            Ok(Apisix::Secret { .. }) => {
                return Err("cannot be a reference to a secret: use $ENV://NAME".to_owned());
            }
            Err(_) => return Ok(text),
        }
    };
    let content = reader.variable(&reference.variable);
    reference.value(content).map_err(|why| why.to_string())
}

fn checked(token: Secret<String>) -> Result<Secret<String>, String> {
    if token.expose().is_empty() {
        return Err("`token` must not be empty".to_owned());
    }
    field("token", &TOKEN, token.expose()).map(|()| token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::source::{Pairs, Source};

    /// The settings of references, or the mistakes.
    fn loaded(settings: &[(&'static str, &'static str)]) -> Result<ReferenceSettings, String> {
        let variables = &[("A_TOKEN", "planted-token"), ("BAD", "planted token")];
        let sources: [Box<dyn Source>; 1] = [Box::new(Pairs { settings: settings.to_vec(), variables })];
        let mut reader = Reader::new(&sources);
        let settings = read(&mut reader);
        let mistakes: Vec<_> = reader.mistakes.iter().map(ToString::to_string).collect();
        if mistakes.is_empty() { Ok(settings.unwrap()) } else { Err(mistakes.join("\n")) }
    }

    #[test]
    fn without_a_server_and_login_the_keyrings_session_is_used() {
        for pairs in [
            [].as_slice(),
            &[("vault_hcv_mount", "kong"), ("vault_hcv_kv", "v1"), ("vault_hcv_ttl", "60")],
            &[("vault_hcv_token", "")],
        ] {
            assert!(loaded(pairs).unwrap().hcv.server.is_none(), "{pairs:?}");
        }
        let own = loaded(&[("vault_hcv_host", "vault.test"), ("vault_hcv_token", "t")]).unwrap().hcv;
        let server = own.server.unwrap();
        assert_eq!(server.host.as_str(), "http://vault.test:8200/");
        assert_eq!((own.mount.unwrap().to_string(), own.kv), ("secret".to_owned(), Some(KvVersion::V1)));
        let without_token = loaded(&[("vault_hcv_host", "vault.test")]).unwrap_err();
        assert!(without_token.contains("vault_hcv_token is required"), "{without_token}");
    }

    #[test]
    fn a_protocol_port_user_or_path_in_the_host_is_a_mistake() {
        for host in ["http://vault.test", "vault.test:8200", "user@vault.test", "a/b", "a b"] {
            let mistake = loaded(&[("vault_hcv_host", host), ("vault_hcv_token", "t")]).unwrap_err();
            assert!(mistake.contains("expected a host name or an address"), "{host}: {mistake}");
        }
        for host in ["127.0.0.1", "[::1]", "vault"] {
            assert!(loaded(&[("vault_hcv_host", host), ("vault_hcv_token", "t")]).is_ok(), "{host}");
        }
    }

    #[test]
    fn objects_have_the_fields_of_apisix() {
        let json = r#"{"1": {"uri": "https://vault.test:8200", "prefix": "kv/apisix", "token": "$ENV://A_TOKEN"},
            "2": {"prefix": "team/kv/deep/path", "mount": "team/kv", "kv": "v2", "ttl": 60}}"#;
        let settings = loaded(&[("keyring_secret_objects", json)]).unwrap();
        assert!(settings.own_variables.contains("A_TOKEN"));
        let first = &settings.objects["1"];
        let Auth::Token(token) = &first.server.as_ref().unwrap().auth else { panic!("another method") };
        assert_eq!(token.read().unwrap().expose(), "planted-token");
        assert_eq!(
            (first.below.as_slice(), first.kv),
            (["apisix".to_owned()].as_slice(), Some(KvVersion::V1))
        );
        let second = &settings.objects["2"];
        assert!(second.server.is_none());
        assert_eq!(second.below, ["deep", "path"]);
        assert_eq!(second.caching.ttl, Some(Duration::from_secs(60)));
    }

    #[test]
    fn mistakes_in_an_object_are_reported_without_its_token() {
        for (json, message) in [
            ("planted", "invalid YAML at line 1 column 1"),
            (r#"{"1": {"prefix": "kv",, "token": "planted"}}"#, "invalid JSON at line 1 column 23"),
            (
                r#"{"1": {"prefix": "kv", "tokne": "planted"}}"#,
                "no such field: \"tokne\"; did you mean `token`?",
            ),
            (r#"{"1/2": {"prefix": "kv"}}"#, "the name must have 1 to 64 characters"),
            (r#"{"1": {"prefix": ""}}"#, "`prefix` must be a path in Vault"),
            (r#"{"1": {"prefix": "kv/a", "mount": "b"}}"#, "`prefix` must begin with `mount`"),
            (r#"{"1": {"prefix": "kv", "kv": "v3"}}"#, "`kv` must be v1 or v2"),
            (
                r#"{"1": {"prefix": "kv", "ttl": 100000001}}"#,
                "`ttl` must be whole seconds from 0 to 100000000",
            ),
            (r#"{"1": {"prefix": "kv", "token": "planted"}}"#, "set both `uri` and `token`"),
            (r#"{"1": {"prefix": "kv", "uri": "vault", "token": "planted"}}"#, "`uri` must be <scheme>://"),
            (
                r#"{"1": {"prefix": "kv", "uri": "http://v:1", "token": "$env://NOT_SET"}}"#,
                "`token` is a reference to the variable NOT_SET, which is not set",
            ),
            (
                r#"{"1": {"prefix": "kv", "uri": "http://v:1", "token": "{vault://env/bad}"}}"#,
                "`token` must be a token of",
            ),
            (r#"{"1": {"prefix": "kv", "uri": "http://v:1", "token": ""}}"#, "`token` must not be empty"),
            (
                r#"{"1": {"prefix": "kv", "uri": "http://v:1", "token": "$secret://vault/2/a/b"}}"#,
                "`token` cannot be a reference to a secret",
            ),
        ] {
            let error = loaded(&[("keyring_secret_objects", json)]).unwrap_err();
            assert!(error.contains(message) && !error.contains("planted"), "{json}: {error}");
        }
    }
}
