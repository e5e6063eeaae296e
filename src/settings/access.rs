//! `keyring_access`: which permissions a user or group has, and on which keyrings.
//!
//! Names of users and groups are looked up once, when the list is parsed. The kernel identifies the peer: see
//! `api::access`.

use super::{setting::digits, value};
use crate::operation::{Permission, Permissions};

/// The list. It has at least one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    subject: Subject,
    permissions: Permissions,
    /// The names of keyrings; `None` for all of them.
    keyrings: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    User(u32),
    Group(u32),
}

/// The users, groups and ID maps that entries are checked against.
pub trait Accounts {
    /// The ID of a user; `None` if there is no such user.
    fn user(&self, name: &str) -> Result<Option<u32>, String>;

    /// The ID of a group; `None` if there is no such group.
    fn group(&self, name: &str) -> Result<Option<u32>, String>;

    /// The map of a kind: `uid` or `gid`.
    fn id_map(&self, kind: &str) -> IdMap;
}

/// Which IDs of one kind exist in the user namespace of this process (user_namespaces(7)).
#[derive(Debug)]
pub struct IdMap {
    /// Lines of first ID inside, first ID outside, count; `None` where the kernel has no map.
    pub lines: Option<String>,
    /// The ID that the kernel reports for every unmapped one.
    pub overflow: u32,
}

impl AccessList {
    /// The number of entries.
    #[expect(clippy::len_without_is_empty, reason = "it has at least one")]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// The union of the entries that match the peer's user or one of its groups, whatever the keyring.
    pub fn permissions_of(&self, uid: u32, groups: &[u32]) -> Permissions {
        self.matching(uid, groups).map(|entry| entry.permissions).collect()
    }

    /// The same for one keyring, which need not exist.
    pub fn permissions_on(&self, uid: u32, groups: &[u32], keyring: &str) -> Permissions {
        let is_for_it =
            |entry: &&Entry| entry.names().is_none_or(|mut names| names.any(|name| name == keyring));
        self.matching(uid, groups).filter(is_for_it).map(|entry| entry.permissions).collect()
    }

    fn matching(&self, uid: u32, groups: &[u32]) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| match entry.subject {
            Subject::User(id) => id == uid,
            Subject::Group(id) => groups.contains(&id),
        })
    }

    /// Warnings about names of keyrings that cannot exist, and about a list that leaves a common use to no user: a user who
    /// is not listed has no permission.
    pub(super) fn warnings(&self, common_uses: Permissions, may_exist: impl Fn(&str) -> bool) -> Vec<String> {
        let granted: Permissions = self.0.iter().map(|entry| entry.permissions).collect();
        let mut warnings = Vec::new();
        for (number, entry) in (1..).zip(&self.0) {
            if !entry.names().into_iter().flatten().all(&may_exist) {
                warnings.push(format!(
                    "entry {number} names a keyring that is neither keyring_name nor in keyring_vault_paths"
                ));
            }
        }
        let unused = common_uses.difference(granted);
        if !unused.is_empty() && !granted.contains(Permission::Kms) {
            let words = unused.iter().map(Permission::word).collect::<Vec<_>>().join(" or ");
            warnings.push(format!(
                "no entry grants {words}: the list replaces \"everybody may\", so list every client"
            ));
        }
        warnings
    }
}

impl Entry {
    fn names(&self) -> Option<impl Iterator<Item = &str>> {
        self.keyrings.as_ref().map(|names| names.iter().map(String::as_str))
    }
}

/// Quotes what was found, as `: "text"`; a value that may not be shown is empty.
pub type Quote = fn(&str) -> String;

/// Parses a list such as `user:kong=all, group:apps=encrypt+decrypt@orders+cards, uid:1001=encrypt`. The error numbers each wrong entry
/// and quotes what was found, if that may be shown.
pub fn access(text: &str, accounts: &impl Accounts, quote: Quote) -> Result<AccessList, String> {
    let (mut entries, mut wrong) = (Vec::new(), Vec::new());
    for (number, item) in (1..).zip(&value::list(text)) {
        match entry(item, accounts, quote) {
            Ok(entry) => entries.push(entry),
            Err(reason) => wrong.push(format!("entry {number} {reason}")),
        }
    }
    if entries.is_empty() && wrong.is_empty() {
        wrong.push("there is no entry".to_owned());
    }
    if wrong.is_empty() {
        return Ok(AccessList(entries));
    }
    let words = Permissions::all().iter().map(Permission::word).collect::<Vec<_>>().join(", ");
    Err(format!("{}; the permissions are {words}, all", wrong.join("; ")))
}

/// What belongs to no keyring.
fn of_the_daemon() -> Permissions {
    Permission::Metrics | Permission::Secrets
}

fn entry(text: &str, accounts: &impl Accounts, quote: Quote) -> Result<Entry, String> {
    let (subject, words) = text.split_once('=').ok_or_else(|| format!("has no ={}", quote(text)))?;
    let neither = || format!("names neither a user, uid, group nor gid{}", quote(subject));
    let (kind, name) = subject.split_once(':').ok_or_else(neither)?;
    let (kind, name) = (kind.trim(), name.trim());
    let no_number = || format!("has no number after the colon{}", quote(name));
    let known = |id: Result<Option<u32>, String>| match id {
        Ok(id) => id.ok_or_else(|| format!("names a {kind} that does not exist here{}", quote(name))),
        Err(error) => Err(format!("names a {kind}, but the {kind} list cannot be read: {error}")),
    };
    let unsigned = name.strip_prefix('+').unwrap_or(name);
    let is_number = !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit());
    let subject = match kind {
        "user" if is_number => {
            return Err("has a number in place of a user name: write uid: before it".to_owned());
        }
        "group" if is_number => {
            return Err("has a number in place of a group name: write gid: before it".to_owned());
        }
        "user" => Subject::User(known(accounts.user(name))?),
        "uid" => Subject::User(digits(name).ok_or_else(no_number)?),
        "group" => Subject::Group(known(accounts.group(name))?),
        "gid" => Subject::Group(digits(name).ok_or_else(no_number)?),
        _ => return Err(neither()),
    };
    check_mapped(subject, accounts)?;
    let (words, keyrings) = match words.split_once('@') {
        Some((words, names)) => (words, Some(keyrings(names)?)),
        None => (words, None),
    };
    let mut granted = Permissions::empty();
    for word in words.split('+').map(str::trim) {
        let permissions = permissions(word, quote)?;
        if word != "all" && keyrings.is_some() && !permissions.is_disjoint(of_the_daemon()) {
            return Err(format!("grants {word} on a keyring, and it belongs to none: write it without @"));
        }
        granted |= permissions;
    }
    let permissions = if keyrings.is_some() { granted.difference(of_the_daemon()) } else { granted };
    Ok(Entry { subject, permissions, keyrings })
}

fn keyrings(names: &str) -> Result<Vec<String>, String> {
    let names: Option<Vec<_>> = names.split('+').map(|name| value::KEY_NAME.parse(name.trim())).collect();
    names.ok_or_else(|| "has no names of keyrings after @: write them as orders+cards".to_owned())
}

fn permissions(word: &str, quote: Quote) -> Result<Permissions, String> {
    if word == "all" {
        return Ok(Permissions::all());
    }
    let known = Permissions::all().iter().find(|permission| permission.word() == word);
    known.map(Permissions::only).ok_or_else(|| format!("has an unknown permission{}", quote(word)))
}

/// Rejects an ID that the kernel never reports for one peer alone: its entry would match no peer, or every unmapped one.
fn check_mapped(subject: Subject, accounts: &impl Accounts) -> Result<(), String> {
    let (Subject::User(id) | Subject::Group(id)) = subject;
    let kind = if matches!(subject, Subject::User(_)) { "uid" } else { "gid" };
    let map = accounts.id_map(kind);
    if map.overflow == id {
        return Err(format!("has the {kind} that the kernel reports for every unmapped one"));
    }
    if map.lines.is_some_and(|lines| !is_mapped(&lines, id)) {
        return Err(format!(
            "has a {kind} that is not mapped in the user namespace of this process: map it, or set PrivateUsers=off"
        ));
    }
    Ok(())
}

fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse::<u64>().ok());
        let (first, count) = (numbers.next(), numbers.nth(1));
        first
            .zip(count)
            .is_some_and(|(first, count)| (first..first.saturating_add(count)).contains(&u64::from(id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with the user root and no groups.
    struct Machine<'a>(&'a str);

    impl Accounts for Machine<'_> {
        fn user(&self, name: &str) -> Result<Option<u32>, String> {
            Ok((name == "root").then_some(0))
        }

        fn group(&self, _: &str) -> Result<Option<u32>, String> {
            Ok(None)
        }

        fn id_map(&self, _: &str) -> IdMap {
            IdMap { lines: Some(self.0.to_owned()), overflow: 65534 }
        }
    }

    const KERNEL: &str = "         0          0 4294967295\n";

    fn list(text: &str, map: &str) -> Result<AccessList, String> {
        access(text, &Machine(map), |text| format!(": {text:?}"))
    }

    #[test]
    fn a_peer_has_the_union_of_the_entries_that_match_it() {
        let text = "user:root=status, uid:1001=encrypt , gid:20=decrypt + encrypt,,gid:21=all";
        let list = list(text, KERNEL).unwrap();
        assert_eq!(list.len(), 4);
        let words = |uid, groups: &[u32]| Permission::words(list.permissions_of(uid, groups));
        assert_eq!(words(0, &[0]), "status");
        assert_eq!(words(1001, &[]), "encrypt");
        assert_eq!(words(1001, &[5, 20]), "encrypt+decrypt");
        assert_eq!(list.permissions_of(5, &[21, 20]), Permissions::all());
        assert_eq!(list.permissions_of(20, &[1001]), Permissions::empty());
        assert_eq!(list.permissions_of(65534, &[65534]), Permissions::empty());
    }

    #[test]
    fn every_wrong_entry_is_numbered_with_its_reason() {
        let text = "user:no-such-user=all, uid:x=all, uid:+1=all, uid:1, root=all, host:a=all, uid:1=fly, uid:1=, \
             uid:65534=all, gid:65534=encrypt, group:no-such-group=all, uid:7=encrypt";
        let error = list(text, KERNEL).unwrap_err();
        for part in [
            "entry 1 names a user that does not exist here: \"no-such-user\"",
            "entry 2 has no number after the colon",
            "entry 3 has no number after the colon",
            "entry 4 has no =",
            "entry 5 names neither a user, uid, group nor gid: \"root\"",
            "entry 6 names neither a user, uid, group nor gid",
            "entry 7 has an unknown permission: \"fly\"",
            "entry 8 has an unknown permission",
            "entry 9 has the uid that the kernel reports for every unmapped one",
            "entry 10 has the gid that the kernel reports for every unmapped one",
            "entry 11 names a group that does not exist here",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert!(!error.contains("entry 12"), "{error}");
        assert!(list(" , ", KERNEL).unwrap_err().contains("there is no entry"));
        let hidden =
            access("uid:1=planted, user:planted=all, planted=all", &Machine(KERNEL), |_| String::new());
        assert!(!hidden.unwrap_err().contains("planted"));
    }

    #[test]
    fn an_id_outside_the_user_namespace_is_rejected() {
        let private = "0 0 1\n1000 1000 1\n";
        for mapped in ["uid:0=all", "uid:1000=all", "gid:1000=kms"] {
            assert!(list(mapped, private).is_ok(), "{mapped}");
        }
        for unmapped in ["uid:1=all", "uid:1001=all", "gid:1=kms"] {
            assert!(list(unmapped, private).unwrap_err().contains("is not mapped"), "{unmapped}");
        }
        assert!(list("uid:1000000=all", KERNEL).is_ok());
    }

    #[test]
    fn names_after_an_at_sign_limit_an_entry_to_keyrings() {
        let text = "uid:1=encrypt+decrypt@orders+cards, gid:2=status, uid:1=hmac@cards, uid:3=all@cards";
        let list = list(text, KERNEL).unwrap();
        let words = |uid, groups: &[u32], name| Permission::words(list.permissions_on(uid, groups, name));
        assert_eq!(words(1, &[], "orders"), "encrypt+decrypt");
        assert_eq!(words(1, &[2], "cards"), "encrypt+decrypt+hmac+status");
        assert_eq!(words(1, &[2], "other"), "status");
        assert_eq!(words(1, &[], "other"), "");
        assert_eq!(Permission::words(list.permissions_of(1, &[])), "encrypt+decrypt+hmac");
        let on_cards = list.permissions_on(3, &[], "cards");
        assert_eq!(on_cards, Permissions::all() - Permission::Metrics - Permission::Secrets);
        let warnings = list.warnings(Permission::Encrypt | Permission::Decrypt, |name| name == "cards");
        assert!(warnings[0].starts_with("entry 1 names a keyring that is neither"), "{warnings:?}");
        assert!(!warnings.iter().any(|warning| warning.starts_with("entry 3")), "{warnings:?}");
    }

    #[test]
    fn a_common_use_that_no_entry_grants_is_warned_of() {
        let warned = |text| {
            list(text, KERNEL).unwrap().warnings(Permission::Encrypt | Permission::Decrypt, |_| true).concat()
        };
        assert!(warned("uid:1=encrypt, uid:2=status").starts_with("no entry grants decrypt: "));
        assert_eq!(warned("uid:1=encrypt, uid:2=decrypt"), "");
        assert_eq!(warned("uid:1=kms"), "");
    }

    #[test]
    fn an_entry_for_keyrings_needs_names_and_permissions_that_belong_to_one() {
        for (text, reason) in [
            ("uid:1=encrypt@", "has no names of keyrings after @"),
            ("uid:1=encrypt@a+", "has no names of keyrings after @"),
            ("uid:1=encrypt@a@b", "has no names of keyrings after @"),
            ("uid:1=metrics@a", "grants metrics on a keyring"),
            ("uid:1=encrypt+secrets@a", "grants secrets on a keyring"),
            ("uid:1=@a", "has an unknown permission"),
        ] {
            let error = list(text, KERNEL).unwrap_err();
            assert!(error.starts_with(&format!("entry 1 {reason}")), "{text}: {error}");
        }
    }

    #[test]
    fn words_are_parsed_as_they_are_written() {
        for permission in Permissions::all() {
            assert_eq!(permissions(permission.word(), |_| String::new()), Ok(Permissions::only(permission)));
        }
    }
}
