//! A partition of a source, served from the source's bucket. Shard-local.
//!
//! Owns: the readers that wait at its end. Does not own: following the bucket (`tidewater_read_replica::LaneFollower`),
//! reading objects ([`super::read_path`]).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use tidewater_read_replica::{LaneFollower, PartitionReader};
use tidewater_storage::env::{Clock, Mono};
use tidewater_storage::log::PartitionLog;
use tidewater_storage::model::{LeaderEpoch, Offset, OffsetRange, PartitionId, TopicName};
use tidewater_tiering::fetch::ReadView;

use super::read_path::{self, Remote};
use super::readable::{self, Readable};
use super::watch::Waiters;
use crate::partition::message::{EpochEnd, PartitionStatus};

/// A reader beyond the end is refused after this time, if the lane keeps up with the bucket: longer than a poll.
const BEYOND_PATIENCE: Duration = Duration::from_secs(15);
/// A lane that lags more does not know its end.
const LAG_MAX_MS: u64 = 10_000;

/// Damaged ranges of one partition that are logged.
const DAMAGE_LOGGED_MAX: usize = 16;

pub struct FollowedPartition {
    pub id: PartitionId,
    pub topic: TopicName,
    /// The reader of the source's bucket.
    pub remote: Remote,
    /// Readers at its end.
    pub(in crate::partition) waiters: Waiters,
    lane: LaneFollower,
    reader: PartitionReader,
    /// The log start that waiting readers know.
    log_start: Cell<Offset>,
    damage_logged: RefCell<BTreeSet<Option<Offset>>>,
    clock: Clock,
    /// When readers first and last asked beyond the end.
    beyond: Cell<Option<(Mono, Mono)>>,
}

impl fmt::Debug for FollowedPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FollowedPartition({} of {}, {})", self.id, self.topic, self.readable())
    }
}

impl FollowedPartition {
    /// A partition of a lane that has caught up: one that the lane does not know has no records yet.
    #[must_use]
    pub fn new(id: PartitionId, topic: TopicName, remote: Remote, lane: LaneFollower, clock: Clock) -> Self {
        let (waiters, damage_logged) = (Waiters::default(), RefCell::default());
        let reader = lane.partition(id);
        let log_start = Cell::new(reader.log_start());
        let beyond = Cell::default();
        Self { id, topic, remote, waiters, lane, reader, log_start, damage_logged, clock, beyond }
    }

    /// What is known of it has changed: wakes the readers that this concerns.
    pub fn changed(&self) {
        let OffsetRange { start, end } = self.readable();
        if self.log_start.replace(start) == start {
            self.waiters.reached(end);
        } else {
            self.waiters.all();
        }
    }

    /// It is no longer served here: wakes all readers.
    pub fn ended(&self) {
        self.waiters.all();
    }

    /// Bytes of its records in the bucket.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lane.with_partition(self.id, |state| state.manifest().bytes()).unwrap_or(0)
    }

    fn epochs(&self) -> Vec<(LeaderEpoch, Offset)> {
        self.reader.epochs().iter().map(|start| (start.epoch, start.start)).collect()
    }

    pub(in crate::partition) fn epoch_end(&self, asked: LeaderEpoch) -> Option<EpochEnd> {
        read_path::epoch_end(&self.epochs(), None, self.high_watermark(), asked)
    }

    pub(in crate::partition) fn status(&self) -> PartitionStatus {
        let OffsetRange { start, end } = self.readable();
        PartitionStatus {
            partition: self.id.index.0,
            lane: self.lane.lane().0,
            leader_epoch: self.epochs().last().map_or(-1, |(epoch, _)| epoch.0),
            log_start_offset: start.get(),
            local_start_offset: end.get(),
            archived_end_offset: end.get(),
            high_watermark: end.get(),
            last_stable_offset: end.get(),
            archived_bytes: self.bytes(),
            ..PartitionStatus::default()
        }
    }

    fn empty_view(&self) -> ReadView {
        ReadView { partition: self.id, log_start: Offset::ZERO, archived_end: Offset::ZERO, steps: Vec::new() }
    }
}

impl Readable for FollowedPartition {
    fn id(&self) -> PartitionId {
        self.id
    }

    fn topic(&self) -> &TopicName {
        &self.topic
    }

    fn log_start(&self) -> Offset {
        self.readable().start
    }

    fn high_watermark(&self) -> Offset {
        self.readable().end
    }

    fn last_stable_offset(&self) -> Offset {
        self.high_watermark()
    }

    fn readable(&self) -> OffsetRange {
        OffsetRange::new(self.reader.log_start(), self.reader.high_watermark())
    }

    fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        readable::epoch_at(&self.epochs(), offset)
    }

    fn local(&self) -> Option<&PartitionLog> {
        None
    }

    fn archived_end(&self) -> Offset {
        self.high_watermark()
    }

    fn is_uploaded(&self) -> bool {
        false
    }

    fn has_archived(&self, offset: Offset) -> bool {
        self.readable().contains(offset)
    }

    fn view(&self, from: Offset) -> ReadView {
        self.reader.view(from).unwrap_or_else(|| self.empty_view())
    }

    fn whole_view(&self) -> ReadView {
        self.reader.whole().unwrap_or_else(|| self.empty_view())
    }

    fn is_new_damage(&self, begins: Option<Offset>) -> bool {
        let mut logged = self.damage_logged.borrow_mut();
        logged.len() < DAMAGE_LOGGED_MAX && logged.insert(begins)
    }

    /// A reader may come from another broker that has seen a bundle that this one has not, or from a time before a
    /// restart.
    fn is_beyond(&self) -> bool {
        let now = self.clock.now();
        let asked = self.beyond.get().filter(|(_, last)| now.since(*last) < BEYOND_PATIENCE * 2);
        let first = asked.map_or(now, |(first, _)| first);
        self.beyond.set(Some((first, now)));
        let keeps_up = self.lane.status().lag_ms.is_some_and(|lag| lag <= LAG_MAX_MS);
        keeps_up && now.since(first) >= BEYOND_PATIENCE
    }

    async fn refresh(&self) -> bool {
        self.lane.refresh().await;
        true
    }
}
