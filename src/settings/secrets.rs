//! Where references to secrets lead: Kong's `hcv` backend, by its `vault_hcv_*` settings, and APISIX's objects, each by its
//! ID, which `objects` reads. What is asked there, and how long it is kept, is for `references` to see to.
//!
//! Whoever names neither a server nor a way in means the keyring's own session.

mod objects;

use std::collections::{BTreeMap, BTreeSet};

use url::Url;

use super::{
    KvVersion, SecretPath, Server, SettingNames, Tls, auth,
    keys::{self, Key},
    pem,
    reader::Reader,
    reference::Caching,
    value::{self, Parsed},
};

/// The longest times that are taken: about three years.
const LONGEST: u64 = 100_000_000;

#[derive(Debug)]
pub struct Secrets {
    pub hcv: Engine,
    /// Further names for `hcv` in Kong's references.
    pub prefixes: Vec<String>,
    /// APISIX's objects, by their IDs.
    pub objects: BTreeMap<String, Engine>,
    /// The variables that settings refer to: they hold the daemon's own secrets, and no client may name them.
    pub own_variables: BTreeSet<String>,
}

/// A KV secrets engine, and what is below one path in it.
#[derive(Debug)]
pub struct Engine {
    /// `None` for the keyring's own session.
    pub server: Option<Server>,
    /// `None` for the mount and the version of the keyring's own.
    pub mount: Option<SecretPath>,
    pub kv: Option<KvVersion>,
    /// What stands before each reference's path.
    pub below: Vec<String>,
    pub caching: Caching,
    pub decode_base64: bool,
}

pub fn read(reader: &mut Reader) -> Option<Secrets> {
    let hcv = hcv(reader);
    let prefixes = reader.optional(&keys::HCV_PREFIXES, prefixes);
    let objects =
        if reader.is_given(&keys::SECRET_OBJECTS) { objects::read(reader) } else { Some(BTreeMap::new()) };
    Some(Secrets {
        hcv: hcv?,
        prefixes: prefixes.unwrap_or_default(),
        objects: objects?,
        own_variables: reader.referred.clone(),
    })
}

fn hcv(reader: &mut Reader) -> Option<Engine> {
    let of_server = [&keys::HCV_PROTOCOL, &keys::HCV_HOST, &keys::HCV_PORT, &keys::HCV_NAMESPACE];
    let own_server = of_server.into_iter().chain(auth::HCV.keys()).any(|key| reader.is_given(key));
    let mount = reader.optional(&keys::HCV_MOUNT, value::secret_path);
    let kv = reader.optional(&keys::HCV_KV, value::kv_version);
    let caching = caching(reader);
    let decode_base64 = reader.required(&keys::HCV_DECODE_BASE64, value::boolean);
    let engine = Engine {
        server: None,
        mount: mount.clone(),
        kv,
        below: Vec::new(),
        caching,
        decode_base64: decode_base64?,
    };
    if !own_server {
        return Some(engine);
    }
    let mount = mount.unwrap_or_else(|| SecretPath(vec!["secret".to_owned()]));
    let kv = kv.unwrap_or(KvVersion::V1);
    let server = hcv_server(reader)?;
    Some(Engine { server: Some(server), mount: Some(mount), kv: Some(kv), ..engine })
}

fn hcv_server(reader: &mut Reader) -> Option<Server> {
    let protocol = reader
        .required(&keys::HCV_PROTOCOL, |text| value::one_of(text, &[("http", "http"), ("https", "https")]));
    let name = reader.required(&keys::HCV_HOST, host);
    let port = reader.required(&keys::HCV_PORT, |text| value::number(text, 1..=65535));
    let namespace = reader.optional(&keys::HCV_NAMESPACE, value::namespace);
    let auth = auth::read(reader, &auth::HCV);
    let tls = trust(reader)?;
    let (protocol, name, port) = (protocol?, name?, port?);
    Some(Server {
        host: value::base_url(&format!("{protocol}://{name}:{port}")).ok()?,
        namespace,
        auth: auth?,
        tls,
        names: SettingNames { host: keys::HCV_HOST.name, token: keys::HCV_TOKEN.name, prefix: "vault_hcv_" },
    })
}

fn trust(reader: &mut Reader) -> Option<Tls> {
    let trusted = reader.required(&keys::SSL_TRUSTED_CERTIFICATE, pem::trusted_certificates);
    let depth = reader.required(&keys::SSL_VERIFY_DEPTH, |text| value::number(text, 0..=100));
    Some(Tls { trusted: trusted?, verify_depth: usize::try_from(depth?).ok()? })
}

/// A host alone, as Kong has it beside the protocol and the port.
fn host(text: &str) -> Parsed<String> {
    let alone = |url: &Url| url.port().is_none() && url.host_str().is_some_and(|host| !host.is_empty());
    match value::base_url(&format!("https://{text}")) {
        Ok(url) if alone(&url) && !text.contains('/') => Ok(text.to_owned()),
        _ => value::expected(
            "a host name or an address alone; the protocol and the port have settings of their own",
        ),
    }
}

fn caching(reader: &mut Reader) -> Caching {
    let mut seconds = |key: &'static Key| reader.optional(key, |text| value::seconds(text, 0..=LONGEST));
    Caching {
        ttl: seconds(&keys::HCV_TTL),
        neg_ttl: seconds(&keys::HCV_NEG_TTL),
        resurrect_ttl: seconds(&keys::HCV_RESURRECT_TTL),
    }
}

fn prefixes(text: &str) -> Parsed<Vec<String>> {
    let names = value::list(text);
    let is_name = |name: &String| {
        name != "env" && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if names.iter().all(is_name) {
        Ok(names)
    } else {
        value::expected("names of letters, digits, - and _, none of them env")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        secret::Secret,
        settings::{
            Auth,
            source::{Entry, Found, Origin, Source, Value},
        },
    };

    /// A source that holds `key = value` pairs, and one variable.
    struct Map(Vec<(&'static str, &'static str)>);

    impl Source for Map {
        fn read(&self) -> Found {
            let entry = |(key, value): &(&str, &str)| Entry {
                key: (*key).to_owned(),
                value: Value::Text(Secret::new((*value).to_owned())),
                origin: Origin::Default,
            };
            Found { entries: self.0.iter().map(entry).collect(), ..Found::default() }
        }

        fn variable(&self, name: &str) -> crate::settings::resolve::Variable {
            let held = [("A_TOKEN", "planted-token"), ("BAD", "planted token")];
            let text = held.iter().find(|(known, _)| *known == name);
            Ok(text.map(|(_, text)| Secret::new((*text).to_owned())))
        }
    }

    /// The settings of references, or what is wrong with them.
    fn loaded(pairs: &[(&'static str, &'static str)]) -> Result<Secrets, String> {
        let sources: [Box<dyn Source>; 1] = [Box::new(Map(pairs.to_vec()))];
        let mut reader = Reader::new(&sources);
        let secrets = read(&mut reader);
        let mistakes: Vec<_> = reader.mistakes.iter().map(ToString::to_string).collect();
        if mistakes.is_empty() { Ok(secrets.unwrap()) } else { Err(mistakes.join("\n")) }
    }

    #[test]
    fn each_way_in_of_the_keyrings_is_there_for_references_under_a_name_like_it() {
        let both: Vec<_> = auth::KEYRING.keys().zip(auth::HCV.keys()).collect();
        assert_eq!(both.len(), auth::HCV.keys().count());
        for (keyring, hcv) in both {
            assert_eq!(hcv.name, keyring.name.replace("keyring_vault_", "vault_hcv_"));
            let alias = keyring.alias.map(|alias| alias.replace("keyring_vault_", "vault_hcv_"));
            assert_eq!(hcv.alias.map(str::to_owned), alias, "{}", hcv.name);
            assert_eq!((hcv.default, hcv.accepts), (keyring.default, keyring.accepts), "{}", hcv.name);
            assert_eq!((hcv.secret, hcv.word), (keyring.secret, keyring.word), "{}", hcv.name);
        }
    }

    #[test]
    fn without_a_server_or_a_way_in_it_is_the_keyrings_session() {
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
    fn what_is_no_host_is_a_mistake() {
        for host in ["http://vault.test", "vault.test:8200", "user@vault.test", "a/b", "a b"] {
            let said = loaded(&[("vault_hcv_host", host), ("vault_hcv_token", "t")]).unwrap_err();
            assert!(said.contains("a host name or an address alone"), "{host}: {said}");
        }
        for host in ["127.0.0.1", "[::1]", "vault"] {
            assert!(loaded(&[("vault_hcv_host", host), ("vault_hcv_token", "t")]).is_ok(), "{host}");
        }
    }

    #[test]
    fn an_object_is_what_apisix_stores() {
        let json = r#"{"1": {"uri": "https://vault.test:8200", "prefix": "kv/apisix", "token": "$ENV://A_TOKEN"},
            "2": {"prefix": "team/kv/deep/path", "mount": "team/kv", "kv": "v2", "ttl": 60}}"#;
        let secrets = loaded(&[("keyring_secret_objects", json)]).unwrap();
        assert!(secrets.own_variables.contains("A_TOKEN"));
        let first = &secrets.objects["1"];
        let Auth::Token(token) = &first.server.as_ref().unwrap().auth else { panic!("another method") };
        assert_eq!(token.read().unwrap().expose(), "planted-token");
        assert_eq!(
            (first.below.as_slice(), first.kv),
            (["apisix".to_owned()].as_slice(), Some(KvVersion::V1))
        );
        let second = &secrets.objects["2"];
        assert!(second.server.is_none());
        assert_eq!(second.below, ["deep", "path"]);
        assert_eq!(second.caching.ttl, Some(Duration::from_secs(60)));
    }

    #[test]
    fn what_is_wrong_with_an_object_is_told_and_no_token_quoted() {
        for (json, said) in [
            ("planted", "expected JSON such as"),
            (r#"{"1": {"prefix": "kv", "planted": 1}}"#, "expected JSON such as"),
            (r#"{"1/2": {"prefix": "kv"}}"#, "IDs without /"),
            (r#"{"1": {"prefix": ""}}"#, "has another prefix than a path"),
            (r#"{"1": {"prefix": "kv/a", "mount": "b"}}"#, "has a mount that its prefix does not begin with"),
            (r#"{"1": {"prefix": "kv", "kv": "v3"}}"#, "has another kv than v1 or v2"),
            (r#"{"1": {"prefix": "kv", "ttl": 100000001}}"#, "has a time of more than"),
            (r#"{"1": {"prefix": "kv", "token": "planted"}}"#, "needs both uri and token"),
            (r#"{"1": {"prefix": "kv", "uri": "vault", "token": "planted"}}"#, "has another uri than"),
            (
                r#"{"1": {"prefix": "kv", "uri": "http://v:1", "token": "$env://NOT_SET"}}"#,
                "has a token that is a reference to the variable NOT_SET, which is not set",
            ),
            (
                r#"{"1": {"prefix": "kv", "uri": "http://v:1", "token": "{vault://env/bad}"}}"#,
                "another token than",
            ),
            (
                r#"{"1": {"prefix": "kv", "uri": "http://v:1", "token": ""}}"#,
                "another token than a token that is not",
            ),
            (
                r#"{"1": {"prefix": "kv", "uri": "http://v:1", "token": "$secret://vault/2/a/b"}}"#,
                "only $ENV:// can lead to one",
            ),
        ] {
            let error = loaded(&[("keyring_secret_objects", json)]).unwrap_err();
            assert!(error.contains(said) && !error.contains("planted"), "{json}: {error}");
        }
    }
}
