//! Frozen samples of every format: what version 1 wrote must be read for ever, and written again byte for byte.
//!
//! A new sample is written by `TIDEWATER_GOLDEN=write cargo test -p tidewater-tiering --test golden`; existing ones
//! are never replaced.

#![allow(clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Batch, Compression, Incarnation, LaneId, LeaderEpoch, LogIndex, Offset, OffsetRange, PartitionId, PartitionIndex,
    ProducerEpoch, ProducerId, Term, TimestampMs, TopicId, TopicName, batch,
};
use tidewater_tiering::cuts::{Cut, CutEntry, CutIndex, CutLane, CutLaneState};
use tidewater_tiering::format::{
    Body, DataIndex, DataKind, EpochStart, ExtentObject, IndexRef, LaneEvent, ObjectBuilder, ProducerBatch,
    ProducerState, Seal, decode_index, encode_index, read_whole,
};
use tidewater_tiering::keys::{ClusterId, ClusterName, Home, LineageEpoch, Nonce, ObjectKind, Sequence};
use tidewater_tiering::manifest::{
    Bundled, BundledEnd, Catalogue, CatalogueCopy, CataloguePartition, CatalogueTopic, Command, CopyOrigin,
    CopyPartition, LaneManifest, Live, LogFacts, PartitionManifest, Pending, PublishRequest, Published, PublishedLane,
    PublishedPartition, Root, Row, Source, SpillPage, SpillRow, UnarchivedTopic, UnarchivedTopics, decode_objects,
    decode_page, decode_spill, encode_spill, plan_publish,
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

/// A sample that earlier versions wrote and this one only reads.
fn kept(name: &str) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiering").join(name);
    Bytes::from(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
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

/// Of producer 9; its first record has this sequence.
fn an_idempotent_batch(base: u64, sequence: i32) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None).producer(ProducerId(9), ProducerEpoch(2), sequence);
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
    builder.push(&an_idempotent_batch(40, 7));
    builder.push(&an_idempotent_batch(43, 10));
    let placed = builder.finish();
    let frozen = golden("bundle_v1_producers.bin", &placed.body());

    let (body, at) = read_whole(&frozen, Body::Index).expect("whole");
    assert_eq!(at, placed.at);
    let read = decode_index(&body).expect("readable");
    assert_eq!(read, placed.index);
    let batch = |first, offset| ProducerBatch {
        first,
        last: first + 2,
        offset: Offset::new(offset),
        timestamp: TimestampMs(1_700_000_000_002),
    };
    let (id, epoch, seen) = (ProducerId(9), ProducerEpoch(2), read.written);
    let producer = ProducerState { id, epoch, seen, batches: vec![batch(7, 40), batch(10, 43)] };
    assert_eq!(read.producers_of(partition()), Some([producer].as_slice()));
    let entry = read.partition(partition()).expect("in it");
    assert_eq!(entry.offsets, OffsetRange::new(Offset::new(40), Offset::new(46)));
    let (bytes, run) = entry.extents[0].runs_in(entry.offsets).next().expect("one run");
    assert!(run.sum.matches(partition(), &frozen[bytes.start as usize..bytes.end as usize]));
}

#[test]
fn a_bundle_of_a_version_that_did_not_say_what_producers_did() {
    for name in ["bundle_v1.bin", "bundle_of_part_v1.bin"] {
        let (body, _) = read_whole(&kept(name), Body::Index).expect("whole");
        let read = decode_index(&body).expect("readable");
        assert_eq!((read.producers.as_ref(), read.producers_of(partition())), (None, None), "{name}");
        assert_eq!(encode_index(&read), body, "{name}");
    }
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
    let lane = lane();
    let manifest = manifest();
    let facts = facts();
    let request = PublishRequest {
        lane: &lane,
        partitions: &[&manifest],
        facts: &|_| facts.clone(),
        as_of: LogIndex(901),
        term: Term(5),
        now: TimestampMs(1_700_000_000_001),
    };
    let mut nonce = 0;
    let plan = plan_publish(&request, || {
        nonce += 1;
        Nonce(nonce)
    });
    let page = golden("page_v1_facts.bin", &plan.pages[0].1);
    let objects = golden("page_of_objects_v1.bin", &plan.pages[1].1);
    let frozen = golden("lane_manifest_v1_objects.bin", &plan.manifest);
    let read = PublishedLane::decode(&frozen).expect("readable");
    assert_eq!(read.follow_from, Sequence(20));
    assert_eq!(decode_page(&read.pages[0], &page), Ok(vec![PublishedPartition { manifest, facts }]));
    let pages = read.objects.as_ref().expect("published");
    let objects = decode_objects(&pages[0], &objects).expect("readable");
    let state = read.state(objects, LogIndex(19));
    assert_eq!((state.last, state.last_crc, state.follow_from), (lane.last, lane.last_crc, Sequence(20)));
    let sizes = |lane: &LaneManifest| lane.live.values().map(|live| (live.size, live.spilled)).collect::<Vec<_>>();
    assert_eq!((sizes(&state), state.live.len()), (sizes(&lane), 3));
    assert!(state.live.keys().eq(lane.live.keys()) && state.pending.keys().eq(lane.pending.keys()));

    let command = Command::Published(Published { etag: "etag".into(), ..plan.published });
    let frozen = golden("published_v1_objects.bin", &command.encode());
    assert_eq!(Command::decode(&frozen), Ok(command.clone()));
    let mut published = lane;
    published.apply(LogIndex(902), &command).expect("newer");
    let frozen = golden("lane_state_v1_objects.bin", &published.encode());
    assert_eq!(LaneManifest::decode(&frozen), Ok(published));
}

/// With live and pending objects of every kind.
fn lane() -> LaneManifest {
    let mut lane = LaneManifest::new(home(), LaneId(3));
    (lane.last, lane.last_crc) = (Sequence(19), 3);
    let (term, partition) = (Term(5), partition());
    let part = ObjectKind::Part { partition, lane: LaneId(3), sequence: Sequence(17), term, nonce: Nonce(8) };
    let gathered = |nonce| home().name(ObjectKind::Gathered { lane: LaneId(3), first: Sequence(1), term, nonce });
    let live = |size, parts, spilled| Live { size, since: LogIndex(800), parts, pins: 0, spilled };
    lane.live.insert(home().bundle(LaneId(3), Sequence(17)), live(6000, vec![home().name(part)], 0));
    lane.live.insert(home().bundle(LaneId(3), Sequence(19)), live(700, Vec::new(), 0));
    lane.live.insert(gathered(Nonce(6)), live(90_000, Vec::new(), 2));
    for sequence in [Sequence(15), Sequence(16)] {
        let pending = Pending { intended: LogIndex(850), parts: Vec::new() };
        lane.pending.insert(home().bundle(LaneId(3), sequence), pending);
    }
    lane
}

fn facts() -> LogFacts {
    let epoch = |epoch, start| EpochStart { epoch: LeaderEpoch(epoch), start: Offset::new(start) };
    let batch = ProducerBatch { first: 7, last: 9, offset: Offset::new(46), timestamp: TimestampMs(1_700_000_000_000) };
    let producer = |id| ProducerState {
        id: ProducerId(id),
        epoch: ProducerEpoch(2),
        seen: TimestampMs(1_700_000_000_500),
        batches: vec![batch],
    };
    LogFacts { epochs: vec![epoch(0, 0), epoch(5, 43)], producers: vec![producer(9), producer(1 << 40)] }
}

#[test]
fn a_lane_manifest_of_a_version_that_published_no_objects_and_no_facts() {
    let read = PublishedLane::decode(&kept("lane_manifest_v1.bin")).expect("readable");
    assert_eq!((read.objects.as_ref(), read.encode()), (None, kept("lane_manifest_v1.bin")));
    let page = decode_page(&read.pages[0], &kept("page_v1.bin")).expect("readable");
    assert_eq!(page, [PublishedPartition { manifest: manifest(), facts: LogFacts::default() }]);
    let state = LaneManifest::decode(&kept("lane_state_v1.bin")).expect("readable");
    assert_eq!((state.object_pages.as_ref(), state.encode()), (None, kept("lane_state_v1.bin")));
}

#[test]
fn a_catalogue() {
    let mut catalogue = Catalogue::new(home(), TimestampMs(1_700_000_000_000));
    let configs = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
    let placed = CataloguePartition { incarnation: Incarnation(0), lane: LaneId(3), epoch_base: LeaderEpoch(1 << 20) };
    catalogue.lanes.push(LaneId(3));
    catalogue.topics.push(CatalogueTopic {
        id: partition().topic,
        name: TopicName::new("orders").expect("legal"),
        configs: configs.clone(),
        partitions: vec![placed],
        revision: 4,
        copy: None,
    });
    let (id, name) = (TopicId(Uuid::from_u128(0x71)), TopicName::new("scratch").expect("legal"));
    let unarchived = UnarchivedTopic { id, name, partitions: 3, configs, copy: None };
    catalogue.unarchived = Some(UnarchivedTopics { revision: 7, topics: vec![unarchived] });
    let frozen = golden("catalogue_v1.json", &catalogue.encode());
    assert_eq!(Catalogue::decode(&frozen), Ok(catalogue));
}

#[test]
fn a_catalogue_with_a_topic_that_is_being_copied() {
    let origin = CopyOrigin {
        url: Some("s3://lost/lake".to_owned()),
        cluster_name: ClusterName::new("east").expect("legal"),
        cluster: Uuid::from_u128(0x72),
        epoch: 2,
        topic: TopicName::new("orders").expect("legal"),
        topic_id: TopicId(Uuid::from_u128(0x73)),
        cut: Some(9),
        at: TimestampMs(1_700_000_000_000),
    };
    let part =
        CopyPartition { lane: LaneId(3), start: Offset::new(40), log_start: Offset::new(42), end: Offset::new(90) };
    let copy = CatalogueCopy { origin, partitions: vec![part], began: TimestampMs(1_700_000_000_001) };
    let mut catalogue = Catalogue::new(home(), TimestampMs(1_700_000_000_002));
    catalogue.topics.push(CatalogueTopic {
        id: partition().topic,
        name: TopicName::new("orders_test").expect("legal"),
        configs: BTreeMap::new(),
        partitions: vec![CataloguePartition {
            incarnation: Incarnation(0),
            lane: LaneId(3),
            epoch_base: LeaderEpoch(1 << 20),
        }],
        revision: 4,
        copy: Some(Box::new(copy)),
    });
    let frozen = golden("catalogue_v1_copy.json", &catalogue.encode());
    assert_eq!(Catalogue::decode(&frozen), Ok(catalogue));
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
    builder.push(&an_idempotent_batch(40, 7));
    let part = builder.finish();
    // A part's own index says nothing of producers: that of its bundle does.
    let frozen = golden("part_v1_idempotent.bin", &part.body());
    let (body, _) = read_whole(&frozen, Body::Index).expect("whole");
    assert_eq!(decode_index(&body), Ok(part.index.clone()));

    let (lane, sequence, term, nonce) = (LaneId(3), Sequence(17), Term(5), Nonce(9));
    let object = home().name(ObjectKind::Part { partition: partition(), lane, sequence, term, nonce });
    let mut bundle = ObjectBuilder::new(index(DataKind::Bundle));
    bundle.refer_to_part(&part, object);
    let bundle = bundle.finish();
    let frozen = golden("bundle_of_part_v1_producers.bin", &bundle.body());
    let (body, _) = read_whole(&frozen, Body::Index).expect("whole");
    let read = decode_index(&body).expect("readable");
    assert_eq!(read, bundle.index);
    let entry = read.partition(partition()).expect("in it");
    assert_eq!(entry.extents[0].object, ExtentObject::Part(object));
    assert_eq!(read.producers_of(partition()).map(<[_]>::len), Some(1));
    let (body, _) = read_whole(&kept("part_v1.bin"), Body::Index).expect("whole");
    assert_eq!(encode_index(&decode_index(&body).expect("readable")), body);
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

#[test]
fn a_cut_and_the_index_of_cuts() {
    let manifest = kept("lane_manifest_v1_objects.bin");
    let lane = |lane: u32, manifest: Option<Bytes>, last: u64, last_crc: u32, written: i64| CutLaneState {
        lane: LaneId(lane),
        manifest,
        last: Sequence(last),
        last_crc,
        written: TimestampMs(written),
    };
    let cut = Cut {
        home: home(),
        number: 42,
        nonce: Nonce(0x5eed),
        at: TimestampMs(1_700_000_000_000),
        catalogue: kept("catalogue_v1.json"),
        lanes: vec![lane(3, Some(manifest), 19, 0xfeed, 1_699_999_999_000), lane(4, None, 0, 0, -1)],
    };
    let frozen = golden("cut_v1.bin", &cut.encode().expect("small"));
    assert_eq!(Cut::decode(&frozen), Ok(cut));

    let lanes = vec![
        CutLane { lane: LaneId(3), as_of: LogIndex(900), last: Sequence(19) },
        CutLane { lane: LaneId(4), as_of: LogIndex(0), last: Sequence(0) },
    ];
    let entry = CutEntry {
        number: 42,
        at: TimestampMs(1_700_000_000_000),
        size: 700,
        catalogue: 3,
        lanes,
        needs: vec![],
        held_until: None,
    };
    let index = CutIndex { next: 44, cuts: vec![entry], ..CutIndex::new(home()) };
    let frozen = golden("cuts_v1.json", &index.encode());
    assert_eq!(CutIndex::decode(&frozen), Ok(index));
}
