//! Bytes ↔ fields: fixed big-endian numbers, LEB128 lengths and counts. Sections are taken apart in
//! `sections`.
//!
//! A reader never allocates for more items than the remaining bytes can hold and never panics.

use bytes::Bytes;
use tidewater_storage::model::{LaneId, LogIndex, Offset, OffsetRange, PartitionId, Term, TimestampMs};
use uuid::Uuid;

use super::FormatError;
use crate::keys::{ClusterId, Home, LineageEpoch, Nonce, ObjectKind, ObjectName, Sequence};

/// Builds bytes.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.out.into()
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Nothing so far?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// LEB128.
    pub fn var(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// Zigzag LEB128.
    pub fn signed(&mut self, value: i64) {
        self.var(((value << 1) ^ (value >> 63)) as u64);
    }

    /// A count or length.
    pub fn count(&mut self, value: usize) {
        self.var(value as u64);
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Length, then bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    /// Length, then UTF-8.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// A section: tag, must a reader know it, length, body.
    pub fn section(&mut self, tag: u64, must_know: bool, body: impl FnOnce(&mut Self)) {
        let mut inner = Self::new();
        body(&mut inner);
        self.var(tag);
        self.u8(u8::from(must_know));
        self.bytes(&inner.out);
    }

    /// 24 bytes.
    pub fn partition(&mut self, id: PartitionId) {
        self.raw(&id.to_bytes());
    }

    /// An offset.
    pub fn offset(&mut self, offset: Offset) {
        self.var(offset.get());
    }

    /// Start, count.
    pub fn offsets(&mut self, offsets: OffsetRange) {
        self.offset(offsets.start);
        self.var(offsets.count());
    }

    /// A timestamp.
    pub fn time(&mut self, time: TimestampMs) {
        self.signed(time.0);
    }

    /// Present or not, then the value.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// Cluster and epoch.
    pub fn home(&mut self, home: Home) {
        self.raw(home.cluster.0.as_bytes());
        self.u32(home.epoch.0);
    }

    /// An object's name.
    pub fn name(&mut self, name: ObjectName) {
        self.home(name.home);
        match name.kind {
            ObjectKind::Catalogue => self.u8(0),
            ObjectKind::Bundle { lane, sequence } => {
                self.u8(1);
                self.var(lane.0.into());
                self.var(sequence.0);
            }
            ObjectKind::Part { lane, sequence, term, nonce } => {
                self.u8(2);
                self.var(lane.0.into());
                self.var(sequence.0);
                self.var(term.0);
                self.u64(nonce.0);
            }
            ObjectKind::Segment { partition, base, term, nonce } => {
                self.u8(3);
                self.partition(partition);
                self.offset(base);
                self.var(term.0);
                self.u64(nonce.0);
            }
            ObjectKind::Gathered { lane, first, term, nonce } => {
                self.u8(4);
                self.var(lane.0.into());
                self.var(first.0);
                self.var(term.0);
                self.u64(nonce.0);
            }
            ObjectKind::Spill { partition, start, level, nonce } => {
                self.u8(5);
                self.partition(partition);
                self.offset(start);
                self.u8(level);
                self.u64(nonce.0);
            }
            ObjectKind::LaneManifest { lane } => {
                self.u8(6);
                self.var(lane.0.into());
            }
            ObjectKind::Page { lane, term, nonce } => {
                self.u8(7);
                self.var(lane.0.into());
                self.var(term.0);
                self.u64(nonce.0);
            }
            ObjectKind::Cut { number } => {
                self.u8(8);
                self.var(number);
            }
        }
    }
}

/// Takes bytes apart. `what` names the format in errors.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the start of `bytes`.
    #[must_use]
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    /// The format's name in errors.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        self.what
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// Error: the field just read makes no sense.
    #[must_use]
    pub fn bad(&self, field: &'static str) -> FormatError {
        FormatError::Field { what: self.what, field, at: self.at }
    }

    /// Error unless everything was read.
    ///
    /// # Errors
    /// [`FormatError::Trailing`].
    pub fn end(&self) -> Result<(), FormatError> {
        match self.left() {
            0 => Ok(()),
            left => Err(FormatError::Trailing { what: self.what, left }),
        }
    }

    /// `len` bytes as they are.
    ///
    /// # Errors
    /// [`FormatError::Short`]; likewise for every method below, plus [`FormatError::Field`].
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let short = FormatError::Short { what: self.what, at: self.bytes.len() };
        let end = self.at.checked_add(len).ok_or(short.clone())?;
        let slice = self.bytes.get(self.at..end).ok_or(short)?;
        self.at = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let at = self.at;
        self.raw(N)?.try_into().map_err(|_| FormatError::Short { what: self.what, at })
    }

    /// See [`Writer::u8`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_be_bytes)
    }

    /// See [`Writer::u16`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_be_bytes)
    }

    /// See [`Writer::u32`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_be_bytes)
    }

    /// See [`Writer::u64`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_be_bytes)
    }

    /// See [`Writer::var`]. Only the shortest form is accepted, so that equal content is equal bytes.
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn var(&mut self) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if (part << shift) >> shift != part || (byte == 0 && shift > 0) {
                return Err(self.bad("number"));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.bad("number"))
    }

    /// A number that must fit `u32`.
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn var32(&mut self) -> Result<u32, FormatError> {
        u32::try_from(self.var()?).map_err(|_| self.bad("number"))
    }

    /// See [`Writer::signed`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn signed(&mut self) -> Result<i64, FormatError> {
        let raw = self.var()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// A count of items that take at least `item_bytes_min` bytes each: refused if they cannot be there.
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn count(&mut self, item_bytes_min: usize) -> Result<usize, FormatError> {
        let count = usize::try_from(self.var()?).map_err(|_| self.bad("count"))?;
        if count > self.left() / item_bytes_min.max(1) {
            return Err(self.bad("count"));
        }
        Ok(count)
    }

    /// Items of at least `item_bytes_min` bytes, each read by `item`.
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn list<T>(
        &mut self,
        item_bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, FormatError>,
    ) -> Result<Vec<T>, FormatError> {
        let count = self.count(item_bytes_min)?;
        // An item in memory may be much larger than its bytes: grow with what is really there.
        let mut out = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            out.push(item(self)?);
        }
        Ok(out)
    }

    /// See [`Writer::bytes`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn bytes(&mut self) -> Result<&'a [u8], FormatError> {
        let len = self.count(1)?;
        self.raw(len)
    }

    /// See [`Writer::text`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn text(&mut self) -> Result<String, FormatError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| self.bad("text"))
    }

    /// See [`Writer::partition`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn partition(&mut self) -> Result<PartitionId, FormatError> {
        let id = PartitionId::from_bytes(&self.array()?);
        if id.index.0 < 0 { Err(self.bad("partition index")) } else { Ok(id) }
    }

    /// See [`Writer::offset`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn offset(&mut self) -> Result<Offset, FormatError> {
        let value = self.var()?;
        if value > Offset::MAX.get() { Err(self.bad("offset")) } else { Ok(Offset::new(value)) }
    }

    /// See [`Writer::offsets`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn offsets(&mut self) -> Result<OffsetRange, FormatError> {
        let start = self.offset()?;
        let end = start.get().checked_add(self.var()?).filter(|end| *end <= Offset::MAX.get());
        Ok(OffsetRange::new(start, Offset::new(end.ok_or_else(|| self.bad("offset range"))?)))
    }

    /// See [`Writer::time`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn time(&mut self) -> Result<TimestampMs, FormatError> {
        self.signed().map(TimestampMs)
    }

    /// A flag: 0 or 1, nothing else.
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn flag(&mut self) -> Result<bool, FormatError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.bad("flag")),
        }
    }

    /// See [`Writer::option`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, FormatError>,
    ) -> Result<Option<T>, FormatError> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    /// A lane's id.
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn lane(&mut self) -> Result<LaneId, FormatError> {
        self.var32().map(LaneId)
    }

    /// A bundle's sequence.
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn sequence(&mut self) -> Result<Sequence, FormatError> {
        self.var().map(Sequence)
    }

    /// A term.
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn term(&mut self) -> Result<Term, FormatError> {
        self.var().map(Term)
    }

    /// A log index.
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn index(&mut self) -> Result<LogIndex, FormatError> {
        self.var().map(LogIndex)
    }

    /// See [`Writer::home`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn home(&mut self) -> Result<Home, FormatError> {
        let cluster = ClusterId(Uuid::from_bytes(self.array()?));
        Ok(Home { cluster, epoch: LineageEpoch(self.u32()?) })
    }

    /// See [`Writer::name`].
    #[allow(clippy::missing_errors_doc, reason = "see raw")]
    pub fn name(&mut self) -> Result<ObjectName, FormatError> {
        let home = self.home()?;
        let kind = match self.u8()? {
            0 => ObjectKind::Catalogue,
            1 => ObjectKind::Bundle { lane: self.lane()?, sequence: self.sequence()? },
            2 => ObjectKind::Part {
                lane: self.lane()?,
                sequence: self.sequence()?,
                term: self.term()?,
                nonce: Nonce(self.u64()?),
            },
            3 => ObjectKind::Segment {
                partition: self.partition()?,
                base: self.offset()?,
                term: self.term()?,
                nonce: Nonce(self.u64()?),
            },
            4 => ObjectKind::Gathered {
                lane: self.lane()?,
                first: self.sequence()?,
                term: self.term()?,
                nonce: Nonce(self.u64()?),
            },
            5 => ObjectKind::Spill {
                partition: self.partition()?,
                start: self.offset()?,
                level: self.u8()?,
                nonce: Nonce(self.u64()?),
            },
            6 => ObjectKind::LaneManifest { lane: self.lane()? },
            7 => ObjectKind::Page { lane: self.lane()?, term: self.term()?, nonce: Nonce(self.u64()?) },
            8 => ObjectKind::Cut { number: self.var()? },
            _ => return Err(self.bad("object kind")),
        };
        Ok(home.name(kind))
    }
}
