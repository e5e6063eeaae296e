//! Who the caller is, as the kernel identifies it, and whether it may do what it asks for.
//!
//! Nothing that the peer sends plays a part, and neither does its pid, since pids can be reused. `keyring_access` is parsed in
//! `settings::access`; the permissions of each operation are in `operation`.

use std::{
    fmt, io,
    os::fd::AsRawFd as _,
    sync::{Arc, LazyLock},
};

use enum_map::Enum;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::error::{ApiError, ErrorKind};
use crate::{
    keyring,
    operation::{Audience, Operation, Permission, Permissions},
    settings::{AccessList, access::Accounts as _, source::SystemAccounts},
};

/// The kernel keeps up to 65536 groups for a process (`NGROUPS_MAX`); most have a few.
const FIRST_GROUPS: usize = 64;
const MAX_GROUPS: usize = 65536;

/// Where a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum ListenerKind {
    /// The Unix socket, where the kernel identifies the peer.
    Unix,
    /// A loopback address, where peers are anonymous.
    Loopback,
}

/// The uid and the gid that the kernel reports for every unmapped user and group. No entry can name them.
static OVERFLOW: LazyLock<[u32; 2]> =
    LazyLock::new(|| ["uid", "gid"].map(|kind| SystemAccounts.id_map(kind).overflow));

const UNMAPPED: &str =
    ", since the kernel reports its uid for every user that is not mapped here, and no entry can name it";

/// What a request is about, as far as permissions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope<'n> {
    /// No keyring: any entry that grants the permission counts.
    Daemon,
    /// The keyring of this name, which need not exist.
    Keyring(&'n str),
}

/// The client of one connection.
#[derive(Clone, Debug)]
pub struct Caller {
    pub listener: ListenerKind,
    /// Set on the Unix socket only.
    pub peer: Option<Arc<Peer>>,
    /// Cancelled when the connection must end, so that others get what it holds.
    pub closed: CancellationToken,
}

/// A process on the Unix socket, as it was when it connected.
#[derive(Clone, Debug)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    /// For the audit only.
    pub pid: Option<i32>,
    /// All of its groups, the primary one included.
    pub groups: Vec<u32>,
}

impl Caller {
    /// The uid whose share of the limits it uses. Anonymous peers share one.
    pub fn uid(&self) -> u32 {
        self.peer.as_ref().map_or(u32::MAX, |peer| peer.uid)
    }

    /// Whether it is root or the daemon's own user.
    pub(super) fn is_administrator(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.is_administrator())
    }

    /// Whether it may do anything that needs a permission.
    pub(super) fn has_any_permission(&self, list: Option<&AccessList>) -> bool {
        self.peer.is_none() || !self.permissions(Scope::Daemon, list).is_empty()
    }

    /// Whether it may do anything with the keyring of this name.
    pub(super) fn may_use(&self, keyring: &str, list: Option<&AccessList>) -> bool {
        !self.permissions(Scope::Keyring(keyring), list).is_empty()
    }

    /// What it may do. A peer that nobody identifies has no permission.
    pub(super) fn permissions(&self, scope: Scope<'_>, list: Option<&AccessList>) -> Permissions {
        self.peer.as_ref().map_or_else(Permissions::empty, |peer| peer.permissions(scope, list))
    }

    /// The error is the 403, which names the entry that would allow the operation, or the loopback listener's 404.
    pub(super) fn authorise(
        &self,
        operation: Operation,
        scope: Scope<'_>,
        list: Option<&AccessList>,
    ) -> Result<(), ApiError> {
        match &self.peer {
            Some(peer) if operation.audience() == Audience::Administrator && !peer.is_administrator() => {
                let message = format!("{peer} may not do this: it is for root and the daemon's own user");
                Err(ApiError::new(ErrorKind::Denied, message))
            }
            Some(peer) => peer.authorise(operation.permissions(), scope, list),
            None if operation.audience() == Audience::Public => Ok(()),
            None => Err(ApiError::new(
                ErrorKind::NoRoute,
                "this address serves /metrics, /livez and /readyz; everything else is on the Unix socket",
            )),
        }
    }
}

impl Peer {
    pub fn from_stream(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut groups = supplementary_groups(stream)?;
        groups.push(credentials.gid());
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid(), groups })
    }

    fn permissions(&self, scope: Scope<'_>, list: Option<&AccessList>) -> Permissions {
        let of_list = |list: &AccessList| match scope {
            Scope::Daemon => list.permissions_of(self.uid, &self.groups),
            Scope::Keyring(name) => list.permissions_on(self.uid, &self.groups, name),
        };
        let granted = list.map_or_else(Permission::without_list, of_list);
        if self.is_administrator() { granted | Permission::of_administrators() } else { granted }
    }

    fn is_administrator(&self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }

    /// What concerns a keyring needs some permission on it, even where the operation needs none.
    fn authorise(
        &self,
        required: Permissions,
        scope: Scope<'_>,
        list: Option<&AccessList>,
    ) -> Result<(), ApiError> {
        let permissions = self.permissions(scope, list);
        let is_unknown = matches!(scope, Scope::Keyring(_)) && permissions.is_empty();
        if permissions.is_superset(required) && !is_unknown {
            return Ok(());
        }
        let required = if required.is_empty() { Permission::Status.into() } else { required };
        let words = Permission::words(required);
        let on = match scope {
            Scope::Keyring(name) if keyring::is_name(name) => format!("@{name}"),
            _ => String::new(),
        };
        let (unmapped, cure) = match self.subject() {
            Some(subject) if subject.starts_with("uid:") => ("", subject),
            Some(subject) => (UNMAPPED, subject),
            None => {
                let message =
                    format!("{self} may not use {words} here{UNMAPPED}: run the client as another user");
                return Err(ApiError::new(ErrorKind::Denied, message));
            }
        };
        let message = format!(
            "{self} may not use {words} here{unmapped}: keyring_access would allow it with the entry {cure}={words}{on} \
             (as a variable, KONG_KEYRING_ACCESS); setting it replaces \"everybody may\": list every client"
        );
        Err(ApiError::new(ErrorKind::Denied, message))
    }

    /// What an entry can name it by: the kernel reports one ID for every unmapped user, and one for every such group.
    fn subject(&self) -> Option<String> {
        let [uid, gid] = *OVERFLOW;
        if self.uid != uid {
            return Some(format!("uid:{}", self.uid));
        }
        let group = self.groups.iter().find(|group| **group != gid)?;
        Some(format!("gid:{group}"))
    }
}

/// `uid 1001 (gid 1001, 2000)`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} (gid {}", self.uid, self.gid)?;
        let mut others = self.groups.iter().filter(|group| **group != self.gid);
        others.try_for_each(|group| write!(f, ", {group}"))?;
        f.write_str(")")
    }
}

/// `SO_PEERGROUPS` (socket(7)): the supplementary groups of the peer when it connected.
fn supplementary_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; FIRST_GROUPS];
    loop {
        let (level, option) = (uapi::c::SOL_SOCKET, uapi::c::SO_PEERGROUPS);
        match uapi::getsockopt(stream.as_raw_fd(), level, option, groups.as_mut_slice()) {
            Ok(bytes) => {
                groups.truncate(bytes / size_of::<u32>());
                return Ok(groups);
            }
            Err(error) if error.0 == uapi::c::ERANGE && groups.len() < MAX_GROUPS => {
                groups.resize(MAX_GROUPS, 0);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::access::access;

    const ON: Scope<'_> = Scope::Keyring("cards");

    #[tokio::test]
    async fn the_kernel_identifies_the_peer() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::from_stream(&one).unwrap();
        assert_eq!((peer.uid, peer.gid), (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
        let mut groups: Vec<_> = nix::unistd::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        groups.push(peer.gid);
        assert_eq!(peer.groups, groups);
        assert_eq!(peer.pid, Some(nix::unistd::getpid().as_raw()));
    }

    #[test]
    fn without_a_list_a_peer_may_do_all_but_resolve_references() {
        let peer = Peer { uid: 70001, gid: 70001, pid: None, groups: vec![2000, 70001] };
        assert_eq!(peer.to_string(), "uid 70001 (gid 70001, 2000)");
        let caller = Caller {
            listener: ListenerKind::Unix,
            peer: Some(Arc::new(peer)),
            closed: CancellationToken::new(),
        };
        assert!(caller.authorise(Operation::Rewrap, ON, None).is_ok() && caller.has_any_permission(None));
        assert!(caller.authorise(Operation::Resolve, Scope::Daemon, None).is_err());
        let list = access("gid:2000=encrypt", &SystemAccounts, |_| String::new()).unwrap();
        assert!(caller.authorise(Operation::Encrypt, ON, Some(&list)).is_ok());
        assert!(caller.authorise(Operation::Health, ON, Some(&list)).is_ok());
        assert!(caller.authorise(Operation::Decrypt, ON, Some(&list)).is_err());
        assert!(
            !caller
                .has_any_permission(Some(&access("uid:7=all", &SystemAccounts, |_| String::new()).unwrap()))
        );
        let list = access("gid:2000=encrypt@cards+new", &SystemAccounts, |_| String::new()).unwrap();
        let authorise =
            |operation, scope| caller.authorise(operation, scope, Some(&list)).map_err(|error| error.message);
        assert_eq!(authorise(Operation::Encrypt, ON), Ok(()));
        assert_eq!(
            authorise(Operation::Encrypt, Scope::Keyring("new")),
            Ok(()),
            "whether it exists is not known here"
        );
        for operation in [Operation::Encrypt, Operation::Health] {
            let refused = authorise(operation, Scope::Keyring("other")).unwrap_err();
            assert!(refused.contains("@other"), "{refused}");
        }
        assert_eq!(authorise(Operation::Health, Scope::Daemon), Ok(()));
        assert!(caller.may_use("cards", Some(&list)) && !caller.may_use("other", Some(&list)));
    }

    #[test]
    fn the_403_names_an_entry_that_the_settings_accept_or_none() {
        let list = access("uid:7=encrypt", &SystemAccounts, |_| String::new()).unwrap();
        let refused = |uid, groups: &[u32]| {
            let peer = Peer { uid, gid: groups[0], pid: None, groups: groups.to_vec() };
            peer.authorise(Permission::Decrypt.into(), ON, Some(&list)).unwrap_err().message.into_owned()
        };
        let [uid, gid] = *OVERFLOW;
        for (message, entry) in [
            (refused(70001, &[70001]), Some("uid:70001=decrypt@cards")),
            (refused(uid, &[gid, 70001]), Some("gid:70001=decrypt@cards")),
            (refused(uid, &[gid]), None),
        ] {
            let named = message.split("with the entry ").nth(1).and_then(|rest| rest.split(' ').next());
            assert_eq!(named, entry, "{message}");
            assert!(entry.is_none_or(|entry| access(entry, &SystemAccounts, |_| String::new()).is_ok()));
            assert_eq!(message.contains("no entry can name it"), message.contains(&format!("uid {uid} ")));
        }
    }

    #[test]
    fn anonymous_callers_get_public_operations_only() {
        let caller =
            Caller { listener: ListenerKind::Loopback, peer: None, closed: CancellationToken::new() };
        assert!(caller.authorise(Operation::Metrics, Scope::Daemon, None).is_ok());
        assert!(caller.authorise(Operation::Status, ON, None).is_err());
    }
}
