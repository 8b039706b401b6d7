//! Collects the batches of an answer.
//!
//! Owns: which batches of a run are taken. Does not own: reading runs (`fetch`), what an answer may keep in memory
//! (`pins`). Shard-local.

use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::model::{BatchHeader, Offset, OffsetRange, PartitionId};

use super::RemoteRead;
use super::chunk::Chunk;
use super::error::RemoteError;
use super::locate::LocatedRun;
use super::pins::Pins;

/// See the header.
pub(super) struct AnswerBuilder {
    wanted: OffsetRange,
    max_bytes: usize,
    /// The next offset wanted.
    pub(super) next: Offset,
    slices: Vec<(Rc<Chunk>, Bytes)>,
    start: Option<Offset>,
    bytes: usize,
    stopped: bool,
    pins: Pins,
}

impl AnswerBuilder {
    pub(super) fn new(wanted: OffsetRange, max_bytes: usize, pins: Pins) -> Self {
        let next = wanted.start;
        Self { wanted, max_bytes, next, slices: Vec::new(), start: None, bytes: 0, stopped: false, pins }
    }

    pub(super) fn full(&self) -> bool {
        self.stopped || self.next >= self.wanted.end || (self.bytes > 0 && self.bytes >= self.max_bytes)
    }

    pub(super) fn left(&self) -> OffsetRange {
        OffsetRange::new(self.next, self.wanted.end)
    }

    pub(super) fn room(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes).max(1)
    }

    /// Takes the batches of a checked run that are wanted: one slice of it. What comes before an error is taken.
    pub(super) fn take(
        &mut self,
        partition: PartitionId,
        located: &LocatedRun,
        chunk: &Rc<Chunk>,
        run: &Bytes,
    ) -> Result<(), RemoteError> {
        let (mut at, mut first) = (0usize, None);
        let mut taken = Ok(());
        while at < run.len() && !self.full() {
            let header = match BatchHeader::parse(run.get(at..).unwrap_or_default()) {
                Ok(header) => header,
                Err(error) => {
                    taken = Err(RemoteError::BadIndex { object: located.chunk.object, reason: error.to_string() });
                    break;
                }
            };
            let len = header.len as usize;
            let fits = self.bytes == 0 || self.bytes + len <= self.max_bytes;
            if header.next_offset() <= self.next {
                at += len;
                continue;
            }
            // Rows are contiguous from the log start on and topics are not compacted, so no offset may be skipped: a
            // consumer would take what was skipped for never written.
            if header.base_offset > self.next {
                taken = Err(RemoteError::Gap { partition, offset: self.next });
                break;
            }
            if header.base_offset >= self.wanted.end || !fits {
                self.stopped = true;
                break;
            }
            first.get_or_insert(at);
            self.start.get_or_insert(header.base_offset);
            self.bytes += len;
            self.next = header.next_offset();
            at += len;
        }
        if let Some(first) = first {
            self.slices.push((Rc::clone(chunk), run.slice(first..at)));
        }
        taken
    }

    pub(super) fn or(self, error: RemoteError) -> Result<RemoteRead, RemoteError> {
        match self.start {
            Some(start) => Ok(self.answer(start)),
            None => Err(error),
        }
    }

    pub(super) fn finish(self, partition: PartitionId) -> Result<RemoteRead, RemoteError> {
        match self.start {
            Some(start) => Ok(self.answer(start)),
            None => Err(RemoteError::Gap { partition, offset: self.next }),
        }
    }

    fn answer(self, start: Offset) -> RemoteRead {
        debug_assert!(start <= self.wanted.start && self.wanted.start < self.next, "the first batch holds the offset");
        debug_assert_eq!(self.slices.iter().map(|(_, slice)| slice.len()).sum::<usize>(), self.bytes, "bytes taken");
        let of_chunk = |slices: &[(Rc<Chunk>, Bytes)]| {
            let len = slices.first().map_or(0, |(chunk, _)| chunk.len());
            self.pins.give(len, slices.iter().map(|(_, slice)| slice.clone()).collect())
        };
        let batches = self.slices.chunk_by(|(one, _), (other, _)| Rc::ptr_eq(one, other)).flat_map(of_chunk).collect();
        RemoteRead { range: OffsetRange::new(start, self.next), bytes: self.bytes as u64, batches }
    }
}
