//! A commit being filled: each record is encoded into its aligned buffer when it is appended.
//!
//! Owns: the only copy of a batch's bytes on their way to disk, and the list of effects to apply when the commit is
//! durable. The next commit is filled while one is written, so copying adds nothing to a write's latency. Does not own:
//! when the commit is written, and where. Affinity: shard-local.

use super::format::{
    COMMIT_HEADER_LEN, CommitHeader, Kind, RECORD_HEADER_LEN, entry_fixed, entry_record_len, record_header, u32_of,
};
use super::lane::RecordAddress;
use super::{JournalEntry, JournalError};
use crate::env::{ALIGNMENT, AlignedBuf};
use crate::model::batch::extend_crc;
use crate::model::{EntryId, LaneId};

/// Called exactly once: when its records are durable, or with the error because of which they will not be.
pub type Completion = Box<dyn FnOnce(Result<(), JournalError>)>;

/// A change of the journal's state that takes place when the commit is durable.
#[derive(Debug)]
pub(super) enum CommitEffect {
    /// The entry's record lies at byte `at` of this commit.
    EntryPlaced { lane: LaneId, id: EntryId, at: usize, len: u32 },
    /// The lane's newest vote, purge or committed mark lies in this commit.
    LaneState { lane: LaneId, kind: Kind },
    /// The records at these addresses are no longer needed: the record that removes their entries is durable.
    RecordsFreed { addresses: Vec<RecordAddress> },
}

/// The commit's buffer: a header's room, then records.
pub(super) struct CommitBuffer {
    buffer: AlignedBuf,
    used: usize,
    records: u32,
    records_crc: u32,
    pub(super) effects: Vec<CommitEffect>,
    pub(super) done: Vec<Completion>,
}

impl CommitBuffer {
    pub(super) fn new(buffer: AlignedBuf) -> Self {
        Self { buffer, used: COMMIT_HEADER_LEN, records: 0, records_crc: 0, effects: Vec::new(), done: Vec::new() }
    }

    /// Has it no record? It may have completions all the same.
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of header and records so far.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Is there room for a record of `len` bytes, its header included?
    pub(super) fn fits(&self, len: usize) -> bool {
        self.buffer.len() - self.used >= len
    }

    /// Adds an entry's record, for which there must be room ([`CommitBuffer::fits`]).
    pub(super) fn push_entry(&mut self, lane: LaneId, entry: &JournalEntry, rewritten: bool) {
        debug_assert!(self.fits(entry_record_len(&entry.payload)), "an entry's record has room in its commit");
        let at = self.used;
        let payload = &entry.payload;
        let kind = if rewritten { Kind::Rewritten } else { Kind::Entry };
        self.used += RECORD_HEADER_LEN;
        self.put(&entry_fixed(entry.id, payload));
        for blob in &payload.blobs {
            self.put(&u32_of(blob.len()).to_be_bytes());
        }
        self.put(&payload.meta);
        let mut crc = crc32c::crc32c(&self.buffer[at + RECORD_HEADER_LEN..self.used]);
        for blob in &payload.blobs {
            self.put(blob);
            crc = if payload.verified { extend_crc(crc, blob) } else { crc32c::crc32c_append(crc, blob) };
        }
        self.finish(at, kind, lane, crc);
        let len = u32_of(entry_record_len(payload));
        debug_assert_eq!(at + len as usize, self.used, "a record is as long as `entry_record_len` says");
        self.effects.push(CommitEffect::EntryPlaced { lane, id: entry.id, at, len });
    }

    /// Adds a record of a lane's state, for which there must be room ([`CommitBuffer::fits`]).
    pub(super) fn push_state(&mut self, lane: LaneId, kind: Kind, body: &[u8]) {
        debug_assert!(self.fits(RECORD_HEADER_LEN + body.len()), "a lane's record has room in its commit");
        let at = self.used;
        self.used += RECORD_HEADER_LEN;
        self.put(body);
        self.finish(at, kind, lane, crc32c::crc32c(body));
        self.effects.push(CommitEffect::LaneState { lane, kind });
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        self.buffer[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }

    /// Writes the header of the record that begins at `at` and ends here; `crc` is the checksum of its body.
    fn finish(&mut self, at: usize, kind: Kind, lane: LaneId, crc: u32) {
        let body = at + RECORD_HEADER_LEN;
        let header = record_header(kind, lane, self.used - body, crc);
        self.buffer[at..body].copy_from_slice(&header);
        self.records_crc = crc32c::crc32c_append(self.records_crc, &header);
        self.records += 1;
    }

    /// Bytes on disk.
    pub(super) fn padded_len(&self) -> usize {
        self.used.next_multiple_of(ALIGNMENT)
    }

    /// Sets header and padding and takes out the bytes to write.
    pub(super) fn seal(&mut self, header: CommitHeader) -> AlignedBuf {
        assert!(header.durable < header.sequence, "a commit is newer than what was durable before it");
        let length = u32_of(self.used - COMMIT_HEADER_LEN);
        let header = CommitHeader { length, records: self.records, records_crc: self.records_crc, ..header };
        let padded = self.padded_len();
        self.buffer[..COMMIT_HEADER_LEN].copy_from_slice(&header.encode());
        debug_assert_eq!(CommitHeader::decode(&self.buffer), Ok(header), "a header decodes to itself");
        self.buffer[self.used..padded].fill(0);
        let mut buffer = std::mem::replace(&mut self.buffer, AlignedBuf::empty());
        buffer.truncate(padded);
        buffer
    }
}
