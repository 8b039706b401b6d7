//! Blobs that checkpoints hold of partitions: `tests/golden/broker/partition-v*.hex`. Every version that was ever
//! written is read; the newest is what is written, to the byte.

use std::path::PathBuf;

use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::sim::World;
use tidewater_storage::log::LogSettings;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, ProducerEpoch, ProducerId};

use super::*;
use crate::partition::state::golden;

/// A log of partition 0 in a shard of its own.
fn log() -> PartitionLog {
    let world = World::new(1);
    let env = world.env();
    let opened = world.block_on(Engine::open(env, PathBuf::from("/shard"), EngineConfig::default()));
    let settings = LogSettings { segment_bytes: 4_000, segment_ms: 1_000_000 };
    opened.expect("a fresh shard").0.create_partition(PartitionId::default(), LaneId(1), EntryId::default(), settings)
}

/// With settings, an epoch and one batch of an idempotent producer.
fn replica() -> Replica {
    let birth = Birth { topic: TopicName::new("orders").expect("legal"), epoch_base: 3 };
    let overrides = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
    let replica = Replica::born(PartitionId::default(), LaneId(1), LogIndex(4), birth, overrides, log());
    let mut builder = BatchBuilder::new(Compression::None).producer(ProducerId(9), ProducerEpoch(2), 5);
    builder.push(Record::new(TimestampMs(1_767_225_600_000), None, Some(Bytes::from_static(b"v"))));
    let (partition, base_offset, epoch) = (PartitionId::default(), Offset::ZERO, LeaderEpoch(0));
    let placed = PlacedBatch { partition, base_offset, epoch, bytes: builder.build() };
    let (id, at) = (EntryId { term: Term(1), index: LogIndex(5) }, TimestampMs(1_767_225_600_500));
    replica.append(placed, id, at, Mono::ZERO, 1000).expect("continues the partition");
    replica
}

fn read(name: &str) -> Replica {
    Replica::decode(PartitionId::default(), LaneId(1), &golden::kept(name), log()).expect("is read")
}

#[test]
fn version_3_is_frozen() {
    let blob = golden::frozen("partition-v3", &replica().encode());
    let read = Replica::decode(PartitionId::default(), LaneId(1), &blob, log());
    // What is read here has the records of no log: only its encoding is compared.
    assert_eq!(read.expect("is read").encode(), blob);
}

#[test]
fn the_revision_is_kept() {
    let revised = replica();
    revised.set_revision(300);
    let blob = golden::frozen("partition-v3-revision", &revised.encode());
    let read = Replica::decode(PartitionId::default(), LaneId(1), &blob, log()).expect("is read");
    assert_eq!((read.revision(), read.encode()), (300, blob));
}

#[test]
fn what_is_copied_is_kept() {
    let birth = Birth { topic: TopicName::new("orders").expect("legal"), epoch_base: 1 << 20 };
    let copied = CopiedRange { start: Offset::new(40), end: Offset::new(90) };
    let born = Replica::born(PartitionId::default(), LaneId(1), LogIndex(4), birth, BTreeMap::new(), log());
    let blob = golden::frozen("partition-v3-copied", &born.born_as_copy(copied, LogIndex(4)).encode());
    let log = log();
    log.reset(Offset::new(40));
    let read = Replica::decode(PartitionId::default(), LaneId(1), &blob, log).expect("is read");
    assert_eq!((read.copying_until(), read.log_start(), read.encode()), (Some(Offset::new(90)), Offset::new(40), blob));
}

#[test]
fn version_2_is_read_and_lacks_only_the_index_of_its_creation() {
    let (read, ours) = (read("partition-v2"), replica());
    assert!(read.created.is_none() && ours.created == Some(LogIndex(4)));
    assert_eq!((&read.birth, read.overrides()), (&ours.birth, ours.overrides()));
    assert_eq!((read.log_start(), read.last_append()), (ours.log_start(), ours.last_append()));
    assert_eq!((&*read.epochs(), &*read.producers()), (&*ours.epochs(), &*ours.producers()));
    assert_eq!(&*read.manifest(), &*ours.manifest());
}

#[test]
fn version_1_lacks_the_times_of_batches_too() {
    let read = read("partition-v1");
    let batch = |replica: &Replica| replica.producers().get(ProducerId(9)).expect("is known").recent[0];
    let ours = batch(&replica());
    assert_eq!(batch(&read), crate::partition::produce::producers::Remembered { timestamp: TimestampMs(-1), ..ours });
}

#[test]
fn a_blob_of_a_newer_version_is_refused_and_a_section_that_may_be_skipped_is() {
    let decode = |blob: &[u8]| Replica::decode(PartitionId::default(), LaneId(1), &Bytes::copy_from_slice(blob), log());
    let with = |must_know| {
        let mut out = Encoder::new();
        out.raw(&replica().encode());
        out.section(900, must_know, |out| out.u8(1));
        out.finish()
    };
    assert_eq!(decode(&with(false)).expect("is read").encode(), replica().encode());
    let refused = decode(&with(true)).expect_err("a section must be known");
    assert!(refused.is_newer() && refused.to_string().contains("start the newer version"), "{refused}");
    assert!(decode(&[9]).expect_err("a version").is_newer());
}
