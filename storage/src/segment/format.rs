//! The byte form of a run list (in index files and in checkpoints) and of the index file of a closed segment.
//! Layout: `FORMAT.md`, "Segment index".

use bytes::Bytes;

use super::index::{Run, SegmentIndex};
use crate::codec::{CodecError, Decoder, Encoder};
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
    pub index: SegmentIndex,
}

/// Why bytes are not an index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexFileError {
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("index begins with {found:#010x}, expected {MAGIC:#010x}")]
    Magic { found: u32 },
    #[error("index has version {found}; this version reads {VERSION}")]
    Version { found: u16 },
    #[error("index checksum is {found:#010x}, its trailer says {expected:#010x}")]
    Crc { expected: u32, found: u32 },
    #[error("run {0} of the index does not continue the one before")]
    Order(usize),
    #[error("index does not cover its segment")]
    Extent,
}

impl IndexFile {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let runs = self.index.runs();
        assert!(
            self.index.totals().is_some_and(|(offsets, bytes, _)| (offsets, bytes) == (self.offsets, self.bytes)),
            "an index covers its segment: {:?}",
            self.offsets
        );
        let mut out = Encoder::with_capacity(HEADER_LEN + runs.len() * RUN_LEN + 4);
        out.u32(MAGIC);
        out.u16(VERSION);
        out.u16(0);
        out.partition(self.partition);
        out.u64(self.offsets.start.get());
        out.u64(self.offsets.end.get());
        out.u64(self.bytes);
        out.i64(self.max_timestamp.0);
        put_runs(&mut out, runs);
        out.u32(crc32c::crc32c(out.as_slice()));
        out.into_vec()
    }

    /// Reads an index file; the checksum first, so damage anywhere is seen as such.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &Bytes) -> Result<Self, IndexFileError> {
        let body_len = bytes.len().saturating_sub(4);
        let mut file = Decoder::new("segment index", bytes);
        let mut body = Decoder::new("segment index", file.raw(body_len)?);
        let (magic, version) = (body.u32()?, body.u16()?);
        if magic != MAGIC {
            return Err(IndexFileError::Magic { found: magic });
        }
        if version != VERSION {
            return Err(IndexFileError::Version { found: version });
        }
        let (expected, found) = (file.u32()?, crc32c::crc32c(&bytes.slice(..body_len)));
        if expected != found {
            return Err(IndexFileError::Crc { expected, found });
        }
        body.u16()?;
        let partition = body.partition()?;
        let offsets = OffsetRange::new(body.offset64()?, body.offset64()?);
        let (len, max_timestamp) = (body.u64()?, TimestampMs(body.i64()?));
        let index = take_runs(&mut body, offsets.start)?;
        body.end()?;
        if index.totals().is_none_or(|(o, l, _)| (o, l) != (offsets, len)) {
            return Err(IndexFileError::Extent);
        }
        Ok(Self { partition, offsets, bytes: len, max_timestamp, index })
    }
}

/// Count, then per run: end offset u64, length u32, crc u32, maximum timestamp i64. Start and position follow from
/// the run before.
pub(crate) fn put_runs(out: &mut Encoder, runs: &[Run]) {
    out.len32(runs.len());
    for run in runs {
        debug_assert!(!run.sum.offsets.is_empty() && run.sum.len > 0, "an empty run: {run:?}");
        out.u64(run.sum.offsets.end.get());
        out.u32(run.sum.len);
        out.u32(run.sum.crc);
        out.i64(run.max_timestamp.0);
    }
}

/// The inverse of [`put_runs`] for a segment that starts at `base`.
pub(crate) fn take_runs(bytes: &mut Decoder<'_>, base: Offset) -> Result<SegmentIndex, IndexFileError> {
    let count = bytes.count32(RUN_LEN)?;
    let (mut runs, mut start, mut pos) = (Vec::with_capacity(count), base, 0u64);
    for at in 0..count {
        let (end, len, crc, max) = (bytes.u64()?, bytes.u32()?, bytes.u32()?, bytes.i64()?);
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
        let (offsets, bytes, max_timestamp) = index.totals().expect("has runs");
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
            let _ = take_runs(&mut Decoder::new("test", &bytes), Offset::ZERO);
        }
    }
}
