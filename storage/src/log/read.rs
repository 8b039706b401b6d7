//! Reads a range of offsets: from memory, or run by run from segment files, where each run is checked against its sum.
//!
//! A read of the disk runs in a task of its own, to its end. So a reader that gives up on a slow disk finds the run in
//! memory the next time.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;

use super::error::ReadError;
use super::handle::PartitionLog;
use super::state::StoredSegment;
use crate::model::run::{extend, seed};
use crate::model::{BatchHeader, FilePos, Offset, OffsetRange, RunSum};
use crate::segment::format::IndexFile;
use crate::segment::rebuild::{join, rebuild};
use crate::segment::{Run, SegmentIndex, index_path, log_path};

/// The batches that a read found. A *message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogRead {
    /// Whole batches in order; one element may hold several, back to back.
    pub batches: Vec<Bytes>,
    /// Offsets of those batches; without any, the empty range at the offset asked for.
    pub range: OffsetRange,
    /// Bytes of all batches.
    pub bytes: usize,
}

impl LogRead {
    fn push(&mut self, bytes: Bytes, end: Offset) {
        debug_assert!(end > self.range.end, "batches of a read follow each other");
        self.bytes += bytes.len();
        self.range.end = end;
        self.batches.push(bytes);
    }
}

/// Where a run lies in its file, or the part of it that is not in memory.
#[derive(Clone)]
pub(super) struct RunLocation {
    pub(super) sum: RunSum,
    pub(super) pos: FilePos,
}

impl PartitionLog {
    /// Reads whole batches, beginning with the one that holds `from`: up to `max_bytes`, but at least one, and none
    /// that ends after `until`. Empty if `from` is at `until` or at the log's end.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, from: Offset, until: Offset, max_bytes: usize) -> Result<LogRead, ReadError> {
        self.read_within(from, until, &Cell::new(max_bytes)).await
    }

    /// As [`PartitionLog::read`], with `room` as limit: it is read before each run, so it may change during the read.
    ///
    /// # Errors
    /// As [`PartitionLog::read`].
    pub async fn read_within(&self, from: Offset, until: Offset, room: &Cell<usize>) -> Result<LogRead, ReadError> {
        self.check_bounds(from)?;
        let mut out = LogRead { range: OffsetRange::new(from, from), ..LogRead::default() };
        let mut next = from;
        loop {
            let more = if next >= self.inner.state.borrow().recent_start() {
                self.read_memory(next, until, room.get(), &mut out);
                false
            } else {
                match self.read_run(next).await {
                    Ok((run, bytes)) => self.cut(run, &bytes, next, until, room.get(), &mut out)?,
                    // If the run was trimmed meanwhile, report that, or end a read that already has batches.
                    Err(error) => match self.check_bounds(next) {
                        _ if !out.batches.is_empty() => return Ok(out),
                        Err(below) => return Err(below),
                        Ok(()) => return Err(error),
                    },
                }
            };
            debug_assert!(out.range.end <= until.max(from), "a read of {} ends by `until`", self.inner.id);
            if !more || out.range.end >= until.min(self.inner.state.borrow().end) {
                return Ok(out);
            }
            debug_assert!(out.range.end > next, "each run takes a read of {} further", self.inner.id);
            next = out.range.end;
        }
    }

    /// Sums of all runs that overlap `range`; the last run may still grow.
    ///
    /// # Errors
    /// As for reads: an index may have to be read from disk.
    pub async fn run_sums(&self, range: OffsetRange) -> Result<Vec<RunSum>, ReadError> {
        let mut sums = Vec::new();
        let mut next = range.start.max(self.inner.state.borrow().start);
        while next < range.end {
            let Some(stored) = self.inner.state.borrow().stored_at(next) else { break };
            let index = self.index(&stored).await?;
            let runs = index.runs().iter().map(|run| run.sum);
            sums.extend(runs.filter(|sum| !sum.offsets.intersect(&range).is_empty()));
            next = stored.offsets.end;
        }
        Ok(sums)
    }

    pub(super) fn check_bounds(&self, offset: Offset) -> Result<(), ReadError> {
        let (partition, state) = (self.inner.id, self.inner.state.borrow());
        if offset < state.start {
            return Err(ReadError::BelowStart { partition, offset, start: state.start });
        }
        if offset > state.end {
            return Err(ReadError::AboveEnd { partition, offset, end: state.end });
        }
        Ok(())
    }

    fn read_memory(&self, from: Offset, until: Offset, max_bytes: usize, out: &mut LogRead) {
        let state = self.inner.state.borrow();
        for batch in state.recent_from(from) {
            let fits = out.batches.is_empty() || out.bytes + batch.bytes.len() <= max_bytes;
            if !fits || batch.header.next_offset() > until {
                break;
            }
            if out.batches.is_empty() {
                out.range.start = batch.header.base_offset;
            }
            out.push(batch.bytes.clone(), batch.header.next_offset());
        }
    }

    /// Adds the batches of a run that the read asks for; false if the read ends with this run.
    fn cut(
        &self,
        offsets: OffsetRange,
        run: &Bytes,
        from: Offset,
        until: Offset,
        max_bytes: usize,
        out: &mut LogRead,
    ) -> Result<bool, ReadError> {
        let (mut at, mut begin, mut more, mut end) = (0usize, None, true, from);
        while at < run.len() {
            let header = self.header_in(offsets, run, at)?;
            let (len, next) = (header.len as usize, header.next_offset());
            if next > from {
                let taken = begin.map_or(0, |begin| at - begin);
                let first = out.batches.is_empty() && begin.is_none();
                if next > until || !(first || out.bytes + taken + len <= max_bytes) {
                    more = false;
                    break;
                }
                if first {
                    out.range.start = header.base_offset;
                }
                begin.get_or_insert(at);
                end = next;
            }
            at += len;
        }
        match begin {
            Some(begin) => out.push(run.slice(begin..at.min(run.len())), end),
            None => more = false,
        }
        Ok(more)
    }

    /// The header of the batch at byte `at` of a run with these offsets.
    pub(super) fn header_in(&self, offsets: OffsetRange, run: &Bytes, at: usize) -> Result<BatchHeader, ReadError> {
        BatchHeader::parse(run.get(at..).unwrap_or_default()).map_err(|source| ReadError::Batch {
            file: self.inner.dir.clone(),
            pos: FilePos(at as u64),
            offsets,
            source,
        })
    }

    /// The offsets and bytes of the run that holds `offset`, or of the part of it that is not in memory.
    pub(super) async fn read_run(&self, offset: Offset) -> Result<(OffsetRange, Bytes), ReadError> {
        let stored = self.inner.state.borrow().stored_at(offset);
        let Some(stored) = stored else {
            let (partition, start) = (self.inner.id, self.inner.state.borrow().start);
            return Err(ReadError::BelowStart { partition, offset, start });
        };
        let index = self.index(&stored).await?;
        let located = locate(&stored, index.find(offset).expect("a segment's index covers its offsets"));
        let bytes = self.run_bytes(&stored, &located).await?;
        Ok((located.sum.offsets, bytes))
    }

    pub(super) async fn run_bytes(&self, stored: &StoredSegment, located: &RunLocation) -> Result<Bytes, ReadError> {
        let key = (self.inner.id, stored.key, located.sum.offsets.start, located.sum.len as usize);
        let runs = &self.inner.shared.runs;
        if let Some(bytes) = runs.get(key) {
            return Ok(bytes);
        }
        if let Some(ended) = runs.under_way(key) {
            // Started by another reader, or by one that has given up.
            let _ = ended.await;
            if let Some(bytes) = runs.get(key) {
                return Ok(bytes);
            }
        }
        let Some(under_way) = runs.begin(key) else { return self.read_checked(stored, located).await };
        let (log, stored, located) = (self.clone(), stored.clone(), located.clone());
        let read = async move {
            let read = log.read_checked(&stored, &located).await;
            log.inner.shared.runs.end(key, under_way);
            read
        };
        self.in_task(read).await
    }

    /// Runs `read` in a task, which continues if this future is dropped.
    async fn in_task<T: 'static>(
        &self,
        read: impl Future<Output = Result<T, ReadError>> + 'static,
    ) -> Result<T, ReadError> {
        let done = self.inner.shared.env.tasks.spawn("segment read", read).await;
        done.unwrap_or_else(|| {
            let source = std::io::Error::other("the shard is stopping");
            Err(ReadError::Io { file: self.inner.dir.clone(), source })
        })
    }

    /// A run's bytes from its file, checked against its sum and cached for the next reader.
    async fn read_checked(&self, stored: &StoredSegment, located: &RunLocation) -> Result<Bytes, ReadError> {
        let RunLocation { sum, pos } = located;
        let key = (self.inner.id, stored.key, sum.offsets.start, sum.len as usize);
        let shared = &self.inner.shared;
        let begun = shared.env.clock.now();
        let bytes = self.file_bytes(stored, *pos, u64::from(sum.len)).await?;
        shared.counters.timings.read.note(shared.env.clock.now().since(begun));
        let file = || log_path(&self.inner.dir, stored.offsets.start);
        if bytes.len() as u64 != u64::from(sum.len) {
            let (have, need) = (bytes.len() as u64, u64::from(sum.len));
            return Err(ReadError::Short { file: file(), pos: *pos, offsets: sum.offsets, have, need });
        }
        let found = extend(seed(self.inner.id, sum.offsets.start), &bytes);
        if found != sum.crc {
            let offsets = sum.offsets;
            return Err(ReadError::Corrupt { file: file(), pos: *pos, offsets, expected: sum.crc, found });
        }
        shared.counters.run_reads.add(1);
        shared.counters.run_read_bytes.add(u64::from(sum.len));
        shared.runs.put(key, bytes.clone());
        Ok(bytes)
    }

    /// Bytes of a segment: from its file, and from its tail for what is not written yet.
    async fn file_bytes(&self, stored: &StoredSegment, pos: FilePos, len: u64) -> Result<Bytes, ReadError> {
        let end = pos.0 + len;
        debug_assert!(end <= stored.flushed + stored.tail.len() as u64, "what is read is in the file or in its tail");
        let in_tail = |at: u64| (at.saturating_sub(stored.flushed) as usize).min(stored.tail.len());
        let tail = stored.tail.slice(in_tail(pos.0)..in_tail(end));
        let in_file = end.min(stored.flushed).saturating_sub(pos.0);
        if in_file == 0 {
            return Ok(tail);
        }
        let path = log_path(&self.inner.dir, stored.offsets.start);
        let read = async {
            let file = self.inner.shared.handles.existing(&path).await?;
            file.read_at(pos.0, in_file as usize).await
        };
        let bytes = read.await.map_err(|source| ReadError::Io { file: path.clone(), source })?;
        Ok(if bytes.len() as u64 == in_file { join(bytes, &tail) } else { bytes })
    }

    /// A segment's index: the open segment's, a cached one, from the index file, or rebuilt from the segment.
    pub(super) async fn index(&self, stored: &StoredSegment) -> Result<Rc<SegmentIndex>, ReadError> {
        if let Some(index) = &stored.index {
            return Ok(index.clone());
        }
        let shared = &self.inner.shared;
        if let Some(index) = shared.indexes.get(self.inner.id, stored.key) {
            return Ok(index);
        }
        let (log, stored) = (self.clone(), stored.clone());
        self.in_task(async move { log.fetch_index(&stored).await }).await
    }

    async fn fetch_index(&self, stored: &StoredSegment) -> Result<Rc<SegmentIndex>, ReadError> {
        let path = index_path(&self.inner.dir, stored.offsets.start);
        let index = match self.load_index(stored, &path).await {
            Some(index) => index,
            None => self.rebuild_index(stored, &path).await?,
        };
        let index = Rc::new(index);
        self.inner.shared.indexes.put(self.inner.id, stored.key, index.clone());
        Ok(index)
    }

    async fn load_index(&self, stored: &StoredSegment, path: &std::path::Path) -> Option<SegmentIndex> {
        let bytes = match self.inner.shared.env.disk.read_all(path).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "segment index cannot be read, rebuilding it");
                return None;
            }
        };
        match IndexFile::decode(&bytes) {
            Ok(file) if (file.partition, file.offsets, file.bytes) == (self.inner.id, stored.offsets, stored.bytes) => {
                Some(file.index)
            }
            Ok(file) => {
                let (found, expected) = (file.offsets, stored.offsets);
                tracing::warn!(file = %path.display(), %found, %expected, "segment index belongs to another segment, rebuilding it");
                None
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "segment index is damaged, rebuilding it");
                None
            }
        }
    }

    async fn rebuild_index(&self, stored: &StoredSegment, path: &std::path::Path) -> Result<SegmentIndex, ReadError> {
        let log = log_path(&self.inner.dir, stored.offsets.start);
        let opened = self.inner.shared.handles.existing(&log).await;
        let file = opened.map_err(|source| ReadError::Io { file: log.clone(), source })?;
        let made = rebuild(&file, self.inner.id, stored.offsets, stored.bytes).await;
        let index = made.map_err(|source| ReadError::Index { file: log, offsets: stored.offsets, source })?;
        let (offsets, bytes, max_timestamp) = index.totals().expect("a rebuilt index covers its segment's batches");
        let whole = IndexFile { partition: self.inner.id, offsets, bytes, max_timestamp, index };
        if let Err(error) = self.inner.shared.env.disk.write_atomic(path, &whole.encode()).await {
            tracing::warn!(file = %path.display(), %error, "the rebuilt segment index could not be saved");
        }
        Ok(whole.index)
    }
}

/// The part of a run that can be read from disk: all of it if the file and tail hold it all, else up to the recent
/// batches.
pub(super) fn locate(stored: &StoredSegment, run: &Run) -> RunLocation {
    let whole = run.pos.0 + u64::from(run.sum.len) <= stored.flushed + stored.tail.len() as u64;
    let floor = stored.floor.filter(|floor| !whole && floor.offsets.start == run.sum.offsets.start);
    RunLocation { sum: floor.unwrap_or(run.sum), pos: run.pos }
}
