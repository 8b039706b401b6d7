//! The bytes of a journal: commits and the records in them. `FORMAT.md` draws the boxes; golden samples freeze them.
//!
//! Owns: encoding, decoding, their checks. Bytes read back are hostile: no length is believed before it is compared
//! with what remains. Does not own: where commits lie and what records mean. All integers are big-endian.

use bytes::Bytes;

use super::{JournalEntry, Payload};
use crate::codec::{CodecError, Decoder, fixed};
use crate::model::{EntryId, LaneId, LogIndex, Term};

/// First four bytes of a commit.
pub const COMMIT_MAGIC: [u8; 4] = *b"TWJC";
/// Version of commits and records that this code writes; it reads no other.
pub const VERSION: u8 = 1;
/// Bytes before a commit's records.
pub const COMMIT_HEADER_LEN: usize = 64;
/// Bytes of a commit's header before its checksum.
const CHECKED_LEN: usize = COMMIT_HEADER_LEN - 4;
/// Bytes before a record's body.
pub const RECORD_HEADER_LEN: usize = 16;
/// Commits begin at multiples of this and are padded with zeroes to one.
pub const BLOCK: usize = 4096;
/// Fixed part of an entry's body: term, index, meta length, number of blobs.
const ENTRY_FIXED_LEN: usize = 24;
/// A present or absent entry id: flag, term, index.
const OPTIONAL_ID_LEN: usize = 17;

const _: () = assert!(BLOCK == crate::env::ALIGNMENT);
const _: () = assert!(COMMIT_HEADER_LEN + RECORD_HEADER_LEN + ENTRY_FIXED_LEN < BLOCK);

/// What is wrong with bytes that should be part of a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Cut short, or a field that cannot be.
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("{what} does not begin with its magic number")]
    Magic { what: &'static str },
    #[error("{what} has version {found}, only {VERSION} is known; use the release that wrote it")]
    Version { what: &'static str, found: u8 },
    #[error("{what} has checksum {found:#010x}, its header says {expected:#010x}")]
    Crc { what: &'static str, expected: u32, found: u32 },
    /// A field whose value contradicts the rest of the journal.
    #[error("field {field} has the impossible value {value}")]
    Field { field: &'static str, value: u64 },
}

/// A commit's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitHeader {
    /// Which journal: random, the same in all its files.
    pub journal: u64,
    /// Which use of a recycled file.
    pub generation: u64,
    /// Number of this commit in the journal, counted from 1 without gaps.
    pub sequence: u64,
    /// Last commit that was known durable when this one was written.
    pub durable: u64,
    /// Where in its file it lies. Bytes.
    pub position: u64,
    /// Bytes of records.
    pub length: u32,
    /// Number of records.
    pub records: u32,
    /// crc32c over all records' headers, which hold their bodies' checksums.
    pub records_crc: u32,
}

impl CommitHeader {
    /// The header's bytes, checksum included.
    #[must_use]
    pub fn encode(&self) -> [u8; COMMIT_HEADER_LEN] {
        assert!(self.durable < self.sequence, "a commit cannot know itself durable");
        let mut header: [u8; COMMIT_HEADER_LEN] = fixed(|out| {
            out.raw(&COMMIT_MAGIC);
            out.raw(&[VERSION, 0, 0, 0]);
            out.u64(self.journal);
            out.u64(self.generation);
            out.u64(self.sequence);
            out.u64(self.durable);
            out.u64(self.position);
            out.u32(self.length);
            out.u32(self.records);
            out.u32(self.records_crc);
            out.u32(0);
        });
        let crc = crc32c::crc32c(&header[..CHECKED_LEN]);
        header[CHECKED_LEN..].copy_from_slice(&crc.to_be_bytes());
        header
    }

    /// Reads and checks a header. Its records are checked by [`decode_commit`].
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "commit header";
        let mut fields = Decoder::new(what, bytes.get(..COMMIT_HEADER_LEN).unwrap_or(bytes));
        if fields.array::<4>()? != COMMIT_MAGIC {
            return Err(FormatError::Magic { what });
        }
        let [version, ..] = fields.array::<4>()?;
        let header = Self {
            journal: fields.u64()?,
            generation: fields.u64()?,
            sequence: fields.u64()?,
            durable: fields.u64()?,
            position: fields.u64()?,
            length: fields.u32()?,
            records: fields.u32()?,
            records_crc: fields.u32()?,
        };
        let expected = fields.u32()?;
        let found = crc32c::crc32c(bytes.get(..CHECKED_LEN).unwrap_or_default());
        if found != expected {
            return Err(FormatError::Crc { what, expected, found });
        }
        if version != VERSION {
            return Err(FormatError::Version { what, found: version });
        }
        if header.durable >= header.sequence {
            return Err(FormatError::Field { field: "durable sequence", value: header.durable });
        }
        Ok(header)
    }

    /// Bytes of header and records, without padding.
    #[must_use]
    pub const fn total_len(&self) -> usize {
        COMMIT_HEADER_LEN + self.length as usize
    }
}

/// What kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Entry = 1,
    Rewritten = 2,
    Vote = 3,
    TruncateAfter = 4,
    Purge = 5,
    Committed = 6,
    Forget = 7,
}

impl Kind {
    fn from_code(code: u8) -> Result<Self, FormatError> {
        Ok(match code {
            1 => Self::Entry,
            2 => Self::Rewritten,
            3 => Self::Vote,
            4 => Self::TruncateAfter,
            5 => Self::Purge,
            6 => Self::Committed,
            7 => Self::Forget,
            _ => return Err(FormatError::Field { field: "record kind", value: code.into() }),
        })
    }
}

/// One record: something that happened to a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry was appended.
    Entry(JournalEntry),
    /// An entry that lies in an older place was copied here; this place counts, and nothing after it is cut.
    Rewritten(JournalEntry),
    /// The lane's vote is this.
    Vote(Bytes),
    /// Everything after this entry is gone; `None`: everything.
    TruncateAfter(Option<EntryId>),
    /// Everything up to and with this entry is gone.
    Purge(EntryId),
    /// Everything up to and with this entry is committed. A hint: may be behind.
    Committed(Option<EntryId>),
    /// The lane is gone with all it had.
    Forget,
}

/// Bytes an entry's record takes, its header included.
#[must_use]
pub fn entry_record_len(payload: &Payload) -> usize {
    RECORD_HEADER_LEN + ENTRY_FIXED_LEN + 4 * payload.blobs.len() + payload.len()
}

/// An optional id as records hold it.
pub(crate) fn optional_id(id: Option<EntryId>) -> [u8; OPTIONAL_ID_LEN] {
    fixed(|out| {
        out.flag(id.is_some());
        let id = id.unwrap_or_default();
        out.u64(id.term.0);
        out.u64(id.index.0);
    })
}

/// Fixed part of an entry's body.
pub(crate) fn entry_fixed(id: EntryId, payload: &Payload) -> [u8; ENTRY_FIXED_LEN] {
    fixed(|out| {
        out.u64(id.term.0);
        out.u64(id.index.0);
        out.len32(payload.meta.len());
        out.len32(payload.blobs.len());
    })
}

/// Lengths here were checked against a limit far below 4 GiB when they came in.
pub(crate) fn u32_of(len: usize) -> u32 {
    assert!(len <= u32::MAX as usize, "a length of {len} in the journal");
    len as u32
}

/// The header of a record whose body has this length and crc32c.
pub(crate) fn record_header(kind: Kind, lane: LaneId, len: usize, crc: u32) -> [u8; RECORD_HEADER_LEN] {
    fixed(|out| {
        out.raw(&[kind as u8, 0, 0, 0]);
        out.u32(lane.0);
        out.len32(len);
        out.u32(crc);
    })
}

/// A decoded record and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Whose it is.
    pub lane: LaneId,
    /// What it is.
    pub record: Record,
    /// Where its header begins, counted from the start of the bytes decoded.
    pub at: usize,
    /// Bytes, header included.
    pub len: usize,
}

/// Decodes the record that begins at `at`.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode_record(bytes: &Bytes, at: usize) -> Result<Located, FormatError> {
    let rest = bytes.get(at..).unwrap_or_default();
    let mut fields = Decoder::new("record header", rest);
    let [kind, ..] = fields.array::<4>()?;
    let lane = LaneId(fields.u32()?);
    let length = fields.u32()? as usize;
    let expected = fields.u32()?;
    let body = bytes.slice_ref(fields.raw(length)?);
    let found = crc32c::crc32c(&body);
    if found != expected {
        return Err(FormatError::Crc { what: "record", expected, found });
    }
    let record = decode_body(Kind::from_code(kind)?, &body)?;
    Ok(Located { lane, record, at, len: RECORD_HEADER_LEN + length })
}

fn decode_body(kind: Kind, body: &Bytes) -> Result<Record, FormatError> {
    let mut fields = Decoder::new("record body", body);
    Ok(match kind {
        Kind::Entry => Record::Entry(decode_entry(body)?),
        Kind::Rewritten => Record::Rewritten(decode_entry(body)?),
        Kind::Vote => Record::Vote(body.clone()),
        Kind::TruncateAfter => Record::TruncateAfter(take_optional_id(&mut fields)?),
        Kind::Committed => Record::Committed(take_optional_id(&mut fields)?),
        Kind::Purge => match take_optional_id(&mut fields)? {
            Some(id) => Record::Purge(id),
            None => return Err(FormatError::Field { field: "purge flag", value: 0 }),
        },
        Kind::Forget => Record::Forget,
    })
}

fn take_id(fields: &mut Decoder<'_>) -> Result<EntryId, CodecError> {
    Ok(EntryId { term: Term(fields.u64()?), index: LogIndex(fields.u64()?) })
}

fn take_optional_id(fields: &mut Decoder<'_>) -> Result<Option<EntryId>, CodecError> {
    let present = fields.flag()?;
    let id = take_id(fields)?;
    Ok(present.then_some(id))
}

fn decode_entry(body: &Bytes) -> Result<JournalEntry, FormatError> {
    let mut fields = Decoder::new("entry", body);
    let id = take_id(&mut fields)?;
    let meta_len = fields.u32()? as usize;
    let count = fields.count32(4)?;
    let mut lens = Decoder::new("entry", fields.raw(4 * count)?);
    let meta = body.slice_ref(fields.raw(meta_len)?);
    let mut blobs = Vec::with_capacity(count);
    for _ in 0..count {
        blobs.push(body.slice_ref(fields.raw(lens.u32()? as usize)?));
    }
    fields.end()?;
    Ok(JournalEntry { id, payload: Payload { meta, blobs, verified: false } })
}

/// Decodes a whole commit, whose header is known, from bytes that begin with it. Record places count from the start
/// of the commit.
///
/// # Errors
/// The first thing that is wrong with any of it.
pub fn decode_commit(header: &CommitHeader, bytes: &Bytes) -> Result<Vec<Located>, FormatError> {
    let end = header.total_len();
    let bytes = bytes.slice_ref(Decoder::new("commit", bytes).raw(end)?);
    let mut records = Vec::with_capacity((header.records as usize).min(end / RECORD_HEADER_LEN));
    let (mut at, mut crc) = (COMMIT_HEADER_LEN, 0);
    while at < end {
        let record = decode_record(&bytes, at)?;
        crc = crc32c::crc32c_append(crc, bytes.get(at..at + RECORD_HEADER_LEN).unwrap_or_default());
        at += record.len;
        records.push(record);
    }
    if crc != header.records_crc {
        return Err(FormatError::Crc { what: "commit", expected: header.records_crc, found: crc });
    }
    if records.len() != header.records as usize {
        return Err(FormatError::Field { field: "record count", value: header.records.into() });
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
