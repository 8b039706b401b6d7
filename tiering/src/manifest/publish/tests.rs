//! Publications hold every partition once, and rewrite only what changed.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidewater_storage::model::{
    LaneId, LeaderEpoch, Offset, OffsetRange, PartitionId, PartitionIndex, ProducerEpoch, ProducerId,
};

use super::*;
use crate::format::{EpochStart, ProducerBatch, ProducerState};
use crate::keys::Sequence;
use crate::manifest::codec::tests::home;
use crate::manifest::lane::{Grace, is_manifest_page};
use crate::manifest::page::decode_page;
use crate::manifest::row::{Row, Source};
use crate::manifest::{Command, Deleted, LEADER_EPOCHS_MAX, PENDING_PUBLISHED_MAX, PublishedLane};

fn partition(index: i32, rows: u64, changed: u64) -> PartitionManifest {
    let id = PartitionId { index: PartitionIndex(index), ..PartitionId::default() };
    let mut manifest = PartitionManifest::new(id, Offset::ZERO, LogIndex(changed));
    for row in 0..rows {
        let offsets = OffsetRange::new(Offset::new(row), Offset::new(row + 1));
        let source = Source::Bundle(home().bundle(LaneId(1), Sequence(row)));
        manifest.rows.push(Row { offsets, bytes: 1, max_timestamp: TimestampMs(0), source });
    }
    manifest.archived_end = Offset::new(rows);
    manifest
}

struct Bucket {
    lane: LaneManifest,
    partitions: BTreeMap<PartitionId, PartitionManifest>,
    objects: BTreeMap<ObjectName, Bytes>,
    nonce: u64,
    facts: BTreeMap<PartitionId, LogFacts>,
    /// What was published of them last.
    read: BTreeMap<PartitionId, LogFacts>,
}

impl Bucket {
    fn new(partitions: BTreeMap<PartitionId, PartitionManifest>) -> Self {
        let (lane, objects) = (LaneManifest::new(home(), LaneId(1)), BTreeMap::new());
        Self { lane, partitions, objects, nonce: 0, facts: BTreeMap::new(), read: BTreeMap::new() }
    }

    /// Publishes as of `at` and answers how many pages of partitions were written.
    fn publish(&mut self, at: u64) -> usize {
        let partitions: Vec<&PartitionManifest> = self.partitions.values().collect();
        let request = PublishRequest {
            lane: &self.lane,
            partitions: &partitions,
            facts: &|id| self.facts.get(&id).cloned().unwrap_or_default(),
            as_of: LogIndex(at),
            term: Term(1),
            now: TimestampMs(0),
        };
        let nonce = &mut self.nonce;
        let had = self.lane.object_pages.clone().unwrap_or_default();
        let plan = plan_publish(&request, || {
            *nonce += 1;
            Nonce(*nonce)
        });
        let objects = plan.published.objects.as_ref().expect("published").iter();
        let written = plan.pages.len() - objects.filter(|page| !had.contains(page)).count();
        self.objects.extend(plan.pages);
        let read = PublishedLane::decode(&plan.manifest).expect("just written");
        let mut found = Vec::new();
        for page in &read.pages {
            found.extend(decode_page(page, &self.objects[&page.page]).expect("just written"));
        }
        let of_state = self.partitions.values().cloned().map(|mut manifest| {
            manifest.pending.truncate(PENDING_PUBLISHED_MAX);
            manifest
        });
        assert!(found.iter().map(|found| found.manifest.clone()).eq(of_state), "the bucket says what the state says");
        self.read = found.into_iter().map(|found| (found.manifest.id, found.facts)).collect();
        let published = Published { etag: "e".into(), ..plan.published };
        self.lane.apply(LogIndex(at + 1), &Command::Published(published)).expect("newer");
        written
    }
}

#[test]
fn only_what_changed_is_written_again() {
    let partitions = (0..400).map(|n| partition(n, 200, 1)).map(|p| (p.id, p)).collect();
    let mut bucket = Bucket::new(partitions);
    let all = bucket.publish(5);
    assert!((4..20).contains(&all), "{all} pages for 400 partitions");
    assert_eq!(bucket.publish(10), 0, "nothing changed");
    let changed = partition(7, 100, 20);
    bucket.partitions.insert(changed.id, changed);
    assert_eq!(bucket.publish(30), 1);
    let gone = *bucket.partitions.keys().nth(200).expect("there are 400");
    bucket.partitions.remove(&gone);
    assert_eq!(bucket.publish(40), 1, "a partition that went");
    let new = partition(4000, 1, 45);
    bucket.partitions.insert(new.id, new);
    assert_eq!(bucket.publish(50), 1, "a partition that came");
    assert!(!bucket.lane.pending.is_empty(), "old pages are on their way out");
    bucket.partitions.clear();
    assert_eq!(bucket.publish(60), 0);
    assert!(bucket.lane.pages.is_empty());
}

#[test]
fn leader_epochs_and_producers_are_published_as_they_were_at_the_archived_end() {
    let made = partition(7, 100, 1);
    let id = made.id;
    let mut bucket = Bucket::new(BTreeMap::from([(id, made)]));
    let epochs = (0..600).map(|n| EpochStart { epoch: LeaderEpoch(n), start: Offset::new(n as u64 / 4) });
    let batch = |first, offset| ProducerBatch {
        first,
        last: first + 9,
        offset: Offset::new(offset),
        timestamp: TimestampMs(0),
    };
    let producer = |id, batches| {
        let (id, epoch, seen) = (ProducerId(id), ProducerEpoch(1), TimestampMs(5));
        ProducerState { id, epoch, seen, batches }
    };
    let producers = vec![
        producer(1, vec![batch(0, 70), batch(10, 85), batch(20, 95)]),
        producer(2, vec![batch(0, 100)]),
        producer(3, vec![batch(0, 90)]),
    ];
    bucket.facts.insert(id, LogFacts { epochs: epochs.collect(), producers });
    bucket.publish(5);
    let read = &bucket.read[&id];
    assert_eq!(read.epochs.len(), LEADER_EPOCHS_MAX, "the oldest are left out");
    assert_eq!(read.epochs.last().map(|last| last.start), Some(Offset::new(99)));
    assert_eq!(read.producers, [producer(1, vec![batch(0, 70), batch(10, 85)]), producer(3, vec![batch(0, 90)])]);
}

#[test]
fn the_first_publication_over_that_of_an_older_version_writes_all_pages_again() {
    let partitions = (0..400).map(|n| partition(n, 200, 1)).map(|p| (p.id, p)).collect();
    let mut bucket = Bucket::new(partitions);
    let all = bucket.publish(5);
    let (sequence, pages) = (bucket.lane.last, bucket.lane.pages.clone());
    let old = Published { as_of: LogIndex(6), sequence, etag: "old".into(), pages, objects: None, at: TimestampMs(0) };
    bucket.lane.apply(LogIndex(7), &Command::Published(old)).expect("newer");
    assert_eq!(bucket.lane.object_pages, None);
    assert_eq!(bucket.publish(10), all, "none of them says what the version left out");
    assert_eq!(bucket.publish(12), 0, "and then they do");
}

#[test]
fn pages_stay_small_whatever_waits_to_be_deleted() {
    let with_pending = |index: i32, count: u64| {
        let mut made = partition(index, 1, 1);
        let segment = |n| ObjectKind::Segment {
            partition: made.id,
            base: Offset::new(n << 40),
            term: Term(u64::MAX / 2),
            nonce: Nonce(u64::MAX - n),
        };
        made.pending = (0..count).map(|n| (home().name(segment(n)), LogIndex(u64::MAX / 2))).collect();
        made
    };
    let counts = (0..60).map(|n| if n % 20 == 7 { 40_000 } else { 3 * n });
    let partitions = (0..).zip(counts).map(|(index, count)| with_pending(index, count)).map(|p| (p.id, p)).collect();
    let mut bucket = Bucket::new(partitions);
    bucket.publish(5);
    let sizes: Vec<u32> = bucket.lane.pages.iter().map(|page| page.size).collect();
    assert!(sizes.iter().all(|size| (*size as usize) < PAGE_BYTES + 1024), "{sizes:?}");
    assert!(sizes.len() < 12, "{sizes:?}");
}

#[test]
fn replaced_pages_do_not_add_up_behind_the_horizon_of_a_cut() {
    let partitions = (0..400).map(|n| partition(n, 200, 1)).map(|p| (p.id, p)).collect();
    let mut bucket = Bucket::new(partitions);
    bucket.publish(5);
    let cut: Vec<ObjectName> = bucket.lane.pages.iter().map(|page| page.page).collect();
    let (mut most, stood, horizon) = (0, Some(LogIndex(u64::MAX)), Some(LogIndex(5)));
    for round in 1..=300u64 {
        let at = round * 10;
        let changed = partition((round * 97 % 400) as i32, 200, at);
        bucket.partitions.insert(changed.id, changed);
        bucket.publish(at + 1);
        let grace = Grace { now: TimestampMs(0), ms: 0, stood, horizon };
        let deletable = bucket.lane.deletable(grace).into_iter().map(|(object, _)| object);
        let lane: Vec<ObjectName> = deletable.filter(|object| !cut.contains(object)).collect();
        assert!(lane.iter().all(is_manifest_page));
        let deleted = Command::Deleted(Deleted { lane, partitions: Vec::new() });
        bucket.lane.apply(LogIndex(at + 3), &deleted).expect("always");
        most = most.max(bucket.lane.pending.len());
    }
    assert!(most < cut.len() + 10, "{most} pages wait, the cut names {}", cut.len());
}
