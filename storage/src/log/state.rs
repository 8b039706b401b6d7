//! The state of one log, and every change of it. Pure: no I/O, no clock. Shard-local.
//!
//! A batch's bytes are in its segment's file, in the segment's tail, or in `recent`; see `segment::state`.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use super::settings::LogSettings;
use crate::model::{Batch, EntryId, LogIndex, Offset, OffsetRange, PartitionId, RunSum};
use crate::segment::state::{Segment, SegmentKey};
use crate::segment::{BLOCK, SegmentIndex, block_floor};

/// A batch in memory.
#[derive(Debug)]
pub(crate) struct RecentBatch {
    pub(crate) batch: Batch,
    /// Its position in the segment, written or not.
    pub(crate) pos: u64,
    /// Sum of its run up to and including this batch.
    pub(crate) run: RunSum,
    /// Its age, see `memory`.
    mark: u64,
}

/// Memory that a recent batch takes beside its bytes: a slot in `recent`, which may have twice the capacity it needs,
/// the allocator's overhead and the reference count of the bytes.
const BATCH_OVERHEAD: u64 = 2 * size_of::<RecentBatch>() as u64 + 64;

/// Memory that a recent batch takes. Bytes.
pub(crate) fn memory_of(batch: &Batch) -> u64 {
    u64::from(batch.header.len) + BATCH_OVERHEAD
}

/// A segment that the log no longer has; its file is removed once a checkpoint without it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DroppedSegment {
    pub(crate) base: Offset,
    /// Bytes of its file.
    pub(crate) flushed: u64,
}

/// What write-back does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WriteBackStep {
    /// Write this range of the segment's bytes.
    Write { key: SegmentKey, base: Offset, range: Range<u64> },
    /// All bytes are written: cut the file to `len`, write the index file.
    Finish { key: SegmentKey, base: Offset, len: u64 },
}

/// How far write-back must get: all segments before `key`, and of `key` `flushed` bytes, or all and the finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteBackTarget {
    pub(crate) key: SegmentKey,
    pub(crate) flushed: u64,
    pub(crate) finish: bool,
}

/// What a disk read needs to know of a segment.
#[derive(Clone, Debug)]
pub(crate) struct StoredSegment {
    pub(crate) key: SegmentKey,
    pub(crate) offsets: OffsetRange,
    pub(crate) bytes: u64,
    pub(crate) flushed: u64,
    pub(crate) tail: Bytes,
    pub(crate) index: Option<Rc<SegmentIndex>>,
    /// As [`LogState::floor`].
    pub(crate) floor: Option<RunSum>,
}

#[derive(Debug)]
pub(crate) struct LogState {
    pub(crate) id: PartitionId,
    pub(crate) settings: LogSettings,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) segments: VecDeque<Segment>,
    /// Bytes of all segments.
    pub(crate) bytes: u64,
    pub(crate) recent: VecDeque<RecentBatch>,
    /// Memory of all recent batches, see [`memory_of`]. Bytes.
    pub(crate) recent_bytes: u64,
    /// If the first recent batch lies within a run: sum of the part of that run before it, which is on disk.
    pub(crate) floor: Option<RunSum>,
    pub(crate) next_key: u64,
    /// Grows whenever a segment is dropped: a checkpoint in progress that needed it written must collect again.
    pub(crate) generation: u64,
    /// The entry up to which a recovered checkpoint covers this partition.
    pub(crate) covered: Option<LogIndex>,
}

impl LogState {
    pub(crate) fn new(id: PartitionId, settings: LogSettings, at: Offset) -> Self {
        Self {
            id,
            settings,
            start: at,
            end: at,
            segments: VecDeque::new(),
            bytes: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            floor: None,
            next_key: 0,
            generation: 0,
            covered: None,
        }
    }

    /// First offset held in memory.
    pub(crate) fn recent_start(&self) -> Offset {
        self.recent.front().map_or(self.end, |first| first.batch.header.base_offset)
    }

    /// Does the recovered checkpoint already cover this batch of entry `as_of`?
    pub(crate) fn is_repeat(&self, batch: &Batch, as_of: EntryId) -> bool {
        batch.header.next_offset() <= self.end && self.covered.is_some_and(|covered| as_of.index <= covered)
    }

    /// Appends the next batch. `mark` is its age, see `memory`.
    pub(crate) fn append(&mut self, batch: Batch, mark: u64) {
        let header = batch.header;
        assert_eq!(header.base_offset, self.end, "a batch must continue its partition {}", self.id);
        debug_assert_eq!(batch.bytes.len(), header.len as usize, "a batch has the bytes that its header says");
        debug_assert!(
            self.recent.back().is_none_or(|last| last.batch.header.next_offset() == header.base_offset),
            "recent batches of {} are contiguous",
            self.id
        );
        if self.segments.back().is_some_and(|segment| self.must_roll(segment, &batch)) {
            self.roll();
        }
        if self.segments.back().is_none_or(|segment| segment.closed) {
            let key = SegmentKey(self.next_key);
            self.next_key += 1;
            self.segments.push_back(Segment::new(key, header.base_offset, header.max_timestamp));
        }
        let segment = self.segments.back_mut().expect("an open segment is there, or was just added");
        debug_assert_eq!(segment.offsets.end, header.base_offset, "a segment's batches follow each other");
        let pos = segment.bytes;
        let run = segment.index.get_or_insert_default();
        let run = Rc::make_mut(run).push(self.id, &batch);
        segment.bytes += u64::from(header.len);
        segment.offsets.end = header.next_offset();
        segment.max_timestamp = segment.max_timestamp.max(header.max_timestamp);
        self.end = header.next_offset();
        self.bytes += u64::from(header.len);
        self.recent_bytes += memory_of(&batch);
        self.recent.push_back(RecentBatch { batch, pos, run, mark });
    }

    fn must_roll(&self, segment: &Segment, batch: &Batch) -> bool {
        let too_big = segment.bytes + u64::from(batch.header.len) > self.settings.segment_bytes;
        let age = batch.header.max_timestamp.since_ms(segment.created);
        let too_old = segment.created.0 >= 0 && age > i64::try_from(self.settings.segment_ms).unwrap_or(i64::MAX);
        segment.closed || too_big || too_old
    }

    /// Closes the open segment; the next batch starts a new one.
    pub(crate) fn roll(&mut self) {
        if let Some(last) = self.segments.back_mut() {
            last.closed = true;
        }
    }

    /// Drops written batches older than `cutoff` from memory; returns the bytes freed.
    pub(crate) fn evict(&mut self, cutoff: u64) -> u64 {
        let mut freed = 0;
        while let Some(first) = self.recent.front().filter(|first| first.mark < cutoff) {
            let base = first.batch.header.base_offset;
            let end_pos = first.pos + u64::from(first.batch.header.len);
            let at = self.segments.partition_point(|segment| segment.offsets.end <= base);
            let segment = self.segments.get_mut(at).expect("a recent batch lies in a segment");
            if !segment.may_forget(end_pos) {
                break;
            }
            segment.keep_tail(first.pos, &first.batch.bytes);
            self.floor = Some(first.run);
            freed += memory_of(&first.batch);
            self.recent.pop_front();
        }
        self.recent_bytes -= freed;
        debug_assert!(
            self.floor.is_none_or(|floor| freed == 0 || floor.offsets.end == self.recent_start()),
            "the floor of {} ends where its recent batches begin",
            self.id
        );
        freed
    }

    /// Bytes that could be written back now.
    pub(crate) fn unwritten(&self) -> u64 {
        self.segments.iter().rev().take_while(|segment| !segment.finished).map(Segment::unwritten).sum()
    }

    /// Removes what lies wholly below `to`; returns the dropped segments and the bytes of memory freed.
    pub(crate) fn trim(&mut self, to: Offset) -> (Vec<DroppedSegment>, u64) {
        let (to, before, mut dropped) = (to.min(self.end), self.recent_bytes, Vec::new());
        while let Some(first) = self.segments.front() {
            if first.offsets.end <= to {
                dropped.push(self.drop_front());
            } else {
                dropped.extend(self.rebase(to));
                break;
            }
        }
        let start = self.segments.front().map_or(self.end, |first| first.offsets.start);
        assert!(self.start <= start && start <= self.end, "a trim of {} moves its start forward", self.id);
        debug_assert!(dropped.is_empty() || start <= to, "a trim of {} removes only what lies below it", self.id);
        self.start = start;
        debug_assert_eq!(self.bytes, self.segments.iter().map(|segment| segment.bytes).sum::<u64>());
        (dropped, before - self.recent_bytes)
    }

    fn drop_front(&mut self) -> DroppedSegment {
        let Segment { offsets, flushed, bytes, .. } = self.segments.pop_front().expect("there is a segment to drop");
        self.bytes -= bytes;
        while let Some(first) = self.recent.front().filter(|first| first.batch.header.next_offset() <= offsets.end) {
            self.recent_bytes -= memory_of(&first.batch);
            self.recent.pop_front();
        }
        self.floor = self.floor.filter(|floor| floor.offsets.start >= offsets.end);
        self.generation += 1;
        DroppedSegment { base: offsets.start, flushed }
    }

    /// The only segment left begins below `to`. If everything in its file lies below `to` as well, the segment is
    /// dropped and the rest, still in memory, becomes a new segment: batches trimmed before their write-back are never
    /// written.
    fn rebase(&mut self, to: Offset) -> Option<DroppedSegment> {
        if self.segments.len() != 1 {
            return None;
        }
        let at = self.recent.iter().position(|recent| recent.batch.header.next_offset() > to)?;
        let keep = self.recent.get(at)?;
        let segment = self.segments.front()?;
        // The batch that holds `to` must be in memory whole: bytes before it may be in the tail only.
        let holds_to = keep.batch.header.base_offset <= to;
        if segment.closed || !holds_to || keep.pos == 0 || keep.pos < segment.flushed {
            return None;
        }
        let rest: Vec<RecentBatch> = self.recent.drain(at..).collect();
        let dropped = self.drop_front();
        self.recent.clear();
        self.recent_bytes = 0;
        self.floor = None;
        self.end = rest.first().map_or(self.end, |first| first.batch.header.base_offset);
        for recent in rest {
            self.append(recent.batch, recent.mark);
        }
        Some(dropped)
    }

    /// Empties the log; the next batch begins at `at`.
    pub(crate) fn reset(&mut self, at: Offset) -> (Vec<DroppedSegment>, u64) {
        let before = self.recent_bytes;
        let mut dropped = Vec::new();
        while !self.segments.is_empty() {
            dropped.push(self.drop_front());
        }
        self.recent.clear();
        self.recent_bytes = 0;
        self.floor = None;
        (self.start, self.end) = (at, at);
        (dropped, before)
    }

    /// What write-back does next to reach `target`; without one, it writes all that can be written.
    pub(crate) fn next_step(&self, target: Option<WriteBackTarget>, chunk: u64) -> Option<WriteBackStep> {
        for segment in self.segments.iter().skip_while(|segment| segment.finished) {
            let mut limit = segment.writable();
            let mut finish = segment.closed;
            if let Some(target) = target {
                if segment.key > target.key {
                    return None;
                }
                if segment.key == target.key && !target.finish {
                    limit = limit.min(block_floor(target.flushed));
                    finish = false;
                }
            }
            if segment.flushed < limit {
                let to = limit.min(segment.flushed + chunk);
                let range = segment.flushed..to;
                debug_assert!(range.start.is_multiple_of(BLOCK), "writes of a segment begin at a block");
                debug_assert!(segment.closed || to.is_multiple_of(BLOCK), "an open segment is written in whole blocks");
                return Some(WriteBackStep::Write { key: segment.key, base: segment.offsets.start, range });
            }
            if finish {
                return Some(WriteBackStep::Finish {
                    key: segment.key,
                    base: segment.offsets.start,
                    len: segment.bytes,
                });
            }
        }
        None
    }

    /// How far write-back must get for everything appended so far; `None` if there is no segment.
    pub(crate) fn target(&self) -> Option<WriteBackTarget> {
        let last = self.segments.back()?;
        Some(WriteBackTarget { key: last.key, flushed: last.writable(), finish: last.closed })
    }

    /// Copies bytes of a segment that are not in its file into `out`; false if the segment was dropped.
    pub(crate) fn copy(&self, key: SegmentKey, range: &Range<u64>, out: &mut [u8]) -> bool {
        let Some(segment) = self.segment(key) else { return false };
        assert_eq!(out.len() as u64, range.end - range.start, "the copy has room for exactly its range");
        assert!(segment.flushed <= range.start && range.end <= segment.bytes, "only unwritten bytes are copied");
        let mut at = range.start;
        let mut put = |pos: u64, bytes: &[u8]| {
            let (from, to) = (at.max(pos), range.end.min(pos + bytes.len() as u64));
            let source = bytes.get((from - pos.min(from)) as usize..to.saturating_sub(pos) as usize);
            if let (true, Some(source)) = (from < to && from == at, source) {
                let place = (from - range.start) as usize;
                if let Some(out) = out.get_mut(place..place + source.len()) {
                    out.copy_from_slice(source);
                    at = to;
                }
            }
        };
        put(segment.flushed, &segment.tail);
        let first = self.recent.partition_point(|recent| {
            let header = &recent.batch.header;
            let written = header.base_offset < segment.offsets.end && recent.pos + u64::from(header.len) <= range.start;
            header.base_offset < segment.offsets.start || written
        });
        for recent in self.recent.range(first..) {
            if recent.batch.header.base_offset >= segment.offsets.end || recent.pos >= range.end {
                break;
            }
            put(recent.pos, &recent.batch.bytes);
        }
        assert_eq!(at, range.end, "unwritten bytes of {} must be in memory", self.id);
        true
    }

    pub(crate) fn segment(&self, key: SegmentKey) -> Option<&Segment> {
        let at = self.segments.partition_point(|segment| segment.key < key);
        self.segments.get(at).filter(|segment| segment.key == key)
    }

    pub(crate) fn segment_mut(&mut self, key: SegmentKey) -> Option<&mut Segment> {
        let at = self.segments.partition_point(|segment| segment.key < key);
        self.segments.get_mut(at).filter(|segment| segment.key == key)
    }

    /// The segment that holds `offset`.
    pub(crate) fn segment_at(&self, offset: Offset) -> Option<&Segment> {
        let at = self.segments.partition_point(|segment| segment.offsets.end <= offset);
        self.segments.get(at).filter(|segment| segment.offsets.contains(offset))
    }

    /// The segment that holds `offset`, as a read from disk needs it.
    pub(crate) fn stored_at(&self, offset: Offset) -> Option<StoredSegment> {
        self.segment_at(offset).map(|segment| StoredSegment {
            key: segment.key,
            offsets: segment.offsets,
            bytes: segment.bytes,
            flushed: segment.flushed,
            tail: segment.tail.clone(),
            index: segment.index.clone(),
            floor: self.floor,
        })
    }

    /// Recent batches, beginning with the one that holds `from`.
    pub(crate) fn recent_from(&self, from: Offset) -> impl Iterator<Item = &Batch> {
        let at = self.recent.partition_point(|recent| recent.batch.header.next_offset() <= from);
        self.recent.range(at..).map(|recent| &recent.batch)
    }
}
