//! A simple writer of one lane: real manifests and their real transition, logs as lists of batches without bytes, and a
//! bucket as maps of encoded objects.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidewater_storage::model::{
    LaneId, LeaderEpoch, LogIndex, Offset, OffsetRange, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, RunSum,
    Term, TimestampMs, TopicName,
};

use super::restored::restored;
use crate::follow::FollowedLane;
use crate::format::{
    DataIndex, DataKind, EpochStart, Extent, ExtentObject, IndexRef, LaneEvent, PartitionEntry, PartitionProducers,
    ProducerBatch, ProducerState, Run, Seal, encode_index, follow_producers,
};
use crate::keys::{ClusterId, ClusterName, Home, LineageEpoch, Nonce, ObjectKind, ObjectName, Sequence};
use crate::manifest::{
    Bundled, BundledEnd, Command, LaneManifest, LogFacts, NewObject, NewRow, PageRef, PartitionManifest,
    PublishRequest, Published, PublishedLane, Replaced, Root, SpillPage, SpillRow, Spilled, Trimmed, apply, check_lane,
    encode_spill, is_shared, plan_publish,
};

pub(super) const LANE: LaneId = LaneId(1);

pub(super) fn id(index: i32) -> PartitionId {
    PartitionId { index: PartitionIndex(index), ..PartitionId::default() }
}

/// A bundle as it lies in the bucket.
#[derive(Clone)]
pub(super) struct StoredBundle {
    pub(super) index: DataIndex,
    pub(super) at: IndexRef,
}

/// What a reader may read.
#[derive(Default)]
pub(super) struct Bucket {
    pub(super) root: Option<Root>,
    /// With their versions.
    pub(super) manifests: BTreeMap<ObjectName, (Bytes, u64)>,
    pub(super) pages: BTreeMap<ObjectName, Bytes>,
    pub(super) bundles: BTreeMap<ObjectName, StoredBundle>,
    /// What each data object holds, also of those that are deleted.
    pub(super) contents: BTreeMap<ObjectName, BTreeMap<PartitionId, OffsetRange>>,
    pub(super) spills: BTreeMap<ObjectName, SpillPage>,
}

/// What the bucket has told of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) log_start: Offset,
    pub(super) end: Offset,
    pub(super) dropped: bool,
}

impl Told {
    fn trim(&mut self, to: Offset) {
        self.log_start = self.log_start.max(to);
        self.end = self.end.max(self.log_start);
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.trim(other.log_start);
        self.end = self.end.max(other.end);
        self.dropped |= other.dropped;
    }
}

#[derive(Clone, Copy, Debug)]
struct LogBatch {
    offsets: OffsetRange,
    epoch: LeaderEpoch,
    producer: ProducerId,
    sequence: i32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    batches: Vec<LogBatch>,
    start: Offset,
    sequences: BTreeMap<ProducerId, i32>,
    /// Did a trim pass the archived end? Then some of its epochs and producers were in no bundle.
    pub(super) jumped: bool,
    dropped: bool,
}

pub(super) struct Writer {
    pub(super) lane: LaneManifest,
    pub(super) partitions: BTreeMap<PartitionId, PartitionManifest>,
    pub(super) logs: BTreeMap<PartitionId, Log>,
    pub(super) bucket: Bucket,
    events: Vec<LaneEvent>,
    at: LogIndex,
    term: u64,
    nonce: u64,
    versions: u64,
    next_partition: i32,
    /// What the bundles of this home told, after each; the first before any.
    pub(super) by_bundles: Vec<BTreeMap<PartitionId, Told>>,
    /// What each version of the lane manifest told.
    pub(super) by_version: BTreeMap<u64, BTreeMap<PartitionId, Told>>,
    /// Bundles that a dead leader made, and that were not put when another was.
    pub(super) unborn: Vec<StoredBundle>,
}

impl Writer {
    pub(super) fn new() -> Self {
        let cluster = ClusterId::default();
        let home = Home { cluster, epoch: LineageEpoch::FIRST };
        let name = ClusterName::new("tidewater").expect("legal");
        let root = Some(Root::new(name, cluster, TimestampMs(1)));
        let mut writer = Self {
            lane: LaneManifest::new(home, LANE),
            partitions: BTreeMap::new(),
            logs: BTreeMap::new(),
            bucket: Bucket { root, ..Bucket::default() },
            events: Vec::new(),
            at: LogIndex(100),
            term: 1,
            nonce: 0,
            versions: 0,
            next_partition: 0,
            by_bundles: vec![BTreeMap::new()],
            by_version: BTreeMap::new(),
            unborn: Vec::new(),
        };
        (0..3).for_each(|_| writer.create());
        writer
    }

    pub(super) fn home(&self) -> Home {
        self.lane.home
    }

    fn nonce(&mut self) -> Nonce {
        self.nonce += 1;
        Nonce(self.nonce)
    }

    fn command(&mut self, command: &Command) {
        self.at = self.at.next();
        apply(&mut self.lane, &mut self.partitions, self.at, command).expect("a good writer's command");
        check_lane(&self.lane, &self.partitions).expect("invariants hold");
    }

    /// One of the partitions that live, if there is any.
    pub(super) fn pick(&self, who: u64) -> Option<PartitionId> {
        let living: Vec<PartitionId> =
            self.logs.iter().filter(|(_, log)| !log.dropped).map(|(partition, _)| *partition).collect();
        living.get((who as usize).checked_rem(living.len())?).copied()
    }

    pub(super) fn create(&mut self) {
        let partition = id(self.next_partition);
        self.next_partition += 1;
        self.at = self.at.next();
        self.partitions.insert(partition, PartitionManifest::new(partition, Offset::ZERO, self.at));
        self.logs.insert(partition, Log::default());
        let topic = TopicName::new("t").expect("legal");
        let (configs, start, epoch_base) = (Vec::new(), Offset::ZERO, LeaderEpoch(0));
        self.events.push(LaneEvent::Created { partition, topic, configs, start, epoch_base });
    }

    pub(super) fn drop_topic(&mut self, partition: PartitionId) {
        self.logs.get_mut(&partition).expect("lives").dropped = true;
        self.command(&Command::Dropped { partition });
        self.events.push(LaneEvent::Dropped { partition });
    }

    /// Forgets dropped partitions.
    pub(super) fn clean(&mut self) {
        let gone: Vec<PartitionId> = self.partitions.values().filter(|p| p.dropped).map(|p| p.id).collect();
        for partition in gone {
            self.partitions.remove(&partition);
            self.logs.remove(&partition);
        }
        self.at = self.at.next();
    }

    pub(super) fn next_term(&mut self) {
        self.term += 1;
    }

    pub(super) fn append(&mut self, partition: PartitionId, records: u64, producer: i64) {
        let epoch = LeaderEpoch((self.home().epoch.0 << 20) as i32 + self.term as i32);
        let log = self.logs.get_mut(&partition).expect("lives");
        let (end, producer) = (log.end(), ProducerId(producer));
        let sequence = log.sequences.entry(producer).or_default();
        log.batches.push(LogBatch {
            offsets: OffsetRange::new(end, end.plus(records)),
            epoch,
            producer,
            sequence: *sequence,
        });
        *sequence += records as i32;
    }

    /// Bundles up to `batches` batches of each partition that `picks` has a bit for. `unborn`: a dead leader made
    /// another one of the same sequence, of the other partitions, whose put is still under way.
    pub(super) fn bundle(&mut self, picks: u64, batches: u64, unborn: bool) {
        if unborn {
            let events = self.events.clone();
            let other = self.make_bundle(!picks, batches);
            self.unborn.push(other);
            self.events = events;
        }
        let made = self.make_bundle(picks, batches);
        self.settle(made);
    }

    fn make_bundle(&mut self, picks: u64, batches: u64) -> StoredBundle {
        let sequence = self.lane.last.next();
        let written = TimestampMs(1000 + sequence.0 as i64);
        let (mut partitions, mut producers) = (Vec::new(), Vec::new());
        for (nth, (partition, manifest)) in self.partitions.iter().enumerate() {
            let log = self.logs.get(partition).expect("as partitions");
            if manifest.dropped || (picks >> (nth % 60)) & 1 == 0 {
                continue;
            }
            let after = log.batches.iter().filter(|batch| batch.offsets.end > manifest.archived_end);
            let taken: Vec<LogBatch> = after.take(batches as usize).copied().collect();
            partitions.push(entry(*partition, manifest, &taken));
            let changes = producers_of(&taken, written);
            if !changes.is_empty() {
                producers.push(PartitionProducers { partition: *partition, producers: changes });
            }
        }
        let index = DataIndex {
            kind: DataKind::Bundle,
            home: self.home(),
            lane: LANE,
            sequence,
            term: Term(self.term),
            log_index: self.at,
            previous: self.lane.last_crc,
            written,
            partitions,
            events: std::mem::take(&mut self.events),
            producers: Some(producers),
            seal: None,
            cut: None,
        };
        let bytes = encode_index(&index);
        StoredBundle { index, at: IndexRef::of(9, &bytes) }
    }

    fn settle(&mut self, made: StoredBundle) {
        let object = self.lane.next_bundle();
        let StoredBundle { ref index, at } = made;
        let mut told = self.by_bundles.last().cloned().expect("never empty");
        for event in &index.events {
            if let LaneEvent::Created { partition, .. } = event {
                told.insert(*partition, Told::default());
            }
        }
        let mut ends = Vec::new();
        for entry in &index.partitions {
            let of = told.entry(entry.partition).or_default();
            of.trim(entry.log_start);
            of.end = of.end.max(entry.offsets.end);
            self.bucket.contents.entry(object).or_default().insert(entry.partition, entry.offsets);
            if !entry.offsets.is_empty() {
                let (partition, offsets) = (entry.partition, entry.offsets);
                ends.push(BundledEnd { partition, offsets, bytes: 1, max_timestamp: TimestampMs(1) });
            }
        }
        for event in &index.events {
            match event {
                LaneEvent::LogStartMoved { partition, to } => told.entry(*partition).or_default().trim(*to),
                LaneEvent::Dropped { partition } => told.entry(*partition).or_default().dropped = true,
                _ => {}
            }
        }
        self.by_bundles.push(told);
        self.bucket.bundles.insert(object, made.clone());
        let (sequence, parts) = (self.lane.last.next(), Vec::new());
        self.command(&Command::Bundled(Bundled { sequence, size: 100, index: at, ends, parts, events: None }));
    }

    /// Moves the log start to `to` or the log's end; says so in an event or not, as older versions did not.
    pub(super) fn trim(&mut self, partition: PartitionId, to: Offset, event: bool) {
        let log = self.logs.get_mut(&partition).expect("lives");
        let manifest = self.partitions.get(&partition).expect("as logs");
        let to = to.min(log.end()).max(manifest.log_start);
        log.jumped |= to > manifest.archived_end;
        let pages = manifest.spilled.iter().take_while(|page| page.offsets.end <= to);
        let named = |page: &SpillRow| (page.page, self.bucket.spills.get(&page.page).expect("written").named());
        let pages = pages.map(named).collect();
        self.command(&Command::Trimmed(Trimmed { partition, log_start: to, pages }));
        if event {
            self.events.push(LaneEvent::LogStartMoved { partition, to });
        }
    }

    /// Replaces the oldest `rows` bundle rows by one object.
    pub(super) fn replace(&mut self, partition: PartitionId, rows: usize, gathered: bool) {
        let manifest = self.partitions.get(&partition).expect("lives");
        let shared = manifest.rows.iter().take_while(|row| is_shared(&row.object())).take(rows);
        let ranges: Vec<OffsetRange> = shared.map(|row| row.offsets).collect();
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return };
        let (offsets, nonce, term) = (OffsetRange::new(first.start, last.end), self.nonce(), Term(self.term));
        let kind = match gathered {
            true => ObjectKind::Gathered { lane: LANE, first: Sequence(1), term, nonce },
            false => ObjectKind::Segment { partition, base: offsets.start, term, nonce },
        };
        let object = self.home().name(kind);
        self.bucket.contents.entry(object).or_default().insert(partition, offsets);
        let index = IndexRef { offset: 5, len: 6, crc: 7 };
        self.command(&Command::Replaced(Replaced {
            objects: vec![NewObject { object, size: 50, index }],
            rows: vec![NewRow { partition, offsets, object: 0, start: 0, len: 40, max_timestamp: TimestampMs(1) }],
        }));
        let objects = self.lane.unnamed(self.partitions.values());
        let objects: Vec<ObjectName> = objects.into_iter().filter(|object| !self.lane.must_follow(object)).collect();
        if !objects.is_empty() {
            self.command(&Command::Forgotten { objects });
        }
    }

    /// Spills the oldest `rows` rows.
    pub(super) fn spill(&mut self, partition: PartitionId, rows: usize) {
        let manifest = self.partitions.get(&partition).expect("lives");
        let page = SpillPage::Rows(manifest.rows.iter().take(rows).copied().collect());
        let Some(offsets) = page.covers() else { return };
        let (object, index) = encode_spill(partition, &page);
        let nonce = self.nonce();
        let name = self.home().name(ObjectKind::Spill { partition, start: offsets.start, level: 0, nonce });
        let shared = page.named().into_iter().filter(is_shared).collect();
        self.bucket.spills.insert(name, page);
        let (size, crc) = (object.len() as u32, index.crc);
        let page = SpillRow { offsets, bytes: 1, max_timestamp: TimestampMs(1), page: name, size, crc };
        self.command(&Command::Spilled(Spilled { partition, page, shared }));
    }

    /// Publishes, two partitions a page; pages whose partitions did not change are kept.
    pub(super) fn publish(&mut self) {
        let (as_of, home) = (self.at, self.home());
        let mut refs: Vec<PageRef> = Vec::new();
        let groups: BTreeSet<i32> = self.partitions.keys().map(|partition| partition.index.0 / 2).collect();
        for group in groups {
            let of = |manifest: &&PartitionManifest| manifest.id.index.0 / 2 == group;
            let members: Vec<PartitionManifest> = self.partitions.values().filter(of).cloned().collect();
            let old = self.lane.pages.iter().find(|page| page.first.index.0 / 2 == group);
            let same = |page: &&PageRef| {
                page.count as usize == members.len() && members.iter().all(|m| m.changed <= self.lane.published_as_of())
            };
            match old.filter(same) {
                Some(page) => refs.push(*page),
                None => refs.extend(self.write_pages(&members, as_of).pages),
            }
        }
        let all: Vec<PartitionManifest> = self.partitions.values().cloned().collect();
        let objects = self.write_pages(&all, as_of).objects;
        let published = PublishedLane {
            home,
            lane: LANE,
            term: Term(self.term),
            as_of,
            follow_from: self.lane.last.next(),
            last_crc: self.lane.last_crc,
            written: TimestampMs(self.at.0 as i64),
            pages: refs.clone(),
            objects: objects.clone(),
            pins: Vec::new(),
            closed_for: None,
        };
        let told = told_by(self.partitions.values());
        let version = self.put_manifest(&published, told);
        self.command(&Command::Published(Published {
            as_of,
            sequence: self.lane.last,
            etag: version.to_string(),
            pages: refs,
            objects,
            at: TimestampMs(1),
        }));
    }

    fn write_pages(&mut self, partitions: &[PartitionManifest], as_of: LogIndex) -> Published {
        let lane = LaneManifest { pages: Vec::new(), ..self.lane.clone() };
        let facts = |partition: PartitionId| self.logs.get(&partition).map(Log::facts).unwrap_or_default();
        let partitions: Vec<&PartitionManifest> = partitions.iter().collect();
        let (term, now) = (Term(self.term), TimestampMs(1));
        let request = PublishRequest { lane: &lane, partitions: &partitions, facts: &facts, as_of, term, now };
        let mut nonce = self.nonce;
        let plan = plan_publish(&request, || {
            nonce += 1;
            Nonce(nonce)
        });
        self.nonce = nonce;
        self.bucket.pages.extend(plan.pages);
        plan.published
    }

    fn put_manifest(&mut self, published: &PublishedLane, told: BTreeMap<PartitionId, Told>) -> u64 {
        self.versions += 1;
        let name = self.home().lane_manifest(LANE);
        self.bucket.manifests.insert(name, (published.encode(), self.versions));
        self.by_version.insert(self.versions, told);
        self.versions
    }

    /// Deletes bundles that no row and no follower needs, and pages that no manifest names. A dead leader's bundle may
    /// then arrive where a deleted one was.
    pub(super) fn delete(&mut self, arrive: bool) {
        let needed = |object: &ObjectName| {
            self.lane.must_follow(object)
                || self.lane.live.contains_key(object)
                || self.lane.pending.get(object).is_some_and(|gone| Some(gone.intended) > self.lane.published_as_of())
                || object.home != self.lane.home
        };
        let gone: Vec<ObjectName> = self.bucket.bundles.keys().filter(|object| !needed(object)).copied().collect();
        for object in &gone {
            self.bucket.bundles.remove(object);
        }
        if arrive {
            for unborn in std::mem::take(&mut self.unborn) {
                let object = self.home().bundle(LANE, unborn.index.sequence);
                if unborn.index.home == self.home() && !self.bucket.bundles.contains_key(&object) {
                    let held = unborn.index.partitions.iter().map(|entry| (entry.partition, entry.offsets));
                    self.bucket.contents.insert(object, held.collect());
                    self.bucket.bundles.insert(object, unborn);
                }
            }
        }
        let named: BTreeSet<ObjectName> = self.lane.pages.iter().map(|page| page.page).collect();
        let objects: BTreeSet<ObjectName> = self.lane.object_pages.iter().flatten().map(|page| page.page).collect();
        self.bucket.pages.retain(|page, _| named.contains(page) || objects.contains(page));
    }

    /// Another cluster takes over: the manifest is closed, the lane sealed, and a new epoch goes on from what the
    /// bucket has. `read` reads a lane to its end for a restore.
    pub(super) fn take_over(&mut self, read: impl FnOnce(&Bucket, Home) -> FollowedLane) {
        let before = self.home();
        let home = Home { epoch: LineageEpoch(before.epoch.0 + 1), ..before };
        let name = before.lane_manifest(LANE);
        let published = self.bucket.manifests.get(&name).map(|(body, version)| {
            (PublishedLane::decode(body).expect("as written"), self.by_version.get(version).cloned().expect("written"))
        });
        if let Some((published, told)) = published {
            self.put_manifest(&PublishedLane { closed_for: Some(home.epoch), ..published }, told);
        }
        let seal = DataIndex {
            partitions: Vec::new(),
            producers: None,
            seal: Some(Seal { next_epoch: home.epoch, last: self.lane.last }),
            ..self.make_bundle(0, 0).index
        };
        let at = IndexRef::of(0, &encode_index(&seal));
        self.bucket.bundles.insert(self.lane.next_bundle(), StoredBundle { index: seal, at });

        let followed = read(&self.bucket, before);
        assert_eq!((followed.last(), followed.last_crc()), (self.lane.last, self.lane.last_crc), "read to its end");
        self.check_facts(&followed);
        (self.lane, self.partitions) = restored(&followed, home);
        self.at = LogIndex(2);
        (self.term, self.events) = (1, Vec::new());
        self.unborn.clear();
        self.by_bundles = vec![told_by(self.partitions.values())];
        self.logs.retain(|partition, _| self.partitions.contains_key(partition));
        for (partition, manifest) in &self.partitions {
            let log = self.logs.entry(*partition).or_default();
            log.end_at(manifest.archived_end);
            log.dropped = manifest.dropped;
        }
        check_lane(&self.lane, &self.partitions).expect("a restored lane");
        self.publish();
        if let Some(root) = &mut self.bucket.root {
            (root.from, root.epoch) = (Some(before), home.epoch);
            root.catalogue = home.name(ObjectKind::Catalogue).key();
        }
    }

    /// Epochs are those of the log at its archived end, and so are producers, with fewer of their last batches perhaps:
    /// a publication knows only the last few of the whole log. Unless a trim passed something over.
    pub(super) fn check_facts(&self, followed: &FollowedLane) {
        for (partition, known) in followed.partitions() {
            let Some(log) = self.logs.get(partition).filter(|log| !log.jumped && !known.is_dropped()) else { continue };
            let end = known.high_watermark();
            let archived: Vec<LogBatch> =
                log.batches.iter().filter(|batch| batch.offsets.end <= end).copied().collect();
            assert_eq!(known.epochs(), epochs_of(&archived), "{partition}");
            let truth = producers_of(&archived, TimestampMs(1));
            for producer in known.producers().values() {
                let real = truth.iter().find(|real| real.id == producer.id);
                let last = |real: &ProducerState| real.batches.ends_with(&producer.batches);
                assert!(real.is_some_and(last), "{partition}: {producer:?} of {real:?}");
            }
        }
    }
}

impl Log {
    fn end(&self) -> Offset {
        self.batches.last().map_or(self.start, |last| last.offsets.end)
    }

    fn end_at(&mut self, end: Offset) {
        self.jumped |= self.batches.iter().any(|batch| batch.offsets.contains(end) && batch.offsets.start < end);
        self.batches.retain(|batch| batch.offsets.end <= end);
        if self.end() < end {
            // What begins after a trim that passed the archived end.
            (self.batches, self.start) = (Vec::new(), end);
        }
    }

    /// The epoch of the batch that holds `offset`, if it is still in the log.
    pub(super) fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.batches.iter().find(|batch| batch.offsets.contains(offset)).map(|batch| batch.epoch)
    }

    fn facts(&self) -> LogFacts {
        LogFacts { epochs: epochs_of(&self.batches), producers: producers_of(&self.batches, TimestampMs(1)) }
    }
}

fn told_by<'a>(manifests: impl Iterator<Item = &'a PartitionManifest>) -> BTreeMap<PartitionId, Told> {
    let told = manifests.map(|manifest| {
        let &PartitionManifest { log_start, archived_end: end, dropped, .. } = manifest;
        (manifest.id, Told { log_start, end, dropped })
    });
    told.collect()
}

fn epochs_of(batches: &[LogBatch]) -> Vec<EpochStart> {
    let mut epochs: Vec<EpochStart> = Vec::new();
    for batch in batches {
        if epochs.last().is_none_or(|last| last.epoch < batch.epoch) {
            epochs.push(EpochStart { epoch: batch.epoch, start: batch.offsets.start });
        }
    }
    epochs
}

fn producers_of(batches: &[LogBatch], seen: TimestampMs) -> Vec<ProducerState> {
    let mut known = BTreeMap::new();
    for batch in batches {
        let last = batch.sequence + batch.offsets.count() as i32 - 1;
        let (first, offset, timestamp) = (batch.sequence, batch.offsets.start, TimestampMs(1));
        let batches = vec![ProducerBatch { first, last, offset, timestamp }];
        follow_producers(&mut known, &[ProducerState { id: batch.producer, epoch: ProducerEpoch(0), seen, batches }]);
    }
    known.into_values().collect()
}

fn entry(partition: PartitionId, manifest: &PartitionManifest, taken: &[LogBatch]) -> PartitionEntry {
    let start = taken.first().map_or(manifest.archived_end, |first| first.offsets.start);
    let end = taken.last().map_or(start, |last| last.offsets.end);
    let run = |batch: &LogBatch| Run {
        sum: RunSum { offsets: batch.offsets, len: 1, crc: 0 },
        max_timestamp: TimestampMs(1),
    };
    let runs: Vec<Run> = taken.iter().map(run).collect();
    let extent = (!runs.is_empty()).then_some(Extent { object: ExtentObject::Here, position: 0, runs });
    PartitionEntry {
        partition,
        offsets: OffsetRange::new(start, end),
        log_start: manifest.log_start,
        min_timestamp: TimestampMs(1),
        max_timestamp: TimestampMs(1),
        epochs: epochs_of(taken),
        aborted: Vec::new(),
        extents: extent.into_iter().collect(),
    }
}
