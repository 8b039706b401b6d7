//! Blobs that checkpoints hold of partitions: `tests/golden/broker/partition-v*.hex`. Every version that was ever written
//! is read; the newest is what is written, to the byte.

use std::path::{Path, PathBuf};

use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::sim::World;
use tidewater_storage::log::LogSettings;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, ProducerEpoch, ProducerId};

use super::*;

fn kept(version: u8) -> Bytes {
    let text = std::fs::read_to_string(path(version)).expect("the golden file is there");
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect::<Vec<_>>().into()
}

fn path(version: u8) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/broker/partition-v{version}.hex"))
}

fn hex(blob: &[u8]) -> String {
    let lines = blob.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    lines.map(|line| line + "\n").collect()
}

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

#[test]
fn version_2_is_frozen() {
    let blob = replica().encode();
    if std::env::var_os("TIDEWATER_GOLDEN").is_some_and(|v| v == "write") && !path(2).exists() {
        std::fs::write(path(2), hex(&blob)).expect("writes");
    }
    assert_eq!(hex(&kept(2)), hex(&blob), "the blob has changed: give it a new version and read this one");
    let read = Replica::decode(PartitionId::default(), LaneId(1), &kept(2), log()).expect("is read");
    assert_eq!(read.encode(), blob);
}

#[test]
fn version_1_is_read_and_lacks_only_the_times_of_batches() {
    let read = Replica::decode(PartitionId::default(), LaneId(1), &kept(1), log()).expect("is read");
    let (before, after) = (read.encode(), kept(2));
    let times = after.len() - size_of::<i64>();
    assert_eq!(before[..times], after[..times]);
    assert_eq!(before[times..], (-1_i64).to_le_bytes());
}
