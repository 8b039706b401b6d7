//! Which home of a source is served, root after root.
//!
//! Owns: that the name stands for one cluster, that its epoch never falls, that a restore counts only from its switch
//! on. Does not own: reading the root. Pure; *messages*.

use tidewater_storage::disposition::Disposition;

use crate::keys::{ClusterId, ClusterName, Home, LineageEpoch, ObjectKey, ObjectKind, ObjectName};
use crate::manifest::Root;

/// What a root means to those who follow its name. *Message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootStep {
    /// The home that was served is served still.
    Same,
    /// This home is served from now on: the first that was seen, or one that a restore switched to.
    Serve(Home),
    /// A restore has begun in this epoch and has not switched: the home that was served is served still.
    Restoring(LineageEpoch),
}

/// Why a root is not followed. What was served before is served still.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The name was given to another cluster.
    #[error(
        "{name} stood for cluster {expected}, the bucket now has cluster {found} under it: end this replica, and create it \
         again if the other cluster is meant"
    )]
    OtherCluster { name: ClusterName, expected: ClusterId, found: ClusterId },
    /// A root from before.
    #[error("the root of {name} is of epoch {found}, epoch {known} was seen before: the bucket shows an older state")]
    Older { name: ClusterName, found: LineageEpoch, known: LineageEpoch },
    /// The catalogue's key is not one of this cluster's.
    #[error("the root of {name} names {key} as its catalogue, which is no catalogue of the cluster")]
    Catalogue { name: ClusterName, key: ObjectKey },
}

impl RootError {
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::OtherCluster { .. } => Disposition::Refused,
            Self::Older { .. } => Disposition::Retry,
            Self::Catalogue { .. } => Disposition::Corrupt,
        }
    }
}

/// The home whose catalogue the root names: while a restore is under way that is still the one before.
///
/// # Errors
/// [`RootError::Catalogue`].
pub fn served_home(root: &Root) -> Result<Home, RootError> {
    let named = ObjectName::parse(&root.catalogue).filter(|object| object.kind == ObjectKind::Catalogue);
    let home = named.map(|object| object.home).filter(|home| home.cluster == root.cluster && home.epoch <= root.epoch);
    home.ok_or_else(|| RootError::Catalogue { name: root.name.clone(), key: root.catalogue.clone() })
}

/// The roots of one name, as they follow each other. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowedRoot {
    name: ClusterName,
    /// The greatest epoch that a root had, and the home served by it.
    seen: Option<(LineageEpoch, Home)>,
}

impl FollowedRoot {
    /// Before the first root.
    #[must_use]
    pub fn new(name: ClusterName) -> Self {
        Self { name, seen: None }
    }

    /// As if roots up to one that serves `home` had been seen.
    #[must_use]
    pub fn at(name: ClusterName, home: Home) -> Self {
        Self { name, seen: Some((home.epoch, home)) }
    }

    #[must_use]
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The home that is served; `None` before the first root.
    #[must_use]
    pub fn home(&self) -> Option<Home> {
        self.seen.map(|(_, home)| home)
    }

    /// Takes the root as it lies in the bucket now.
    ///
    /// # Errors
    /// Why it is not followed; nothing has changed then.
    pub fn on_root(&mut self, root: &Root) -> Result<RootStep, RootError> {
        let name = || self.name.clone();
        let home = served_home(root)?;
        if let Some((known, served)) = self.seen {
            if served.cluster != root.cluster {
                return Err(RootError::OtherCluster { name: name(), expected: served.cluster, found: root.cluster });
            }
            if root.epoch < known || home.epoch < served.epoch {
                return Err(RootError::Older { name: name(), found: root.epoch.min(home.epoch), known });
            }
        }
        let before = self.home();
        self.seen = Some((root.epoch, home));
        Ok(match () {
            () if before != Some(home) => RootStep::Serve(home),
            () if root.epoch > home.epoch => RootStep::Restoring(root.epoch),
            () => RootStep::Same,
        })
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::TimestampMs;
    use uuid::Uuid;

    use super::*;

    fn name() -> ClusterName {
        ClusterName::new("tidewater").expect("legal")
    }

    fn root(cluster: u128, epoch: u32, catalogue_of: u32) -> Root {
        let cluster = ClusterId(Uuid::from_u128(cluster));
        let catalogue = Home { cluster, epoch: LineageEpoch(catalogue_of) }.name(ObjectKind::Catalogue).key();
        Root { epoch: LineageEpoch(epoch), catalogue, ..Root::new(name(), cluster, TimestampMs(1)) }
    }

    #[test]
    fn a_restore_counts_from_its_switch_on() {
        let home = |root: &Root, epoch| Home { cluster: root.cluster, epoch: LineageEpoch(epoch) };
        let mut followed = FollowedRoot::new(name());
        let first = root(1, 1, 1);
        assert_eq!(followed.on_root(&first), Ok(RootStep::Serve(home(&first, 1))));
        assert_eq!(followed.on_root(&first), Ok(RootStep::Same));
        assert_eq!(followed.on_root(&root(1, 2, 1)), Ok(RootStep::Restoring(LineageEpoch(2))));
        assert_eq!(followed.home(), Some(home(&first, 1)), "not switched");
        assert_eq!(followed.on_root(&root(1, 3, 1)), Ok(RootStep::Restoring(LineageEpoch(3))), "another attempt");
        assert_eq!(followed.on_root(&root(1, 3, 3)), Ok(RootStep::Serve(home(&first, 3))));
        assert_eq!(followed.on_root(&root(1, 3, 3)), Ok(RootStep::Same));
    }

    #[test]
    fn older_roots_other_clusters_and_strange_catalogues_change_nothing() {
        let mut followed = FollowedRoot::new(name());
        followed.on_root(&root(1, 2, 2)).expect("the first");
        let before = followed.clone();
        assert!(matches!(followed.on_root(&root(2, 2, 2)), Err(RootError::OtherCluster { .. })));
        assert!(matches!(followed.on_root(&root(1, 1, 1)), Err(RootError::Older { .. })));
        assert!(
            matches!(followed.on_root(&root(1, 3, 1)), Err(RootError::Older { .. })),
            "the switch does not go back"
        );
        assert!(matches!(followed.on_root(&root(1, 2, 3)), Err(RootError::Catalogue { .. })), "of no epoch yet");
        let strange = Root { catalogue: name().root_key(), ..root(1, 2, 2) };
        assert!(matches!(followed.on_root(&strange), Err(RootError::Catalogue { .. })));
        let foreign = Root { catalogue: root(9, 1, 1).catalogue, ..root(1, 2, 2) };
        assert!(matches!(followed.on_root(&foreign), Err(RootError::Catalogue { .. })));
        assert_eq!(followed, before);
    }
}
