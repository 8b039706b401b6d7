//! One lane of one home, as it is followed: base, tail, and what to read next.
//!
//! Owns: the lane's position. Does not own: a new base (`rebase`), a bundle (`bundle`). Pure; *message* by type, kept
//! by the shard that follows the lane.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidewater_storage::model::{LaneId, LogIndex, PartitionId, TimestampMs};

use super::error::FollowError;
use super::partition::FollowedPartition;
use super::rebase::Rebase;
use super::tail::TailBundle;
use crate::format::Seal;
use crate::keys::{Home, LineageEpoch, ObjectName, Sequence};
use crate::manifest::{LaneManifest, ObjectPageRef, PageRef, PublishedLane};
use crate::store::ETag;

/// Ranges and events in a tail. A source publishes at least once a minute while its bundles come, so that a tail of
/// 10,000 partitions and a lag of 10 s holds 60,000.
pub const TAIL_ENTRIES_MAX: usize = 300_000;

/// What a lane is followed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To read its records.
    Read,
    /// To go on with it: producers and the lane's own state are kept too.
    Restore,
}

/// A followed lane.
#[derive(Clone, Debug)]
pub struct FollowedLane {
    pub(super) purpose: Purpose,
    pub(super) home: Home,
    pub(super) lane: LaneId,
    /// The lane's own state, if it is to be restored.
    pub(super) state: Option<LaneManifest>,
    /// The lane manifest last taken over, with its version.
    pub(super) base: Option<(PublishedLane, ETag)>,
    pub(super) partitions: BTreeMap<PartitionId, FollowedPartition>,
    /// Bundles from the base's `follow_from` on.
    pub(super) tail: VecDeque<TailBundle>,
    pub(super) tail_entries: usize,
    /// The last bundle taken, or covered by the base.
    pub(super) last: Sequence,
    pub(super) last_crc: u32,
    pub(super) last_written: TimestampMs,
    pub(super) closed_for: Option<LineageEpoch>,
    pub(super) stage: Stage,
}

#[derive(Clone, Debug)]
pub(super) enum Stage {
    Manifest,
    Pages(Box<Rebase>),
    Following,
    Sealed(Seal),
}

/// What to read next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The lane manifest, unless it is still the version that [`FollowedLane::base_version`] has.
    Manifest(ObjectName),
    /// These pages of the lane manifest just read, each whole.
    Pages {
        partitions: Vec<PageRef>,
        /// Only for a restore.
        objects: Vec<ObjectPageRef>,
    },
    /// The index of the bundle at this key. Those after it may be asked for beside it and given in order.
    Bundle(ObjectName),
    /// The root: the lane ended here, and goes on in a later epoch.
    Root(Seal),
}

/// Partitions that may have changed. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub partitions: BTreeSet<PartitionId>,
}

impl FollowedLane {
    /// Of which nothing is known yet.
    #[must_use]
    pub fn new(home: Home, lane: LaneId, purpose: Purpose) -> Self {
        let state = (purpose == Purpose::Restore).then(|| LaneManifest::new(home, lane));
        Self {
            purpose,
            state,
            home,
            lane,
            base: None,
            partitions: BTreeMap::new(),
            tail: VecDeque::new(),
            tail_entries: 0,
            last: Sequence::NONE,
            last_crc: 0,
            last_written: TimestampMs::NONE,
            closed_for: None,
            stage: Stage::Manifest,
        }
    }

    #[must_use]
    pub fn home(&self) -> Home {
        self.home
    }

    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// What to read next.
    #[must_use]
    pub fn next(&self) -> Next {
        match &self.stage {
            Stage::Manifest => Next::Manifest(self.home.lane_manifest(self.lane)),
            Stage::Pages(rebase) => {
                let (partitions, objects) = rebase.pages();
                Next::Pages { partitions: partitions.to_vec(), objects: objects.to_vec() }
            }
            Stage::Following => Next::Bundle(self.next_bundle()),
            Stage::Sealed(seal) => Next::Root(*seal),
        }
    }

    pub(super) fn next_bundle(&self) -> ObjectName {
        self.home.bundle(self.lane, self.last.next())
    }

    /// The lane manifest is to be read before the next bundle: nothing was at the bundle's key for a while, or an
    /// object that a row names is gone. No effect on a lane that ended.
    pub fn look_at_manifest(&mut self) {
        if matches!(self.stage, Stage::Following) {
            self.stage = Stage::Manifest;
        }
    }

    /// The version of the lane manifest that is the base: the condition of the next look at it.
    #[must_use]
    pub fn base_version(&self) -> Option<&ETag> {
        self.base.as_ref().map(|(_, version)| version)
    }

    /// The lane manifest that is the base; `None` before the first, or of a lane that never published.
    #[must_use]
    pub fn base(&self) -> Option<&PublishedLane> {
        self.base.as_ref().map(|(published, _)| published)
    }

    /// The last bundle that is covered; [`Sequence::NONE`] before the first.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// Checksum of its index; 0 before the first.
    #[must_use]
    pub fn last_crc(&self) -> u32 {
        self.last_crc
    }

    /// When the last bundle, or the base that covers it, was written, by the source's clock.
    #[must_use]
    pub fn last_written(&self) -> TimestampMs {
        self.last_written
    }

    /// The epoch of a restore that closed the lane manifest: no bundle after the next seal counts, and the root may
    /// name another home already.
    #[must_use]
    pub fn closed_for(&self) -> Option<LineageEpoch> {
        self.closed_for
    }

    /// Is anything known of the lane: a base, or a first bundle?
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.base.is_some() || self.last > Sequence::NONE
    }

    /// Its partitions by id, dropped ones too.
    #[must_use]
    pub fn partitions(&self) -> &BTreeMap<PartitionId, FollowedPartition> {
        &self.partitions
    }

    /// The lane's own state as of the last bundle, with sequences as log indexes; `None` if it is only read. If
    /// [`PublishedLane::objects`] of the base is `None`, it lacks the objects that the base names.
    #[must_use]
    pub fn state(&self) -> Option<&LaneManifest> {
        self.state.as_ref()
    }

    /// The lane's own state and its partitions, as [`FollowedLane::state`] and [`FollowedLane::partitions`].
    pub(crate) fn into_parts(self) -> (Option<LaneManifest>, BTreeMap<PartitionId, FollowedPartition>) {
        (self.state, self.partitions)
    }

    /// Ranges and events in the tail.
    #[must_use]
    pub fn tail_entries(&self) -> usize {
        self.tail_entries
    }

    pub(super) fn room_for(&self, bundle: &TailBundle) -> Result<(), FollowError> {
        let fits = self.tail.is_empty() || self.tail_entries + bundle.weight() <= TAIL_ENTRIES_MAX;
        if fits { Ok(()) } else { Err(FollowError::TailFull) }
    }

    /// Takes a bundle that counts into the lane's own state.
    pub(super) fn apply_to_state(&mut self, bundle: &TailBundle) {
        if let Some(state) = &mut self.state {
            let applied = state.apply(LogIndex(bundle.sequence.0), &bundle.command(bundle.ends()));
            assert!(applied.is_ok(), "bundle {} that was judged is refused: {applied:?}", bundle.sequence);
        }
    }

    pub(super) fn push_tail(&mut self, bundle: TailBundle) {
        self.tail_entries += bundle.weight();
        self.tail.push_back(bundle);
    }
}
