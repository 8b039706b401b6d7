//! Rebuilds the index of a closed segment from its file, when the index file is absent or damaged.
//!
//! Reads the file once in pieces, checks every batch's own CRC and that each batch continues the one before. It cannot
//! notice a misplaced block of another partition with fitting offsets: the seeded sums it computes are only as good as
//! the file is at that moment. A log line says that an index was rebuilt.

use bytes::{Bytes, BytesMut};

use super::index::SegmentIndex;
use crate::env::File;
use crate::model::{Batch, BatchError, BatchHeader, FilePos, OffsetRange, PartitionId};

/// One read. Bytes.
const PIECE: usize = 4 << 20;

/// Why a file cannot be indexed.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The bytes are not a batch.
    #[error("at byte {pos}: {source}")]
    Batch { pos: FilePos, source: BatchError },
    /// Batches that do not follow each other or do not reach the segment's end.
    #[error("at byte {pos}: offsets {found} where {expected} were expected")]
    Offsets {
        pos: FilePos,
        /// Offsets that the segment should hold from there on.
        expected: OffsetRange,
        found: OffsetRange,
    },
}

/// Indexes the first `len` bytes of `file`, which must hold exactly `offsets` of partition `id`.
pub(crate) async fn rebuild(
    file: &File,
    id: PartitionId,
    offsets: OffsetRange,
    len: u64,
) -> Result<SegmentIndex, RebuildError> {
    let mut index = SegmentIndex::default();
    let (mut pos, mut next, mut have) = (0u64, offsets.start, Bytes::new());
    while pos < len {
        let taken = take_batch(&mut have, pos);
        let (need, error) = match taken {
            Ok(batch) => {
                let found = batch.header.offsets();
                if found.start != next || found.end > offsets.end {
                    let expected = OffsetRange::new(next, offsets.end);
                    return Err(RebuildError::Offsets { pos: FilePos(pos), expected, found });
                }
                index.push(id, &batch);
                pos += u64::from(batch.header.len);
                next = found.end;
                continue;
            }
            Err(RebuildError::Batch { source: BatchError::Short { have, need }, pos }) => {
                (need, RebuildError::Batch { source: BatchError::Short { have, need }, pos })
            }
            Err(other) => return Err(other),
        };
        let left = usize::try_from(len - pos).unwrap_or(usize::MAX);
        if need > left {
            return Err(error);
        }
        let longer = file.read_at(pos, left.min(need.max(PIECE))).await?;
        if longer.len() <= have.len() {
            return Err(error);
        }
        have = longer;
    }
    let found = OffsetRange::new(offsets.start, next);
    if found == offsets {
        debug_assert_eq!(index.totals().map(|(offsets, bytes, _)| (offsets, bytes)), Some((offsets, len)));
        Ok(index)
    } else {
        Err(RebuildError::Offsets { pos: FilePos(pos), expected: offsets, found })
    }
}

fn take_batch(have: &mut Bytes, pos: u64) -> Result<Batch, RebuildError> {
    let batch = |source| RebuildError::Batch { pos: FilePos(pos), source };
    let header = BatchHeader::parse(have).map_err(batch)?;
    header.verify_crc(have).map_err(batch)?;
    Batch::split_from(have).map_err(batch)
}

/// Joins bytes read from a file with bytes from memory.
pub(crate) fn join(first: Bytes, second: &Bytes) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(&first);
    both.extend_from_slice(second);
    both.freeze()
}
