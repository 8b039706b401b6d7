//! The root object: which cluster a name in this bucket belongs to, and in which lineage epoch it lives.
//!
//! Owns: what a start makes of the root it finds (R7). Does not own: its content and form (`manifest::Root`),
//! reading and writing it (`bucket`). Pure; *message*.

use tidewater_storage::model::TimestampMs;

use crate::keys::{ClusterId, ClusterName, LineageEpoch, ObjectKey, ObjectKind};
use crate::manifest::Root;

/// What this data directory knows about its cluster before it has seen the bucket. The id is made and saved before the
/// bucket is touched, so a crash in between is not a stranger afterwards. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Id saved in the data directory.
    pub cluster: ClusterId,
    pub epoch: LineageEpoch,
    /// Name from the configuration.
    pub name: ClusterName,
    /// Was the root seen by an earlier start? Then it must still be there.
    pub confirmed: bool,
}

/// What a start does about the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootStep {
    /// None there, first start: put it if absent.
    Create(Root),
    /// It is ours.
    Use(Root),
}

/// Why a start goes no further. Each names its way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootRefusal {
    /// R7.
    #[error(
        "the bucket already holds a cluster named {name} (id {found}, epoch {epoch}), and this data directory does not \
         belong to it (its id is {own}). If that cluster lost its brokers: tidewater restore --from this bucket. Else use \
         the data directory of that cluster, or start with another --cluster-name"
    )]
    Foreign {
        /// The name in question.
        name: ClusterName,
        /// Whose root it is.
        found: ClusterId,
        epoch: LineageEpoch,
        own: ClusterId,
    },
    /// A restore went on without this data directory.
    #[error(
        "cluster {name} ({cluster}) lives on in epoch {found}, this data directory is of epoch {own}: it was restored \
         elsewhere; do not start this copy, its data directory may be kept for inspection"
    )]
    Superseded {
        name: ClusterName,
        cluster: ClusterId,
        /// Epoch in the bucket.
        found: LineageEpoch,
        /// Epoch of the data directory.
        own: LineageEpoch,
    },
    /// A restore began in this epoch and did not come to its end.
    #[error(
        "the restore of cluster {name} ({cluster}) into epoch {epoch} is not complete: run tidewater restore again with the \
         data directory that it prepares"
    )]
    Incomplete { name: ClusterName, cluster: ClusterId, epoch: LineageEpoch },
    /// The bucket was emptied or is another one.
    #[error(
        "the bucket holds no root of cluster {name} ({cluster}) although an earlier start, or another broker of the \
         cluster, made it at {key}; check --bucket, or restore the bucket's objects: archived data is only there"
    )]
    Vanished {
        name: ClusterName,
        cluster: ClusterId,
        /// Where it should be.
        key: ObjectKey,
    },
}

/// Decides what a start does with the root it found.
///
/// # Errors
/// Why it must not start.
pub fn decide(claim: &Claim, found: Option<Root>, now: TimestampMs) -> Result<RootStep, RootRefusal> {
    let name = claim.name.clone();
    let Some(root) = found else {
        if claim.confirmed {
            return Err(RootRefusal::Vanished { key: name.root_key(), name, cluster: claim.cluster });
        }
        return Ok(RootStep::Create(Root { epoch: claim.epoch, ..Root::new(name, claim.cluster, now) }));
    };
    if root.cluster != claim.cluster {
        return Err(RootRefusal::Foreign { name, found: root.cluster, epoch: root.epoch, own: claim.cluster });
    }
    if root.epoch != claim.epoch {
        let (cluster, found, own) = (claim.cluster, root.epoch, claim.epoch);
        return Err(RootRefusal::Superseded { name, cluster, found, own });
    }
    if root.catalogue != root.home().name(ObjectKind::Catalogue).key() {
        return Err(RootRefusal::Incomplete { name, cluster: root.cluster, epoch: root.epoch });
    }
    Ok(RootStep::Use(root))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn claim(id: u128, confirmed: bool) -> Claim {
        let name = ClusterName::new("tidewater").expect("legal");
        Claim { cluster: ClusterId(Uuid::from_u128(id)), epoch: LineageEpoch::FIRST, name, confirmed }
    }

    fn made(id: u128) -> Root {
        match decide(&claim(id, false), None, TimestampMs(5)) {
            Ok(RootStep::Create(root)) => root,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn first_start_creates_and_later_starts_use() {
        let root = made(1);
        assert_eq!(decide(&claim(1, false), Some(root.clone()), TimestampMs(9)), Ok(RootStep::Use(root.clone())));
        assert_eq!(decide(&claim(1, true), Some(root.clone()), TimestampMs(9)), Ok(RootStep::Use(root)));
    }

    #[test]
    fn strangers_copies_and_empty_buckets_are_refused() {
        let refused = |claim: &Claim, root: Option<Root>| decide(claim, root, TimestampMs(9)).expect_err("refused");
        assert!(matches!(refused(&claim(2, false), Some(made(1))), RootRefusal::Foreign { .. }));
        assert!(matches!(refused(&claim(1, true), None), RootRefusal::Vanished { .. }));
        let later = Root { epoch: LineageEpoch(2), ..made(1) };
        assert!(matches!(refused(&claim(1, true), Some(later.clone())), RootRefusal::Superseded { .. }));
        let restored = Claim { epoch: LineageEpoch(2), ..claim(1, true) };
        assert!(
            matches!(refused(&restored, Some(later)), RootRefusal::Incomplete { .. }),
            "the catalogue is epoch 1's"
        );
    }
}
