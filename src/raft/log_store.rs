//! openraft's log store over the shard's journal.
//!
//! Owns: the translation of entries and votes, and how much is read at a time. Ordering and durability are the
//! journal's: completions come in order, `save_vote` returns after the sync, `truncate_after`, `purge` and
//! `save_committed` need only their place and never wait. A committed id rides along with the next commit and may be
//! ahead of a torn tail, so it is clamped to the last entry when read. Any error ends the group: it means a dead disk.
//! Affinity: shard-local.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use tidewater_storage::journal::{JournalEntry, JournalError, LaneLog, LaneLogState, Pressure};
use tidewater_storage::model::{EntryId, LogIndex};

use super::codec;
use super::type_config::{Entry, LogId, Types, Vote, entry_id, log_id};

#[cfg(test)]
mod tests;

/// Entries read at once to be applied. Their blobs are shared with memory or one read from disk.
const APPLY_READ_BYTES: usize = 4 << 20;
/// Entries sent to a follower at once: openraft counts entries, never bytes.
const REPLICATE_READ_BYTES: usize = 1 << 20;

/// What runs when an append is durable, or has failed.
pub(crate) type Done = Box<dyn FnOnce(Result<(), JournalError>)>;

/// The part of the journal this layer needs; tests put a memory in its place.
pub(crate) trait LogDevice: 'static {
    fn state(&self) -> LaneLogState;
    /// The largest record of an entry that [`LogDevice::append`] takes. Bytes.
    fn entry_bytes_max(&self) -> u64;
    fn append(&self, entries: Vec<JournalEntry>, done: Done);
    fn save_vote(&self, vote: Bytes) -> impl Future<Output = Result<(), JournalError>>;
    fn save_committed(&self, committed: Option<EntryId>);
    fn truncate_after(&self, last: Option<EntryId>);
    fn purge(&self, upto: EntryId);
    /// Is the journal of all lanes under pressure or larger than this many bytes?
    fn is_short(&self, window: u64) -> bool;
    fn read(
        &self,
        range: Range<LogIndex>,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Vec<JournalEntry>, JournalError>>;
}

impl LogDevice for LaneLog {
    fn state(&self) -> LaneLogState {
        Self::state(self)
    }

    fn entry_bytes_max(&self) -> u64 {
        Self::entry_bytes_max(self)
    }

    fn append(&self, entries: Vec<JournalEntry>, done: Done) {
        Self::append(self, entries, done);
    }

    async fn save_vote(&self, vote: Bytes) -> Result<(), JournalError> {
        Self::save_vote(self, vote).await
    }

    fn save_committed(&self, committed: Option<EntryId>) {
        Self::save_committed(self, committed);
    }

    fn truncate_after(&self, last: Option<EntryId>) {
        Self::truncate_after(self, last);
    }

    fn purge(&self, upto: EntryId) {
        Self::purge(self, upto);
    }

    fn is_short(&self, window: u64) -> bool {
        self.pressure() != Pressure::None || self.journal_bytes() > window
    }

    async fn read(&self, range: Range<LogIndex>, max_bytes: usize) -> Result<Vec<JournalEntry>, JournalError> {
        Self::read(self, range, max_bytes).await
    }
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

/// The last id of a log: after a purge past its end, what was purged.
fn last_of(state: &LaneLogState) -> Option<EntryId> {
    match (state.last, state.purged) {
        (Some(last), Some(purged)) if last.index < purged.index => Some(purged),
        (last, purged) => last.or(purged),
    }
}

/// openraft refuses to start if committed passes the log.
fn clamped(committed: Option<EntryId>, last: Option<EntryId>) -> Option<EntryId> {
    let (committed, last) = (committed?, last?);
    Some(if committed.index > last.index { last } else { committed })
}

/// The log store, and its reader.
pub(crate) struct LogStore<L> {
    log: Rc<L>,
}

impl<L> Clone for LogStore<L> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone() }
    }
}

impl<L: LogDevice> LogStore<L> {
    #[cfg(test)]
    pub(crate) fn new(log: L) -> Self {
        Self::shared(Rc::new(log))
    }

    pub(crate) fn shared(log: Rc<L>) -> Self {
        Self { log }
    }

    async fn read_some(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, io::Error> {
        let entries = read_at(&*self.log, range, max_bytes).await?;
        entries.into_iter().map(|entry| codec::from_lane_entry(entry).map_err(broken)).collect()
    }

    /// The indexes that are there, of those asked for.
    fn present(&self, range: impl RangeBounds<u64>) -> Range<u64> {
        let state = self.log.state();
        let first = state.purged.map_or(0, |purged| purged.index.0 + 1);
        let end = last_of(&state).map_or(0, |last| last.index.0 + 1);
        let from = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let until = match range.end_bound() {
            Bound::Included(at) => at.saturating_add(1),
            Bound::Excluded(at) => *at,
            Bound::Unbounded => u64::MAX,
        };
        from.max(first)..until.min(end)
    }
}

async fn read_at<L: LogDevice>(log: &L, range: Range<u64>, max_bytes: usize) -> Result<Vec<JournalEntry>, io::Error> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    log.read(LogIndex(range.start)..LogIndex(range.end), max_bytes).await.map_err(broken)
}

impl<L: LogDevice> RaftLogReader<Types> for LogStore<L> {
    async fn try_get_log_entries<R>(&mut self, range: R) -> Result<Vec<Entry>, io::Error>
    where
        R: RangeBounds<u64> + Clone + Debug,
    {
        let range = self.present(range);
        let mut entries = self.read_some(range.clone(), usize::MAX).await?;
        // The journal may stop early; openraft may not get less than there is. It asks for 64 at once, only at a start.
        while let Some(last) = entries.last()
            && last.log_id.index + 1 < range.end
        {
            let more = self.read_some(last.log_id.index + 1..range.end, usize::MAX).await?;
            if more.is_empty() {
                break;
            }
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read_some(self.present(start..end), REPLICATE_READ_BYTES).await
    }

    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = Result<Entry, io::Error>>
    where
        R: RangeBounds<u64> + Clone + Debug,
    {
        let range = self.present(range);
        let first = read_at(&*self.log, range.clone(), APPLY_READ_BYTES).await;
        EntryStream::new(self.log.clone(), range, first)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log.state().vote.map(|vote| codec::decode_vote(&vote)).transpose().map_err(broken)
    }
}

impl<L: LogDevice> RaftLogStorage<Types> for LogStore<L> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.log.state();
        Ok(LogState { last_purged_log_id: state.purged.map(log_id), last_log_id: last_of(&state).map(log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = codec::encode_vote(vote).map_err(broken)?;
        self.log.save_vote(vote).await.map_err(broken)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed.as_ref().map(entry_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let state = self.log.state();
        Ok(clamped(state.committed, last_of(&state)).map(log_id))
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry>,
    {
        let entries = entries.into_iter().map(codec::to_lane_entry).collect();
        self.log.append(entries, Box::new(move |result| flushed.io_completed(result.map_err(broken))));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last.as_ref().map(entry_id));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.log.purge(entry_id(&upto));
        Ok(())
    }
}

type Reading = Pin<Box<dyn Future<Output = Result<Vec<JournalEntry>, io::Error>>>>;

/// Entries to be applied, read in pieces of bounded size.
struct EntryStream<L> {
    log: Rc<L>,
    rest: Range<u64>,
    ready: std::vec::IntoIter<JournalEntry>,
    failed: Option<io::Error>,
    reading: Option<Reading>,
}

impl<L: LogDevice> EntryStream<L> {
    fn new(log: Rc<L>, rest: Range<u64>, first: Result<Vec<JournalEntry>, io::Error>) -> Self {
        let mut stream = Self { log, rest, ready: Vec::new().into_iter(), failed: None, reading: None };
        stream.take(first);
        stream
    }

    /// Takes what was read, which must go on where the stream is: a hole is a broken log.
    fn take(&mut self, read: Result<Vec<JournalEntry>, io::Error>) {
        match read {
            Ok(entries) => {
                let contiguous = (self.rest.start..).zip(&entries).all(|(at, entry)| entry.id.index.0 == at);
                if self.rest.is_empty() || contiguous && !entries.is_empty() {
                    self.rest.start += entries.len() as u64;
                    self.ready = entries.into_iter();
                } else {
                    let at = self.rest.start;
                    self.failed = Some(io::Error::other(format!("lane log has a hole at index {at}")));
                }
            }
            Err(error) => self.failed = Some(error),
        }
    }
}

impl<L: LogDevice> Stream for EntryStream<L> {
    type Item = Result<Entry, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(entry) = this.ready.next() {
                return Poll::Ready(Some(codec::from_lane_entry(entry).map_err(broken)));
            }
            if let Some(error) = this.failed.take() {
                this.rest = 0..0;
                return Poll::Ready(Some(Err(error)));
            }
            if this.rest.is_empty() {
                return Poll::Ready(None);
            }
            let (log, rest) = (&this.log, &this.rest);
            let reading = this.reading.get_or_insert_with(|| {
                let (log, rest) = (log.clone(), rest.clone());
                Box::pin(async move { read_at(&*log, rest, APPLY_READ_BYTES).await })
            });
            match reading.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(read) => {
                    this.reading = None;
                    this.take(read);
                }
            }
        }
    }
}
