//! What the broker keeps for itself: lane and controller entries, Raft's own, checkpoint blobs, `__consumer_offsets`.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidewater::config::topic::TopicConfig;
use tidewater::controller::command::Command;
use tidewater::controller::state::{ControllerState, Surroundings};
use tidewater::partition::produce::producers::ProducerTable;
use tidewater::partition::state::command::{CopiedRange, LaneCommand, LaneOp, PlacedBatch};
use tidewater::partition::state::lane_blob::membership_of;
use tidewater::partition::state::replica::{Birth, Replica};
use tidewater::{group, raft};
use tidewater_storage::codec::{Decoder, Encoder};
use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::sim::World;
use tidewater_storage::journal::Payload;
use tidewater_storage::log::{LogSettings, PartitionLog};
use tidewater_storage::model::{
    BatchHeader, EntryId, LaneId, LeaderEpoch, LogIndex, NodeId, Offset, PartitionId, TimestampMs, TopicId, TopicName,
};

use super::target::Target;
use super::{batches, corpus};

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target::new("lane_entry", lane_entry, lane_entries),
        Target::new("lane_blob", |input| drop(membership_of(&Bytes::copy_from_slice(input))), lane_blobs),
        Target::new("partition_blob", partition_blob, partition_blobs),
        Target::new("controller_entry", controller_entry, controller_entries),
        Target::new("controller_blob", controller_blob, controller_blobs),
        Target::new("producer_table", producers, producer_tables),
        Target::new("raft_bytes", raft::outside::decode, raft_bytes),
        Target::new("group_record", group_record, group_records),
        Target::new("group_subscription", group::outside::subscription, || {
            vec![b"\x00\x01\x00\x00\x00\x02\x00\x01a\x00\x02bc\xff\xff\xff\xff".to_vec()]
        }),
    ]
}

/// First byte: how many of the bytes after it (a quarter each) are the meta; the rest is one blob.
fn lane_entry(input: &[u8]) {
    let Some((split, rest)) = input.split_first() else { return };
    let (meta, blob) = rest.split_at(rest.len() * usize::from(split % 5) / 4);
    let (meta, blob) = (Bytes::copy_from_slice(meta), Bytes::copy_from_slice(blob));
    for blobs in [vec![], vec![blob.clone()], vec![blob.clone(), blob]] {
        if let Ok(entry) = LaneOp::decode(&Payload { meta: meta.clone(), blobs, verified: false }) {
            let text = format!("{entry:?}");
            let again = LaneOp::decode(&entry.encode()).expect("what was read can be written and read again");
            assert_eq!(format!("{again:?}"), text);
        }
    }
}

fn lane_entries() -> Vec<Vec<u8>> {
    let partition = PartitionId::default();
    let topic = TopicName::new("orders").expect("legal");
    let overrides = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
    let batch = PlacedBatch {
        partition,
        base_offset: Offset::new(7),
        epoch: LeaderEpoch(2),
        bytes: Bytes::from(batches::seeds().swap_remove(0)),
    };
    let entries = [
        LaneOp::batches(TimestampMs(5), vec![batch.clone()]),
        LaneOp::Batches { at: TimestampMs(5), producers_after_ms: 7, batches: vec![batch.clone(), batch] },
        LaneOp::Command(LaneCommand::Create {
            partition,
            topic,
            overrides: overrides.clone(),
            epoch_base: 3,
            copied: Some(CopiedRange { start: Offset::new(4), end: Offset::new(9) }),
            revision: 9,
        }),
        LaneOp::Command(LaneCommand::Configure { partition, overrides, revision: 9 }),
        LaneOp::Command(LaneCommand::Trim { partition, to: Offset::new(9) }),
        LaneOp::Command(LaneCommand::Drop { partition, revision: 9 }),
        LaneOp::Archive(Bytes::from_static(b"archive")),
    ];
    let mut seeds: Vec<_> = entries.into_iter().map(|entry| [&[4][..], &entry.encode().meta].concat()).collect();
    // Of the version before: one batch, a command.
    let head = [&[4, 1][..], &5_i64.to_le_bytes(), &1_u32.to_le_bytes(), &partition.to_bytes()].concat();
    seeds.push([&head[..], &7_u64.to_le_bytes(), &2_u32.to_le_bytes()].concat());
    let json = br#"{"clean":{"partition":{"topic":"00000000-0000-0000-0000-000000000000","index":0,"incarnation":0}}}"#;
    seeds.push([&[4, 2][..], &(json.len() as u32).to_le_bytes(), json].concat());
    seeds
}

fn lane_blobs() -> Vec<Vec<u8>> {
    ["lane-v1", "lane-v2"].map(|name| corpus::golden_hex(&format!("broker/{name}.hex"))).to_vec()
}

/// An empty log for partitions, of a shard that lives as long as its thread.
fn with_log<T>(act: impl FnOnce(PartitionLog) -> T) -> T {
    thread_local!(static SHARD: (World, Engine, PartitionLog) = {
        let world = World::new(11);
        let env = world.env();
        let engine = world.block_on(async move {
            let (engine, _) = Engine::open(env, "/shard".into(), EngineConfig::default()).await.expect("a fresh shard");
            engine
        });
        let settings = LogSettings { segment_bytes: 4_000, segment_ms: 1_000_000 };
        let log = engine.create_partition(PartitionId::default(), LaneId(1), EntryId::default(), settings);
        (world, engine, log)
    });
    SHARD.with(|(_, _, log)| act(log.clone()))
}

/// What a checkpoint holds of a partition, but for its log.
fn partition_blob(input: &[u8]) {
    let blob = Bytes::copy_from_slice(input);
    with_log(|log| {
        let Ok(replica) = Replica::decode(PartitionId::default(), LaneId(1), &blob, log.clone()) else { return };
        let again = replica.encode();
        let read = Replica::decode(PartitionId::default(), LaneId(1), &again, log).expect("what was read is written");
        assert_eq!(read.encode(), again);
    });
}

fn partition_blobs() -> Vec<Vec<u8>> {
    let birth = Birth { topic: TopicName::new("orders").expect("legal"), epoch_base: 3 };
    let overrides = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
    let born = |log| Replica::born(PartitionId::default(), LaneId(1), LogIndex(4), birth, overrides, log);
    let older = ["partition-v1", "partition-v2"].map(|name| corpus::golden_hex(&format!("broker/{name}.hex")));
    [vec![with_log(born).encode().to_vec()], older.to_vec()].concat()
}

fn controller_entry(input: &[u8]) {
    let payload = Payload { meta: Bytes::copy_from_slice(input), ..Payload::default() };
    let Ok(command) = Command::decode(&payload) else { return };
    let mut state = ControllerState::default();
    let _ = state.apply(command.clone());
    let _ = state.apply(command);
    image(&state);
}

/// As every shard sees it.
fn image(state: &ControllerState) {
    let broker = tidewater::controller::image::BrokerImage::plain(NodeId(0), "h", 9092);
    let around = Surroundings { cluster_name: "c".into(), broker, shards: 2 };
    let image = state.image(&around, None);
    for topic in image.topics.values() {
        let _ = TopicConfig::resolve(&topic.overrides);
    }
}

fn some_commands() -> Vec<Command> {
    let (name, id) = (TopicName::new("orders").expect("legal"), TopicId(uuid::Uuid::from_u128(7)));
    let overrides = BTreeMap::from([("segment.bytes".to_owned(), "2000000".to_owned())]);
    vec![
        tidewater::controller::plan::genesis(uuid::Uuid::from_u128(9)),
        Command::CreateTopic {
            name: name.clone(),
            id,
            lanes: vec![LaneId(1), LaneId(2)],
            overrides: overrides.clone(),
            epoch_base: 0,
            copy: None,
        },
        Command::AddPartitions { name: name.clone(), from: 2, lanes: vec![LaneId(1)] },
        Command::Configure { name: name.clone(), overrides },
        Command::TakeProducerIds { count: 1000 },
        Command::DeleteTopic { name, id },
    ]
}

fn controller_entries() -> Vec<Vec<u8>> {
    some_commands().iter().map(|command| command.encode().meta.to_vec()).collect()
}

fn controller_blob(input: &[u8]) {
    if let Some(state) = ControllerState::decode(input) {
        image(&state);
        assert_eq!(ControllerState::decode(&state.encode()).as_ref(), Some(&state));
    }
}

fn controller_blobs() -> Vec<Vec<u8>> {
    let mut state = ControllerState::default();
    for command in some_commands().into_iter().take(5) {
        let _ = state.apply(command);
    }
    vec![state.encode().to_vec()]
}

fn producers(input: &[u8]) {
    let Ok(mut table) = ProducerTable::decode(&mut Decoder::new("table", input)) else { return };
    let mut out = Encoder::new();
    table.encode(&mut out);
    let again = out.finish();
    let read =
        ProducerTable::decode(&mut Decoder::new("table", &again)).expect("what was read can be written and read again");
    assert_eq!(read.len(), table.len());
    // The next batch is checked against the decoded state.
    for batch in batches::seeds() {
        let header = BatchHeader::parse(&batch).expect("sound");
        if let Some(id) = header.producer_id {
            let _ = tidewater::partition::produce::producers::check(table.get(id), &header);
        }
        table.note(&header, Offset::new(5), TimestampMs(1), 1000);
    }
}

fn producer_tables() -> Vec<Vec<u8>> {
    let mut table = ProducerTable::default();
    for (n, batch) in (0..).zip(batches::seeds()) {
        let header = BatchHeader::parse(&batch).expect("sound");
        table.note(&header, Offset::new(n * 10), TimestampMs(5), 1_000_000);
    }
    let mut out = Encoder::new();
    table.encode(&mut out);
    vec![out.finish().to_vec()]
}

fn raft_bytes() -> Vec<Vec<u8>> {
    let vote = [&[1_u8][..], &3_u64.to_be_bytes(), &4_u64.to_be_bytes(), &[1]].concat();
    let members = [&[1_u8, 0, 1, 0, 1][..], &4_u64.to_be_bytes(), &[0, 1], &4_u64.to_be_bytes()].concat();
    let stored = [&[1_u8][..], &3_u64.to_be_bytes(), &9_u64.to_be_bytes(), &members].concat();
    vec![vote, stored, [&[2][..], &members].concat(), vec![0], b"\x01normal".to_vec()]
}

/// First byte: the length of the key; 255 and above all: no value.
fn group_record(input: &[u8]) {
    let Some((len, rest)) = input.split_first() else { return };
    let (key, value) = rest.split_at(usize::from(*len).min(rest.len()));
    group::outside::record(key, (*len < 255).then_some(value));
}

fn group_records() -> Vec<Vec<u8>> {
    let seed = |key: &[u8], value: &[u8]| [&[u8::try_from(key.len()).expect("short")][..], key, value].concat();
    let commit_key = b"\x00\x01\x00\x01g\x00\x06orders\x00\x00\x00\x03";
    let group_key = b"\x00\x02\x00\x01g";
    let at = 1_700_000_000_000_i64.to_be_bytes();
    let commit = |version: u8| {
        let mut value = vec![0, version];
        value.extend_from_slice(&5_i64.to_be_bytes());
        if version >= 3 {
            value.extend_from_slice(&7_i32.to_be_bytes());
        }
        value.extend_from_slice(if version == 4 { b"\x04why" } else { b"\x00\x03why" });
        value.extend_from_slice(&at);
        match version {
            1 => value.extend_from_slice(&at),
            4 => value.push(0),
            _ => {}
        }
        value
    };
    let member = b"\x00\x03m-1\xff\xff\x00\x01c\x00\x0a/127.0.0.1\x00\x00\xea\x60\x00\x00\xaf\xc8\x00\x00\x00\x03sub\x00\x00\x00\x08assigned";
    let head = b"\x00\x03\x00\x08consumer\x00\x00\x00\x04\x00\x05range\x00\x03m-1";
    let group = [&head[..], &at, b"\x00\x00\x00\x01", member].concat();
    let mut seeds: Vec<_> = [0, 1, 2, 3, 4].map(|version| seed(commit_key, &commit(version))).to_vec();
    seeds.push(seed(group_key, &group));
    seeds
}
