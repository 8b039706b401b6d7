//! Frozen bytes of version 1 of every format of segments and checkpoint. They are only ever added to: a change that
//! makes one of these fail needs a new version and a new file, and must go on reading this one.

use std::path::PathBuf;

use bytes::Bytes;

use crate::checkpoint::{Key, PageRef, Root, page};
use crate::engine::records::{LaneRecord, PartitionRecord, ShardRecord};
use crate::log::shared::Doomed;
use crate::log::state::LogState;
use crate::log::{LogSettings, persist, sample};
use crate::model::{EntryId, LaneId, LogIndex, Offset, Term};
use crate::segment::{IndexFile, SegmentIndex};

/// The frozen file; with `TIDEWATER_GOLDEN=write` a missing one is written first.
fn golden(name: &str, now: &[u8]) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/storage").join(name);
    if !path.exists() && std::env::var("TIDEWATER_GOLDEN").is_ok_and(|how| how == "write") {
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("makes");
        std::fs::write(&path, now).expect("writes");
    }
    let frozen = std::fs::read(&path).unwrap_or_else(|error| unreachable!("{}: {error}", path.display()));
    assert!(frozen == now, "{name}: what is written now is not what version 1 was");
    frozen.into()
}

fn log_state() -> LogState {
    let settings = LogSettings { segment_bytes: 20_000, segment_ms: 1_000 };
    let mut state = LogState::new(sample::partition(5), settings, Offset::new(100));
    for n in 0..7 {
        state.append(sample::batch(state.end, 3, 6_000, 1_000 + n), 0);
    }
    state
}

#[test]
fn segment_index_v1() {
    let (id, mut index, mut next) = (sample::partition(5), SegmentIndex::default(), Offset::new(100));
    for n in 0..6 {
        let batch = sample::batch(next, 3, 400_000, 1_000 + n);
        next = batch.header.next_offset();
        index.push(id, &batch);
    }
    let (offsets, bytes, max_timestamp) = index.totals().expect("has runs");
    let file = IndexFile { partition: id, offsets, bytes, max_timestamp, index };
    assert_eq!(IndexFile::decode(&golden("segment_index_v1.idx", &file.encode())), Ok(file));
}

#[test]
fn log_record_v1() {
    let state = log_state();
    let frozen = golden("log_record_v1.bin", &persist::encode(&state).0);
    let read = persist::decode(state.id, frozen).expect("decodes");
    assert_eq!((read.start, read.end, read.settings), (state.start, state.end, state.settings));
    let infos = |state: &LogState| state.segments.iter().map(|segment| segment.info()).collect::<Vec<_>>();
    assert_eq!(infos(&read), infos(&state));
}

#[test]
fn checkpoint_v1() {
    let pages = vec![PageRef { block: 3, len: 5_000, crc: 0xdead_beef }, PageRef::default()];
    let root = Root { generation: 7, bytes: 4_900, pages };
    assert_eq!(Root::decode(&golden("checkpoint_root_v1.bin", &root.encode())), Ok(root));
    let id = sample::partition(5);
    let lane = LaneRecord {
        applied: Some(EntryId { term: Term(3), index: LogIndex(9) }),
        state: Bytes::from_static(b"lane"),
        rebuilding: false,
    };
    let log = persist::encode(&log_state()).0.into();
    let partition =
        PartitionRecord { lane: LaneId(1), as_of: LogIndex(9), state: Bytes::from_static(b"partition"), log };
    let segment = Doomed::Segment { partition: id, base: Offset::new(40), bytes: 0 };
    let shard =
        ShardRecord { journal_sequence: 77, doomed: vec![segment, Doomed::Partition { partition: id, bytes: 0 }] };
    let records = page::Records::from([
        (Key::Lane(LaneId(1)), lane.encode()),
        (Key::Partition(id), partition.encode()),
        (Key::Shard, shard.encode()),
    ]);
    let frozen = golden("checkpoint_page_v1.bin", &page::encode(0, &records));
    let read = page::decode(0, crc32c::crc32c(&frozen), frozen).expect("decodes");
    assert_eq!(LaneRecord::decode(&read[&Key::Lane(LaneId(1))]), Ok(lane));
    assert_eq!(PartitionRecord::decode(&read[&Key::Partition(id)]), Ok(partition));
    assert_eq!(ShardRecord::decode(&read[&Key::Shard]), Ok(shard));
}
