//! Who the peer is, as the kernel says it, and whether it may do what it asks for.
//!
//! Nothing that the peer sends plays a part, and neither does its pid, which may be another's by the time one looks. The
//! list itself is read in `settings::access`. A TCP peer cannot be told, so nothing that needs leave is served there.

use std::{fmt, io, os::fd::AsRawFd as _};

use tokio::net::UnixStream;

use super::answer::Answer;
use crate::settings::access::{Access, Operations};

/// More groups than a process can have (`NGROUPS_MAX`, 65536) are never asked for; most have a few.
const FIRST_GROUPS: usize = 64;
const MOST_GROUPS: usize = 65536;

/// A client on the socket, as it was when it connected.
#[derive(Clone, Debug)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    /// For the audit alone.
    pub pid: Option<i32>,
    /// All of its groups, the first one included.
    pub groups: Vec<u32>,
}

impl Peer {
    /// # Errors
    /// When the kernel does not say who it is.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let who = stream.peer_cred()?;
        let mut groups = supplementary_groups(stream)?;
        groups.push(who.gid());
        Ok(Self { uid: who.uid(), gid: who.gid(), pid: who.pid(), groups })
    }

    /// Whether it may do nothing here that needs leave.
    pub fn may_do_nothing(&self, access: Option<&Access>) -> bool {
        access.is_some_and(|access| access.of(self.uid, &self.groups) == Operations::NONE)
    }

    /// `Err` is the 403, which names the entry that would allow it.
    pub fn check(&self, access: Option<&Access>, needed: Operations) -> Result<(), Answer> {
        let allowed = access.map_or(Operations::UNLISTED, |access| access.of(self.uid, &self.groups));
        if allowed.contain(needed) {
            return Ok(());
        }
        Err(Answer::errors(
            403,
            format!(
                "{self} may not use {needed} here: keyring_access would allow it with the entry uid:{}={needed}",
                self.uid
            ),
        ))
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

/// `SO_PEERGROUPS` of socket(7): the supplementary groups that the peer had when it connected.
fn supplementary_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; FIRST_GROUPS];
    loop {
        let (level, option) = (uapi::c::SOL_SOCKET, uapi::c::SO_PEERGROUPS);
        match uapi::getsockopt(stream.as_raw_fd(), level, option, groups.as_mut_slice()) {
            Ok(bytes) => {
                groups.truncate(bytes / size_of::<u32>());
                return Ok(groups);
            }
            Err(error) if error.0 == uapi::c::ERANGE && groups.len() < MOST_GROUPS => {
                groups.resize(MOST_GROUPS, 0);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::access::{Operation, access};

    #[tokio::test]
    async fn the_kernel_says_who_we_are() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!((peer.uid, peer.gid), (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
        let mut ours: Vec<_> = nix::unistd::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        ours.push(peer.gid);
        assert_eq!(peer.groups, ours);
        assert_eq!(peer.pid, Some(nix::unistd::getpid().as_raw()));
    }

    #[test]
    fn without_a_list_everybody_who_can_connect_may_do_everything_but_resolve_references() {
        let peer = Peer { uid: 1001, gid: 1001, pid: None, groups: vec![2000, 1001] };
        assert!(peer.check(None, Operations::UNLISTED).is_ok());
        assert!(peer.check(None, Operations::of(Operation::Secrets)).is_err());
        let list = access("gid:2000=encrypt").unwrap();
        assert!(peer.check(Some(&list), Operations::of(Operation::Encrypt)).is_ok());
        assert!(peer.check(Some(&list), Operations::NONE).is_ok());
        assert!(peer.check(Some(&list), Operations::of(Operation::Decrypt)).is_err());
        assert_eq!(peer.to_string(), "uid 1001 (gid 1001, 2000)");
    }
}
