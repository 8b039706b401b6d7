//! The records inside a batch: reading them one by one, and building batches.
//!
//! Layout (Kafka protocol guide, "Record"): varint length, attributes i8, varlong timestamp delta, varint offset
//! delta, varint key length (-1 null), key, varint value length (-1 null), value, varint header count, headers.
//! The broker itself opens batches only for the table sink, for time look-ups and for its own internal topics.

use bytes::{BufMut, Bytes, BytesMut};

use super::batch::{BatchHeader, HEADER_LEN, PREFIX_LEN, TimestampType};
use super::compression::Compression;
use super::ids::{ProducerEpoch, ProducerId};
use super::offset::Offset;
use super::time::TimestampMs;

/// One record, owned; key, value and headers are slices of the unpacked batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset; counted from 0 before a broker has assigned offsets.
    pub offset: Offset,
    /// Its timestamp: the producer's, or the batch's append time.
    pub timestamp: TimestampMs,
    /// The key; `None` is Kafka's null.
    pub key: Option<Bytes>,
    /// The value; `None` is Kafka's null (a tombstone).
    pub value: Option<Bytes>,
    /// Headers in order; a name may occur more than once.
    pub headers: Vec<RecordHeader>,
}

/// One header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Its name; UTF-8 by the protocol, not checked here.
    pub key: Bytes,
    /// Its value; `None` is Kafka's null.
    pub value: Option<Bytes>,
}

impl Record {
    /// A record without headers and offset.
    #[must_use]
    pub fn new(timestamp: TimestampMs, key: Option<Bytes>, value: Option<Bytes>) -> Self {
        Self { offset: Offset::ZERO, timestamp, key, value, headers: Vec::new() }
    }
}

/// Why a batch's records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The codec is unknown or its data is bad or too large.
    #[error("records do not unpack: {0}")]
    Unpack(#[from] std::io::Error),
    /// Attributes name a codec Kafka does not define.
    #[error("attributes {0:#06x} name no known compression")]
    Codec(i16),
    /// A record's fields do not fit its bytes.
    #[error("record {index} of the batch is malformed at byte {at}")]
    Malformed {
        /// Which record, from 0.
        index: u32,
        /// Where in the unpacked records.
        at: usize,
    },
    /// More or fewer records than the batch header says.
    #[error("batch holds {found} records, its header says {expected}")]
    Count { expected: u32, found: u32 },
}

/// Headers of one record, at most. An encoded header can be two bytes and takes 32 times that in memory, so a
/// compressed batch with millions of them would exhaust the memory.
pub const HEADERS_MAX: usize = 1 << 16;

/// The records of a batch one by one: a million records packed into a kilobyte take no more memory than their unpacked
/// bytes. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: &'a BatchHeader,
    cursor: Cursor,
    read: u32,
    over: bool,
}

/// Unpacks a batch whose header was parsed from these bytes, to at most `unpacked_max` bytes of records.
///
/// # Errors
/// The codec is unknown, or the records do not unpack.
pub fn read<'a>(header: &'a BatchHeader, batch: &Bytes, unpacked_max: usize) -> Result<Records<'a>, RecordError> {
    let codec = header.compression().ok_or(RecordError::Codec(header.attributes))?;
    let packed = batch.slice(HEADER_LEN.min(batch.len())..(header.len as usize).min(batch.len()));
    let cursor = Cursor { bytes: codec.decompress(&packed, unpacked_max)?, at: 0 };
    Ok(Records { header, cursor, read: 0, over: false })
}

/// Reads all records of a batch into memory: up to 20 times its unpacked bytes, so only for batches of this program.
///
/// # Errors
/// The first error in the batch.
pub fn read_all(header: &BatchHeader, batch: &Bytes, unpacked_max: usize) -> Result<Vec<Record>, RecordError> {
    let records = read(header, batch, unpacked_max)?;
    // A record takes at least 7 bytes: do not allocate for a greater count.
    let plausible = (header.record_count as usize).min(records.unpacked_len() / 7 + 1);
    let mut out = Vec::with_capacity(plausible);
    for record in records {
        out.push(record?);
    }
    Ok(out)
}

impl Records<'_> {
    /// Bytes of all records, unpacked.
    #[must_use]
    pub fn unpacked_len(&self) -> usize {
        self.cursor.bytes.len()
    }

    /// The bytes of all records, unpacked.
    #[must_use]
    pub fn unpacked(&self) -> Bytes {
        self.cursor.bytes.clone()
    }

    fn step(&mut self) -> Result<Option<Record>, RecordError> {
        let (expected, index, at) = (self.header.record_count, self.read, self.cursor.at);
        let ended = at == self.cursor.bytes.len();
        if index == expected {
            return if ended {
                Ok(None)
            } else {
                Err(RecordError::Count { expected, found: expected.saturating_add(1) })
            };
        }
        if ended {
            return Err(RecordError::Count { expected, found: index });
        }
        self.read += 1;
        self.cursor.record(self.header).map(Some).ok_or(RecordError::Malformed { index, at: self.cursor.at })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let step = self.step();
        self.over = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

#[derive(Clone, Debug)]
struct Cursor {
    bytes: Bytes,
    at: usize,
}

impl Cursor {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varlong(&mut self) -> Option<i64> {
        let mut raw = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((raw >> 1) as i64 ^ -((raw & 1) as i64));
            }
        }
        None
    }

    fn varint(&mut self) -> Option<i32> {
        i32::try_from(self.varlong()?).ok()
    }

    fn slice(&mut self, len: usize) -> Option<Bytes> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len())?;
        let slice = self.bytes.slice(self.at..end);
        self.at = end;
        Some(slice)
    }

    /// A field of `len` bytes, or null for -1.
    #[allow(clippy::option_option, reason = "outer: malformed; inner: Kafka's null")]
    fn nullable(&mut self) -> Option<Option<Bytes>> {
        match self.varint()? {
            -1 => Some(None),
            len => Some(Some(self.slice(usize::try_from(len).ok()?)?)),
        }
    }

    fn record(&mut self, header: &BatchHeader) -> Option<Record> {
        let len = usize::try_from(self.varint()?).ok()?;
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len())?;
        self.byte()?;
        let timestamp_delta = self.varlong()?;
        let offset_delta = u64::try_from(self.varint()?).ok()?;
        let key = self.nullable()?;
        let value = self.nullable()?;
        let count = usize::try_from(self.varint()?).ok()?;
        if count > HEADERS_MAX || count > end.checked_sub(self.at)? / 2 {
            return None;
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let key_len = usize::try_from(self.varint()?).ok()?;
            headers.push(RecordHeader { key: self.slice(key_len)?, value: self.nullable()? });
        }
        let timestamp = match header.timestamp_type() {
            TimestampType::Create => header.base_timestamp.plus_ms(timestamp_delta),
            TimestampType::LogAppend => header.max_timestamp,
        };
        (self.at == end).then_some(Record {
            offset: header.base_offset.plus(offset_delta),
            timestamp,
            key,
            value,
            headers,
        })
    }
}

/// Builds one batch from records, offsets from 0: for the small client, the internal topics and tests.
#[derive(Debug)]
pub struct BatchBuilder {
    compression: Compression,
    records: BytesMut,
    count: u32,
    base_timestamp: TimestampMs,
    max_timestamp: TimestampMs,
    producer: Option<(ProducerId, ProducerEpoch, i32)>,
    attributes: i16,
}

impl BatchBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            records: BytesMut::new(),
            count: 0,
            base_timestamp: TimestampMs::NONE,
            max_timestamp: TimestampMs::NONE,
            producer: None,
            attributes: compression.code(),
        }
    }

    /// Makes this a batch of an idempotent producer.
    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.producer = Some((id, epoch, base_sequence));
        self
    }

    /// Bytes of records so far, unpacked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Is there no record yet?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a record; its offset field is ignored.
    pub fn push(&mut self, record: Record) {
        if self.count == 0 {
            self.base_timestamp = record.timestamp;
            self.max_timestamp = record.timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        let mut body = BytesMut::with_capacity(32 + record.value.as_ref().map_or(0, Bytes::len));
        body.put_u8(0);
        put_varlong(&mut body, record.timestamp.since_ms(self.base_timestamp));
        put_varlong(&mut body, i64::from(self.count));
        put_nullable(&mut body, record.key.as_ref());
        put_nullable(&mut body, record.value.as_ref());
        put_varlong(&mut body, record.headers.len() as i64);
        for header in &record.headers {
            put_varlong(&mut body, header.key.len() as i64);
            body.put_slice(&header.key);
            put_nullable(&mut body, header.value.as_ref());
        }
        put_varlong(&mut self.records, body.len() as i64);
        self.records.put_slice(&body);
        self.count += 1;
    }

    /// The batch's bytes: base offset 0, leader epoch -1, CRC set. Falls back to no compression if the codec fails.
    #[must_use]
    pub fn build(mut self) -> Bytes {
        let records = match self.compression.compress(&self.records) {
            Ok(packed) => packed,
            Err(_) => {
                self.attributes &= !0x07;
                self.records.to_vec()
            }
        };
        let (id, epoch, sequence) = self.producer.unwrap_or((ProducerId(-1), ProducerEpoch(-1), -1));
        let len = HEADER_LEN - PREFIX_LEN + records.len();
        assert!(i32::try_from(len).is_ok() && i32::try_from(self.count).is_ok(), "a batch fits Kafka's 32-bit fields");
        let mut out = BytesMut::with_capacity(HEADER_LEN + records.len());
        out.put_i64(0);
        out.put_i32(len as i32);
        out.put_i32(-1);
        out.put_i8(2);
        out.put_u32(0);
        out.put_i16(self.attributes);
        out.put_i32(self.count as i32 - 1);
        out.put_i64(self.base_timestamp.0);
        out.put_i64(self.max_timestamp.0);
        out.put_i64(id.0);
        out.put_i16(epoch.0);
        out.put_i32(sequence);
        out.put_i32(self.count as i32);
        out.put_slice(&records);
        let crc = crc32c::crc32c(&out[super::batch::CRC_START..]);
        out[17..21].copy_from_slice(&crc.to_be_bytes());
        out.freeze()
    }
}

fn put_varlong(out: &mut BytesMut, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.put_u8(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.put_u8(raw as u8);
}

fn put_nullable(out: &mut BytesMut, bytes: Option<&Bytes>) {
    match bytes {
        None => put_varlong(out, -1),
        Some(bytes) => {
            put_varlong(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from))
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let header =
            (any_bytes(), any_bytes()).prop_map(|(key, value)| RecordHeader { key: key.unwrap_or_default(), value });
        (0i64..1 << 50, any_bytes(), any_bytes(), proptest::collection::vec(header, 0..4)).prop_map(
            |(at, key, value, headers)| Record {
                offset: Offset::ZERO,
                timestamp: TimestampMs(at),
                key,
                value,
                headers,
            },
        )
    }

    #[test]
    fn a_record_of_millions_of_headers_is_malformed() {
        let header = RecordHeader { key: Bytes::new(), value: None };
        let batch = |headers: usize| {
            let mut builder = BatchBuilder::new(Compression::Zstd);
            let mut record = Record::new(TimestampMs(1), None, None);
            record.headers = vec![header.clone(); headers];
            builder.push(record);
            builder.build()
        };
        let (fits, bomb) = (batch(HEADERS_MAX), batch(HEADERS_MAX + 1));
        let read = |bytes: &Bytes| read_all(&BatchHeader::parse(bytes).expect("parses"), bytes, 1 << 20);
        assert_eq!(read(&fits).expect("reads")[0].headers.len(), HEADERS_MAX);
        assert!(matches!(read(&bomb), Err(RecordError::Malformed { index: 0, .. })));
    }

    proptest! {
        #[test]
        fn records_round_trip(records in proptest::collection::vec(any_record(), 1..20), codec in 0usize..5) {
            let mut builder = BatchBuilder::new(Compression::ALL[codec]);
            records.iter().cloned().for_each(|r| builder.push(r));
            let bytes = builder.build();
            let header = BatchHeader::parse(&bytes).expect("parses");
            header.verify_crc(&bytes).expect("crc holds");
            let read = read_all(&header, &bytes, 1 << 20).expect("reads");
            for (n, (read, mut wrote)) in read.into_iter().zip(records).enumerate() {
                wrote.offset = Offset::new(n as u64);
                prop_assert_eq!(read, wrote);
            }
        }

        #[test]
        fn hostile_records_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), HEADER_LEN..300)) {
            bytes[16] = 2;
            let len = (bytes.len() - PREFIX_LEN) as i32;
            bytes[8..12].copy_from_slice(&len.to_be_bytes());
            if let Ok(header) = BatchHeader::parse(&bytes) {
                let _ = read_all(&header, &Bytes::from(bytes), 1 << 16);
            }
        }
    }
}
