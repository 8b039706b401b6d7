//! What a restored cluster begins with: lanes and topics of the new home, made from the lanes of the source as they
//! ended.
//!
//! Owns: which topics come back, and what of a lane's state goes on under the new home. Pure: the same source gives the
//! same plan, also to another attempt.
//!
//! - Lanes and partitions keep their numbers, objects stay where they are: rows of the new home name objects of the
//!   source.
//! - Log indexes of the source mean nothing in the new lanes' logs: all state is as of [`SEED`].
//! - A topic that the source had deleted does not come back; its partitions stay dropped, until their objects are
//!   deleted.
//! - A topic that was being copied from another comes back as one: the restored cluster goes on with the copy.
//! - Producers and leader epochs are as of the archived end, so that a batch sent again is recognised and one that was
//!   never archived is appended.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{LaneId, LeaderEpoch, LogIndex, PartitionId, TimestampMs, TopicId, TopicName};

use super::freeze::LaneEnd;
use super::order::{EPOCH_BASE_BITS, PRODUCER_ID_BITS};
use super::read::LaneRead;
use super::report::{PartitionReport, Report, TopicReport};
use crate::follow::FollowedPartition;
use crate::keys::{Home, LineageEpoch, ObjectName};
use crate::manifest::{
    Catalogue, CatalogueCopy, CataloguePartition, CatalogueTopic, LaneManifest, Live, LogFacts, PartitionManifest,
    Pending, PublishedPartition, UnarchivedTopic, UnarchivedTopics, is_shared,
};

/// The log index that all of a restored lane's state is as of: the lane's log begins after it.
pub const SEED: LogIndex = LogIndex(1);

/// What a lane of the new home begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSeed {
    /// The lane's state.
    pub archive: LaneManifest,
    /// Its partitions by id, dropped ones too.
    pub partitions: Vec<PublishedPartition>,
}

/// All that the new home begins with.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) catalogue: Catalogue,
    pub(super) lanes: Vec<LaneSeed>,
    pub(super) report: Report,
}

/// The leader-epoch base of partitions in an epoch of the lineage: above every leader epoch of the epochs before.
#[must_use]
pub fn epoch_base(epoch: LineageEpoch) -> LeaderEpoch {
    let base = i32::try_from(u64::from(epoch.0) << EPOCH_BASE_BITS);
    LeaderEpoch(base.expect("no restore begins beyond the last epoch that has leader epochs"))
}

/// The leader-epoch base of a partition that had `found`. It is the epoch's, unless the partition is of a copy whose
/// records have later leader epochs: then it is the next multiple above.
fn base_of(epoch: LeaderEpoch, found: LeaderEpoch) -> LeaderEpoch {
    let next = || (found.0 >> EPOCH_BASE_BITS).checked_add(1)?.checked_mul(1 << EPOCH_BASE_BITS);
    if found < epoch { epoch } else { LeaderEpoch(next().unwrap_or(found.0)) }
}

/// The first producer id of an epoch of the lineage: above every one that the epochs before gave out.
#[must_use]
pub fn first_producer_id(epoch: LineageEpoch) -> i64 {
    i64::from(epoch.0) << PRODUCER_ID_BITS
}

/// Objects that belong to the partition alone: those that its rows and spill pages name, and those to be deleted.
pub(super) fn own_objects(manifest: &PartitionManifest) -> Vec<ObjectName> {
    let rows = manifest.rows.iter().map(|row| row.object());
    let pages = manifest.spilled.iter().map(|page| page.page);
    let pending = manifest.pending.iter().map(|(object, _)| *object);
    let mut own: Vec<ObjectName> = rows.chain(pages).chain(pending).filter(|object| !is_shared(object)).collect();
    own.sort_unstable();
    own.dedup();
    own
}

/// The plan of a restore into `home`. `source` is the catalogue read after the last lane ended; `None`: the source has
/// archived nothing.
pub(super) fn plan(home: Home, source: Option<&Catalogue>, lanes: Vec<LaneRead>, now: TimestampMs) -> Plan {
    let empty = Catalogue::new(home, now);
    let source = source.unwrap_or(&empty);
    let topics = living(source, &lanes);
    let base = epoch_base(home.epoch);
    let restored = |topic: &&CatalogueTopic| CatalogueTopic {
        partitions: topic
            .partitions
            .iter()
            .map(|found| CataloguePartition { epoch_base: base_of(base, found.epoch_base), ..*found })
            .collect(),
        // The revisions of the source's controller mean nothing to the new one.
        revision: 0,
        copy: restored_copy(home, topic.copy.as_deref()),
        ..(*topic).clone()
    };
    let mut unarchived: Vec<UnarchivedTopic> =
        source.unarchived.iter().flat_map(|known| &known.topics).cloned().collect();
    unarchived.retain(|topic| topics.values().all(|living| living.name != topic.name));
    unarchived.iter_mut().for_each(|topic| topic.copy = restored_copy(home, topic.copy.as_deref()));
    let catalogue = Catalogue {
        revision: 1,
        lanes: source.lanes.clone(),
        topics: topics.values().map(restored).collect(),
        unarchived: Some(UnarchivedTopics { revision: 0, topics: unarchived }),
        ..empty.clone()
    };
    let report = report(source, &topics, &catalogue, &lanes);
    let lanes = lanes.into_iter().map(|lane| seed(home, lane, &topics)).collect();
    Plan { catalogue, lanes, report }
}

fn restored_copy(home: Home, copy: Option<&CatalogueCopy>) -> Option<Box<CatalogueCopy>> {
    copy.map(|copy| Box::new(CatalogueCopy { origin: copy.origin.restored_into(home), ..copy.clone() }))
}

/// Topics that come back: neither deleted nor, of two with one name, the older one.
fn living<'a>(source: &'a Catalogue, lanes: &[LaneRead]) -> BTreeMap<TopicId, &'a CatalogueTopic> {
    let partitions = lanes.iter().flat_map(|lane| lane.followed.partitions().values());
    let dropped: BTreeSet<TopicId> =
        partitions.filter(|found| found.is_dropped()).map(|found| found.id().topic).collect();
    let mut by_name: BTreeMap<&TopicName, &CatalogueTopic> = BTreeMap::new();
    for topic in source.topics.iter().filter(|topic| !dropped.contains(&topic.id)) {
        let newer = by_name.get(&topic.name).is_none_or(|held| held.revision < topic.revision);
        if newer {
            by_name.insert(&topic.name, topic);
        }
    }
    by_name.into_values().map(|topic| (topic.id, topic)).collect()
}

fn seed(home: Home, read: LaneRead, topics: &BTreeMap<TopicId, &CatalogueTopic>) -> LaneSeed {
    let LaneRead { followed, own, .. } = read;
    let (state, partitions) = followed.into_parts();
    let state = state.expect("the lane was followed for a restore");
    let live = state.live.into_iter().map(|(object, live)| (object, Live { since: SEED, ..live }));
    let pending = state.pending.into_iter().map(|(object, gone)| (object, Pending { intended: SEED, ..gone }));
    let archive = LaneManifest {
        changed: Some(SEED),
        live: live.collect(),
        pending: pending.collect(),
        ..LaneManifest::new(home, state.lane)
    };
    let kept = partitions.into_values().map(|found| {
        let own = own.get(&found.id()).map_or(&[][..], Vec::as_slice);
        let lives = topics.contains_key(&found.id().topic);
        restamped(found, own, lives)
    });
    let partitions = kept.filter(|published| !published.manifest.is_gone()).collect();
    LaneSeed { archive, partitions }
}

fn restamped(found: FollowedPartition, own: &[ObjectName], lives: bool) -> PublishedPartition {
    let PublishedPartition { mut manifest, facts } = found.into_published();
    let rows = manifest.rows.iter().map(|row| row.object());
    let named: BTreeSet<ObjectName> = rows.chain(manifest.spilled.iter().map(|page| page.page)).collect();
    manifest.pending = own.iter().filter(|object| !named.contains(object)).map(|object| (*object, SEED)).collect();
    manifest.changed = Some(SEED);
    manifest.dropped = !lives;
    let facts = if lives { facts.cut(manifest.archived_end) } else { LogFacts::default() };
    PublishedPartition { manifest, facts }
}

fn report(
    source: &Catalogue,
    topics: &BTreeMap<TopicId, &CatalogueTopic>,
    restored: &Catalogue,
    lanes: &[LaneRead],
) -> Report {
    let ends: BTreeMap<PartitionId, (&FollowedPartition, LaneId)> = lanes
        .iter()
        .flat_map(|lane| lane.followed.partitions().iter().map(move |(id, found)| (*id, (found, lane.followed.lane()))))
        .collect();
    let of = |topic: &CatalogueTopic| TopicReport {
        id: topic.id,
        name: topic.name.clone(),
        partitions: topic.partition_ids().map(|id| PartitionReport::of(id, ends.get(&id).copied())).collect(),
    };
    let known: BTreeSet<TopicId> = source.topics.iter().map(|topic| topic.id).collect();
    // A topic is in the catalogue before its first row.
    let unknown = |found: &&FollowedPartition| {
        !found.is_dropped() && !known.contains(&found.id().topic) && found.manifest().has_rows()
    };
    let all = lanes.iter().flat_map(|lane| lane.followed.partitions().values());
    let strays: Vec<PartitionId> = all.filter(unknown).map(FollowedPartition::id).collect();
    let deleted = source.topics.iter().filter(|topic| !topics.contains_key(&topic.id));
    Report {
        topics: topics.values().map(|topic| of(topic)).collect(),
        deleted: deleted.map(|topic| topic.name.clone()).collect(),
        unarchived: restored
            .unarchived
            .iter()
            .flat_map(|known| &known.topics)
            .map(|topic| topic.name.clone())
            .collect(),
        copies: copies(restored),
        lanes: lanes.iter().map(super::report::LaneReport::of).collect(),
        damaged: !strays.is_empty() || lanes.iter().any(|lane| matches!(lane.end, LaneEnd::Damaged { .. })),
        strays: strays.iter().map(ToString::to_string).collect(),
        cut: None,
    }
}

/// Topics whose copies go on.
fn copies(restored: &Catalogue) -> Vec<TopicName> {
    let archived = restored.topics.iter().filter(|topic| topic.copy.is_some()).map(|topic| &topic.name);
    let unarchived = restored.unarchived.iter().flat_map(|known| &known.topics);
    let unarchived = unarchived.filter(|topic| topic.copy.is_some()).map(|topic| &topic.name);
    archived.chain(unarchived).cloned().collect()
}
