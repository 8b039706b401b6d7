//! One topic of a cluster as its bucket has it: found by name, now or in a cut, and read lane by lane. For copies of
//! the topic into a living cluster.
//!
//! Owns: these requests. Does not own: the copy (the broker's package). Nothing is written. Of a lane only the pages
//! and ranges of the topic are kept, so memory does not grow with the other partitions of the lane.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt, TryStreamExt};
use tidewater_storage::model::{LaneId, LeaderEpoch, LogIndex, Offset, PartitionId, TimestampMs, TopicId, TopicName};

use super::error::RestoreError;
use super::freeze::LaneEnd;
use super::home::read_catalogue;
use super::read::LaneRead;
use super::report::{CutReport, LaneReport, PartitionReport, Report, TopicReport};
use super::run::{LANES_AT_ONCE, Restore};
use crate::cuts::{Cut, read_index};
use crate::follow::FollowedPartition;
use crate::format::{DataIndex, LaneEvent};
use crate::keys::{Home, ObjectKind};
use crate::manifest::{Catalogue, CatalogueTopic, PartitionManifest};

/// Names of topics that an error lists.
const NAMES_MAX: usize = 20;

/// The state of a topic that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicState {
    /// All that is archived now.
    Newest,
    /// The newest cut that was made at this time or before; the newest of all without a time.
    Cut(Option<TimestampMs>),
}

/// A topic that was found. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTopic {
    pub home: Home,
    /// As the catalogue has it: id, settings, the lane of each partition.
    pub topic: CatalogueTopic,
    /// The cut that it was found in.
    pub cut: Option<CutReport>,
    /// By number: where its records lie, and the leader epoch of the last one that is known.
    pub partitions: Vec<(PartitionManifest, Option<LeaderEpoch>)>,
    /// The same for people: this topic and its lanes.
    pub report: Report,
}

impl Restore {
    /// The topic of that name, in the home that the root names.
    ///
    /// # Errors
    /// [`RestoreError::NoTopic`], [`RestoreError::NotArchived`], [`RestoreError::NoCut`]; the archive of a lane that
    /// has the topic is damaged; what the store says.
    pub async fn topic(&self, name: &TopicName, state: TopicState) -> Result<FoundTopic, RestoreError> {
        let home = self.served().await?;
        let cut = match state {
            TopicState::Newest => None,
            TopicState::Cut(at) => Some(self.cut_of(home, self.cut_at(at).await?.number).await?),
        };
        let catalogue = match &cut {
            None => read_catalogue(&*self.store, home).await?,
            Some(cut) => {
                let key = home.name(ObjectKind::Cut { number: cut.number }).key();
                let catalogue = Catalogue::decode(&cut.catalogue);
                Some(catalogue.map_err(|error| RestoreError::Unreadable { key, reason: error.to_string() })?)
            }
        };
        let catalogue = catalogue.unwrap_or_else(|| Catalogue::new(home, self.now));
        let mut found: Vec<&CatalogueTopic> = catalogue.topics.iter().filter(|topic| topic.name == *name).collect();
        // The topic that changed last: an earlier one of the name was deleted, and lies there until it is clean.
        found.sort_unstable_by_key(|topic| topic.revision);
        let Some(topic) = found.pop().cloned() else { return Err(missing(&catalogue, name)) };
        let lanes: BTreeSet<LaneId> = topic.partitions.iter().map(|partition| partition.lane).collect();
        let reads = stream::iter(lanes).map(|lane| self.lane_of(home, cut.as_ref(), lane, topic.id));
        let reads: Vec<Option<LaneRead>> = reads.buffered(LANES_AT_ONCE).try_collect().await?;
        let reads: Vec<LaneRead> = reads.into_iter().flatten().collect();
        let cut = cut.map(|cut| CutReport { number: cut.number, at: cut.at });
        let report = report(&topic, &reads, cut);
        let mut all: BTreeMap<PartitionId, FollowedPartition> =
            reads.into_iter().flat_map(|read| followed(read, topic.id)).collect();
        if !all.is_empty() && all.values().all(FollowedPartition::is_dropped) {
            return Err(missing(&catalogue, name));
        }
        let partition = |id: PartitionId| match all.remove(&id) {
            Some(found) => {
                let epoch = found.leader_epoch();
                (found.into_published().manifest, epoch)
            }
            // Nothing of it was archived.
            None => (PartitionManifest::new(id, Offset::ZERO, LogIndex(0)), None),
        };
        let partitions = topic.partition_ids().map(partition).collect();
        Ok(FoundTopic { home, topic, cut, partitions, report })
    }

    /// The partitions of a topic in one lane, in the cut of that number or now.
    ///
    /// # Errors
    /// As [`Restore::topic`].
    pub async fn partitions_of(
        &self,
        home: Home,
        cut: Option<u64>,
        lane: LaneId,
        topic: TopicId,
    ) -> Result<BTreeMap<PartitionId, PartitionManifest>, RestoreError> {
        let cut = match cut {
            Some(number) => Some(self.cut_of(home, number).await?),
            None => None,
        };
        let read = self.lane_of(home, cut.as_ref(), lane, topic).await?;
        let found = read.into_iter().flat_map(|read| followed(read, topic));
        Ok(found.map(|(id, found)| (id, found.into_published().manifest)).collect())
    }

    async fn cut_of(&self, home: Home, number: u64) -> Result<Cut, RestoreError> {
        let index = read_index(&*self.store, home).await?.0;
        self.cut_in(&index, number).await
    }

    /// What a lane has of a topic; `None` if the cut does not have the lane.
    async fn lane_of(
        &self,
        home: Home,
        cut: Option<&Cut>,
        lane: LaneId,
        topic: TopicId,
    ) -> Result<Option<LaneRead>, RestoreError> {
        let lanes = self.lanes(home, None);
        let read = match cut {
            None => lanes.read_topic(lane, topic).await?,
            Some(cut) => match cut.lanes.iter().find(|state| state.lane == lane) {
                Some(state) => lanes.read_topic_in_cut(state, topic).await?,
                None => return Ok(None),
            },
        };
        if let LaneEnd::Damaged { at, reason } = &read.end
            && !self.accept_damage
        {
            return Err(RestoreError::Damaged(vec![format!("lane {lane}: bundle {at}: {reason}")]));
        }
        Ok(Some(read))
    }
}

/// The partitions of a topic in a lane.
fn followed(read: LaneRead, topic: TopicId) -> impl Iterator<Item = (PartitionId, FollowedPartition)> {
    let (_, partitions) = read.followed.into_parts();
    partitions.into_iter().filter(move |(id, _)| id.topic == topic)
}

fn report(topic: &CatalogueTopic, reads: &[LaneRead], cut: Option<CutReport>) -> Report {
    let partition = |id: PartitionId| {
        let found = reads.iter().find_map(|read| Some((read.followed.partitions().get(&id)?, read.followed.lane())));
        PartitionReport::of(id, found)
    };
    let partitions = topic.partition_ids().map(partition).collect();
    Report {
        topics: vec![TopicReport { id: topic.id, name: topic.name.clone(), partitions }],
        lanes: reads.iter().map(LaneReport::of).collect(),
        cut,
        ..Report::default()
    }
}

/// Why there is no topic of that name.
fn missing(catalogue: &Catalogue, name: &TopicName) -> RestoreError {
    let unarchived = catalogue.unarchived.iter().flat_map(|known| &known.topics);
    if unarchived.map(|topic| &topic.name).any(|found| found == name) {
        return RestoreError::NotArchived { topic: name.clone() };
    }
    let named = catalogue.topics.iter().map(|topic| &topic.name).filter(|found| *found != name);
    let names: BTreeSet<&TopicName> = named.filter(|found| !found.is_internal()).collect();
    let others = names.into_iter().take(NAMES_MAX).cloned().collect();
    RestoreError::NoTopic { topic: name.clone(), others }
}

/// What a bundle says of one topic.
pub(super) fn of_topic(index: &DataIndex, topic: TopicId) -> DataIndex {
    let is_of_it = |event: &&LaneEvent| match event {
        LaneEvent::Created { partition, .. }
        | LaneEvent::Dropped { partition }
        | LaneEvent::LogStartMoved { partition, .. }
        | LaneEvent::Departed { partition, .. }
        | LaneEvent::Arrived { partition, .. } => partition.topic == topic,
    };
    DataIndex {
        partitions: index.partitions.iter().filter(|entry| entry.partition.topic == topic).cloned().collect(),
        events: index.events.iter().filter(is_of_it).cloned().collect(),
        producers: None,
        kind: index.kind,
        home: index.home,
        lane: index.lane,
        sequence: index.sequence,
        term: index.term,
        log_index: index.log_index,
        previous: index.previous,
        written: index.written,
        seal: index.seal,
        cut: index.cut,
    }
}
