//! Tests of `format`, beside it.

use proptest::prelude::*;

use super::*;
use crate::env::AlignedBuf;
use crate::journal::fill::CommitBuffer;

/// A commit of every kind of record, as the golden sample has it.
fn encode(records: &[(LaneId, Record)], header: CommitHeader) -> Bytes {
    let need: usize = records.iter().map(|(_, record)| 64 + body_len(record)).sum();
    let mut filling = CommitBuffer::new(AlignedBuf::heap((COMMIT_HEADER_LEN + need).next_multiple_of(BLOCK)));
    for (lane, record) in records {
        match record {
            Record::Entry(entry) => filling.push_entry(*lane, entry, false),
            Record::Rewritten(entry) => filling.push_entry(*lane, entry, true),
            Record::Vote(vote) => filling.push_state(*lane, Kind::Vote, vote),
            Record::TruncateAfter(keep) => filling.push_state(*lane, Kind::TruncateAfter, &optional_id(*keep)),
            Record::Purge(upto) => filling.push_state(*lane, Kind::Purge, &optional_id(Some(*upto))),
            Record::Committed(id) => filling.push_state(*lane, Kind::Committed, &optional_id(*id)),
            Record::Forget => filling.push_state(*lane, Kind::Forget, &[]),
        }
    }
    Bytes::copy_from_slice(&filling.seal(header))
}

fn body_len(record: &Record) -> usize {
    match record {
        Record::Entry(entry) | Record::Rewritten(entry) => entry_record_len(&entry.payload),
        Record::Vote(vote) => vote.len(),
        _ => OPTIONAL_ID_LEN,
    }
}

fn header() -> CommitHeader {
    CommitHeader {
        journal: 0x0102_0304_0506_0708,
        generation: 3,
        sequence: 42,
        durable: 41,
        position: 8192,
        length: 0,
        records: 0,
        records_crc: 0,
    }
}

fn decode(bytes: &Bytes) -> Result<Vec<(LaneId, Record)>, FormatError> {
    let header = CommitHeader::decode(bytes)?;
    Ok(decode_commit(&header, bytes)?.into_iter().map(|located| (located.lane, located.record)).collect())
}

fn any_id() -> impl Strategy<Value = EntryId> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, index)| EntryId { term: Term(term), index: LogIndex(index) })
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn any_entry() -> impl Strategy<Value = JournalEntry> {
    let payload = (any_bytes(), proptest::collection::vec(any_bytes(), 0..5));
    (any_id(), payload)
        .prop_map(|(id, (meta, blobs))| JournalEntry { id, payload: Payload { meta, blobs, verified: false } })
}

fn any_record() -> impl Strategy<Value = (LaneId, Record)> {
    let record = prop_oneof![
        4 => any_entry().prop_map(Record::Entry),
        1 => any_entry().prop_map(Record::Rewritten),
        1 => any_bytes().prop_map(Record::Vote),
        1 => proptest::option::of(any_id()).prop_map(Record::TruncateAfter),
        1 => any_id().prop_map(Record::Purge),
        1 => proptest::option::of(any_id()).prop_map(Record::Committed),
        1 => Just(Record::Forget),
    ];
    (any::<u32>().prop_map(LaneId), record)
}

proptest! {
    #[test]
    fn commits_round_trip(records in proptest::collection::vec(any_record(), 0..20)) {
        let bytes = encode(&records, header());
        prop_assert_eq!(bytes.len() % BLOCK, 0);
        let read = CommitHeader::decode(&bytes).expect("header");
        prop_assert_eq!((read.sequence, read.position, read.records as usize), (42, 8192, records.len()));
        prop_assert_eq!(decode(&bytes), Ok(records));
    }

    #[test]
    fn any_flipped_bit_is_seen(records in proptest::collection::vec(any_record(), 1..5), at: prop::sample::Index, bit in 0u8..8) {
        let bytes = encode(&records, header());
        let used = CommitHeader::decode(&bytes).expect("header").total_len();
        let mut rotten = bytes.to_vec();
        rotten[at.index(used)] ^= 1 << bit;
        prop_assert!(decode(&Bytes::from(rotten)).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), lengths: [u32; 3]) {
        // Past the checksums, where only the length checks are left.
        if bytes.len() >= RECORD_HEADER_LEN + ENTRY_FIXED_LEN {
            bytes[0] = 1 + bytes[0] % 8;
            let body = (bytes.len() - RECORD_HEADER_LEN) as u32;
            bytes[8..12].copy_from_slice(&body.to_be_bytes());
            bytes[32..36].copy_from_slice(&(lengths[0] >> (lengths[2] % 32)).to_be_bytes());
            bytes[36..40].copy_from_slice(&(lengths[1] >> (lengths[2] % 31)).to_be_bytes());
            let crc = crc32c::crc32c(&bytes[RECORD_HEADER_LEN..]);
            bytes[12..16].copy_from_slice(&crc.to_be_bytes());
        }
        let bytes = Bytes::from(bytes);
        let _ = decode_record(&bytes, 0);
        let _ = decode_record(&bytes, usize::MAX);
        let _ = CommitHeader::decode(&bytes);
        let _ = decode_commit(&CommitHeader { length: lengths[0], ..header() }, &bytes);
    }
}

/// One commit with every kind of record. Never changes: see `FORMAT.md`, version 1.
fn golden_records() -> Vec<(LaneId, Record)> {
    let id = |term, index| EntryId { term: Term(term), index: LogIndex(index) };
    let payload = |meta: &'static [u8], blobs: &[&'static [u8]]| Payload {
        meta: Bytes::from_static(meta),
        blobs: blobs.iter().map(|blob| Bytes::from_static(blob)).collect(),
        verified: false,
    };
    vec![
        (LaneId(0), Record::Vote(Bytes::from_static(b"a vote"))),
        (LaneId(0), Record::Entry(JournalEntry { id: id(1, 0), payload: payload(b"meta", &[]) })),
        (LaneId(7), Record::Entry(JournalEntry { id: id(2, 9), payload: payload(b"", &[b"one", b"", b"three"]) })),
        (LaneId(7), Record::Rewritten(JournalEntry { id: id(2, 8), payload: payload(b"old", &[b"blob"]) })),
        (LaneId(7), Record::TruncateAfter(Some(id(2, 8)))),
        (LaneId(8), Record::TruncateAfter(None)),
        (LaneId(7), Record::Purge(id(1, 5))),
        (LaneId(7), Record::Committed(Some(id(2, 7)))),
        (LaneId(8), Record::Committed(None)),
        (LaneId(9), Record::Forget),
    ]
}

#[test]
fn version_1_is_frozen() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/storage/journal-v1.bin");
    let ours = encode(&golden_records(), header());
    if std::env::var_os("TIDEWATER_GOLDEN").is_some_and(|how| how == "write") && !std::path::Path::new(path).exists() {
        std::fs::write(path, &ours).expect("writes the sample");
    }
    let frozen = Bytes::from(std::fs::read(path).expect("the frozen sample is there"));
    assert_eq!(decode(&frozen).expect("it reads"), golden_records());
    assert_eq!(ours, frozen, "what is written has not changed");
}
