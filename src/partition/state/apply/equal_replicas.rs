//! Replicas that apply the same log have equal checkpoint blobs, also with other clocks and settings, and after a start
//! from a checkpoint in which partitions are newer than their lane.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::Env;
use tidewater_storage::env::sim::World;
use tidewater_storage::model::batch::patch;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Compression, Incarnation, LaneId, LeaderEpoch, Offset, OffsetRange, PartitionIndex, ProducerEpoch, ProducerId,
    TopicId, TopicName,
};
use tidewater_tiering::format::IndexRef;
use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};
use tidewater_tiering::manifest::{Bundled, BundledEnd, LaneManifest};

use super::*;
use crate::partition::state::lane::RecoveredState;

const LANE: LaneId = LaneId(1);
const DAY: i64 = 86_400_000;

#[derive(Clone, Debug)]
enum Step {
    Create {
        partition: i32,
        revision: u64,
    },
    Drop {
        partition: i32,
        revision: u64,
    },
    Configure {
        partition: i32,
        revision: u64,
        value: u32,
    },
    Trim {
        partition: i32,
        part: u8,
    },
    /// One batch for each: partition, producer, and whether its offset is right.
    Batches {
        batches: Vec<(i32, i64, bool)>,
        later_ms: i64,
        producers_after_ms: i64,
    },
    Bundle,
    Election,
}

fn step() -> impl Strategy<Value = Step> {
    let (partition, revision) = (0i32..4, 1u64..12);
    prop_oneof![
        3 => (partition.clone(), revision.clone()).prop_map(|(partition, revision)| Step::Create { partition, revision }),
        1 => (partition.clone(), revision.clone()).prop_map(|(partition, revision)| Step::Drop { partition, revision }),
        1 => (partition.clone(), revision, 1000u32..2000)
            .prop_map(|(partition, revision, value)| Step::Configure { partition, revision, value }),
        2 => (partition.clone(), any::<u8>()).prop_map(|(partition, part)| Step::Trim { partition, part }),
        6 => (
            proptest::collection::vec((partition, 1i64..6, proptest::bool::weighted(0.9)), 1..6),
            prop_oneof![Just(-5000), Just(10), Just(DAY / 3)],
            prop_oneof![Just(DAY), Just(DAY / 2)],
        )
            .prop_map(|(batches, later_ms, producers_after_ms)| Step::Batches { batches, later_ms, producers_after_ms }),
        2 => Just(Step::Bundle),
        1 => Just(Step::Election),
    ]
}

fn id(partition: i32) -> PartitionId {
    let topic = TopicId(uuid::Uuid::from_u128(2));
    PartitionId { topic, index: PartitionIndex(partition), incarnation: Incarnation(0) }
}

fn home() -> Home {
    Home { cluster: ClusterId(uuid::Uuid::from_u128(1)), epoch: LineageEpoch::FIRST }
}

async fn engine(env: &Env) -> Engine {
    Engine::open(env.clone(), PathBuf::from("/shard"), EngineConfig::default()).await.expect("opens").0
}

fn lane(env: &Env, engine: &Engine, recovered: RecoveredState) -> DataLane {
    let fresh = LaneManifest::new(home(), LANE);
    DataLane::recover(LANE, env.clone(), engine.clone(), recovered, fresh).expect("is read")
}

fn empty() -> RecoveredState {
    RecoveredState { applied: None, blob: Bytes::new(), replicas: Vec::new() }
}

/// The log that a leader with this state would write for a step; `None` where the step makes no entry.
struct Writer {
    term: u64,
    at: i64,
    sequences: BTreeMap<(i32, i64), i32>,
}

impl Writer {
    fn entry(&mut self, lane: &DataLane, step: &Step, last: LogIndex) -> Option<LaneOp> {
        let topic = TopicName::new("orders").expect("legal");
        Some(match step {
            Step::Create { partition, revision } => LaneOp::Command(LaneCommand::Create {
                partition: id(*partition),
                topic,
                overrides: BTreeMap::new(),
                epoch_base: 5,
                // One of them is a copy, which begins above 0.
                copied: (*partition == 3).then_some(CopiedRange { start: Offset::new(40), end: Offset::new(45) }),
                revision: *revision,
            }),
            Step::Drop { partition, revision } => {
                LaneOp::Command(LaneCommand::Drop { partition: id(*partition), revision: *revision })
            }
            Step::Configure { partition, revision, value } => {
                let overrides = BTreeMap::from([("segment.ms".to_owned(), value.to_string())]);
                let (partition, revision) = (id(*partition), *revision);
                LaneOp::Command(LaneCommand::Configure { partition, overrides, revision })
            }
            Step::Trim { partition, part } => {
                let replica = lane.replica(id(*partition))?;
                let to = Offset::new(replica.log.end().get() * u64::from(*part) / 255);
                LaneOp::Command(LaneCommand::Trim { partition: id(*partition), to })
            }
            Step::Batches { batches, later_ms, producers_after_ms } => {
                self.at += later_ms;
                let mut ends = BTreeMap::new();
                let placed = batches.iter().map(|(partition, producer, is_right)| {
                    let end = lane.replica(id(*partition)).map_or(Offset::ZERO, |replica| replica.log.end());
                    let end = ends.entry(*partition).or_insert(end);
                    let placed = self.batch(*partition, *producer, if *is_right { *end } else { end.plus(3) });
                    *end = if *is_right { end.next() } else { *end };
                    placed
                });
                let batches = placed.collect();
                LaneOp::Batches { at: TimestampMs(self.at), producers_after_ms: *producers_after_ms, batches }
            }
            Step::Bundle => {
                let ends = lane.replicas().into_iter().filter_map(|replica| {
                    let offsets = OffsetRange::new(replica.manifest().archived_end, replica.log.end());
                    let (bytes, max_timestamp) = (10, TimestampMs(1000));
                    let end = BundledEnd { partition: replica.id, offsets, bytes, max_timestamp };
                    (!offsets.is_empty()).then_some(end)
                });
                let (sequence, index) = (lane.archive().last.next(), IndexRef::default());
                let ends = ends.collect();
                let bundled = Bundled { sequence, size: 1, index, ends, parts: Vec::new(), events: Some(last) };
                LaneOp::Archive(manifest::Command::Bundled(bundled).encode())
            }
            Step::Election => {
                self.term += 1;
                return None;
            }
        })
    }

    fn batch(&mut self, partition: i32, producer: i64, base_offset: Offset) -> PlacedBatch {
        let sequence = self.sequences.entry((partition, producer)).or_default();
        let builder = BatchBuilder::new(Compression::None);
        let mut builder = builder.producer(ProducerId(producer), ProducerEpoch(0), *sequence);
        *sequence += 1;
        builder.push(Record::new(TimestampMs(1000), None, Some(Bytes::from_static(b"v"))));
        let mut bytes = bytes::BytesMut::from(&builder.build()[..]);
        let epoch = LeaderEpoch(5 + i32::try_from(self.term).expect("small"));
        patch(&mut bytes, base_offset, epoch);
        PlacedBatch { partition: id(partition), base_offset, epoch, bytes: bytes.freeze() }
    }
}

fn blobs(lane: &DataLane) -> (Bytes, Vec<(PartitionId, Bytes)>) {
    (lane.encode(), lane.replicas().into_iter().map(|replica| (replica.id, replica.encode())).collect())
}

fn is_drop(payload: &Payload) -> bool {
    matches!(LaneOp::decode(payload), Ok(LaneOp::Command(LaneCommand::Drop { .. })))
}

/// A checkpoint of the lane after entry `lane_upto` with partitions as of `upto`, applied to the end.
fn started_again(env: &Env, engine: &Engine, log: &[(EntryId, Payload)], lane_upto: usize, upto: usize) -> DataLane {
    let first = lane(env, engine, empty());
    let apply = |to: &DataLane, from: usize, upto: usize| {
        log[from..upto].iter().for_each(|(id, payload)| drop(Apply::apply(to, *id, payload)));
    };
    apply(&first, 0, lane_upto);
    let (blob, applied) = (first.encode(), first.status.applied());
    apply(&first, lane_upto, upto);
    let replicas = first.replicas().into_iter().map(|replica| {
        let again = Replica::decode(replica.id, LANE, &replica.encode(), replica.log.clone()).expect("is read");
        (again, LogIndex(upto as u64))
    });
    let blob = if applied.is_some() { blob } else { Bytes::new() };
    let again = lane(env, engine, RecoveredState { applied, blob, replicas: replicas.collect() });
    apply(&again, lane_upto, log.len());
    again
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_a_function_of_the_log(
        steps in proptest::collection::vec(step(), 1..48),
        cut in (0.0f64..1.0, 0.0f64..1.0),
    ) {
        let (one, other) = (World::new(1), World::new(2));
        let (env, elsewhere) = (one.env(), other.env());
        other.run_for(std::time::Duration::from_secs(100_000));
        let mut log: Vec<(EntryId, Payload)> = Vec::new();
        let leader = lane(&env, &one.block_on(engine(&env)), empty());
        let mut writer = Writer { term: 1, at: 10 * DAY, sequences: BTreeMap::new() };
        for step in &steps {
            let last = log.last().map_or(LogIndex(0), |(id, _)| id.index);
            let Some(entry) = writer.entry(&leader, step, last) else { continue };
            let (id, payload) = (EntryId { term: Term(writer.term), index: last.next() }, entry.encode());
            drop(Apply::apply(&leader, id, &payload));
            log.push((id, payload));
        }
        let count = log.len();
        let within = |part: f64| (part * count as f64) as usize;
        let lane_upto = within(cut.0.min(cut.1));
        // A checkpoint holds no partition whose drop it covers and its lane does not.
        let next_drop = (lane_upto..count).find(|n| is_drop(&log[*n].1));
        let upto = within(cut.0.max(cut.1)).min(next_drop.unwrap_or(count)).max(lane_upto);
        let log_engine = other.block_on(engine(&elsewhere));
        let follower = started_again(&elsewhere, &log_engine, &log, lane_upto, upto);
        follower.forget_producers_after(1);
        prop_assert_eq!(blobs(&follower), blobs(&leader), "a checkpoint at {} with partitions at {}", lane_upto, upto);
    }
}
