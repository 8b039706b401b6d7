//! Topics that are made as copies of archived topics: what the controller keeps of a copy, and the checks of a new one.
//!
//! Owns: the origin of a copy, which partitions are complete, until when retention deletes nothing of it. Does not own:
//! copying (`crate::copies`). Every type is a *message*.

use std::collections::BTreeSet;

use super::ask::TopicError;
use super::features::{CLUSTER, COPIES};
use super::lineage::HOLD_MS;
use super::state::ControllerState;
use crate::partition::state::command::CopiedRange;
use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LeaderEpoch, PartitionIndex, TimestampMs};
use tidewater_tiering::keys::Home;
use tidewater_tiering::manifest::CatalogueCopy;
pub use tidewater_tiering::manifest::{CopyOrigin, CopyPartition};

/// Leader epochs of copies are counted from a multiple of this, as those of restored clusters: every term of a lane is
/// lower.
const EPOCH_STEP: i32 = 1 << 20;

/// Where a copy comes from, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicCopy {
    pub origin: CopyOrigin,
    /// By number.
    pub partitions: Vec<CopyPartition>,
    pub began: TimestampMs,
    /// Partitions that are complete.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub done: BTreeSet<i32>,
    /// When the last partition was complete; `None` while the copy is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<TimestampMs>,
    /// An operator has ended the hold of retention.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lifted: bool,
}

impl TopicCopy {
    /// The offsets that are copied into a partition; `None` for one that was added later.
    #[must_use]
    pub fn range(&self, partition: PartitionIndex) -> Option<CopiedRange> {
        let found = self.partitions.get(usize::try_from(partition.0).ok()?)?;
        Some(CopiedRange { start: found.start, end: found.end })
    }

    /// Does retention delete nothing of the copy at `now`? Not before it is complete, nor for a day after that: records
    /// may be older than the topic keeps them.
    #[must_use]
    pub fn holds(&self, now: TimestampMs) -> bool {
        self.finished.is_none_or(|finished| !self.lifted && now.since_ms(finished) < HOLD_MS)
    }

    /// When the hold of retention ends by itself; `None` before the copy is complete.
    #[must_use]
    pub fn hold_until(&self) -> Option<TimestampMs> {
        self.finished.map(|finished| TimestampMs(finished.0.saturating_add(HOLD_MS)))
    }

    /// The cut of that home that the copy needs.
    #[must_use]
    pub fn cut_in_use(&self, home: Home) -> Option<u64> {
        self.origin.cut_in(home).filter(|_| self.finished.is_none())
    }

    /// What the catalogue says of it; `None` once it is complete.
    #[must_use]
    pub fn catalogued(&self) -> Option<Box<CatalogueCopy>> {
        let Self { origin, partitions, began, .. } = self;
        let (origin, partitions, began) = (origin.clone(), partitions.clone(), *began);
        self.finished.is_none().then(|| Box::new(CatalogueCopy { origin, partitions, began }))
    }

    /// The copy in a cluster that is restored while it is not complete. Which partitions are is found out by the
    /// leaders of their lanes.
    #[must_use]
    pub fn resumed(copy: &CatalogueCopy) -> Self {
        let CatalogueCopy { origin, partitions, began } = copy.clone();
        Self { origin, partitions, began, done: BTreeSet::new(), finished: None, lifted: false }
    }

    /// Notes that a partition is complete.
    pub(super) fn complete(&mut self, partition: i32, at: TimestampMs) {
        self.done.insert(partition);
        if self.done.len() == self.partitions.len() {
            self.finished.get_or_insert(at);
        }
    }
}

/// What the leader epochs of a copy are counted from, if `last` is the greatest that its records have; `None` if no
/// epochs are left above.
#[must_use]
pub fn epoch_base(last: LeaderEpoch) -> Option<i32> {
    (last.0 / EPOCH_STEP).checked_add(1)?.checked_mul(EPOCH_STEP)
}

/// May a topic be made as a copy?
///
/// # Errors
/// Why not.
pub(super) fn check(state: &ControllerState, copy: &TopicCopy) -> Result<(), TopicError> {
    let refuse = |why: String| Err(TopicError::InvalidRequest(why));
    if state.level(CLUSTER) < COPIES {
        return refuse(
            "a broker of the cluster is of a version that copies no topics: update every broker first".into(),
        );
    }
    match copy.partitions.iter().position(|part| !part.is_sound()) {
        Some(n) => refuse(format!("partition {n} of the copy has the offsets {:?}", copy.partitions.get(n))),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tidewater_storage::model::{LaneId, Offset, TopicId, TopicName};
    use tidewater_tiering::keys::{ClusterId, ClusterName, LineageEpoch};
    use uuid::Uuid;

    use super::*;
    use crate::controller::command::Command;

    pub(crate) fn copy(ends: &[(u64, u64)]) -> TopicCopy {
        let part = |(start, end): &(u64, u64)| CopyPartition {
            lane: LaneId(1),
            log_start: Offset::new(*start),
            start: Offset::new(*start),
            end: Offset::new(*end),
        };
        TopicCopy {
            origin: CopyOrigin {
                url: None,
                cluster_name: ClusterName::new("tidewater").expect("legal"),
                cluster: Uuid::from_u128(9),
                epoch: 1,
                topic: TopicName::new("orders").expect("legal"),
                topic_id: TopicId(Uuid::from_u128(1)),
                cut: Some(7),
                at: TimestampMs(5),
            },
            partitions: ends.iter().map(part).collect(),
            began: TimestampMs(10),
            done: BTreeSet::new(),
            finished: None,
            lifted: false,
        }
    }

    #[test]
    fn a_copy_holds_its_cut_and_retention_until_it_is_complete() {
        let mut copy = copy(&[(0, 5), (3, 3)]);
        let own = Home { cluster: ClusterId(Uuid::from_u128(9)), epoch: LineageEpoch(1) };
        let others = [Home { cluster: ClusterId::default(), ..own }, Home { epoch: LineageEpoch(2), ..own }]
            .map(|home| copy.cut_in_use(home));
        assert_eq!((copy.cut_in_use(own), others), (Some(7), [None, None]));
        copy.complete(1, TimestampMs(20));
        copy.complete(1, TimestampMs(21));
        assert!(copy.holds(TimestampMs(i64::MAX)) && copy.finished.is_none());
        copy.complete(0, TimestampMs(30));
        copy.complete(0, TimestampMs(99));
        assert_eq!((copy.finished, copy.cut_in_use(own)), (Some(TimestampMs(30)), None));
        assert!(copy.holds(TimestampMs(29 + HOLD_MS)) && !copy.holds(TimestampMs(30 + HOLD_MS)));
    }

    #[test]
    fn the_catalogue_names_a_copy_until_it_is_complete_and_a_restore_goes_on_from_there() {
        let mut copy = copy(&[(0, 5), (3, 3)]);
        let begun = copy.clone();
        copy.complete(1, TimestampMs(20));
        let catalogued = copy.catalogued().expect("it is not complete");
        assert_eq!(TopicCopy::resumed(&catalogued), begun);
        copy.complete(0, TimestampMs(30));
        assert_eq!(copy.catalogued(), None);
    }

    #[test]
    fn leader_epochs_of_a_copy_are_above_all_of_its_records() {
        let base = |last| epoch_base(LeaderEpoch(last));
        assert_eq!((base(0), base(EPOCH_STEP - 1), base(EPOCH_STEP)), (Some(1 << 20), Some(1 << 20), Some(2 << 20)));
        assert_eq!(base(i32::MAX), None);
    }

    #[test]
    fn a_copy_is_kept_as_it_was_asked_for_and_refused_where_it_makes_no_sense() {
        let mut state = ControllerState::default();
        let asked = copy(&[(0, 5), (3, 3)]);
        assert!(check(&state, &asked).expect_err("level").to_string().contains("update every broker"));
        state.features.insert(CLUSTER.to_owned(), COPIES);
        assert_eq!(check(&state, &asked), Ok(()));
        assert!(check(&state, &copy(&[(9, 5)])).is_err());
        // Copies that cannot go on, however many, keep no other from being made.
        for n in 0..100 {
            let name = TopicName::new(&format!("copy-{n}")).expect("legal");
            let (id, copy) = (TopicId(Uuid::from_u128(100 + n)), Some(Box::new(asked.clone())));
            let (lanes, overrides) = (vec![LaneId(1), LaneId(2)], std::collections::BTreeMap::new());
            state.apply(Command::CreateTopic { name, id, lanes, overrides, epoch_base: 0, copy });
        }
        assert_eq!(check(&state, &asked), Ok(()));
        let json = serde_json::to_string(&asked).expect("is written");
        assert_eq!(serde_json::from_str::<TopicCopy>(&json).expect("is read"), asked);
    }
}
