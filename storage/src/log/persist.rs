//! A log's record in the checkpoint: bounds, settings, segments, and of the open segment its index and the fragment
//! after its last full block. Mirrors `FORMAT.md`, "Log record". Big-endian. Encoded at one instant, without I/O; the
//! record may become durable once write-back has reached its target and synced.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use super::error::LogStateError;
use super::settings::LogSettings;
use super::state::{LogState, WriteBackTarget};
use crate::codec::{Decoder, Encoder};
use crate::model::{Offset, OffsetRange, PartitionId, TimestampMs};
use crate::segment::block_floor;
use crate::segment::format::{put_runs, take_runs};
use crate::segment::state::{Segment, SegmentKey};

const VERSION: u8 = 1;
/// Bytes of one segment's fixed part: base, end, length, max timestamp, created, flags.
const SEGMENT_LEN: usize = 8 * 5 + 1;
const CLOSED: u8 = 1;

/// Encodes the log as it is now, and returns how far write-back must get before the record may become durable.
pub(crate) fn encode(state: &LogState) -> (Vec<u8>, Option<WriteBackTarget>) {
    let mut out = Encoder::with_capacity(64 + state.segments.len() * SEGMENT_LEN);
    out.u8(VERSION);
    out.u64(state.settings.segment_bytes);
    out.u64(state.settings.segment_ms);
    out.u64(state.start.get());
    out.u64(state.end.get());
    out.len32(state.segments.len());
    let mut next = state.start;
    for segment in &state.segments {
        assert_eq!(segment.offsets.start, next, "segments of {} are contiguous", state.id);
        next = segment.offsets.end;
        out.u64(segment.offsets.start.get());
        out.u64(segment.offsets.end.get());
        out.u64(segment.bytes);
        out.i64(segment.max_timestamp.0);
        out.i64(segment.created.0);
        out.u8(if segment.closed { CLOSED } else { 0 });
    }
    assert_eq!(next, state.end, "segments of {} reach its end", state.id);
    if let Some(open) = state.segments.back().filter(|last| !last.closed) {
        let range = fragment(open);
        let index = open.index.as_ref().expect("an open segment has its index");
        let covered = index.totals().map(|(offsets, bytes, _)| (offsets, bytes));
        assert_eq!(covered, Some((open.offsets, open.bytes)), "the index covers the open segment of {}", state.id);
        put_runs(&mut out, index.runs());
        let mut bytes = vec![0; (range.end - range.start) as usize];
        assert!(state.copy(open.key, &range, &mut bytes), "the open segment is there");
        out.raw(&bytes);
    }
    (out.into_vec(), state.target())
}

/// The bytes of an open segment after its last full block.
fn fragment(open: &Segment) -> Range<u64> {
    block_floor(open.bytes)..open.bytes
}

/// The inverse of [`encode`], checked: segments follow each other, the index covers the open one, the fragment fits.
pub(crate) fn decode(id: PartitionId, bytes: Bytes) -> Result<LogState, LogStateError> {
    let mut from = Decoder::new("log record", &bytes);
    from.version(VERSION, VERSION)?;
    let settings = LogSettings { segment_bytes: from.u64()?, segment_ms: from.u64()? };
    let (start, end) = (Offset::new(from.u64()?), Offset::new(from.u64()?));
    let count = from.count32(SEGMENT_LEN)?;
    let (mut segments, mut next) = (VecDeque::with_capacity(count), start);
    for at in 0..count {
        let segment = take_segment(&mut from, at)?;
        let last = at + 1 == count;
        if segment.offsets.start != next
            || segment.offsets.is_empty()
            || segment.bytes == 0
            || !(segment.closed || last)
        {
            return Err(LogStateError::Segment(at));
        }
        next = segment.offsets.end;
        segments.push_back(segment);
    }
    if next != end {
        return Err(LogStateError::Segment(count));
    }
    let mut state = LogState::new(id, settings, end);
    (state.start, state.next_key) = (start, count as u64);
    if let Some(open) = segments.back_mut().filter(|last| !last.closed) {
        take_open(&bytes, &mut from, open)?;
        state.floor = open.index.as_ref().and_then(|index| index.runs().last()).map(|run| run.sum);
    }
    from.end()?;
    let sum = segments.iter().try_fold(0u64, |sum, segment| sum.checked_add(segment.bytes));
    state.bytes = sum.ok_or(LogStateError::Segment(count))?;
    state.segments = segments;
    Ok(state)
}

fn take_segment(from: &mut Decoder<'_>, at: usize) -> Result<Segment, LogStateError> {
    let (base, end, len) = (from.u64()?, from.u64()?, from.u64()?);
    let (max_timestamp, created) = (TimestampMs(from.i64()?), TimestampMs(from.i64()?));
    let closed = from.u8()? & CLOSED != 0;
    if end > Offset::MAX.get() || base > end || len > i64::MAX as u64 {
        return Err(LogStateError::Segment(at));
    }
    let mut segment = Segment::new(SegmentKey(at as u64), Offset::new(base), created);
    segment.offsets = OffsetRange::new(Offset::new(base), Offset::new(end));
    (segment.bytes, segment.max_timestamp, segment.closed) = (len, max_timestamp, closed);
    if closed {
        (segment.flushed, segment.finished, segment.index) = (len, true, None);
    }
    Ok(segment)
}

fn take_open(bytes: &Bytes, from: &mut Decoder<'_>, open: &mut Segment) -> Result<(), LogStateError> {
    let index = take_runs(from, open.offsets.start)?;
    let at = open.key.0 as usize;
    if index.totals().is_none_or(|(offsets, len, _)| (offsets, len) != (open.offsets, open.bytes)) {
        return Err(LogStateError::Segment(at));
    }
    let range = fragment(open);
    let len = (range.end - range.start) as usize;
    open.flushed = range.start;
    open.tail = bytes.slice_ref(from.raw(len)?);
    open.index = Some(Rc::new(index));
    Ok(())
}
