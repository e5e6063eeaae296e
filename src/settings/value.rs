//! One small parser for each kind of value. Text in; a typed value, or what was expected, out.
//!
//! An error never quotes the text, since a parser does not know whether it is a secret. Which key holds which kind is in
//! `settings`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use url::Url;

use super::{Audit, CiphertextFormat, KvVersion, LogFormat, LogLevel, SecretPath};
use crate::keyring::KeyDerivation;

/// What was expected, for people: "expected …" stands before it.
pub type Expected = String;

pub type Parsed<T> = Result<T, Expected>;

pub fn expected<T>(what: impl Into<String>) -> Parsed<T> {
    Err(what.into())
}

/// One of the given words, as Kong reads an enum: exactly.
pub fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Parsed<T> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        words.join(" or ")
    })
}

pub fn boolean(text: &str) -> Parsed<bool> {
    one_of(text, &[("on", true), ("off", false), ("true", true), ("false", false)])
}

pub fn kv_version(text: &str) -> Parsed<KvVersion> {
    one_of(text, &[("v1", KvVersion::V1), ("v2", KvVersion::V2)])
}

pub fn key_derivation(text: &str) -> Parsed<KeyDerivation> {
    one_of(text, &[("sha256", KeyDerivation::Sha256), ("raw", KeyDerivation::Raw)])
}

pub fn log_level(text: &str) -> Parsed<LogLevel> {
    let levels = [
        ("debug", LogLevel::Debug),
        ("info", LogLevel::Info),
        ("notice", LogLevel::Info),
        ("warn", LogLevel::Warn),
        ("error", LogLevel::Error),
        ("crit", LogLevel::Error),
        ("alert", LogLevel::Error),
        ("emerg", LogLevel::Error),
        ("trace", LogLevel::Trace),
    ];
    one_of(text, &levels)
}

pub fn log_format(text: &str) -> Parsed<LogFormat> {
    one_of(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
}

pub fn audit(text: &str) -> Parsed<Audit> {
    one_of(text, &[("off", Audit::Off), ("failures", Audit::Failures), ("all", Audit::All)])
}

pub fn ciphertext_format(text: &str) -> Parsed<CiphertextFormat> {
    one_of(text, &[("native", CiphertextFormat::Native), ("transit", CiphertextFormat::Transit)])
}

/// An address on this machine alone, with a port. Nobody is asked who he is there.
pub fn loopback_address(text: &str) -> Parsed<SocketAddr> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() && address.port() != 0 => Ok(address),
        _ => expected("an address of this machine alone with a port, such as 127.0.0.1:9187 or [::1]:9187"),
    }
}

/// A whole number within a range.
pub fn number(text: &str, range: std::ops::RangeInclusive<u64>) -> Parsed<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits && range.contains(&number) => Ok(number),
        _ => expected(format!("a whole number from {} to {}", range.start(), range.end())),
    }
}

/// Whole seconds within a range.
pub fn seconds(text: &str, range: std::ops::RangeInclusive<u64>) -> Parsed<Duration> {
    let wanted = format!("whole seconds from {} to {}", range.start(), range.end());
    number(text, range).map(Duration::from_secs).map_err(|_| wanted)
}

/// Bytes, as nginx writes them: `512`, `64k`, `32m`, `1g`.
pub fn size(text: &str) -> Parsed<usize> {
    const RANGE: std::ops::RangeInclusive<usize> = 1024..=1024 * 1024 * 1024;
    let (digits, shift) = match text.to_ascii_lowercase().as_str() {
        lower if lower.ends_with('k') => (&text[..text.len() - 1], 10),
        lower if lower.ends_with('m') => (&text[..text.len() - 1], 20),
        lower if lower.ends_with('g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let bytes = number(digits, 0..=u64::from(u32::MAX)).ok().and_then(|n| usize::try_from(n << shift).ok());
    match bytes.filter(|bytes| RANGE.contains(bytes)) {
        Some(bytes) => Ok(bytes),
        None => expected("a size from 1k to 1g, such as 512k or 32m"),
    }
}

/// Permission bits in octal.
pub fn mode(text: &str) -> Parsed<u32> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => expected("an octal mode such as 0660"),
    }
}

/// A group that exists, as its number.
pub fn group(text: &str) -> Parsed<u32> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match nix::unistd::Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => expected("a group that exists here, by name or number"),
        Err(error) => {
            expected(format!("a group, and the system's list of groups cannot be read: {}", error.desc()))
        }
    }
}

pub fn path(text: &str) -> Parsed<PathBuf> {
    if text.contains('\0') { expected("a path without a NUL byte") } else { Ok(PathBuf::from(text)) }
}

/// The server's base URL. No user info, which would be a secret in a place that is printed; no path, query or fragment,
/// so that the server sees exactly the configured path.
pub fn base_url(text: &str) -> Parsed<Url> {
    const WANTED: &str = "<scheme>://<host>:<port>, such as https://vault.example.com:8200";
    let Ok(url) = Url::parse(text) else { return expected(WANTED) };
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return expected(WANTED);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return expected(format!(
            "{WANTED}; without a user name or password, which belong in the auth method's settings"
        ));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return expected(format!("{WANTED}; the mount and path have settings of their own"));
    }
    Ok(url)
}

/// A token: what an HTTP header can carry, so that a stray line break is found here.
pub fn token(text: &str) -> Parsed<()> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        expected("a token, without blanks, line breaks or other characters that are not printable ASCII")
    }
}

/// A namespace, as the header carries it.
pub fn namespace(text: &str) -> Parsed<String> {
    secret_path(text).map(|path| path.to_string()).and_then(|path| token(&path).map(|()| path))
}

/// Items between commas, trimmed, empty ones dropped.
pub fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// Where a token endpoint is. It may have a path and a query; user info is refused, as for the server.
pub fn endpoint_url(text: &str) -> Parsed<Url> {
    match Url::parse(text) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none() =>
        {
            Ok(url)
        }
        _ => {
            expected("a URL such as https://login.example.com/oauth2/token, without a user name or password")
        }
    }
}

/// A path in Vault, kept segment by segment.
pub fn secret_path(text: &str) -> Parsed<SecretPath> {
    let segments: Vec<_> = text.trim_matches('/').split('/').map(str::to_owned).collect();
    let bad = |segment: &String| {
        matches!(segment.as_str(), "" | "." | "..") || segment.chars().any(char::is_control)
    };
    if segments.iter().any(bad) {
        return expected("a path whose segments are not empty, not . or .., and free of control characters");
    }
    Ok(SecretPath(segments))
}

/// A key name, as Transit's paths take it.
pub fn key_name(text: &str) -> Parsed<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if text.bytes().all(good) && (1..=128).contains(&text.len()) && !matches!(text, "." | "..") {
        Ok(text.to_owned())
    } else {
        expected("1 to 128 letters, digits and _ . -")
    }
}

/// What to say of a file's value in quotes, which to Kong are ordinary characters.
pub fn quoted(text: &str) -> Option<&'static str> {
    let within = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    (within('"') || within('\'')).then_some("the quotes are part of the value, to Kong as well")
}

/// What to say of a file's value that Kong reads as a number and so differently: `007` as 7, `1e3` as 1000, and what has
/// 15 digits or more without its last ones.
pub fn number_to_kong(text: &str) -> Option<&'static str> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let hexadecimal = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X"));
    let is_number = hexadecimal.map_or_else(
        || text.parse::<f64>().is_ok_and(f64::is_finite),
        |digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()),
    );
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "1"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let plain = digits(whole)
        && digits(fraction)
        && (whole == "0" || !whole.starts_with('0'))
        && !fraction.ends_with('0')
        && whole.len() + fraction.len() <= 15;
    (is_number && !plain).then_some("Kong reads this as a number, and so not as it is written")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn booleans_are_on_off_true_false_in_lower_case() {
        assert_eq!((boolean("on"), boolean("true"), boolean("off")), (Ok(true), Ok(true), Ok(false)));
        for bad in ["On", "TRUE", "yes", "1", "", " on"] {
            assert!(boolean(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_say_their_range() {
        assert_eq!(
            (size("1k"), size("32m"), size("2048"), size("1G")),
            (Ok(1024), Ok(32 << 20), Ok(2048), Ok(1 << 30))
        );
        for bad in ["", "m", "1023", "2g", "1.5m", "-1m", "+1m", "1mm", "99999999999g", "é"] {
            assert_eq!(size(bad), Err("a size from 1k to 1g, such as 512k or 32m".into()), "{bad}");
        }
    }

    #[test]
    fn the_loopback_is_this_machine_alone() {
        for good in ["127.0.0.1:9187", "127.9.9.9:1", "[::1]:9187"] {
            assert!(loopback_address(good).is_ok(), "{good}");
        }
        for bad in [
            "0.0.0.0:9187",
            "10.0.0.1:9187",
            "localhost:9187",
            "127.0.0.1",
            ":9187",
            "[::]:9187",
            "127.0.0.1:0",
            "",
        ] {
            assert!(loopback_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_say_their_range() {
        assert_eq!(number("5", 1..=10), Ok(5));
        for bad in ["", "0", "11", "+5", "5.0", "1e1", "five", "99999999999999999999"] {
            assert_eq!(number(bad, 1..=10), Err("a whole number from 1 to 10".into()), "{bad}");
        }
    }

    #[test]
    fn values_that_kong_reads_as_other_numbers_are_told() {
        for doubtful in ["007", "1e3", "0x1F", "1.50", "-01", "1234567890123456", "+5", "5."] {
            assert!(number_to_kong(doubtful).is_some(), "{doubtful}");
        }
        for same in
            ["", "0", "7", "-7", "1.5", "12345678901234", "on", "0x", "s.123", "1e", "nan", "inf", "a"]
        {
            assert!(number_to_kong(same).is_none(), "{same}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!((mode("0660"), mode("600"), mode("0000")), (Ok(0o660), Ok(0o600), Ok(0)));
        for bad in ["", "0", "66", "0888", "1777", "rw-rw----", "00660", "+660"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn groups_go_by_name_or_number() {
        assert_eq!((group("root"), group("0"), group("12345")), (Ok(0), Ok(0), Ok(12345)));
        assert!(group("no-such-group-here").is_err());
    }

    #[test]
    fn the_host_is_a_base_url_and_nothing_more() {
        for good in ["http://127.0.0.1:8200", "https://vault.example.com", "https://[::1]:8200/"] {
            assert!(base_url(good).is_ok(), "{good}");
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
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_in_vault_cannot_leave_its_place() {
        assert_eq!(secret_path("/team/keyring/").unwrap().0, ["team", "keyring"]);
        assert_eq!(secret_path("a%2e%2e?#;*+").unwrap().0, ["a%2e%2e?#;*+"]);
        for bad in ["", "/", "a//b", "..", "a/../b", "./a", "a\0b", "a\nb", "a\rb", "a\u{7f}"] {
            assert!(secret_path(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (size(&text), mode(&text), base_url(&text), secret_path(&text));
            let _ = (number(&text, 0..=9), group(&text), key_name(&text), log_level(&text));
        }
    }
}
