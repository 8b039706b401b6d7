//! Kafka's record batch v2 (magic 2): the checked header, the CRC, the fields that a broker sets.
//!
//! Layout (Kafka protocol guide, "Record Batch"): base offset i64 @0, length i32 @8 (of what follows), leader epoch
//! i32 @12, magic i8 @16, crc u32 @17 (crc32c of everything from @21), attributes i16 @21, last offset delta i32 @23,
//! base timestamp i64 @27, max timestamp i64 @35, producer id i64 @43, producer epoch i16 @51, base sequence i32 @53,
//! record count i32 @57, records @61. Bytes come from clients and disks: no length is used before it is checked.

use bytes::{Bytes, BytesMut};

use super::compression::Compression;
use super::crc;
use super::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use super::offset::{Offset, OffsetRange};
use super::time::TimestampMs;

/// Bytes before the first record.
pub const HEADER_LEN: usize = 61;
/// Base offset and length: with these bytes it is known where a batch ends.
pub const PREFIX_LEN: usize = 12;
/// Where the CRC-covered part begins.
pub const CRC_START: usize = 21;

/// Who set the timestamps of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer (`CreateTime`).
    Create,
    /// The broker (`LogAppendTime`).
    LogAppend,
}

/// The first 61 bytes of a batch, every field checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes of the whole batch, prefix included.
    pub len: u32,
    /// Epoch of the leader that appended it.
    pub leader_epoch: LeaderEpoch,
    /// crc32c as written.
    pub crc: u32,
    pub attributes: i16,
    /// Last offset minus base offset.
    pub last_offset_delta: u32,
    /// Timestamp of the first record.
    pub base_timestamp: TimestampMs,
    pub max_timestamp: TimestampMs,
    /// The idempotent producer, if any.
    pub producer_id: Option<ProducerId>,
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record; meaningful for an idempotent producer.
    pub base_sequence: i32,
    /// Number of records; 0 is legal after compaction.
    pub record_count: u32,
}

/// What is wrong with bytes that should be a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("batch is cut short: {have} bytes of {need}")]
    Short { have: usize, need: usize },
    /// An impossible length field.
    #[error("batch length field is {0}")]
    Length(i32),
    /// Not magic 2.
    #[error("batch has magic {0}; only 2 is supported")]
    Magic(i8),
    /// Checksum mismatch.
    #[error("batch checksum is {found:#010x}, its header says {expected:#010x}")]
    Crc { expected: u32, found: u32 },
    /// A field with an impossible value.
    #[error("batch field {field} has the impossible value {value}")]
    Field { field: &'static str, value: i64 },
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl BatchHeader {
    /// Reads the header of the batch at the start of `bytes`. Checks every field, and that `bytes` hold the whole
    /// batch; does not check the CRC.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let header = Self::parse_prefix(bytes)?;
        if bytes.len() < header.len as usize {
            return Err(BatchError::Short { have: bytes.len(), need: header.len as usize });
        }
        Ok(header)
    }

    /// As [`BatchHeader::parse`], for bytes that may end anywhere after the header.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse_prefix(bytes: &[u8]) -> Result<Self, BatchError> {
        let short = BatchError::Short { have: bytes.len(), need: HEADER_LEN };
        let head: &[u8; HEADER_LEN] = bytes.get(..HEADER_LEN).and_then(|b| b.try_into().ok()).ok_or(short.clone())?;
        let i64_at = |at| take(head, at).map(i64::from_be_bytes).ok_or(short.clone());
        let i32_at = |at| take(head, at).map(i32::from_be_bytes).ok_or(short.clone());
        let i16_at = |at| take(head, at).map(i16::from_be_bytes).ok_or(short.clone());
        let field = |field, value| BatchError::Field { field, value };

        let length = i32_at(8)?;
        let len = u32::try_from(length)
            .ok()
            .and_then(|l| l.checked_add(PREFIX_LEN as u32))
            .filter(|l| *l as usize >= HEADER_LEN)
            .ok_or(BatchError::Length(length))?;
        let magic = i8::from_be_bytes(take(head, 16).ok_or(short.clone())?);
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let base_offset = i64_at(0)?;
        let last_offset_delta = i32_at(23)?;
        let record_count = i32_at(57)?;
        let producer_id = i64_at(43)?;
        let header = Self {
            base_offset: Offset::from_wire(base_offset).ok_or(field("baseOffset", base_offset))?,
            len,
            leader_epoch: LeaderEpoch(i32_at(12)?),
            crc: i32_at(17)? as u32,
            attributes: i16_at(21)?,
            last_offset_delta: u32::try_from(last_offset_delta)
                .map_err(|_| field("lastOffsetDelta", last_offset_delta.into()))?,
            base_timestamp: TimestampMs(i64_at(27)?),
            max_timestamp: TimestampMs(i64_at(35)?),
            producer_id: (producer_id >= 0).then_some(ProducerId(producer_id)),
            producer_epoch: ProducerEpoch(i16_at(51)?),
            base_sequence: i32_at(53)?,
            record_count: u32::try_from(record_count).map_err(|_| field("recordCount", record_count.into()))?,
        };
        if header
            .base_offset
            .get()
            .checked_add(u64::from(header.last_offset_delta))
            .is_none_or(|l| l >= Offset::MAX.get())
        {
            return Err(field("baseOffset", base_offset));
        }
        Ok(header)
    }

    /// Checks the CRC of the whole batch.
    ///
    /// # Errors
    /// [`BatchError::Crc`] or [`BatchError::Short`].
    pub fn verify_crc(&self, batch: &[u8]) -> Result<(), BatchError> {
        let covered = batch
            .get(CRC_START..self.len as usize)
            .ok_or(BatchError::Short { have: batch.len(), need: self.len as usize })?;
        let found = crc32c::crc32c(covered);
        if found == self.crc { Ok(()) } else { Err(BatchError::Crc { expected: self.crc, found }) }
    }

    /// Offsets of the batch.
    #[must_use]
    pub fn offsets(&self) -> OffsetRange {
        OffsetRange::new(self.base_offset, self.next_offset())
    }

    /// First offset after the batch.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.base_offset.plus(u64::from(self.last_offset_delta) + 1)
    }

    /// How the records are compressed; `None` for a code Kafka does not define.
    #[must_use]
    pub fn compression(&self) -> Option<Compression> {
        Compression::from_attributes(self.attributes)
    }

    /// Who set the timestamps.
    #[must_use]
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & 0x08 == 0 { TimestampType::Create } else { TimestampType::LogAppend }
    }

    /// Is the batch part of a transaction?
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Is it a control batch (transaction markers), which consumers do not return to applications?
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Sequence number of the last record, wrapping at `i32::MAX` as Kafka's does.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        let last = (i64::from(self.base_sequence) + i64::from(self.last_offset_delta)) % (i64::from(i32::MAX) + 1);
        last as i32
    }
}

/// A whole batch: its bytes, and the header read from them.
#[derive(Clone, Debug)]
pub struct Batch {
    pub header: BatchHeader,
    pub bytes: Bytes,
}

impl Batch {
    /// Takes the first batch off `bytes`. The CRC is not checked.
    ///
    /// # Errors
    /// What is wrong with the batch; `bytes` is then unchanged.
    pub fn split_from(bytes: &mut Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        let bytes = bytes.split_to(header.len as usize);
        debug_assert_eq!(
            header.offsets().count(),
            u64::from(header.last_offset_delta) + 1,
            "no offset of a batch wraps"
        );
        Ok(Self { header, bytes })
    }

    /// Splits `bytes` into batches, which must fill them exactly.
    ///
    /// # Errors
    /// What is wrong with the first bad one.
    pub fn split_all(mut bytes: Bytes) -> Result<Vec<Self>, BatchError> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            out.push(Self::split_from(&mut bytes)?);
        }
        Ok(out)
    }
}

/// Continues a crc32c over a whole batch whose own checksum is verified. Of a large batch, only the bytes that its own
/// checksum does not cover are read; if that checksum is wrong, so is the result.
#[must_use]
pub fn extend_crc(crc: u32, batch: &[u8]) -> u32 {
    match (batch.get(..CRC_START), take(batch, 17)) {
        (Some(head), Some(own)) if batch.len() >= crc::JOIN_MIN => {
            crc::join(crc32c::crc32c_append(crc, head), u32::from_be_bytes(own), batch.len() - CRC_START)
        }
        _ => crc32c::crc32c_append(crc, batch),
    }
}

/// Writes base offset and leader epoch into a batch; both lie outside the CRC.
///
/// # Panics
/// If `batch` is shorter than a header: it must have passed [`BatchHeader::parse`].
pub fn patch(batch: &mut [u8], base_offset: Offset, epoch: LeaderEpoch) {
    assert!(batch.len() >= HEADER_LEN, "only a parsed batch is patched");
    batch[..8].copy_from_slice(&base_offset.to_wire().to_be_bytes());
    batch[12..16].copy_from_slice(&epoch.0.to_be_bytes());
}

/// Turns a `CreateTime` batch into a `LogAppendTime` one: sets the attribute, the maximum timestamp and the CRC.
///
/// # Panics
/// If `batch` is shorter than a header: it must have passed [`BatchHeader::parse`].
pub fn stamp_log_append_time(batch: &mut BytesMut, now: TimestampMs) {
    assert!(batch.len() >= HEADER_LEN, "only a parsed batch is stamped");
    batch[22] |= 0x08;
    batch[35..43].copy_from_slice(&now.0.to_be_bytes());
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Takes the producer's id, epoch and sequence out of a batch, and sets the CRC: the records stay as they are, and no
/// producer is remembered for them.
///
/// # Panics
/// If `batch` is shorter than a header: it must have passed [`BatchHeader::parse`].
pub fn forget_producer(batch: &mut BytesMut) {
    assert!(batch.len() >= HEADER_LEN, "only a parsed batch loses its producer");
    batch[43..57].fill(0xff);
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::record::{BatchBuilder, Record};

    fn sample() -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        for n in 0..10 {
            builder.push(Record::new(
                TimestampMs(1000 + n),
                Some(Bytes::from_static(b"k")),
                Some(Bytes::from(vec![7; 100])),
            ));
        }
        builder.build()
    }

    #[test]
    fn a_checksum_goes_on_over_a_verified_batch_as_over_any_bytes() {
        for value in [10, 3 * crc::JOIN_MIN] {
            let mut builder = BatchBuilder::new(Compression::None);
            builder.push(Record::new(TimestampMs(1000), None, Some(Bytes::from(vec![7; value]))));
            let mut bytes = BytesMut::from(&builder.build()[..]);
            patch(&mut bytes, Offset::new(77), LeaderEpoch(5));
            stamp_log_append_time(&mut bytes, TimestampMs(2000));
            assert_eq!(extend_crc(99, &bytes), crc32c::crc32c_append(99, &bytes));
        }
    }

    #[test]
    fn header_of_a_built_batch() {
        let bytes = sample();
        let header = BatchHeader::parse(&bytes).expect("parses");
        header.verify_crc(&bytes).expect("crc holds");
        assert_eq!(header.len as usize, bytes.len());
        assert_eq!((header.record_count, header.last_offset_delta), (10, 9));
        assert_eq!((header.base_timestamp, header.max_timestamp), (TimestampMs(1000), TimestampMs(1009)));
        assert_eq!(header.next_offset(), Offset::new(10));
    }

    #[test]
    fn patch_keeps_the_crc() {
        let mut bytes = BytesMut::from(&sample()[..]);
        patch(&mut bytes, Offset::new(42), LeaderEpoch(7));
        let header = BatchHeader::parse(&bytes).expect("parses");
        header.verify_crc(&bytes).expect("crc holds");
        assert_eq!((header.base_offset, header.leader_epoch), (Offset::new(42), LeaderEpoch(7)));
    }

    #[test]
    #[should_panic(expected = "only a parsed batch is patched")]
    fn what_is_no_batch_is_not_patched_in_silence() {
        patch(&mut [0; PREFIX_LEN], Offset::new(42), LeaderEpoch(7));
    }

    #[test]
    fn log_append_time_renews_the_crc() {
        let mut bytes = BytesMut::from(&sample()[..]);
        stamp_log_append_time(&mut bytes, TimestampMs(5));
        let header = BatchHeader::parse(&bytes).expect("parses");
        header.verify_crc(&bytes).expect("crc holds");
        assert_eq!((header.timestamp_type(), header.max_timestamp), (TimestampType::LogAppend, TimestampMs(5)));
    }

    #[test]
    fn sequences_wrap_as_kafkas_do() {
        let mut header = BatchHeader::parse(&sample()).expect("parses");
        header.base_sequence = i32::MAX - 3;
        assert_eq!(header.last_sequence(), 5);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(header) = BatchHeader::parse(&bytes) {
                let _ = header.verify_crc(&bytes);
            }
        }

        #[test]
        fn every_flip_in_the_covered_part_is_seen(at in CRC_START..1000usize, bit in 0u8..8) {
            let mut bytes = sample().to_vec();
            let at = CRC_START + (at % (bytes.len() - CRC_START));
            bytes[at] ^= 1 << bit;
            let seen = BatchHeader::parse(&bytes).and_then(|h| h.verify_crc(&bytes));
            prop_assert!(seen.is_err());
        }
    }

    #[test]
    fn a_batch_without_its_producer_has_the_same_records() {
        let mut builder = BatchBuilder::new(Compression::None).producer(ProducerId(9), ProducerEpoch(2), 5);
        builder.push(Record::new(TimestampMs(1_767_225_600_000), None, Some(Bytes::from_static(b"v"))));
        let before = builder.build();
        let mut after = BytesMut::from(&before[..]);
        forget_producer(&mut after);
        let header = BatchHeader::parse(&after).expect("a batch");
        assert_eq!((header.producer_id, header.base_sequence), (None, -1));
        assert!(header.verify_crc(&after).is_ok());
        assert_eq!(after[57..], before[57..]);
        let of_before = BatchHeader::parse(&before).expect("a batch");
        assert_eq!((header.offsets(), header.max_timestamp), (of_before.offsets(), of_before.max_timestamp));
    }
}
