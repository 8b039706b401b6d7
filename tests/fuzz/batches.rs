//! Record batches as producers, files and objects hold them, and the records in them.

use bytes::{Bytes, BytesMut};
use tidewater_storage::model::batch::{patch, stamp_log_append_time};
use tidewater_storage::model::record::{BatchBuilder, HEADERS_MAX, Record, RecordHeader, read};
use tidewater_storage::model::{
    Batch, BatchHeader, Compression, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs,
};

use super::target::Target;

/// What the records of one batch may unpack to, as the broker's own limits do it.
const UNPACKED_MAX: usize = 1 << 20;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        // Unpacked twice: what a codec holds back and what it gives. And the headers of one record.
        Target::new("record_batch", batch, || [seeds(), bombs()].concat())
            .mended(mend)
            .extra(4 * UNPACKED_MAX + HEADERS_MAX * size_of::<RecordHeader>()),
        Target::new("batches_back_to_back", back_to_back, || seeds().chunks(2).map(<[_]>::concat).collect())
            .mended(mend),
    ]
}

fn batch(input: &[u8]) {
    let _ = BatchHeader::parse_prefix(input);
    let Ok(header) = BatchHeader::parse(input) else { return };
    let bytes = Bytes::copy_from_slice(input);
    let _ = (header.offsets(), header.next_offset(), header.last_sequence(), header.timestamp_type());
    if header.verify_crc(&bytes).is_ok() {
        let _ = read(&header, &bytes, UNPACKED_MAX).map(|records| records.for_each(drop));
    }
    let mut own = BytesMut::from(input);
    patch(&mut own, Offset::new(9), LeaderEpoch(3));
    stamp_log_append_time(&mut own, TimestampMs(1));
}

fn back_to_back(input: &[u8]) {
    if let Ok(batches) = Batch::split_all(Bytes::copy_from_slice(input)) {
        let len: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
        assert_eq!(len, input.len(), "batches are the bytes they were split from");
    }
}

/// The sum of the first batch.
pub(crate) fn mend(input: &mut Vec<u8>) {
    let end = BatchHeader::parse(input).map_or(input.len(), |header| header.len as usize);
    if let Some(covered) = input.get(21..end) {
        let crc = crc32c::crc32c(covered);
        input[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

/// One of each codec, with and without a producer, nulls and headers.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let build = |(n, codec): (i64, Compression)| {
        let mut builder = BatchBuilder::new(codec);
        if n % 2 == 0 {
            builder = builder.producer(ProducerId(n), ProducerEpoch(1), 5);
        }
        for at in 0..3 {
            let value = Bytes::from("a value that repeats itself ".repeat(3));
            let mut record =
                Record::new(TimestampMs(1_700_000_000_000 + at), Some(Bytes::from_static(b"key")), Some(value));
            if at == 1 {
                record.key = None;
                record.value = None;
                record.headers.push(RecordHeader { key: "trace".into(), value: Some(Bytes::from_static(b"1")) });
            }
            builder.push(record);
        }
        builder.build().to_vec()
    };
    (0..).zip(codecs).map(build).collect()
}

/// Little that unpacks to much: a million bytes of empty records, of empty headers, and of nothing.
pub(crate) fn bombs() -> Vec<Vec<u8>> {
    let empty = || Record::new(TimestampMs(1), None, None);
    let codecs = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let bombs = codecs.into_iter().flat_map(|codec| {
        let mut records = BatchBuilder::new(codec);
        (0..100_000).for_each(|_| records.push(empty()));
        let mut headers = BatchBuilder::new(codec);
        let header = RecordHeader { key: Bytes::new(), value: None };
        headers.push(Record { headers: vec![header; 400_000], ..empty() });
        let mut value = BatchBuilder::new(codec);
        value.push(Record { value: Some(vec![0; 1_000_000].into()), ..empty() });
        [records, headers, value]
    });
    bombs.map(|bomb| bomb.build().to_vec()).collect()
}
