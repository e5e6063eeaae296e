//! The operations that a client can ask for, and the permissions that `keyring_access` grants.
//!
//! One table holds each operation's name, its permissions and its audience. Metrics, the audit, the settings and the API use
//! it, so it imports nothing of this crate. Paths and methods are in `api::routes`.

use enum_map::Enum;
use enumset::{EnumSet, EnumSetType, enum_set};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enum)]
pub enum Operation {
    Encrypt,
    Decrypt,
    Rewrap,
    DataKey,
    Hmac,
    Verify,
    Random,
    Hash,
    Status,
    Sync,
    Resolve,
    Reload,
    Metrics,
    Health,
    /// What clients of Vault ask before they start.
    Discovery,
    KmsStatus,
    KmsEncrypt,
    KmsDecrypt,
    /// A request that no route serves.
    Other,
}

/// One word of `keyring_access`.
#[derive(Debug, Hash, EnumSetType)]
pub enum Permission {
    Encrypt,
    Decrypt,
    DataKey,
    /// Also to verify HMACs, and what needs no key: hashes and random bytes.
    Hmac,
    Status,
    Sync,
    Metrics,
    Secrets,
    Kms,
}

pub type Permissions = EnumSet<Permission>;

/// Which listeners serve an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The Unix socket, for root and the daemon's own user only, whatever their permissions.
    Administrator,
    /// The Unix socket only, where the kernel identifies the peer.
    Socket,
    /// Also the loopback listener, where peers are anonymous.
    Public,
}

impl Operation {
    /// The table: name, required permissions, audience.
    const fn row(self) -> (&'static str, Permissions, Audience) {
        use Audience::{Administrator, Public, Socket};
        match self {
            Self::Encrypt => ("encrypt", enum_set!(Permission::Encrypt), Socket),
            Self::Decrypt => ("decrypt", enum_set!(Permission::Decrypt), Socket),
            Self::Rewrap => ("rewrap", enum_set!(Permission::Encrypt | Permission::Decrypt), Socket),
            Self::DataKey => ("datakey", enum_set!(Permission::DataKey), Socket),
            Self::Hmac => ("hmac", enum_set!(Permission::Hmac), Socket),
            Self::Verify => ("verify", enum_set!(Permission::Hmac), Socket),
            Self::Random => ("random", enum_set!(Permission::Hmac), Socket),
            Self::Hash => ("hash", enum_set!(Permission::Hmac), Socket),
            Self::Status => ("status", enum_set!(Permission::Status), Socket),
            Self::Sync => ("sync", enum_set!(Permission::Sync), Socket),
            Self::Resolve => ("resolve", enum_set!(Permission::Secrets), Socket),
            Self::Reload => ("reload", Permissions::empty(), Administrator),
            Self::Metrics => ("metrics", enum_set!(Permission::Metrics), Public),
            Self::Health => ("health", Permissions::empty(), Public),
            Self::Discovery => ("discovery", Permissions::empty(), Socket),
            Self::KmsStatus => ("kms_status", enum_set!(Permission::Kms), Socket),
            Self::KmsEncrypt => ("kms_encrypt", enum_set!(Permission::Kms), Socket),
            Self::KmsDecrypt => ("kms_decrypt", enum_set!(Permission::Kms), Socket),
            Self::Other => ("other", Permissions::empty(), Socket),
        }
    }

    /// The name in the audit and the label in the metrics.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// A peer on the Unix socket needs all of them.
    pub const fn permissions(self) -> Permissions {
        self.row().1
    }

    /// Whether it is about one keyring, so that a permission on another one does not count.
    pub const fn is_of_keyring(self) -> bool {
        match self {
            Self::Encrypt
            | Self::Decrypt
            | Self::Rewrap
            | Self::DataKey
            | Self::Hmac
            | Self::Verify
            | Self::Status
            | Self::Sync
            | Self::KmsStatus
            | Self::KmsEncrypt
            | Self::KmsDecrypt => true,
            Self::Random
            | Self::Hash
            | Self::Resolve
            | Self::Reload
            | Self::Metrics
            | Self::Health
            | Self::Discovery
            | Self::Other => false,
        }
    }

    pub const fn audience(self) -> Audience {
        self.row().2
    }
}

impl Permission {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::DataKey => "datakey",
            Self::Hmac => "hmac",
            Self::Status => "status",
            Self::Sync => "sync",
            Self::Metrics => "metrics",
            Self::Secrets => "secrets",
            Self::Kms => "kms",
        }
    }

    /// What every peer has without `keyring_access`: all but reading other secrets of the daemon's Vault role.
    pub fn without_list() -> Permissions {
        Permissions::all() - Self::Secrets
    }

    /// What root and the daemon's own user always have: they can see as much without the daemon.
    pub fn of_administrators() -> Permissions {
        Self::Status | Self::Metrics
    }

    /// A set as `keyring_access` writes it: `encrypt+decrypt`.
    pub fn words(permissions: Permissions) -> String {
        permissions.iter().map(Self::word).collect::<Vec<_>>().join("+")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use enum_map::EnumMap;

    use super::*;

    #[test]
    fn names_and_words_are_distinct() {
        let operations = EnumMap::<Operation, ()>::default();
        let names: HashSet<_> = operations.iter().map(|(operation, ())| operation.name()).collect();
        assert_eq!(names.len(), operations.len());
        let words: HashSet<_> = Permissions::all().iter().map(Permission::word).collect();
        assert_eq!(words.len(), Permissions::all().len());
    }

    #[test]
    fn a_rewrap_needs_two_permissions_and_health_needs_none() {
        assert_eq!(Permission::words(Operation::Rewrap.permissions()), "encrypt+decrypt");
        assert!(Operation::Health.permissions().is_empty());
        assert!(!Permission::without_list().contains(Permission::Secrets));
    }
}
