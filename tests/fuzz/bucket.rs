//! What lies in the bucket: data objects and their indexes, manifests, pages, spills, pointers, keys; and the manifests
//! and commands that lanes keep in the same encoding.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use tidewater_storage::env::sim::World;
use tidewater_storage::model::{
    LaneId, LogIndex, Offset, OffsetRange, PartitionId, PartitionIndex, Term, TimestampMs, TopicId,
};
use tidewater_tiering::cuts::{Cut, CutIndex};
use tidewater_tiering::fetch::{ChunkCache, ChunkId};
use tidewater_tiering::format::{Body, IndexRef, Trailer, decode_index, encode_index, follow_producers, read_whole};
use tidewater_tiering::keys::{Nonce, ObjectKind, ObjectName, Sequence};
use tidewater_tiering::manifest::{
    Bundled, BundledEnd, Catalogue, Command, Deleted, LaneManifest, NewObject, NewRow, ObjectPageRef, PageRef,
    PartitionManifest, Published, PublishedLane, PublishedPartition, Quarantine, Replaced, Root, Trimmed, check_lane,
    check_partition, decode_objects, decode_page, decode_spill,
};
use tidewater_tiering::store::ObjectKey;

use super::corpus::golden;
use super::target::Target;

fn seeds(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| golden(&format!("tiering/{name}"))).collect()
}

const BUNDLES: [&str; 4] =
    ["bundle_v1.bin", "bundle_v1_producers.bin", "bundle_of_part_v1_producers.bin", "seal_v1.bin"];
const MANIFESTS: [&str; 6] = [
    "lane_manifest_v1.bin",
    "lane_manifest_v1_objects.bin",
    "page_v1.bin",
    "page_v1_facts.bin",
    "page_of_objects_v1.bin",
    "spill_v1.bin",
];

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target::new("bucket_object", object, || seeds(&BUNDLES)).mended(mend),
        Target::new("bucket_index", index, || {
            seeds(&BUNDLES).into_iter().map(|object| body(&object, Body::Index)).collect()
        }),
        Target::new("bucket_manifest", manifest, || seeds(&MANIFESTS)).mended(mend),
        Target::new("bucket_pointer", pointer, || {
            let catalogue = br#"{"format":1,"home":{"cluster":"00000000-0000-0000-0000-000000007177","epoch":1},
                "revision":3,"written":1,"lanes":[1],"topics":[]}"#;
            [seeds(&["root_v1.json", "catalogue_v1.json"]), vec![catalogue.to_vec()]].concat()
        }),
        Target::new("bucket_cut", cut, || seeds(&["cut_v1.bin"])).mended(mend),
        Target::new("bucket_cuts", cuts, || seeds(&["cuts_v1.json"])),
        Target::new("bucket_key", key, || {
            let keys = [
                "tidewater/00000000000000000000000000007177/1/lanes/3/17",
                "sim/root.json",
                "a/b/../c",
                "tidewater/00000000000000000000000000007177/00000001/segments/1f/0/0-99",
            ];
            keys.map(|key| key.as_bytes().to_vec()).to_vec()
        }),
        // A world with a disk, and moka's index.
        Target::new("chunk_file", chunk_file, || vec![[chunk_name().as_bytes(), &[0], &[7; 5000]].concat()])
            .extra(2 << 20),
        Target::new("lane_manifest", lane, || seeds(&["lane_state_v1.bin", "lane_state_v1_objects.bin"])),
        Target::new("partition_manifest", partition, partitions),
        Target::new("archive_command", command, commands),
    ]
}

fn body(object: &[u8], of: Body) -> Vec<u8> {
    read_whole(&Bytes::copy_from_slice(object), of).expect("a golden object").0.to_vec()
}

/// Trailer and body sums, and the body's length.
fn mend(input: &mut Vec<u8>) {
    let Some(at) = input.len().checked_sub(32) else { return };
    let start = u64::from_be_bytes(input[at..at + 8].try_into().expect("eight"));
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let start = if start > at { 0 } else { start };
    let crc = crc32c::crc32c(&input[start..at]);
    input[at..at + 8].copy_from_slice(&(start as u64).to_be_bytes());
    input[at + 8..at + 12].copy_from_slice(&u32::try_from(at - start).expect("small").to_be_bytes());
    input[at + 12..at + 16].copy_from_slice(&crc.to_be_bytes());
    let crc = crc32c::crc32c(&input[at..at + 20]);
    input[at + 20..at + 24].copy_from_slice(&crc.to_be_bytes());
}

fn cut(input: &[u8]) {
    let Ok(cut) = Cut::decode(&Bytes::copy_from_slice(input)) else { return };
    let again = cut.encode().expect("what was read can be written");
    assert_eq!(Cut::decode(&again), Ok(cut));
}

fn cuts(input: &[u8]) {
    let Ok(mut index) = CutIndex::decode(input) else { return };
    assert_eq!(CutIndex::decode(&index.encode()).as_ref(), Ok(&index));
    let _ = (index.horizon(LaneId(3)), index.find(Some(TimestampMs(0))).map(|cut| cut.key(index.home)));
    let newest = index.cuts.last().map(|cut| cut.number);
    let outdated = index.outdated(TimestampMs(1_700_000_000_000), &BTreeSet::new());
    index.release(&outdated);
    assert_eq!(index.cuts.last().map(|cut| cut.number), newest, "the newest stays");
}

fn object(input: &[u8]) {
    let object = Bytes::copy_from_slice(input);
    let _ = Trailer::parse(input, input.len() as u64);
    let _ = Trailer::parse(input, u64::MAX);
    if let Ok((bytes, _)) = read_whole(&object, Body::Index) {
        index(&bytes);
    }
}

fn index(input: &[u8]) {
    let Ok(index) = decode_index(input) else { return };
    for entry in &index.partitions {
        let _ = (index.partition(entry.partition), entry.may_follow(entry.offsets.end));
        let mut known = BTreeMap::new();
        follow_producers(&mut known, index.producers_of(entry.partition).unwrap_or_default());
        let _ = known.into_values().filter_map(|producer| producer.cut(entry.offsets.end)).count();
        for extent in &entry.extents {
            let _ = (extent.bytes(), extent.runs_in(entry.offsets).count());
        }
        let _ = entry.bytes();
    }
    let again = decode_index(&encode_index(&index)).expect("what was read can be written and read again");
    assert_eq!(again, index);
}

fn manifest(input: &[u8]) {
    let object = Bytes::copy_from_slice(input);
    if let Ok(lane) = PublishedLane::decode(&object) {
        let _ = (lane.page_of(PartitionId::default()), lane.state(Vec::new(), LogIndex(1)));
    }
    let crc = Trailer::parse(input, input.len() as u64).map_or(0, |trailer| trailer.index.crc);
    let page = PageRef { crc, ..page() };
    if let Ok(partitions) = decode_page(&page, &object) {
        partitions.iter().for_each(|read| assert_eq!(PublishedPartition::decode(&read.encode()).as_ref(), Ok(read)));
    }
    let _ = decode_objects(&ObjectPageRef { crc, ..page_of_objects() }, &object);
    let _ = decode_spill(spill_owner(), crc, &object);
}

/// The golden spill's partition.
fn spill_owner() -> PartitionId {
    PartitionId { topic: TopicId(uuid::Uuid::from_u128(0x70)), index: PartitionIndex(2), ..PartitionId::default() }
}

/// What the golden lane manifest says of its page.
fn page() -> PageRef {
    let lane = PublishedLane::decode(&golden("tiering/lane_manifest_v1.bin").into()).expect("a golden manifest");
    lane.pages.into_iter().next().expect("names a page")
}

/// What the golden lane manifest says of its page of objects.
fn page_of_objects() -> ObjectPageRef {
    let golden = golden("tiering/lane_manifest_v1_objects.bin").into();
    let lane = PublishedLane::decode(&golden).expect("a golden manifest");
    lane.objects.into_iter().flatten().next().expect("names a page")
}

fn pointer(input: &[u8]) {
    if let Ok(root) = Root::decode(input) {
        let _ = (root.home(), root.encode());
    }
    if let Ok(catalogue) = Catalogue::decode(input) {
        let again = serde_json::to_vec(&catalogue).expect("what was read can be written");
        assert_eq!(Catalogue::decode(&again), Ok(catalogue));
    }
}

fn key(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(key) = ObjectKey::new(text) else { return };
    if let Some(name) = ObjectName::parse(&key) {
        assert_eq!(name.key(), key, "a name has one key");
    }
}

/// A file that the chunk cache finds in its directory: the name, a zero byte, what it holds.
fn chunk_file(input: &[u8]) {
    let (name, content) = input.split_at(input.iter().position(|byte| *byte == 0).unwrap_or(input.len()));
    let Ok(name) = std::str::from_utf8(name) else { return };
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return;
    }
    let (world, dir) = (World::new(3), Path::new("/cache"));
    world.disk().place(&dir.join(name), content.get(1..).unwrap_or_default());
    let env = world.env();
    world.block_on(async {
        let cache = ChunkCache::open(env, dir, 1 << 20).await.expect("a calm disk");
        let chunk = ChunkId { object: chunk_object(), bytes: 4096..9096 };
        let found = cache.read_cached(&chunk, 4100..9000).await;
        assert!(found.is_none_or(|bytes| bytes.len() == 4900), "a chunk is whole or not there");
        assert!(cache.used_bytes() <= 1 << 20);
    });
    world.kill();
}

fn chunk_object() -> ObjectName {
    LaneManifest::decode(&golden_lane()).expect("a golden lane").home.bundle(LaneId(3), Sequence(17))
}

fn chunk_name() -> String {
    format!("{}@4096-5000.chunk", chunk_object().key().as_str().replace('/', "~"))
}

fn lane(input: &[u8]) {
    let Ok(lane) = LaneManifest::decode(input) else { return };
    let _ = check_lane(&lane, &BTreeMap::new());
    let _ = (lane.next_bundle(), lane.published_as_of());
    assert_eq!(LaneManifest::decode(&lane.encode()).as_ref(), Ok(&lane), "what was read can be written and read again");
}

fn partition(input: &[u8]) {
    if let Ok(published) = PublishedPartition::decode(input) {
        assert_eq!(PublishedPartition::decode(&published.encode()).as_ref(), Ok(&published));
    }
    let Ok(manifest) = PartitionManifest::decode(input) else { return };
    let _ = check_partition(&manifest);
    let _ = (manifest.bytes(), manifest.max_timestamp(), manifest.first_covered());
    let _ = manifest.covering(manifest.archived_end).is_some();
    assert_eq!(PartitionManifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
}

/// Those of the golden pages.
fn partitions() -> Vec<Vec<u8>> {
    let of = |lane: &str, name: &str| {
        let lane = PublishedLane::decode(&golden(&format!("tiering/{lane}")).into()).expect("a golden manifest");
        let page = lane.pages.first().expect("names a page");
        decode_page(page, &golden(&format!("tiering/{name}")).into()).expect("a golden page")
    };
    let old = of("lane_manifest_v1.bin", "page_v1.bin");
    let new = of("lane_manifest_v1_objects.bin", "page_v1_facts.bin");
    old.iter().chain(&new).map(|partition| partition.encode().to_vec()).collect()
}

/// Decoded, and applied to a lane and a partition that know nothing of it.
fn command(input: &[u8]) {
    let Ok(command) = Command::decode(input) else { return };
    assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));
    let mut lane = LaneManifest::decode(&golden_lane()).expect("a golden lane");
    let _ = lane.apply(LogIndex(1_000_000), &command);
    for id in command.partitions() {
        let mut manifest = PartitionManifest::new(id, Offset::ZERO, LogIndex(1));
        let _ = manifest.apply(lane.home, lane.lane, LogIndex(1_000_000), &command);
    }
}

fn golden_lane() -> Vec<u8> {
    thread_local!(static LANE: Vec<u8> = golden("tiering/lane_state_v1.bin"));
    LANE.with(Clone::clone)
}

fn commands() -> Vec<Vec<u8>> {
    let lane = LaneManifest::decode(&golden_lane()).expect("a golden lane");
    let (home, partition, offsets) = (lane.home, spill_owner(), OffsetRange::new(Offset::new(3), Offset::new(9)));
    let index = IndexRef { offset: 100, len: 40, crc: 7 };
    let nonce = Nonce(5);
    let segment = home.name(ObjectKind::Segment { partition, base: Offset::new(3), term: Term(5), nonce });
    let ends = vec![BundledEnd { partition, offsets, bytes: 100, max_timestamp: TimestampMs(5) }];
    let row = NewRow { partition, offsets, object: 0, start: 0, len: 100, max_timestamp: TimestampMs(5) };
    let all = [
        Command::Bundled(Bundled {
            sequence: Sequence(4),
            size: 172,
            index,
            ends,
            parts: vec![segment],
            events: Some(LogIndex(12)),
        }),
        Command::Replaced(Replaced { objects: vec![NewObject { object: segment, size: 172, index }], rows: vec![row] }),
        Command::Trimmed(Trimmed { partition, log_start: Offset::new(5), pages: vec![(segment, vec![segment])] }),
        Command::Quarantined(Quarantine { partition, offsets, reason: "crc".into() }),
        Command::Forgotten { objects: vec![home.bundle(lane.lane, Sequence(1))] },
        Command::Published(Published {
            as_of: LogIndex(9),
            sequence: Sequence(3),
            etag: "\"e\"".into(),
            pages: vec![page()],
            objects: Some(vec![page_of_objects()]),
            at: TimestampMs(9),
        }),
        Command::Deleted(Deleted { lane: vec![segment], partitions: vec![(partition, vec![segment])] }),
        Command::Dropped { partition },
        Command::Stopped { reason: Some("why".into()) },
    ];
    all.iter().map(|command| command.encode().to_vec()).collect()
}
