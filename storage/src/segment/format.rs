//! The byte form of a run list (in index files and in checkpoints) and of the index file of a closed segment.
//! Mirrors `FORMAT.md`, "Segment index". Big-endian. Bytes come from disk: nothing here trusts a count or a length.

use bytes::{Buf, BufMut, Bytes};

use super::index::{Run, SegmentIndex};
use crate::model::{FilePos, Offset, OffsetRange, PartitionId, RunSum, TimestampMs};

/// First bytes of an index file: "TWSI".
pub const MAGIC: u32 = 0x5457_5349;
/// Version written, and the only one read.
pub const VERSION: u16 = 1;
/// Bytes of one encoded run.
pub const RUN_LEN: usize = 24;
/// Bytes before the runs: magic, version, flags, partition, base offset, end offset, bytes, max timestamp, count.
pub const HEADER_LEN: usize = 4 + 2 + 2 + PartitionId::ENCODED_LEN + 8 * 4 + 4;

const _: () = assert!(HEADER_LEN == 68);

/// What an index file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexFile {
    /// Whose segment.
    pub partition: PartitionId,
    /// Offsets of the segment.
    pub offsets: OffsetRange,
    /// Bytes of the segment.
    pub bytes: u64,
    /// Greatest timestamp in it.
    pub max_timestamp: TimestampMs,
    /// Its runs.
    pub index: SegmentIndex,
}

/// Why bytes are not an index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFileError {
    /// They end too early.
    #[error("index is cut short")]
    Short,
    /// Not an index file.
    #[error("index begins with {found:#010x}, expected {MAGIC:#010x}")]
    Magic {
        /// What was there.
        found: u32,
    },
    /// Written by a newer version.
    #[error("index has version {found}; this version reads {VERSION}")]
    Version {
        /// What was there.
        found: u16,
    },
    /// Damaged.
    #[error("index checksum is {found:#010x}, its trailer says {expected:#010x}")]
    Crc {
        /// From the trailer.
        expected: u32,
        /// Of the bytes.
        found: u32,
    },
    /// Runs that do not follow each other.
    #[error("run {0} of the index does not continue the one before")]
    Order(usize),
    /// Runs that do not cover what the header says.
    #[error("index does not cover its segment")]
    Extent,
}

impl From<bytes::TryGetError> for IndexFileError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Short
    }
}

impl IndexFile {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let runs = self.index.runs();
        let mut out = Vec::with_capacity(HEADER_LEN + runs.len() * RUN_LEN + 4);
        out.put_u32(MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_slice(&self.partition.to_bytes());
        out.put_u64(self.offsets.start.get());
        out.put_u64(self.offsets.end.get());
        out.put_u64(self.bytes);
        out.put_i64(self.max_timestamp.0);
        put_runs(&mut out, runs);
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out
    }

    /// Reads an index file; the checksum first, so damage anywhere is seen as such.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &Bytes) -> Result<Self, IndexFileError> {
        let body_len = bytes.len().checked_sub(4).filter(|len| *len >= HEADER_LEN).ok_or(IndexFileError::Short)?;
        let (mut body, mut trailer) = (bytes.slice(..body_len), bytes.slice(body_len..));
        let (magic, version) = (body.try_get_u32()?, body.try_get_u16()?);
        if magic != MAGIC {
            return Err(IndexFileError::Magic { found: magic });
        }
        if version != VERSION {
            return Err(IndexFileError::Version { found: version });
        }
        let (expected, found) = (trailer.try_get_u32()?, crc32c::crc32c(&bytes.slice(..body_len)));
        if expected != found {
            return Err(IndexFileError::Crc { expected, found });
        }
        body.try_get_u16()?;
        let mut id = [0; PartitionId::ENCODED_LEN];
        body.try_copy_to_slice(&mut id)?;
        let offsets = OffsetRange::new(Offset::new(body.try_get_u64()?), Offset::new(body.try_get_u64()?));
        let (len, max_timestamp) = (body.try_get_u64()?, TimestampMs(body.try_get_i64()?));
        let index = take_runs(&mut body, offsets.start)?;
        if index.extent().is_none_or(|(o, l, _)| (o, l) != (offsets, len)) || body.has_remaining() {
            return Err(IndexFileError::Extent);
        }
        Ok(Self { partition: PartitionId::from_bytes(&id), offsets, bytes: len, max_timestamp, index })
    }
}

/// Count, then per run: end offset u64, length u32, crc u32, maximum timestamp i64. Start and position follow from
/// the run before.
pub(crate) fn put_runs(out: &mut Vec<u8>, runs: &[Run]) {
    out.put_u32(u32::try_from(runs.len()).unwrap_or(u32::MAX));
    for run in runs {
        out.put_u64(run.sum.offsets.end.get());
        out.put_u32(run.sum.len);
        out.put_u32(run.sum.crc);
        out.put_i64(run.max_timestamp.0);
    }
}

/// The inverse of [`put_runs`] for a segment that starts at `base`.
pub(crate) fn take_runs(bytes: &mut Bytes, base: Offset) -> Result<SegmentIndex, IndexFileError> {
    let count = bytes.try_get_u32()? as usize;
    if count > bytes.remaining() / RUN_LEN {
        return Err(IndexFileError::Short);
    }
    let (mut runs, mut start, mut pos) = (Vec::with_capacity(count), base, 0u64);
    for at in 0..count {
        let end = bytes.try_get_u64()?;
        let (len, crc, max) = (bytes.try_get_u32()?, bytes.try_get_u32()?, bytes.try_get_i64()?);
        if end <= start.get() || end > Offset::MAX.get() || len == 0 {
            return Err(IndexFileError::Order(at));
        }
        let offsets = OffsetRange::new(start, Offset::new(end));
        runs.push(Run { sum: RunSum { offsets, len, crc }, pos: FilePos(pos), max_timestamp: TimestampMs(max) });
        start = offsets.end;
        pos += u64::from(len);
    }
    Ok(SegmentIndex::from_runs(runs))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::sample;

    pub(crate) fn sample_file(batches: u64) -> IndexFile {
        let (id, mut index, mut next) = (sample::partition(3), SegmentIndex::default(), Offset::new(100));
        for n in 0..batches {
            let batch = sample::batch(next, 2, 300_000, 1_000 + n as i64);
            next = batch.header.next_offset();
            index.push(id, &batch);
        }
        let (offsets, bytes, max_timestamp) = index.extent().expect("has runs");
        IndexFile { partition: id, offsets, bytes, max_timestamp, index }
    }

    #[test]
    fn round_trips() {
        let file = sample_file(9);
        assert_eq!(IndexFile::decode(&Bytes::from(file.encode())), Ok(file));
    }

    proptest! {
        #[test]
        fn every_flip_is_seen(at in 0usize..10_000, bit in 0u8..8) {
            let mut bytes = sample_file(9).encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(IndexFile::decode(&Bytes::from(bytes)).is_err());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), seal in any::<bool>()) {
            let mut bytes = bytes;
            if seal && bytes.len() > 10 {
                bytes[..6].copy_from_slice(&[0x54, 0x57, 0x53, 0x49, 0, 1]);
                let len = bytes.len() - 4;
                let crc = crc32c::crc32c(&bytes[..len]);
                bytes[len..].copy_from_slice(&crc.to_be_bytes());
            }
            let _ = IndexFile::decode(&Bytes::from(bytes.clone()));
            let _ = take_runs(&mut Bytes::from(bytes), Offset::ZERO);
        }
    }
}
