//! The small value types and the parsers of single values: text in, typed value out.
//!
//! Pure: nothing here reads a file or a system database. Which setting holds which kind of value is in `keys`.
//! The file is longer than most: a type and a parser for each kind of value.

use std::{fmt, net::SocketAddr, path::PathBuf};

use url::Url;

use super::{conf::trim, reference::is_name, setting::Parser};
use crate::{
    keyring::{self, KeyId, key::decode_32_bytes},
    logging::Level,
    secret::wipe_stack,
};

/// The memory of all requests in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflightSize {
    /// By the process's memory limit.
    Auto,
    Bytes(usize),
}

/// `auto`, or a size.
pub(super) const INFLIGHT_SIZE: Parser<InflightSize> = Parser::Text {
    accepts: "auto, or a size from 1k to 1g, such as 512k or 32m",
    convert: |text| match text {
        "auto" => Some(InflightSize::Auto),
        _ => Parser::size(1 << 10, 1 << 30).parse(text).map(InflightSize::Bytes),
    },
};

/// A version of the KV secrets engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KvVersion {
    V1,
    V2,
}

/// A path in Vault by segments: none is empty, `.` or `..`, none has control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretPath(pub Vec<String>);

/// An item of `keyring_vault_paths`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyringPath {
    Secret {
        name: String,
        path: SecretPath,
    },
    /// Every secret directly below it is a keyring.
    Folder(SecretPath),
}

/// What encrypt writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CiphertextFormat {
    Native,
    Transit,
}

/// Which requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    Off,
    Failures,
    All,
}

pub(super) const BOOLEAN: Parser<bool> =
    Parser::Words(&[("on", true), ("off", false), ("true", true), ("false", false)]);

pub(super) const KV_VERSION: Parser<KvVersion> =
    Parser::Words(&[("v1", KvVersion::V1), ("v2", KvVersion::V2)]);

pub(super) const LOG_LEVEL: Parser<Level> = Parser::Words(&[
    ("debug", Level::Debug),
    ("info", Level::Info),
    ("notice", Level::Notice),
    ("warn", Level::Warn),
    ("error", Level::Error),
    ("crit", Level::Error),
    ("alert", Level::Error),
    ("emerg", Level::Error),
    ("trace", Level::Trace),
]);

/// An address to listen on.
pub(super) const LISTEN_ADDRESS: Parser<SocketAddr> = Parser::Text {
    accepts: "an address with a port, such as 127.0.0.1:9187 or [::1]:9187",
    convert: |text| text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0),
};

/// Permission bits.
pub(super) const MODE: Parser<u32> = Parser::Text {
    accepts: "an octal mode from 0000 to 0777, such as 0660",
    convert: |text| {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o777)
    },
};

pub(super) const PATH: Parser<PathBuf> = Parser::Text {
    accepts: "a file path",
    convert: |text| (!text.contains('\0')).then(|| PathBuf::from(text)),
};

pub(super) const ABSOLUTE_PATH: Parser<PathBuf> = Parser::Text {
    accepts: "an absolute file path",
    convert: |text| PATH.parse(text).filter(|path| path.is_absolute() && path.file_name().is_some()),
};

/// A key for a cipher.
pub(super) const BASE64_KEY: Parser<()> = Parser::Text {
    accepts: "base64 of 32 bytes",
    convert: |text| {
        let is_key = decode_32_bytes(text).is_some();
        wipe_stack::<STACK>(); // decoding left copies of the key there
        is_key.then_some(())
    },
};

/// More than the stack use of decoding a key.
const STACK: usize = 8 << 10;

/// At most as long as `sockaddr_un` holds (unix(7)).
pub(super) const SOCKET_PATH: Parser<PathBuf> = Parser::Text {
    accepts: "a path of at most 107 bytes",
    convert: |text| PATH.parse(text).filter(|_| text.len() <= 107),
};

/// The server's base URL. User info would be a secret that is printed. A path would change the configured path of the
/// secret.
pub(super) const BASE_URL: Parser<Url> = Parser::Text {
    accepts: "<scheme>://<host>:<port>, with the path of a gateway if there is one, without user name, password, query and /v1, such as https://vault.example.com:8200",
    convert: |text| {
        let url = http_url(text)?;
        let is_base = url.query().is_none() && url.fragment().is_none();
        (is_base && !url.path().trim_end_matches('/').ends_with("/v1")).then_some(url)
    },
};

/// The URL of a token endpoint, which may have a path and a query.
pub(super) const ENDPOINT_URL: Parser<Url> = Parser::Text {
    accepts: "a URL without user name and password, such as https://login.example.com/oauth2/token",
    convert: http_url,
};

fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
    (is_http && url.username().is_empty() && url.password().is_none()).then_some(url)
}

/// The host of a URL, as Kong keeps it apart from protocol and port.
pub(super) const HOST: Parser<String> = Parser::Text {
    accepts: "a host name or an address, without protocol and port",
    convert: |text| {
        let url = BASE_URL.parse(&format!("https://{text}"))?;
        let is_host =
            url.path() == "/" && url.port().is_none() && url.host_str().is_some_and(|host| !host.is_empty());
        (is_host && !text.contains('/')).then(|| text.to_owned())
    },
};

/// What an HTTP header can carry, so that a stray line break is found here.
pub(super) const TOKEN: Parser<()> =
    Parser::Text { accepts: "a token of printable ASCII characters without blanks", convert: printable };

pub(super) const SECRET_ID: Parser<()> =
    Parser::Text { accepts: "a secret ID of printable ASCII characters without blanks", convert: printable };

fn printable(text: &str) -> Option<()> {
    text.bytes().all(|byte| byte.is_ascii_graphic()).then_some(())
}

/// A namespace, which an HTTP header carries.
pub(super) const NAMESPACE: Parser<String> = Parser::Text {
    accepts: "a namespace: a path in Vault of printable ASCII characters",
    convert: |text| secret_path(text).map(|path| path.to_string()).filter(|path| printable(path).is_some()),
};

pub(super) const SECRET_PATH: Parser<SecretPath> =
    Parser::Text { accepts: "a path in Vault without empty, . and .. segments", convert: secret_path };

fn secret_path(text: &str) -> Option<SecretPath> {
    let segments: Vec<_> = text.trim_matches('/').split('/').map(str::to_owned).collect();
    let bad = |segment: &String| {
        matches!(segment.as_str(), "" | "." | "..") || segment.chars().any(char::is_control)
    };
    (!segments.iter().any(bad)).then_some(SecretPath(segments))
}

/// A key name in Transit's paths.
pub(super) const KEY_NAME: Parser<String> = Parser::Text {
    accepts: "1 to 128 letters, digits and _ . -",
    convert: |text| keyring::is_name(text).then(|| text.to_owned()),
};

pub(super) const KEYRING_PATHS: Parser<Vec<KeyringPath>> = Parser::Text {
    accepts: "a list of paths of secrets, name=path, and folder/; names are 1 to 128 letters, digits and _ . -",
    convert: |text| list(text).iter().map(|item| keyring_path(item)).collect(),
};

fn keyring_path(item: &str) -> Option<KeyringPath> {
    if let Some(folder) = item.strip_suffix('/') {
        return secret_path(folder).filter(|_| !item.contains('=')).map(KeyringPath::Folder);
    }
    let (name, path) = match item.split_once('=') {
        Some((name, path)) => (trim(name), trim(path)),
        None => (item.rsplit('/').next()?, item),
    };
    Some(KeyringPath::Secret { name: KEY_NAME.parse(name)?, path: secret_path(path)? })
}

pub(super) const KEY_ID: Parser<KeyId> = Parser::Text {
    accepts: "1 to 64 of A-Z a-z 0-9 _ . -, and not active",
    convert: |text| KeyId::parse(text).ok(),
};

pub(super) const LIST: Parser<Vec<String>> =
    Parser::Text { accepts: "a comma-separated list", convert: |text| Some(list(text)) };

/// Names of backends in references.
pub(super) const PREFIXES: Parser<Vec<String>> = Parser::Text {
    accepts: "a list of names of letters, digits, - and _, except env",
    convert: |text| Some(list(text)).filter(|names| names.iter().all(|name| name != "env" && is_name(name))),
};

/// The other paths below `/v1/` are the API's own.
pub(super) const TRANSIT_MOUNTS: Parser<Vec<String>> = Parser::Text {
    accepts: "a list of paths of letters, digits, -, _, . and /, of which none starts with auth, resolve or sys",
    convert: |text| {
        let segment = |segment: &str| {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            !matches!(segment, "" | "." | "..") && segment.bytes().all(is_name)
        };
        let is_mount = |mount: &String| {
            mount.split('/').all(segment)
                && !matches!(mount.split('/').next(), Some("auth" | "resolve" | "sys"))
        };
        let mounts: Vec<_> = list(text).iter().map(|mount| mount.trim_matches('/').to_owned()).collect();
        Some(mounts).filter(|mounts| !mounts.is_empty() && mounts.iter().all(is_mount))
    },
};

/// The start of the names of variables in references.
pub(super) const ENV_PREFIX: Parser<String> = Parser::Text {
    accepts: "letters, digits, - and _",
    convert: |text| is_name(text).then(|| text.to_owned()),
};

/// Items between commas, trimmed, without empty ones.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').map(trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

impl SecretPath {
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

impl fmt::Display for KvVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V1 { "v1" } else { "v2" })
    }
}

/// The warning about a value in quotes, which are ordinary characters in a kong.conf.
pub(super) fn quotes_warning(text: &str) -> Option<&'static str> {
    let within = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    (within('"') || within('\'')).then_some("the quotes are part of the value, in Kong as well")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts<T: Clone>(parser: &Parser<T>, text: &str) -> bool {
        parser.parse(text).is_some()
    }

    #[test]
    fn booleans_are_on_off_true_false_in_lower_case() {
        let values = ["on", "true", "off", "false"].map(|text| BOOLEAN.parse(text));
        assert_eq!(values, [Some(true), Some(true), Some(false), Some(false)]);
        for bad in ["On", "TRUE", "yes", "1", "", " on"] {
            assert!(!accepts(&BOOLEAN, bad), "{bad}");
        }
    }

    #[test]
    fn versions_are_displayed_as_they_are_parsed() {
        for version in [KvVersion::V1, KvVersion::V2] {
            assert_eq!(KV_VERSION.parse(&version.to_string()), Some(version));
        }
    }

    #[test]
    fn only_addresses_with_a_port_are_accepted() {
        for good in ["127.0.0.1:9187", "10.0.0.1:1", "[::1]:9187", "0.0.0.0:9187"] {
            assert!(accepts(&LISTEN_ADDRESS, good), "{good}");
        }
        for bad in ["localhost:9187", "127.0.0.1", ":9187", "127.0.0.1:0", ""] {
            assert!(!accepts(&LISTEN_ADDRESS, bad), "{bad}");
        }
    }

    #[test]
    fn modes_are_octal() {
        let modes = ["0660", "600", "0000"].map(|text| MODE.parse(text));
        assert_eq!(modes, [Some(0o660), Some(0o600), Some(0)]);
        for bad in ["", "0", "66", "0888", "1777", "rw-rw----", "00660", "+660"] {
            assert!(!accepts(&MODE, bad), "{bad}");
        }
    }

    #[test]
    fn the_server_is_a_base_url_without_more() {
        for good in ["http://127.0.0.1:8200", "https://vault.example.com", "https://[::1]:8200/"] {
            assert!(accepts(&BASE_URL, good), "{good}");
        }
        for bad in [
            "",
            "vault.example.com",
            "127.0.0.1:8200",
            "ftp://vault:21",
            "https://",
            "unix:///run/vault.sock",
            "https://user:pass@vault:8200",
            "https://token@vault:8200",
            "https://vault:8200/v1",
            "https://vault:8200/?x",
            "https://vault:8200/#x",
            "https://vault:99999",
        ] {
            assert!(!accepts(&BASE_URL, bad), "{bad}");
        }
    }

    #[test]
    fn a_path_in_vault_cannot_escape_its_prefix() {
        assert_eq!(secret_path("/team/keyring/").unwrap().0, ["team", "keyring"]);
        assert_eq!(secret_path("a%2e%2e?#;*+").unwrap().0, ["a%2e%2e?#;*+"]);
        for bad in ["", "/", "a//b", "..", "a/../b", "./a", "a\0b", "a\nb", "a\rb", "a\u{7f}"] {
            assert!(secret_path(bad).is_none(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (MODE.parse(&text), BASE_URL.parse(&text), HOST.parse(&text), SECRET_PATH.parse(&text));
            let _ = (KEY_NAME.parse(&text), LOG_LEVEL.parse(&text), NAMESPACE.parse(&text));
            let _ = quotes_warning(&text);
        }
    }
}
