//! How many members of a group support each protocol, so that a join is checked against counts and not against every
//! member's list. Pure, *shard-local*.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::group::ids::ProtocolName;

/// The counts. A name that a member gives twice counts once.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    by: BTreeMap<ProtocolName, usize>,
}

impl Spoken {
    /// A member that supports `protocols` joined.
    pub(super) fn add(&mut self, protocols: &[(ProtocolName, Bytes)]) {
        for name in distinct(protocols) {
            *self.by.entry(name.clone()).or_default() += 1;
        }
    }

    /// The member left, or supports other protocols now.
    pub(super) fn take(&mut self, protocols: &[(ProtocolName, Bytes)]) {
        for name in distinct(protocols) {
            if let Some(count) = self.by.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.by.remove(name);
                }
            }
        }
    }

    /// Members that support it.
    pub(super) fn by(&self, name: &ProtocolName) -> usize {
        self.by.get(name).copied().unwrap_or(0)
    }
}

fn distinct(protocols: &[(ProtocolName, Bytes)]) -> impl Iterator<Item = &ProtocolName> {
    protocols.iter().enumerate().filter_map(|(n, (name, _))| {
        let before = protocols.iter().take(n).any(|(other, _)| other == name);
        (!before).then_some(name)
    })
}
