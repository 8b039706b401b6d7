//! What followers and restores need in the bucket costs little: bytes and processor time of a bundle and of a
//! publication of 10,000 trickling partitions, with and without idempotent producers. The times are printed only
//! (`cargo test --release -p tidewater-tiering --test cost -- --nocapture`); the bytes are held.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::time::Instant;

use bytes::Bytes;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Batch, Compression, LaneId, LeaderEpoch, LogIndex, Offset, OffsetRange, PartitionId, PartitionIndex, ProducerEpoch,
    ProducerId, Term, TimestampMs, TopicId, batch,
};
use tidewater_tiering::format::{
    DataIndex, DataKind, EpochStart, ObjectBuilder, ProducerBatch, ProducerState, decode_index,
};
use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch, Nonce, ObjectKind, Sequence};
use tidewater_tiering::manifest::{
    Command, LaneManifest, Live, LogFacts, PartitionManifest, PublishRequest, Published, Row, Source, plan_publish,
};
use uuid::Uuid;

const PARTITIONS: u64 = 10_000;
const NOW: TimestampMs = TimestampMs(1_767_225_600_000);
/// Records of a partition in a bundle, and bundles whose rows it has.
const RECORDS: u64 = 10;
const ROWS: u64 = 256;

fn home() -> Home {
    Home { cluster: ClusterId(Uuid::from_u128(0x7177)), epoch: LineageEpoch::FIRST }
}

fn partition(n: u64) -> PartitionId {
    let (topic, index) = (TopicId(Uuid::from_u128(u128::from(n / 100) << 64 | 0x70)), PartitionIndex((n % 100) as i32));
    PartitionId { topic, index, ..PartitionId::default() }
}

/// A batch of the partition's single producer.
fn a_batch(n: u64, idempotent: bool) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    if idempotent {
        builder = builder.producer(ProducerId(4_000 + n as i64 % 50), ProducerEpoch(0), 1_000_000 + n as i32);
    }
    for record in 0..RECORDS {
        let at = TimestampMs(NOW.0 - 5_000 + record as i64);
        builder.push(Record::new(at, None, Some(Bytes::from_static(&[7; 100]))));
    }
    let mut bytes = builder.build().to_vec();
    batch::patch(&mut bytes, Offset::new(1_000_000 + n), LeaderEpoch(7));
    Batch::split_from(&mut Bytes::from(bytes)).expect("just built")
}

/// The least times of three runs, which are alike otherwise.
fn quickest<T>(mut run: impl FnMut() -> (T, [f64; 2])) -> (T, [f64; 2]) {
    let (_, first) = run();
    let (_, second) = run();
    let (out, third) = run();
    let least = |n: usize| first[n].min(second[n]).min(third[n]);
    (out, [least(0), least(1)])
}

/// Bytes of a bundle's index, and milliseconds to build it and to read it.
fn a_bundle(batches: &[Batch]) -> (usize, [f64; 2]) {
    let header = DataIndex {
        kind: DataKind::Bundle,
        home: home(),
        lane: LaneId(1),
        sequence: Sequence(90_000),
        term: Term(7),
        log_index: LogIndex(50_000_000),
        previous: 0xdead_beef,
        written: NOW,
        partitions: Vec::new(),
        events: Vec::new(),
        producers: None,
        seal: None,
        cut: None,
    };
    let begun = Instant::now();
    let mut builder = ObjectBuilder::new(header);
    for (n, batch) in batches.iter().enumerate() {
        builder.begin(partition(n as u64), batch.header.base_offset, Offset::ZERO);
        builder.push(batch);
    }
    let built = builder.finish();
    let build = begun.elapsed();
    let index = built.pieces.get(built.pieces.len() - 2).expect("data, index, trailer");
    let begun = Instant::now();
    let read = decode_index(index).expect("readable");
    let took = [build, begun.elapsed()].map(|time| time.as_secs_f64() * 1_000.0);
    assert_eq!(read.partitions.len() as u64, PARTITIONS);
    (index.len(), took)
}

fn manifest(n: u64) -> PartitionManifest {
    let mut manifest = PartitionManifest::new(partition(n), Offset::ZERO, LogIndex(0));
    for row in 0..ROWS {
        let offsets = OffsetRange::new(Offset::new(row * RECORDS), Offset::new((row + 1) * RECORDS));
        let source = Source::Bundle(home().bundle(LaneId(1), Sequence(90_000 + row)));
        let max_timestamp = TimestampMs(NOW.0 + 10_000 * row as i64);
        manifest.rows.push(Row { offsets, bytes: 1_200, max_timestamp, source });
    }
    manifest.archived_end = Offset::new(ROWS * RECORDS);
    manifest
}

/// Leader epochs and so many producers, each with five batches.
fn facts(producers: u64) -> LogFacts {
    let epoch = |n: u64| EpochStart { epoch: LeaderEpoch(n as i32), start: Offset::new(n * 300) };
    let batch = |at: u64| ProducerBatch {
        first: 1_000_000 + (at * RECORDS) as i32,
        last: 1_000_000 + ((at + 1) * RECORDS) as i32 - 1,
        offset: Offset::new(at * RECORDS),
        timestamp: TimestampMs(NOW.0 + 10_000 * at as i64),
    };
    let producer = |n: u64| ProducerState {
        id: ProducerId(4_000 + n as i64),
        epoch: ProducerEpoch(0),
        seen: TimestampMs(NOW.0 + 2_560_000),
        batches: (ROWS - 5..ROWS).map(batch).collect(),
    };
    LogFacts { epochs: (0..3).map(epoch).collect(), producers: (0..producers).map(producer).collect() }
}

/// Bytes of the pages of partitions and of the rest, and milliseconds, of a publication in which every partition
/// changed and of the next, in which none did.
fn publications(partitions: &[&PartitionManifest], facts: &LogFacts) -> ([usize; 2], [f64; 2]) {
    let mut lane = LaneManifest::new(home(), LaneId(1));
    lane.last = Sequence(90_000 + ROWS - 1);
    let live = || Live { size: 30_000_000, since: LogIndex(1), parts: Vec::new(), pins: 0, spilled: 0 };
    for n in 0..ROWS {
        lane.live.insert(home().bundle(LaneId(1), Sequence(90_000 + n)), live());
    }
    for n in 0..9_000 {
        let kind =
            ObjectKind::Gathered { lane: LaneId(1), first: Sequence(n * 10), term: Term(7), nonce: Nonce(n << 40) };
        lane.live.insert(home().name(kind), live());
    }
    let mut nonce = 0;
    let mut publish = |lane: &mut LaneManifest, at: u64| {
        let (as_of, term) = (LogIndex(at), Term(7));
        let request = PublishRequest { lane, partitions, facts: &|_| facts.clone(), as_of, term, now: NOW };
        let begun = Instant::now();
        let plan = plan_publish(&request, || {
            nonce += 1;
            Nonce(nonce)
        });
        let took = begun.elapsed().as_secs_f64() * 1_000.0;
        let sizes = |pages: &[(_, Bytes)]| pages.iter().map(|(_, page)| page.len()).sum::<usize>();
        let of_partitions = plan.published.pages.len().min(plan.pages.len());
        let (pages, objects) = plan.pages.split_at(of_partitions);
        let bytes = [sizes(pages), sizes(objects)];
        let published = Command::Published(Published { etag: "e".into(), ..plan.published });
        lane.apply(LogIndex(at + 1), &published).expect("newer");
        (bytes, took)
    };
    let (first, whole) = publish(&mut lane, 10);
    let (second, unchanged) = publish(&mut lane, 20);
    assert_eq!(second, [0, 0], "nothing changed");
    (first, [whole, unchanged])
}

#[test]
fn what_followers_and_restores_need_costs_little() {
    let sizes = [false, true].map(|idempotent| {
        let batches: Vec<Batch> = (0..PARTITIONS).map(|n| a_batch(n, idempotent)).collect();
        let (bytes, [build, read]) = quickest(|| a_bundle(&batches));
        println!("bundle, idempotent {idempotent}: index {bytes} bytes, built in {build:.1} ms, read in {read:.1} ms");
        bytes as u64
    });
    let added = (sizes[1] - sizes[0]) as f64 / PARTITIONS as f64;
    println!("a producer adds {added:.1} bytes to an index of {:.1} a partition", sizes[0] as f64 / PARTITIONS as f64);
    assert!(added <= 16.0, "{added} bytes for each producer of a bundle");

    let manifests: Vec<PartitionManifest> = (0..PARTITIONS).map(manifest).collect();
    let partitions: Vec<&PartitionManifest> = manifests.iter().collect();
    let none = LogFacts::default();
    let (before, [whole, _]) = quickest(|| publications(&partitions, &none));
    println!("publication without leader epochs and producers: {} bytes, planned in {whole:.1} ms", before[0]);
    for producers in [0, 1, 20] {
        let facts = facts(producers);
        let ([pages, objects], [whole, unchanged]) = quickest(|| publications(&partitions, &facts));
        let added = (pages - before[0]) as f64 / PARTITIONS as f64;
        println!(
            "publication, {producers} producers a partition: {pages} bytes of partitions ({added:.1} added to each), \
             {objects} of objects; planned in {whole:.1} ms, in {unchanged:.1} ms when nothing changed"
        );
        assert!(added <= 20.0 + 45.0 * producers as f64, "{added} bytes added to each partition");
        assert!(objects <= 9_256 * 24, "{objects} bytes of objects");
    }
}

/// Bytes that a week of objects takes which wait for their deletion because cuts hold them: in memory, in checkpoints,
/// and of the largest partition's state there.
fn a_week_of(partitions: u64, objects: u64) -> [usize; 3] {
    let (mut memory, mut encoded, mut largest) = (0, 0, 0);
    for n in 0..partitions {
        let mut state = PartitionManifest::new(partition(n), Offset::ZERO, LogIndex(0));
        let empty = state.encode().len();
        state.pending = (0..objects)
            .map(|at| {
                let base = Offset::new(at * 80_000);
                let kind = ObjectKind::Segment { partition: state.id, base, term: Term(7), nonce: Nonce(at << 40 | n) };
                (home().name(kind), LogIndex(50_000_000 + at))
            })
            .collect();
        memory += state.pending.len() * size_of::<(tidewater_tiering::keys::ObjectName, LogIndex)>();
        let bytes = state.encode().len();
        assert_eq!(PartitionManifest::decode(&state.encode()).as_ref(), Ok(&state), "it reads back");
        encoded += bytes - empty;
        largest = largest.max(bytes);
    }
    [memory, encoded, largest]
}

#[test]
fn objects_that_cuts_hold_take_little_and_their_bound_holds() {
    // A trickle gives each partition a segment object and some spill pages a week; 200 MB/s in 10,000 partitions give
    // each 192 objects of 64 MiB; one partition with 100 MB/s gives 32 MiB in a bundle, three times a second. The last
    // is the bound of a partition, and four of it are that of a lane.
    let bound = tidewater_tiering::archive::ArchiveConfig::default().pending_max;
    for (what, partitions, objects) in [
        ("10,000 that trickle", 10_000, 4),
        ("10,000 with 20 KB/s each", 10_000, 192),
        ("one with 100 MB/s, half a day", 1, 130_000),
        ("the bound of a partition", 1, bound.0 as u64),
    ] {
        let [memory, encoded, largest] = a_week_of(partitions, objects);
        let each = (partitions * objects) as f64;
        println!(
            "{what}: {:.1} MB in memory ({:.1} a name), {:.1} MB in checkpoints ({:.1} a name), the largest state {:.2} MB",
            memory as f64 / 1e6,
            memory as f64 / each,
            encoded as f64 / 1e6,
            encoded as f64 / each,
            largest as f64 / 1e6
        );
        assert!(memory as f64 / each <= 112.0 && encoded as f64 / each <= 80.0);
    }
    let [memory, _, largest] = a_week_of(1, bound.0 as u64);
    assert!(largest < 24 << 20, "{largest} bytes of one partition are written again with each of its changes");
    assert!(memory / bound.0 * bound.1 < 128 << 20, "a lane's names fit in memory");
}
