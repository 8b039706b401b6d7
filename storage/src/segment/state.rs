//! One segment in memory: its bounds, and how much of it is in its file. Pure; shard-local.
//!
//! Its bytes lie, in this order: `[0, flushed)` in the file; `[flushed, flushed + tail.len())` in `tail`, the fragment
//! after the last full block of batches that have left memory; the rest in the log's recent batches.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::index::SegmentIndex;
use super::{BLOCK, SegmentInfo, block_floor};
use crate::model::{Offset, OffsetRange, TimestampMs};

/// Number of a segment within its log's handle: two segments that began at the same offset, one after the other,
/// differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentKey(pub(crate) u64);

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) key: SegmentKey,
    pub(crate) offsets: OffsetRange,
    /// Bytes of all its batches.
    pub(crate) bytes: u64,
    /// Bytes in the file; whole blocks until the segment is closed.
    pub(crate) flushed: u64,
    pub(crate) tail: Bytes,
    pub(crate) max_timestamp: TimestampMs,
    pub(crate) created: TimestampMs,
    /// No batch will be added.
    pub(crate) closed: bool,
    /// Closed, wholly in its file, the file cut to its length, the index file written.
    pub(crate) finished: bool,
    /// Written to since its file was last synced.
    pub(crate) unsynced: bool,
    /// Present until the segment is finished.
    pub(crate) index: Option<Rc<SegmentIndex>>,
}

impl Segment {
    pub(crate) fn new(key: SegmentKey, base: Offset, created: TimestampMs) -> Self {
        Self {
            key,
            offsets: OffsetRange::new(base, base),
            bytes: 0,
            flushed: 0,
            tail: Bytes::new(),
            max_timestamp: created,
            created,
            closed: false,
            finished: false,
            unsynced: false,
            index: Some(Rc::default()),
        }
    }

    pub(crate) fn info(&self) -> SegmentInfo {
        SegmentInfo {
            offsets: self.offsets,
            bytes: self.bytes,
            max_timestamp: self.max_timestamp,
            closed: self.closed,
            created: self.created,
        }
    }

    /// How far it may be written: whole blocks while it grows, everything once it is closed. Bytes.
    pub(crate) fn writable(&self) -> u64 {
        if self.closed { self.bytes } else { block_floor(self.bytes) }
    }

    /// Bytes that could be written now.
    pub(crate) fn unwritten(&self) -> u64 {
        self.writable() - self.flushed
    }

    /// Notes that the file now holds `[0, to)`.
    pub(crate) fn written(&mut self, to: u64) {
        assert!(self.flushed <= to && to <= self.writable(), "write-back stays below what may be written");
        let gone = (to - self.flushed).min(self.tail.len() as u64) as usize;
        self.tail = self.tail.slice(gone..);
        self.flushed = to;
        self.unsynced = true;
    }

    /// May a batch that ends at `end_pos` leave memory? Yes if all but less than a block of it is in the file.
    pub(crate) fn may_forget(&self, end_pos: u64) -> bool {
        end_pos <= self.flushed || end_pos - self.flushed < BLOCK
    }

    /// Keeps the bytes of a batch that leaves memory which are not in the file; see [`Segment::may_forget`].
    pub(crate) fn keep_tail(&mut self, pos: u64, bytes: &Bytes) {
        let end = pos + bytes.len() as u64;
        debug_assert!(self.may_forget(end), "a batch that is not written stays in memory");
        if end <= self.flushed {
            return;
        }
        let rest = bytes.slice(self.flushed.saturating_sub(pos) as usize..);
        let mut tail = BytesMut::with_capacity(self.tail.len() + rest.len());
        tail.extend_from_slice(&self.tail);
        tail.extend_from_slice(&rest);
        self.tail = tail.freeze();
        debug_assert_eq!(self.flushed + self.tail.len() as u64, end);
    }
}
