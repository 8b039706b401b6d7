//! The bytes of a journal: commits and the records in them. `FORMAT.md` draws the boxes; golden samples freeze them.
//!
//! Owns: encoding, decoding, their checks. Bytes read back are hostile: no length is believed before it is compared
//! with what remains. Does not own: where commits lie and what records mean. All integers are big-endian.

use bytes::Bytes;

use super::{LaneEntry, Payload};
use crate::model::{EntryId, LaneId, LogIndex, Term};

/// First four bytes of a commit.
pub const COMMIT_MAGIC: [u8; 4] = *b"TWJC";
/// Version of commits and records that this code writes; it reads no other.
pub const VERSION: u8 = 1;
/// Bytes before a commit's records.
pub const COMMIT_HEADER_LEN: usize = 64;
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
    /// The bytes end too early.
    #[error("{what} ends early: {have} bytes of {need}")]
    Short {
        /// Of what.
        what: &'static str,
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Not this format.
    #[error("{what} does not begin with its magic number")]
    Magic {
        /// Of what.
        what: &'static str,
    },
    /// Another version.
    #[error("{what} has version {found}, only {VERSION} is known; use the release that wrote it")]
    Version {
        /// Of what.
        what: &'static str,
        /// The version.
        found: u8,
    },
    /// Checksum mismatch.
    #[error("{what} has checksum {found:#010x}, its header says {expected:#010x}")]
    Crc {
        /// Of what.
        what: &'static str,
        /// As written.
        expected: u32,
        /// Of the bytes.
        found: u32,
    },
    /// A field whose value cannot be.
    #[error("field {field} has the impossible value {value}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it held.
        value: u64,
    },
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
        let mut out = [0; COMMIT_HEADER_LEN];
        out[..4].copy_from_slice(&COMMIT_MAGIC);
        out[4] = VERSION;
        out[8..16].copy_from_slice(&self.journal.to_be_bytes());
        out[16..24].copy_from_slice(&self.generation.to_be_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_be_bytes());
        out[32..40].copy_from_slice(&self.durable.to_be_bytes());
        out[40..48].copy_from_slice(&self.position.to_be_bytes());
        out[48..52].copy_from_slice(&self.length.to_be_bytes());
        out[52..56].copy_from_slice(&self.records.to_be_bytes());
        out[56..60].copy_from_slice(&self.records_crc.to_be_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads and checks a header. Its records are checked by [`decode_commit`].
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "commit header";
        let mut fields = Fields::new(what, bytes.get(..COMMIT_HEADER_LEN).unwrap_or(bytes));
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
        let found = crc32c::crc32c(bytes.get(..60).unwrap_or_default());
        if found != expected {
            return Err(FormatError::Crc { what, expected, found });
        }
        if version != VERSION {
            return Err(FormatError::Version { what, found: version });
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
    Entry(LaneEntry),
    /// An entry that lies in an older place was copied here; this place counts, and nothing after it is cut.
    Rewritten(LaneEntry),
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
    let mut out = [0; OPTIONAL_ID_LEN];
    if let Some(id) = id {
        out[0] = 1;
        out[1..9].copy_from_slice(&id.term.0.to_be_bytes());
        out[9..].copy_from_slice(&id.index.0.to_be_bytes());
    }
    out
}

/// Fixed part of an entry's body.
pub(crate) fn entry_fixed(id: EntryId, payload: &Payload) -> [u8; ENTRY_FIXED_LEN] {
    let mut out = [0; ENTRY_FIXED_LEN];
    out[..8].copy_from_slice(&id.term.0.to_be_bytes());
    out[8..16].copy_from_slice(&id.index.0.to_be_bytes());
    out[16..20].copy_from_slice(&u32_of(payload.meta.len()).to_be_bytes());
    out[20..].copy_from_slice(&u32_of(payload.blobs.len()).to_be_bytes());
    out
}

/// Lengths here were checked against a limit far below 4 GiB when they came in.
pub(crate) fn u32_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The header of a record whose body has this length and crc32c.
pub(crate) fn record_header(kind: Kind, lane: LaneId, len: usize, crc: u32) -> [u8; RECORD_HEADER_LEN] {
    let mut out = [0; RECORD_HEADER_LEN];
    out[0] = kind as u8;
    out[4..8].copy_from_slice(&lane.0.to_be_bytes());
    out[8..12].copy_from_slice(&u32_of(len).to_be_bytes());
    out[12..].copy_from_slice(&crc.to_be_bytes());
    out
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
    let mut fields = Fields::new("record header", rest);
    let [kind, ..] = fields.array::<4>()?;
    let lane = LaneId(fields.u32()?);
    let length = fields.u32()? as usize;
    let expected = fields.u32()?;
    let need = RECORD_HEADER_LEN.saturating_add(length);
    if rest.len() < need {
        return Err(FormatError::Short { what: "record", have: rest.len(), need });
    }
    let body = bytes.slice(at + RECORD_HEADER_LEN..at + need);
    let found = crc32c::crc32c(&body);
    if found != expected {
        return Err(FormatError::Crc { what: "record", expected, found });
    }
    let record = decode_body(Kind::from_code(kind)?, &body)?;
    Ok(Located { lane, record, at, len: need })
}

fn decode_body(kind: Kind, body: &Bytes) -> Result<Record, FormatError> {
    let mut fields = Fields::new("record body", body);
    Ok(match kind {
        Kind::Entry => Record::Entry(decode_entry(body)?),
        Kind::Rewritten => Record::Rewritten(decode_entry(body)?),
        Kind::Vote => Record::Vote(body.clone()),
        Kind::TruncateAfter => Record::TruncateAfter(fields.optional_id()?),
        Kind::Committed => Record::Committed(fields.optional_id()?),
        Kind::Purge => match fields.optional_id()? {
            Some(id) => Record::Purge(id),
            None => return Err(FormatError::Field { field: "purge flag", value: 0 }),
        },
        Kind::Forget => Record::Forget,
    })
}

fn decode_entry(body: &Bytes) -> Result<LaneEntry, FormatError> {
    let mut fields = Fields::new("entry", body);
    let id = fields.id()?;
    let meta_len = fields.u32()? as usize;
    let count = fields.u32()? as usize;
    let lens = fields.take(count.saturating_mul(4))?;
    let mut at = ENTRY_FIXED_LEN + lens.len();
    let mut next = |len: usize| {
        let end = at.checked_add(len).filter(|end| *end <= body.len());
        let end = end.ok_or(FormatError::Short { what: "entry", have: body.len(), need: at.saturating_add(len) })?;
        let slice = body.slice(at..end);
        at = end;
        Ok(slice)
    };
    let meta = next(meta_len)?;
    let blobs = lens
        .chunks_exact(4)
        .map(|len| next(len.iter().fold(0, |value, byte| value << 8 | usize::from(*byte))))
        .collect::<Result<Vec<_>, _>>()?;
    if at != body.len() {
        return Err(FormatError::Field { field: "entry length", value: body.len() as u64 });
    }
    Ok(LaneEntry { id, payload: Payload { meta, blobs, verified: false } })
}

/// Decodes a whole commit, whose header is known, from bytes that begin with it. Record places count from the start
/// of the commit.
///
/// # Errors
/// The first thing that is wrong with any of it.
pub fn decode_commit(header: &CommitHeader, bytes: &Bytes) -> Result<Vec<Located>, FormatError> {
    let end = header.total_len();
    if bytes.len() < end {
        return Err(FormatError::Short { what: "commit", have: bytes.len(), need: end });
    }
    let bytes = bytes.slice(..end);
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

/// Reads big-endian fields one after the other.
pub(crate) struct Fields<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let need = self.at.saturating_add(len);
        let short = FormatError::Short { what: self.what, have: self.bytes.len(), need };
        let slice = self.bytes.get(self.at..need).ok_or(short)?;
        self.at = need;
        Ok(slice)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let short = FormatError::Short { what: self.what, have: self.bytes.len(), need: self.at.saturating_add(N) };
        self.take(N)?.try_into().map_err(|_| short)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_be_bytes)
    }

    fn id(&mut self) -> Result<EntryId, FormatError> {
        Ok(EntryId { term: Term(self.u64()?), index: LogIndex(self.u64()?) })
    }

    fn optional_id(&mut self) -> Result<Option<EntryId>, FormatError> {
        let [flag] = self.array()?;
        let id = self.id()?;
        match flag {
            0 => Ok(None),
            1 => Ok(Some(id)),
            _ => Err(FormatError::Field { field: "entry id flag", value: flag.into() }),
        }
    }
}

#[cfg(test)]
mod tests;
