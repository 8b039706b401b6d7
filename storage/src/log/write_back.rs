//! Writes recent batches to segment files in large aligned writes, finishes closed segments, syncs. `state` decides
//! what to write; here is the I/O. One write-back of a log at a time.
//!
//! Only bytes of committed batches are written, and each block once in the life of the process. After a crash, blocks
//! beyond what the checkpoint names are written again, with the same bytes.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use super::error::WriteBackError;
use super::handle::PartitionLog;
use super::shared::WRITE_BYTES;
use super::state::{WriteBackStep, WriteBackTarget};
use crate::env::File;
use crate::model::Offset;
use crate::segment::format::IndexFile;
use crate::segment::state::SegmentKey;
use crate::segment::{index_path, log_path};

/// What of a log was not synced at one moment.
#[derive(Debug)]
pub(crate) struct UnsyncedParts {
    /// Segments, how far each was written, and whether it was finished.
    segments: Vec<(SegmentKey, u64, bool)>,
    /// As [`PartitionLog::unnamed`].
    names: Option<u64>,
}

/// Syncs the file system that holds the logs, and marks what each had written before as synced.
pub(crate) async fn sync_all(logs: &[&PartitionLog]) -> Result<(), WriteBackError> {
    let Some(shared) = logs.first().map(|log| Rc::clone(&log.inner.shared)) else { return Ok(()) };
    let before: Vec<UnsyncedParts> = logs.iter().map(|log| log.unsynced()).collect();
    if before.iter().all(|unsynced| unsynced.segments.is_empty() && unsynced.names.is_none()) {
        return Ok(());
    }
    match shared.env.disk.sync_below(&shared.dir).await {
        Ok(()) => logs.iter().zip(&before).for_each(|(log, before)| log.synced(before)),
        Err(source) => return Err(failed(&shared.dir, source, true)),
    }
    shared.counters.segment_syncs.add(1);
    Ok(())
}

impl PartitionLog {
    /// Writes what can be written, up to `target`, without a sync. Returns the bytes written.
    pub(crate) async fn write_back(&self, target: Option<WriteBackTarget>) -> Result<u64, WriteBackError> {
        let _one = self.inner.io.lock().await;
        self.write_steps(target).await
    }

    /// Writes everything up to `target` and makes it and the files' names durable.
    pub(crate) async fn make_durable(&self, target: WriteBackTarget) -> Result<u64, WriteBackError> {
        let _one = self.inner.io.lock().await;
        let written = self.write_steps(Some(target)).await?;
        self.sync(target).await?;
        Ok(written)
    }

    async fn write_steps(&self, target: Option<WriteBackTarget>) -> Result<u64, WriteBackError> {
        let mut written = 0;
        loop {
            let step = self.inner.state.borrow().next_step(target, WRITE_BYTES);
            match step {
                Some(WriteBackStep::Write { key, base, range }) => written += self.write(key, base, range).await?,
                Some(WriteBackStep::Finish { key, base, len }) => self.finish(key, base, len).await?,
                None => return Ok(written),
            }
        }
    }

    async fn write(&self, key: SegmentKey, base: Offset, range: Range<u64>) -> Result<u64, WriteBackError> {
        let path = log_path(&self.inner.dir, base);
        let shared = &self.inner.shared;
        let file = self.open(&path).await.map_err(|source| failed(&path, source, false))?;
        let len = (range.end - range.start) as usize;
        let mut buffer = file.alloc_dirty(len);
        if range.start == 0 {
            // An earlier process may have made the file, and its name may not be durable.
            self.inner.born.set(self.inner.born.get() + 1);
        }
        let copied = {
            let (place, padding) = buffer.split_at_mut(len);
            padding.fill(0);
            self.inner.state.borrow().copy(key, &range, place)
        };
        if !copied {
            return Ok(0);
        }
        let begun = shared.env.clock.now();
        file.write_at(buffer, range.start).await.map_err(|source| failed(&path, source, false))?;
        shared.counters.timings.write.note(shared.env.clock.now().since(begun));
        shared.counters.write_backs.add(1);
        shared.counters.write_back_bytes.add(len as u64);
        if let Some(segment) = self.inner.state.borrow_mut().segment_mut(key) {
            assert_eq!(segment.flushed, range.start, "one write of a segment at a time, in order");
            segment.written(range.end);
        }
        Ok(len as u64)
    }

    /// Opens a segment's file for writing; makes it and its directory if they are not there.
    async fn open(&self, path: &std::path::Path) -> io::Result<File> {
        let shared = &self.inner.shared;
        if !self.inner.dir_made.get() {
            shared.env.disk.create_dir_all(&self.inner.dir).await?;
            self.inner.dir_made.set(true);
        }
        let (file, born) = shared.handles.or_create(path).await?;
        if born {
            self.inner.born.set(self.inner.born.get() + 1);
        }
        Ok(file)
    }

    /// Cuts a wholly written segment's file to its length and writes its index file.
    async fn finish(&self, key: SegmentKey, base: Offset, len: u64) -> Result<(), WriteBackError> {
        let path = log_path(&self.inner.dir, base);
        let shared = &self.inner.shared;
        let index = {
            let state = self.inner.state.borrow();
            // Dropped meanwhile: nothing to finish.
            let Some(segment) = state.segment(key) else { return Ok(()) };
            assert_eq!((segment.bytes, segment.flushed), (len, len), "a segment is finished once all of it is written");
            segment.index.clone().expect("a segment has its index until it is finished")
        };
        let cut = async {
            let file = self.open(&path).await?;
            file.set_len(len).await
        };
        cut.await.map_err(|source| failed(&path, source, false))?;
        let (offsets, bytes, max_timestamp) = index.totals().expect("a closed segment has batches");
        assert_eq!((offsets.start, bytes), (base, len), "the index covers the segment");
        let runs = index.as_ref().clone();
        let whole = IndexFile { partition: self.inner.id, offsets, bytes, max_timestamp, index: runs };
        let path = index_path(&self.inner.dir, base);
        let saved = shared.env.disk.write_atomic(&path, &whole.encode()).await;
        saved.map_err(|source| failed(&path, source, false))?;
        shared.counters.segments_closed.add(1);
        if let Some(segment) = self.inner.state.borrow_mut().segment_mut(key) {
            segment.finished = true;
            segment.unsynced = true;
            segment.index = None;
            shared.indexes.put(self.inner.id, key, index);
        }
        Ok(())
    }

    /// What is written and not synced now: for [`PartitionLog::synced`], after a sync that begins later.
    pub(crate) fn unsynced(&self) -> UnsyncedParts {
        let state = self.inner.state.borrow();
        let segments = state.segments.iter().filter(|segment| segment.unsynced);
        let segments = segments.map(|segment| (segment.key, segment.flushed, segment.finished)).collect();
        UnsyncedParts { segments, names: self.unnamed() }
    }

    /// The number of files created so far, if not all their names are durable.
    fn unnamed(&self) -> Option<u64> {
        let born = self.inner.born.get();
        (born > self.inner.born_synced.get()).then_some(born)
    }

    /// A sync of the directory has ended that began after `born` files were created.
    fn named(&self, born: u64) {
        self.inner.born_synced.set(self.inner.born_synced.get().max(born));
    }

    /// Everything in `before` is durable: segments that were not written to since need no sync of their own.
    pub(crate) fn synced(&self, before: &UnsyncedParts) {
        let mut state = self.inner.state.borrow_mut();
        for (key, flushed, finished) in &before.segments {
            if let Some(segment) = state.segment_mut(*key)
                && (segment.flushed, segment.finished) == (*flushed, *finished)
            {
                segment.unsynced = false;
            }
        }
        before.names.into_iter().for_each(|born| self.named(born));
    }

    /// Syncs the segments up to the target's, then the directory if files were created in it.
    async fn sync(&self, target: WriteBackTarget) -> Result<(), WriteBackError> {
        let shared = &self.inner.shared;
        loop {
            let unsynced = {
                let state = self.inner.state.borrow();
                let mut segments = state.segments.iter().take_while(|segment| segment.key <= target.key);
                segments.find(|segment| segment.unsynced).map(|segment| (segment.key, segment.offsets.start))
            };
            let Some((key, base)) = unsynced else { break };
            let path = log_path(&self.inner.dir, base);
            let begun = shared.env.clock.now();
            let synced = async { shared.handles.existing(&path).await?.sync().await };
            synced.await.map_err(|source| failed(&path, source, true))?;
            shared.counters.timings.sync.note(shared.env.clock.now().since(begun));
            shared.counters.segment_syncs.add(1);
            if let Some(segment) = self.inner.state.borrow_mut().segment_mut(key) {
                segment.unsynced = false;
            }
        }
        if let Some(born) = self.unnamed() {
            let synced = shared.env.disk.sync_dir(&self.inner.dir).await;
            synced.map_err(|source| failed(&self.inner.dir, source, true))?;
            self.named(born);
        }
        Ok(())
    }
}

fn failed(file: &std::path::Path, source: io::Error, sync: bool) -> WriteBackError {
    WriteBackError { file: PathBuf::from(file), source, sync }
}
