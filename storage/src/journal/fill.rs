//! A commit being filled: records are encoded into its aligned buffer the moment they come.
//!
//! Owns: the one copy a batch's bytes make on their way to disk, and the list of what happens when the commit is
//! durable. While one commit is being written and synced the next fills, so the copy costs the path nothing. Does not
//! own: when it is written and where. Affinity: shard-local.

use super::format::{
    COMMIT_HEADER_LEN, CommitHeader, Kind, RECORD_HEADER_LEN, entry_fixed, entry_record_len, record_header, u32_of,
};
use super::lane::Place;
use super::{JournalError, LaneEntry};
use crate::env::{ALIGNMENT, AlignedBuf};
use crate::model::batch::extend_crc;
use crate::model::{EntryId, LaneId};

/// Called once, when what it waits for is durable or never will be.
pub type Done = Box<dyn FnOnce(Result<(), JournalError>)>;

/// What a durable commit does to the books.
#[derive(Debug)]
pub(super) enum Effect {
    /// An entry has its place.
    Placed { lane: LaneId, id: EntryId, at: usize, len: u32 },
    /// A lane's vote, purge or commit mark lies in this commit.
    Meta { lane: LaneId, kind: Kind },
    /// These places are not needed any more, since the record that says so is durable.
    Freed { places: Vec<Place> },
}

/// The commit.
pub(super) struct Filling {
    buffer: AlignedBuf,
    used: usize,
    records: u32,
    records_crc: u32,
    pub(super) effects: Vec<Effect>,
    pub(super) done: Vec<Done>,
}

impl Filling {
    pub(super) fn new(buffer: AlignedBuf) -> Self {
        Self { buffer, used: COMMIT_HEADER_LEN, records: 0, records_crc: 0, effects: Vec::new(), done: Vec::new() }
    }

    /// Holds it no record? (It may hold completions.)
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes of records and header so far.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Is there room for a record of `len` bytes, header included?
    pub(super) fn fits(&self, len: usize) -> bool {
        self.buffer.len() - self.used >= len
    }

    /// Adds an entry's record. The caller made sure that it fits.
    pub(super) fn push_entry(&mut self, lane: LaneId, entry: &LaneEntry, rewritten: bool) {
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
        debug_assert_eq!(at + len as usize, self.used, "an entry's length is what was said");
        self.effects.push(Effect::Placed { lane, id: entry.id, at, len });
    }

    /// Adds a record of a lane's state. The caller made sure that it fits.
    pub(super) fn push_state(&mut self, lane: LaneId, kind: Kind, body: &[u8]) {
        let at = self.used;
        self.used += RECORD_HEADER_LEN;
        self.put(body);
        self.finish(at, kind, lane, crc32c::crc32c(body));
        self.effects.push(Effect::Meta { lane, kind });
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        self.buffer[self.used..end].copy_from_slice(bytes);
        self.used = end;
    }

    /// Writes the header of the record that began at `at` and ends here; `crc` is its body's.
    fn finish(&mut self, at: usize, kind: Kind, lane: LaneId, crc: u32) {
        let body = at + RECORD_HEADER_LEN;
        let header = record_header(kind, lane, self.used - body, crc);
        self.buffer[at..body].copy_from_slice(&header);
        self.records_crc = crc32c::crc32c_append(self.records_crc, &header);
        self.records += 1;
    }

    /// Bytes it takes on disk.
    pub(super) fn padded_len(&self) -> usize {
        self.used.next_multiple_of(ALIGNMENT)
    }

    /// Gives it its header and padding: the bytes to write.
    pub(super) fn seal(&mut self, header: CommitHeader) -> AlignedBuf {
        let length = u32_of(self.used - COMMIT_HEADER_LEN);
        let header = CommitHeader { length, records: self.records, records_crc: self.records_crc, ..header };
        let padded = self.padded_len();
        self.buffer[..COMMIT_HEADER_LEN].copy_from_slice(&header.encode());
        self.buffer[self.used..padded].fill(0);
        let mut buffer = std::mem::replace(&mut self.buffer, AlignedBuf::empty());
        buffer.truncate(padded);
        buffer
    }
}
