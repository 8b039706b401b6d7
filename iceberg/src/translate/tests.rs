//! Every record becomes its row, with every codec, cut and damage.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::BytesMut;
use proptest::prelude::*;
use tidewater_storage::model::batch::patch;
use tidewater_storage::model::record::{BatchBuilder, Record, RecordHeader};
use tidewater_storage::model::{Compression, LeaderEpoch, TimestampMs};

use super::*;
use crate::schema::HOUR_US;
use crate::schema::file::FileSchema;
use crate::schema::system::SystemColumns;

#[derive(Debug, PartialEq)]
struct Row {
    partition: i32,
    offset: i64,
    micros: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn rows(translation: &mut Translation) -> Vec<Row> {
    let mut out = Vec::new();
    for (key, rows) in translation.take_rows() {
        let PartitionKey::Hour(hour) = key else { panic!("by hour") };
        let batch =
            rows.finish(&FileSchema::key_value(SystemColumns::default()).expect("columns")).expect("columns fit");
        let system = batch.column(0).as_struct();
        let headers = system.column(4).as_list::<i32>();
        let (keys, values) = (system.column(5).as_binary::<i64>(), batch.column(1).as_binary::<i64>());
        for at in 0..batch.num_rows() {
            let micros = system.column(2).as_primitive::<TimestampMicrosecondType>().value(at);
            assert_eq!(micros.div_euclid(HOUR_US), i64::from(hour));
            let list = headers.value(at);
            let list = list.as_struct();
            let (names, contents) = (list.column(0).as_string::<i32>(), list.column(1).as_binary::<i64>());
            out.push(Row {
                partition: system.column(0).as_primitive::<Int32Type>().value(at),
                offset: system.column(1).as_primitive::<Int64Type>().value(at),
                micros,
                key: keys.is_valid(at).then(|| keys.value(at).to_vec()),
                value: values.is_valid(at).then(|| values.value(at).to_vec()),
                headers: (0..list.len())
                    .map(|n| (names.value(n).to_owned(), contents.is_valid(n).then(|| contents.value(n).to_vec())))
                    .collect(),
            });
        }
    }
    out.sort_by_key(|row| row.offset);
    out
}

/// Room for everything that the tests put in.
const AMPLE: Room = Room { share: usize::MAX, bytes: usize::MAX, files: usize::MAX };

fn batch(codec: Compression, base: u64, records: &[Record]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    records.iter().cloned().for_each(|r| builder.push(r));
    let mut bytes = BytesMut::from(&builder.build()[..]);
    patch(&mut bytes, Offset::new(base), LeaderEpoch(1));
    bytes.freeze()
}

fn expected(records: &[Record], range: OffsetRange) -> Vec<Row> {
    let inside = |n: usize| range.contains(Offset::new(n as u64));
    let row = |(n, r): (usize, &Record)| Row {
        partition: 3,
        offset: n as i64,
        micros: rows::micros(r.timestamp),
        key: r.key.as_ref().map(|b| b.to_vec()),
        value: r.value.as_ref().map(|b| b.to_vec()),
        headers: r
            .headers
            .iter()
            .map(|h| (String::from_utf8_lossy(&h.key).into_owned(), h.value.as_ref().map(|b| b.to_vec())))
            .collect(),
    };
    records.iter().enumerate().filter(|(n, _)| inside(*n)).map(row).collect()
}

fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from))
}

fn any_record() -> impl Strategy<Value = Record> {
    let header =
        (any_bytes(), any_bytes()).prop_map(|(key, value)| RecordHeader { key: key.unwrap_or_default(), value });
    // Deltas of a batch are 64-bit, so timestamps may be anything a client makes up.
    let time = prop_oneof![0i64..1 << 43, Just(-1), -1_000_000..1_000_000i64];
    (time, any_bytes(), any_bytes(), proptest::collection::vec(header, 0..3)).prop_map(|(at, key, value, headers)| {
        Record { offset: Offset::ZERO, timestamp: TimestampMs(at), key, value, headers }
    })
}

/// Bit 5 of the attributes makes a batch a control batch, which has no rows; turned over by damage it must not hide
/// them.
#[test]
fn a_control_bit_that_damage_made_hides_nothing() {
    let record =
        Record { offset: Offset::ZERO, timestamp: TimestampMs(1), key: None, value: None, headers: Vec::new() };
    let mut bytes = batch(Compression::Lz4, 0, &[record]).to_vec();
    bytes[22] ^= 1 << 5;
    let end = Offset::new(1);
    let mut translation = Translation::new(Partitioner::by_hour());
    translation.add(PartitionIndex(3), Bytes::from(bytes), OffsetRange::new(Offset::ZERO, end), end, &AMPLE);
    assert_eq!(translation.skipped().len(), 1);
}

proptest! {
    #[test]
    fn each_record_is_its_row(
        records in proptest::collection::vec(any_record(), 1..40),
        cut in 1usize..39, from in 0u64..20, len in 0u64..40, codec in 0usize..5,
    ) {
        let cut = cut.min(records.len());
        let codec = Compression::ALL[codec];
        let mut bytes = BytesMut::from(&batch(codec, 0, &records[..cut])[..]);
        if cut < records.len() {
            bytes.extend_from_slice(&batch(codec, cut as u64, &records[cut..]));
        }
        let end = Offset::new(records.len() as u64);
        let range = OffsetRange::new(Offset::new(from), Offset::new(from + len));
        let mut translation = Translation::new(Partitioner::by_hour());
        let added = translation.add(PartitionIndex(3), bytes.freeze(), range, end, &AMPLE);
        prop_assert!(translation.skipped().is_empty());
        prop_assert_eq!(rows(&mut translation), expected(&records, range));
        prop_assert_eq!(added, Added { next: range.start.max(range.end.min(end)), stop: None });
    }

    #[test]
    fn however_little_room_there_is_each_record_comes_once(
        records in proptest::collection::vec(any_record(), 1..40), cut in 1usize..39, codec in 0usize..5,
        share in 1usize..20_000, bytes in 1usize..20_000, files in 1usize..6,
    ) {
        let cut = cut.min(records.len());
        let codec = Compression::ALL[codec];
        let mut log = BytesMut::from(&batch(codec, 0, &records[..cut])[..]);
        if cut < records.len() {
            log.extend_from_slice(&batch(codec, cut as u64, &records[cut..]));
        }
        let (log, room) = (log.freeze(), Room { share, bytes, files });
        let end = Offset::new(records.len() as u64);
        let (mut left, mut seen) = (OffsetRange::new(Offset::ZERO, end), Vec::new());
        while !left.is_empty() {
            let mut translation = Translation::new(Partitioner::by_hour());
            let added = translation.add(PartitionIndex(3), log.clone(), left, end, &room);
            prop_assert!(added.next > left.start, "one record at the least");
            prop_assert_eq!(added.stop.is_some(), added.next < end);
            prop_assert!(translation.files() <= files);
            prop_assert!(translation.bytes() <= bytes || translation.rows() == 1);
            left.start = added.next;
            seen.extend(rows(&mut translation));
        }
        prop_assert_eq!(seen, expected(&records, OffsetRange::new(Offset::ZERO, end)));
    }

    #[test]
    fn damage_is_skipped_with_its_range_and_no_more(
        first in proptest::collection::vec(any_record(), 1..10),
        second in proptest::collection::vec(any_record(), 1..10),
        at in 21usize..10_000, bit in 0u8..8,
    ) {
        let good = batch(Compression::Zstd, 0, &first);
        let mut bad = batch(Compression::Lz4, first.len() as u64, &second).to_vec();
        let span = bad.len() - 21;
        bad[21 + at % span] ^= 1 << bit;
        let end = Offset::new((first.len() + second.len()) as u64);
        let bytes = Bytes::from([&good[..], &bad].concat());
        let mut translation = Translation::new(Partitioner::by_hour());
        translation.add(PartitionIndex(3), bytes, OffsetRange::new(Offset::ZERO, end), end, &AMPLE);
        let seen = rows(&mut translation);
        prop_assert_eq!(seen, expected(&first, OffsetRange::new(Offset::ZERO, end)));
        prop_assert_eq!(translation.skipped().len(), 1);
        prop_assert_eq!(translation.skipped()[0].start, first.len() as u64);
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut translation = Translation::new(Partitioner::by_hour());
        let end = Offset::new(10);
        translation.add(PartitionIndex(0), Bytes::from(bytes), OffsetRange::new(Offset::ZERO, end), end, &AMPLE);
    }
}

/// One offset says how much of a batch a table has: two records with the same offset could not be distinguished.
#[test]
fn a_batch_numbered_wrongly_is_left_out() {
    let record = || Record::new(TimestampMs(1), None, None);
    let mut bytes = batch(Compression::None, 0, &[record(), record(), record()]).to_vec();
    // Length, attributes, time; then the offset delta of the second record, 1 as a zigzag varint.
    let second = 61 + 7 + 3;
    assert_eq!(bytes[second], 2);
    bytes[second] = 0;
    let crc = crc32c_of(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let mut translation = Translation::new(Partitioner::by_hour());
    let range = OffsetRange::new(Offset::ZERO, Offset::new(3));
    translation.add(PartitionIndex(0), Bytes::from(bytes), range, range.end, &AMPLE);
    assert_eq!((translation.rows(), translation.skipped().len(), translation.skipped()[0].end), (0, 1, 3));
}

#[test]
fn headers_are_counted_as_they_are_held() {
    let header = |key: &'static [u8]| RecordHeader { key: Bytes::from_static(key), value: None };
    let mut record = Record::new(TimestampMs(1), None, None);
    let bare = rows::row_bytes(&record);
    record.headers = vec![header(b""); 1000];
    assert_eq!(rows::row_bytes(&record) - bare, 16_000);
    record.headers = vec![header(&[0xff; 10])];
    assert_eq!(rows::row_bytes(&record) - bare, 16 + 30);
}

#[test]
fn control_batches_are_not_rows() {
    let record = Record::new(TimestampMs(5), None, None);
    let mut bytes = batch(Compression::None, 0, &[record]).to_vec();
    bytes[22] |= 0x20;
    let crc = crc32c_of(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let mut translation = Translation::new(Partitioner::by_hour());
    let range = OffsetRange::new(Offset::ZERO, Offset::new(1));
    let added = translation.add(PartitionIndex(0), Bytes::from(bytes), range, range.end, &AMPLE);
    assert_eq!(added, Added { next: range.end, stop: None });
    assert_eq!((translation.rows(), translation.skipped().len()), (0, 0));
}

/// The CRC as the header type would compute it: learnt from its complaint.
fn crc32c_of(bytes: &[u8]) -> u32 {
    let header = tidewater_storage::model::BatchHeader::parse(bytes).expect("parses");
    match header.verify_crc(bytes) {
        Err(tidewater_storage::model::BatchError::Crc { found, .. }) => found,
        _ => header.crc,
    }
}

#[test]
fn impossible_timestamps_are_moved_to_the_bounds() {
    assert_eq!(rows::micros(TimestampMs(i64::MAX)) / HOUR_US, 253_402_300_799_999_999 / HOUR_US);
    assert_eq!(rows::micros(TimestampMs(-1)), -1000);
    assert!(i32::try_from(rows::micros(TimestampMs(i64::MIN)).div_euclid(HOUR_US)).is_ok());
}
