//! Look-up by time, exact to the record: segments and runs are skipped by their greatest timestamps, and the batch that
//! may hold the record is opened.

use bytes::Bytes;

use super::error::ReadError;
use super::handle::PartitionLog;
use super::read::locate;
use crate::model::{BatchHeader, Offset, OffsetRange, TimestampMs, TimestampType, record};

/// Limit of a batch's unpacked records when it is opened for a look-up. Bytes.
const UNPACKED_BYTES_MAX: usize = 256 << 20;

/// A record's offset and timestamp. A *message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOffset {
    pub offset: Offset,
    pub timestamp: TimestampMs,
}

/// Result of one step of the search: the record, or the offset to continue from.
enum TimeSearch {
    Found(TimedOffset),
    From(Offset),
}

impl PartitionLog {
    /// The first record in `within` whose timestamp is at or after `at_or_after`. For a batch that cannot be opened it
    /// returns the batch's first offset. Offsets below the local start are not searched.
    ///
    /// # Errors
    /// As for reads.
    pub async fn find_time(
        &self,
        at_or_after: TimestampMs,
        within: OffsetRange,
    ) -> Result<Option<TimedOffset>, ReadError> {
        let mut from = within.start;
        loop {
            let bounds = self.bounds();
            from = from.max(bounds.start);
            if from >= within.end.min(bounds.end) {
                return Ok(None);
            }
            let in_memory = from >= self.inner.state.borrow().recent_start();
            let look = if in_memory {
                self.look_in_memory(at_or_after, from)
            } else {
                self.look_on_disk(at_or_after, from).await?
            };
            match look {
                TimeSearch::Found(found) => return Ok(Some(found).filter(|found| within.contains(found.offset))),
                TimeSearch::From(next) if next > from => from = next,
                TimeSearch::From(_) => return Ok(None),
            }
        }
    }

    /// The record with the greatest timestamp; the first one if several have it.
    ///
    /// # Errors
    /// As for reads.
    pub async fn max_timestamp(&self) -> Result<Option<TimedOffset>, ReadError> {
        self.max_timestamp_from(Offset::ZERO).await
    }

    /// As [`PartitionLog::max_timestamp`], among the records from `from` on.
    ///
    /// # Errors
    /// As for reads.
    pub async fn max_timestamp_from(&self, from: Offset) -> Result<Option<TimedOffset>, ReadError> {
        let (greatest, within) = {
            let state = self.inner.state.borrow();
            let counted = state.segments.iter().filter(|segment| segment.offsets.end > from);
            let greatest = counted.map(|segment| segment.max_timestamp).max();
            (greatest, OffsetRange::new(state.start.max(from).min(state.end), state.end))
        };
        let Some(mut above) = greatest else { return Ok(None) };
        if let Some(found) = self.find_time(above, within).await? {
            return Ok(Some(found));
        }
        // The greatest timestamp lies below `from`, in a segment that reaches past it. Search between `best`, which a
        // record has, and `above`, which no record has.
        let Some(mut best) = self.find_time(TimestampMs(i64::MIN), within).await? else { return Ok(None) };
        while best.timestamp.0.saturating_add(1) < above.0 {
            let middle = TimestampMs(best.timestamp.0.midpoint(above.0).max(best.timestamp.0 + 1));
            match self.find_time(middle, within).await? {
                Some(found) => best = found,
                None => above = middle,
            }
        }
        Ok(Some(best))
    }

    fn look_in_memory(&self, at: TimestampMs, from: Offset) -> TimeSearch {
        let state = self.inner.state.borrow();
        for batch in state.recent_from(from).filter(|batch| batch.header.max_timestamp >= at) {
            if let Some(found) = first_in_batch(&batch.header, &batch.bytes, at, from) {
                return TimeSearch::Found(found);
            }
        }
        TimeSearch::From(state.end)
    }

    async fn look_on_disk(&self, at: TimestampMs, from: Offset) -> Result<TimeSearch, ReadError> {
        let stored = {
            let state = self.inner.state.borrow();
            match state.segment_at(from) {
                Some(segment) if segment.max_timestamp < at => return Ok(TimeSearch::From(segment.offsets.end)),
                _ => state.stored_at(from),
            }
        };
        // Trimmed meanwhile: the start has moved, continue there.
        let Some(stored) = stored else { return Ok(TimeSearch::From(from.next())) };
        let index = self.index(&stored).await?;
        let mut runs = index.runs().iter().filter(|run| run.sum.offsets.end > from);
        let Some(run) = runs.find(|run| run.max_timestamp >= at) else {
            return Ok(TimeSearch::From(stored.offsets.end));
        };
        let located = locate(&stored, run);
        if located.sum.offsets.end <= from {
            return Ok(TimeSearch::From(from));
        }
        if run.sum.offsets.start >= self.inner.state.borrow().recent_start() {
            return Ok(TimeSearch::From(run.sum.offsets.start));
        }
        let bytes = self.run_bytes(&stored, &located).await?;
        let mut pos = 0;
        while pos < bytes.len() {
            let header = self.header_in(located.sum.offsets, &bytes, pos)?;
            let batch = bytes.slice(pos..(pos + header.len as usize).min(bytes.len()));
            if header.next_offset() > from
                && header.max_timestamp >= at
                && let Some(found) = first_in_batch(&header, &batch, at, from)
            {
                return Ok(TimeSearch::Found(found));
            }
            pos += header.len as usize;
        }
        Ok(TimeSearch::From(located.sum.offsets.end))
    }
}

fn first_in_batch(header: &BatchHeader, batch: &Bytes, at: TimestampMs, from: Offset) -> Option<TimedOffset> {
    let first = TimedOffset { offset: header.base_offset.max(from), timestamp: header.max_timestamp };
    if header.timestamp_type() == TimestampType::LogAppend {
        return Some(first);
    }
    let Ok(records) = record::read(header, batch, UNPACKED_BYTES_MAX) else { return Some(first) };
    for record in records {
        match record {
            Ok(record) if record.timestamp >= at && record.offset >= from => {
                return Some(TimedOffset { offset: record.offset, timestamp: record.timestamp });
            }
            Ok(_) => {}
            Err(_) => return Some(first),
        }
    }
    None
}
