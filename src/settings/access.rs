//! Who may do what: the list of `keyring_access`, and what it comes to for one peer.
//!
//! Pure but for the names of users and groups, which are looked up once, when the list is read. Who the peer is, the
//! kernel says: see `socket::access`.

use std::{fmt, fs};

use nix::unistd::User;

use super::value::{self, Parsed};

/// One thing that a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Encrypt,
    Decrypt,
    DataKey,
    Status,
    Sync,
    Metrics,
    Secrets,
    Kms,
}

/// A set of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations(u8);

/// The list. It holds one entry at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access(Vec<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    who: Who,
    may: Operations,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    User(u32),
    Group(u32),
}

impl Operation {
    pub const ALL: [Self; 8] = [
        Self::Encrypt,
        Self::Decrypt,
        Self::DataKey,
        Self::Status,
        Self::Sync,
        Self::Metrics,
        Self::Secrets,
        Self::Kms,
    ];

    /// The word in `keyring_access`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::DataKey => "datakey",
            Self::Status => "status",
            Self::Sync => "sync",
            Self::Metrics => "metrics",
            Self::Secrets => "secrets",
            Self::Kms => "kms",
        }
    }
}

impl Operations {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u8::MAX);
    /// What everybody may who can connect, where there is no list: all but reading whatever Vault holds for the daemon.
    pub const UNLISTED: Self = Self(!Self::of(Operation::Secrets).0);

    pub const fn of(operation: Operation) -> Self {
        Self(1 << operation as u8)
    }

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn contain(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// As `keyring_access` writes it: `encrypt+decrypt`.
impl fmt::Display for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Operation::ALL.iter().filter(|one| self.contain(Self::of(**one))).map(|one| one.name());
        f.write_str(&words.collect::<Vec<_>>().join("+"))
    }
}

impl Access {
    /// What a peer may do: the union of the entries that match its user or one of its groups.
    pub fn of(&self, uid: u32, groups: &[u32]) -> Operations {
        let matches = |who| match who {
            Who::User(id) => id == uid,
            Who::Group(id) => groups.contains(&id),
        };
        let entries = self.0.iter().filter(|entry| matches(entry.who));
        entries.fold(Operations::NONE, |all, entry| all.and(entry.may))
    }
}

/// A list such as `user:kong=all, group:apps=encrypt+decrypt, uid:1001=encrypt`. The error names each entry that is wrong,
/// by its number: like every parser's, it quotes nothing.
pub fn access(text: &str) -> Parsed<Access> {
    let (mut entries, mut wrong) = (Vec::new(), Vec::new());
    for (at, item) in value::list(text).iter().enumerate() {
        match entry(item) {
            Ok(entry) => entries.push(entry),
            Err(why) => wrong.push(format!("entry {} {why}", at + 1)),
        }
    }
    if entries.is_empty() && wrong.is_empty() {
        wrong.push("there is no entry".to_owned());
    }
    if wrong.is_empty() {
        return Ok(Access(entries));
    }
    let operations = Operation::ALL.map(Operation::name).join(", ");
    value::expected(format!(
        "entries such as user:kong=all or group:apps=encrypt+decrypt or uid:1001=status, of the operations {operations}, \
         all: {}",
        wrong.join("; ")
    ))
}

fn entry(text: &str) -> Result<Entry, String> {
    let (who, may) = text.split_once('=').ok_or("has no =")?;
    let (kind, name) = who.split_once(':').ok_or("names neither a user nor a group")?;
    let (kind, name) = (kind.trim(), name.trim());
    let who = match kind {
        "user" => Who::User(user(name)?),
        "uid" => Who::User(number(name)?),
        "group" => Who::Group(value::group(name).map_err(|_| "names a group that does not exist here")?),
        "gid" => Who::Group(number(name)?),
        _ => return Err("names neither a user, uid, group nor gid".to_owned()),
    };
    reachable(who)?;
    let may = may.split('+').map(|word| operations(word.trim())).collect::<Result<Vec<_>, _>>()?;
    Ok(Entry { who, may: may.into_iter().fold(Operations::NONE, Operations::and) })
}

fn operations(word: &str) -> Result<Operations, String> {
    if word == "all" {
        return Ok(Operations::ALL);
    }
    let found = Operation::ALL.into_iter().find(|operation| operation.name() == word);
    found.map(Operations::of).ok_or_else(|| "has a word that is no operation".to_owned())
}

fn number(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| "has no number there".to_owned())
}

fn user(name: &str) -> Result<u32, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("names a user that does not exist here".to_owned()),
        Err(error) => Err(format!("names a user, and the system's list cannot be read: {}", error.desc())),
    }
}

/// Whether the kernel would ever say of a peer that it is this one. In a user namespace it says 65534 of everybody who is
/// not mapped there: an entry for one of those would look like protection and match nobody, or everybody.
fn reachable(who: Who) -> Result<(), String> {
    let (id, kind, map) = match who {
        Who::User(id) => (id, "uid", "/proc/self/uid_map"),
        Who::Group(id) => (id, "gid", "/proc/self/gid_map"),
    };
    let overflow = fs::read_to_string(format!("/proc/sys/kernel/overflow{kind}"));
    if overflow.map_or(65534, |text| text.trim().parse().unwrap_or(65534)) == id {
        return Err(format!("has the {kind} that stands for everybody whom the kernel cannot name here"));
    }
    match fs::read_to_string(map) {
        Ok(map) if !is_mapped(&map, id) => Err(format!(
            "has a {kind} that the user namespace of this process hides: switch PrivateUsers= off, or map it"
        )),
        _ => Ok(()),
    }
}

/// Whether a uid_map or gid_map (`user_namespaces(7)`: first inside, first outside, count) has this ID inside.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<u64>().ok());
        let (first, count) = (numbers.next(), numbers.nth(1));
        first.zip(count).is_some_and(|(first, count)| (first..first + count).contains(&u64::from(id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encrypt_and_decrypt() -> Operations {
        Operations::of(Operation::Encrypt).and(Operations::of(Operation::Decrypt))
    }

    #[test]
    fn a_peer_has_the_union_of_the_entries_that_match_it() {
        let list =
            access("user:root=status, uid:1001=encrypt , gid:20=decrypt + encrypt,,gid:21=all").unwrap();
        assert_eq!(list.of(0, &[0]), Operations::of(Operation::Status));
        assert_eq!(list.of(1001, &[]), Operations::of(Operation::Encrypt));
        assert_eq!(list.of(1001, &[5, 20]), encrypt_and_decrypt());
        assert_eq!(list.of(5, &[21, 20]), Operations::ALL);
        assert_eq!(list.of(20, &[1001]), Operations::NONE);
        assert_eq!(list.of(65534, &[65534]), Operations::NONE);
    }

    #[test]
    fn every_entry_that_is_wrong_is_named_with_the_reason() {
        let said = access(
            "user:no-such-user=all, uid:x=all, uid:+1=all, uid:1, root=all, host:a=all, uid:1=fly, uid:1=, \
             uid:65534=all, gid:65534=encrypt, group:no-such-group=all, uid:7=encrypt",
        )
        .unwrap_err();
        for part in [
            "entry 1 names a user that does not exist here",
            "entry 2 has no number there",
            "entry 3 has no number there",
            "entry 4 has no =",
            "entry 5 names neither a user nor a group",
            "entry 6 names neither a user, uid, group nor gid",
            "entry 7 has a word that is no operation",
            "entry 8 has a word that is no operation",
            "entry 9 has the uid that stands for everybody",
            "entry 10 has the gid that stands for everybody",
            "entry 11 names a group that does not exist here",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(!said.contains("entry 12"), "{said}");
        assert!(access(" , ").unwrap_err().contains("there is no entry"));
    }

    #[test]
    fn an_id_that_a_user_namespace_hides_is_told() {
        let whole = "         0          0 4294967295\n";
        let private = "0 0 1\n1000 1000 1\n";
        assert!(is_mapped(whole, 0) && is_mapped(whole, 1_000_000));
        assert!(is_mapped(private, 0) && is_mapped(private, 1000));
        assert!(!is_mapped(private, 1) && !is_mapped(private, 1001) && !is_mapped("", 0));
    }

    #[test]
    fn operations_are_written_as_they_are_read() {
        assert_eq!(encrypt_and_decrypt().to_string(), "encrypt+decrypt");
        assert_eq!(
            operations(&Operations::of(Operation::Kms).to_string()),
            Ok(Operations::of(Operation::Kms))
        );
        assert!(Operations::ALL.contain(encrypt_and_decrypt()));
        assert!(!Operations::of(Operation::Encrypt).contain(encrypt_and_decrypt()));
    }
}
