//! Shared access policies: a name, two keys and what they permit.

use std::fmt;

use crate::key::Key;

/// A set of the four permissions of the developer guide.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u32);

impl Permissions {
    pub const NONE: Self = Self(0);
    pub const REGISTRY_READ: Self = Self(1);
    pub const REGISTRY_WRITE: Self = Self(2);
    pub const SERVICE_CONNECT: Self = Self(4);
    pub const DEVICE_CONNECT: Self = Self(8);
    pub const ALL: Self = Self(15);

    const NAMED: [(Self, &'static str); 4] = [
        (Self::REGISTRY_READ, "RegistryRead"),
        (Self::REGISTRY_WRITE, "RegistryWrite"),
        (Self::SERVICE_CONNECT, "ServiceConnect"),
        (Self::DEVICE_CONNECT, "DeviceConnect"),
    ];

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether everything in `wanted` is permitted. Writing the registry includes reading it.
    pub fn allow(self, wanted: Self) -> bool {
        let mut held = self.0;
        if held & Self::REGISTRY_WRITE.0 != 0 {
            held |= Self::REGISTRY_READ.0;
        }
        held & wanted.0 == wanted.0
    }

    pub fn bits(self) -> u32 {
        self.0
    }

    /// `None` for bits that mean nothing.
    pub fn from_bits(bits: u32) -> Option<Self> {
        (bits < 16).then_some(Self(bits))
    }

    /// Reads the list form, `RegistryRead, ServiceConnect`, in any letter case.
    pub fn parse(list: &str) -> Option<Self> {
        list.split(',').map(str::trim).filter(|word| !word.is_empty()).try_fold(
            Self::NONE,
            |set, word| {
                let (one, _) =
                    Self::NAMED.iter().find(|(_, name)| name.eq_ignore_ascii_case(word))?;
                Some(set.and(*one))
            },
        )
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (one, name) in Self::NAMED {
            if self.0 & one.0 != 0 {
                write!(f, "{}{name}", if first { "" } else { ", " })?;
                first = false;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permissions({self})")
    }
}

/// A shared access policy of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub name: String,
    pub permissions: Permissions,
    pub primary: Key,
    pub secondary: Key,
}

/// Name of the policy that may do everything.
pub const OWNER: &str = "iothubowner";

/// The five policies a new hub has (developer guide, security), with keys of their own.
pub fn default_policies() -> Vec<Policy> {
    use Permissions as P;
    [
        (OWNER, P::ALL),
        ("service", P::SERVICE_CONNECT),
        ("device", P::DEVICE_CONNECT),
        ("registryRead", P::REGISTRY_READ),
        ("registryReadWrite", P::REGISTRY_READ.and(P::REGISTRY_WRITE)),
    ]
    .into_iter()
    .map(|(name, permissions)| Policy {
        name: name.to_owned(),
        permissions,
        primary: Key::generate(),
        secondary: Key::generate(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_read_and_write_their_list_form() {
        let set = Permissions::parse("registryread , ServiceConnect").expect("a list");
        assert_eq!(set.to_string(), "RegistryRead, ServiceConnect");
        assert_eq!(Permissions::parse("RegistryRead, Fly"), None);
        assert_eq!(Permissions::parse(""), Some(Permissions::NONE));
        for bits in 0..16 {
            let set = Permissions::from_bits(bits).expect("in range");
            assert_eq!(Permissions::parse(&set.to_string()), Some(set));
        }
        assert_eq!(Permissions::from_bits(16), None);
    }

    #[test]
    fn writing_includes_reading() {
        assert!(Permissions::REGISTRY_WRITE.allow(Permissions::REGISTRY_READ));
        assert!(!Permissions::REGISTRY_READ.allow(Permissions::REGISTRY_WRITE));
        assert!(!Permissions::SERVICE_CONNECT.allow(Permissions::DEVICE_CONNECT));
    }
}
