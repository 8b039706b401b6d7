//! Frozen samples of every format: what version 1 wrote must be read for ever, and written again byte for byte.
//!
//! A new sample is written by `TIDEWATER_GOLDEN=write cargo test -p tidewater-tiering --test golden`; existing ones
//! are never replaced.

#![allow(clippy::panic, reason = "a test")]

use std::path::PathBuf;

use bytes::Bytes;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Batch, Compression, LaneId, LeaderEpoch, LogIndex, Offset, OffsetRange, PartitionId, PartitionIndex, Term,
    TimestampMs, TopicId, TopicName, batch,
};
use tidewater_tiering::format::{
    Body, DataIndex, DataKind, ExtentObject, IndexRef, LaneEvent, ObjectBuilder, Seal, decode_index, encode_index,
    read_whole,
};
use tidewater_tiering::keys::{ClusterId, ClusterName, Home, LineageEpoch, Nonce, ObjectKind, Sequence};
use tidewater_tiering::manifest::{
    Bundled, BundledEnd, Command, LaneManifest, LogFacts, PartitionManifest, PublishRequest, PublishedLane, Root, Row,
    Source, SpillPage, SpillRow, decode_page, decode_spill, encode_spill, plan_publish,
};
use uuid::Uuid;

fn golden(name: &str, made: &Bytes) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiering").join(name);
    if !path.exists() && std::env::var("TIDEWATER_GOLDEN").is_ok_and(|mode| mode == "write") {
        std::fs::write(&path, made).expect("golden sample is written");
    }
    let frozen = Bytes::from(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    assert_eq!(&frozen, made, "{name} is no longer written as it was");
    frozen
}

fn home() -> Home {
    Home { cluster: ClusterId(Uuid::from_u128(0x7177)), epoch: LineageEpoch::FIRST }
}

fn partition() -> PartitionId {
    PartitionId { topic: TopicId(Uuid::from_u128(0x70)), index: PartitionIndex(2), ..PartitionId::default() }
}

fn index(kind: DataKind) -> DataIndex {
    DataIndex {
        kind,
        home: home(),
        lane: LaneId(3),
        sequence: Sequence(17),
        term: Term(5),
        log_index: LogIndex(900),
        previous: 0xdead_beef,
        written: TimestampMs(1_700_000_000_000),
        partitions: Vec::new(),
        events: Vec::new(),
        producers: None,
        seal: None,
        cut: None,
    }
}

fn a_batch(base: u64) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    for n in 0..3 {
        let value = Bytes::from(format!("value {n}"));
        builder.push(Record::new(TimestampMs(1_700_000_000_000 + n), Some(Bytes::from_static(b"key")), Some(value)));
    }
    let mut bytes = builder.build().to_vec();
    batch::patch(&mut bytes, Offset::new(base), LeaderEpoch(5));
    Batch::split_from(&mut Bytes::from(bytes)).expect("just built")
}

#[test]
fn a_bundle() {
    let mut start = index(DataKind::Bundle);
    start.events.push(LaneEvent::Created {
        partition: partition(),
        topic: TopicName::new("orders").expect("legal"),
        configs: vec![("retention.ms".into(), "1000".into())],
        start: Offset::ZERO,
        epoch_base: LeaderEpoch(0),
    });
    let mut builder = ObjectBuilder::new(start);
    builder.begin(partition(), Offset::new(40), Offset::ZERO);
    builder.push(&a_batch(40));
    builder.push(&a_batch(43));
    let placed = builder.finish();
    let frozen = golden("bundle_v1.bin", &placed.body());

    let (body, at) = read_whole(&frozen, Body::Index).expect("whole");
    assert_eq!(at, placed.at);
    let read = decode_index(&body).expect("readable");
    assert_eq!(read, placed.index);
    let entry = read.partition(partition()).expect("in it");
    assert_eq!(entry.offsets, OffsetRange::new(Offset::new(40), Offset::new(46)));
    let (bytes, run) = entry.extents[0].runs_in(entry.offsets).next().expect("one run");
    assert!(run.sum.matches(partition(), &frozen[bytes.start as usize..bytes.end as usize]));
}

#[test]
fn a_seal() {
    let mut seal = index(DataKind::Bundle);
    seal.seal = Some(Seal { next_epoch: LineageEpoch(2), last: Sequence(16) });
    let placed = ObjectBuilder::new(seal.clone()).finish();
    let frozen = golden("seal_v1.bin", &placed.body());
    let (body, _) = read_whole(&frozen, Body::Index).expect("whole");
    assert_eq!(decode_index(&body), Ok(seal.clone()));
    assert_eq!(encode_index(&seal), body);
}

fn manifest() -> PartitionManifest {
    let mut manifest = PartitionManifest::new(partition(), Offset::ZERO, LogIndex(7));
    let kind = ObjectKind::Segment { partition: partition(), base: Offset::ZERO, term: Term(5), nonce: Nonce(9) };
    let place = IndexRef { offset: 5000, len: 77, crc: 1 };
    let segment = Source::Object { object: home().name(kind), start: 0, len: 5000, index: place };
    let bundle = |sequence| Source::Bundle(home().bundle(LaneId(3), Sequence(sequence)));
    for (end, source) in [(40, segment), (46, bundle(17)), (50, bundle(19))] {
        let offsets = OffsetRange::new(manifest.archived_end, Offset::new(end));
        manifest.rows.push(Row { offsets, bytes: 500, max_timestamp: TimestampMs(1_700_000_000_000), source });
        manifest.archived_end = offsets.end;
    }
    manifest
}

#[test]
fn a_lane_manifest_and_its_page() {
    let mut lane = LaneManifest::new(home(), LaneId(3));
    (lane.last, lane.last_crc) = (Sequence(19), 3);
    let manifest = manifest();
    let request = PublishRequest {
        lane: &lane,
        partitions: &[&manifest],
        facts: &|_| LogFacts::default(),
        as_of: LogIndex(901),
        term: Term(5),
        now: TimestampMs(1_700_000_000_001),
    };
    let plan = plan_publish(&request, || Nonce(1));
    let page = golden("page_v1.bin", &plan.pages[0].1);
    let frozen = golden("lane_manifest_v1.bin", &plan.manifest);
    let read = PublishedLane::decode(&frozen).expect("readable");
    assert_eq!(read.follow_from, Sequence(20));
    assert_eq!(decode_page(&read.pages[0], &page), Ok(vec![manifest]));
    golden("lane_state_v1.bin", &lane.encode());
}

#[test]
fn a_spill_page() {
    let rows = SpillPage::Rows(manifest().rows);
    let (object, at) = encode_spill(partition(), &rows);
    let frozen = golden("spill_v1.bin", &object);
    assert_eq!(decode_spill(partition(), at.crc, &frozen), Ok(rows));
}

#[test]
fn a_part_and_the_bundle_that_refers_to_it() {
    let mut header = index(DataKind::Part);
    header.previous = 0;
    let mut builder = ObjectBuilder::new(header);
    builder.begin(partition(), Offset::new(40), Offset::ZERO);
    builder.push(&a_batch(40));
    let part = builder.finish();
    let frozen = golden("part_v1.bin", &part.body());
    let (body, _) = read_whole(&frozen, Body::Index).expect("whole");
    assert_eq!(decode_index(&body), Ok(part.index.clone()));

    let (lane, sequence, term, nonce) = (LaneId(3), Sequence(17), Term(5), Nonce(9));
    let object = home().name(ObjectKind::Part { partition: partition(), lane, sequence, term, nonce });
    let mut bundle = ObjectBuilder::new(index(DataKind::Bundle));
    bundle.refer_to_part(&part, object);
    let bundle = bundle.finish();
    let frozen = golden("bundle_of_part_v1.bin", &bundle.body());
    let (body, _) = read_whole(&frozen, Body::Index).expect("whole");
    let read = decode_index(&body).expect("readable");
    assert_eq!(read, bundle.index);
    let entry = read.partition(partition()).expect("in it");
    assert_eq!(entry.extents[0].object, ExtentObject::Part(object));
}

#[test]
fn a_spill_page_of_pages() {
    let (object, at) = encode_spill(partition(), &SpillPage::Rows(manifest().rows));
    let kind = ObjectKind::Spill { partition: partition(), start: Offset::ZERO, level: 0, nonce: Nonce(4) };
    let page = SpillRow {
        offsets: OffsetRange::new(Offset::ZERO, Offset::new(50)),
        bytes: 1500,
        max_timestamp: TimestampMs(1_700_000_000_000),
        page: home().name(kind),
        size: u32::try_from(object.len()).expect("small"),
        crc: at.crc,
    };
    let pages = SpillPage::Pages(vec![page]);
    let (object, at) = encode_spill(partition(), &pages);
    let frozen = golden("spill_of_pages_v1.bin", &object);
    assert_eq!(decode_spill(partition(), at.crc, &frozen), Ok(pages));
}

#[test]
fn a_command_that_settles_a_bundle() {
    let end = BundledEnd {
        partition: partition(),
        offsets: OffsetRange::new(Offset::new(40), Offset::new(46)),
        bytes: 500,
        max_timestamp: TimestampMs(1_700_000_000_000),
    };
    let index = IndexRef { offset: 5000, len: 77, crc: 1 };
    for (name, events) in [("bundled_v1.bin", None), ("bundled_with_events_v1.bin", Some(LogIndex(900)))] {
        let (sequence, ends) = (Sequence(17), vec![end]);
        let command = Command::Bundled(Bundled { sequence, size: 6000, index, ends, parts: Vec::new(), events });
        let frozen = golden(name, &command.encode());
        assert_eq!(Command::decode(&frozen), Ok(command));
    }
}

#[test]
fn a_root() {
    let name = ClusterName::new("tidewater").expect("legal");
    let root = Root::new(name, home().cluster, TimestampMs(1_700_000_000_000));
    let frozen = golden("root_v1.json", &root.encode());
    assert_eq!(Root::decode(&frozen), Ok(root));
}
