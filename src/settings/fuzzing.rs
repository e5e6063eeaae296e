//! What the fuzz targets call here. Compiled for them and for tests only.

use super::{
    access::{self, Accounts, IdMap},
    conf::{self, Conf},
    pem,
    reference::{Reference, apisix::Apisix},
};

pub(crate) fn kong_conf(bytes: &[u8]) {
    let Ok(conf) = Conf::parse(bytes) else { return };
    for line in conf.lines {
        assert!(line.key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{:?}", line.key);
        if let Some(value) = line.value {
            assert_eq!(conf::trim(value.expose()), value.expose(), "line {}", line.number);
        }
    }
}

pub(crate) fn reference(text: &str) {
    if let Ok(reference) = Reference::parse(text) {
        assert!(!reference.path.is_empty() && reference.path.iter().all(|segment| !segment.is_empty()));
    }
    let _ = Apisix::parse(text);
}

/// Every user has the number of its name's length.
struct Anybody;

impl Accounts for Anybody {
    fn user(&self, name: &str) -> Result<Option<u32>, String> {
        Ok(u32::try_from(name.len()).ok())
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        self.user(name)
    }

    fn id_map(&self, _kind: &str) -> IdMap {
        IdMap { lines: None, overflow: 65534 }
    }
}

pub(crate) fn access_list(text: &str) {
    let _ = access::access(text, &Anybody, |found| format!(": {found:?}"));
}

pub(crate) fn pem(text: &str) {
    let _ = pem::private_key(text);
    let _ = pem::trust_item(text);
    if let Ok(chain) = pem::certificate_chain(text) {
        assert!(!chain.is_empty());
    }
}
