//! Names of the group protocol, each its own type, and the hash that places a group. All are *messages*.

use std::fmt;
use std::sync::Arc;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A group, as `group.id` of its members names it.
    GroupId
);
name!(
    /// A member, as the coordinator named it.
    MemberId
);
name!(
    /// A static member, as `group.instance.id` names it (KIP-345).
    InstanceId
);
name!(
    /// An assignment protocol (`range`, `cooperative-sticky`) or a protocol type (`consumer`, `connect`).
    ProtocolName
);

/// Kafka's placement of a group: `Utils.abs(groupId.hashCode()) % partitions`, over UTF-16 units as Java counts.
#[must_use]
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_placed_as_java_does() {
        // "abc".hashCode() == 96354, "console-consumer-1".hashCode() is negative, "polygenelubricants" is MIN_VALUE.
        assert_eq!(partition_of("abc", 50), 4);
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        assert_eq!(partition_of("", 50), 0);
        assert_eq!(partition_of("é", 50), 233 % 50);
        assert_eq!(partition_of("abc", 0), 0);
    }
}
