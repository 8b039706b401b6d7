//! Bytes ↔ fields: the codec of every binary format in this workspace.
//!
//! Numbers of fixed width are big-endian; `var` is LEB128 in its shortest form, `signed` zigzag LEB128, `count` a
//! `var`. A body that later versions add to is a row of [`Sections`]. Bytes come from outside (disk, bucket, network):
//! a [`Decoder`] compares every length with what remains before it allocates, and never panics. An [`Encoder`] asserts
//! what the decoder will demand, so that a bug of ours stops where it is made.

mod sections;

use bytes::Bytes;

use crate::model::{LaneId, LogIndex, Offset, OffsetRange, PartitionId, Term, TimestampMs};
pub use sections::Sections;

/// What is wrong with bytes that should be one of our formats. `what` names the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("{what} ends at byte {at} inside a field")]
    Short { what: &'static str, at: usize },
    #[error("{what} has an impossible {field} at byte {at}")]
    Field { what: &'static str, field: &'static str, at: usize },
    #[error("{what} has {left} bytes after its end")]
    Trailing { what: &'static str, left: usize },
    #[error("{what} has version {found}, this version reads up to {known}: start the newer version that wrote it")]
    Version { what: &'static str, found: u8, known: u8 },
    #[error("{what} has section {tag}, which readers must know: start the newer version that wrote it")]
    MustKnow { what: &'static str, tag: u64 },
    #[error("{what} lacks section {tag}")]
    Missing { what: &'static str, tag: u64 },
}

impl CodecError {
    /// A newer version wrote the bytes; they are not damaged.
    #[must_use]
    pub const fn is_newer(&self) -> bool {
        matches!(self, Self::Version { .. } | Self::MustKnow { .. })
    }
}

/// Builds bytes.
#[derive(Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
    /// Tag of the last section; sections ascend.
    section: u64,
}

impl Encoder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes), section: 0 }
    }

    /// Makes room for that many more bytes.
    pub fn reserve(&mut self, bytes: usize) {
        self.out.reserve(bytes);
    }

    #[must_use]
    pub fn finish(self) -> Bytes {
        self.out.into()
    }

    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.out
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    /// A length or count as `u32`.
    pub fn len32(&mut self, value: usize) {
        assert!(value <= u32::MAX as usize, "a length of {value} does not fit its field of 32 bits");
        self.u32(value as u32);
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

    /// A count or length as LEB128.
    pub fn count(&mut self, value: usize) {
        self.var(value as u64);
    }

    /// Bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A `var` length and that many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    /// A `u32` length and that many bytes.
    pub fn blob(&mut self, bytes: &[u8]) {
        self.len32(bytes.len());
        self.raw(bytes);
    }

    /// A `var` length and UTF-8.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub fn flag(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// A flag, then the value if it is there.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// A count, then each item.
    pub fn list<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.count(items.len());
        items.for_each(|item| write(self, item));
    }

    /// 24 bytes.
    pub fn partition(&mut self, id: PartitionId) {
        debug_assert!(id.index.0 >= 0, "partition {id} has a negative index");
        self.raw(&id.to_bytes());
    }

    pub fn lane(&mut self, lane: LaneId) {
        self.var(lane.0.into());
    }

    pub fn term(&mut self, term: Term) {
        self.var(term.0);
    }

    pub fn index(&mut self, index: LogIndex) {
        self.var(index.0);
    }

    pub fn offset(&mut self, offset: Offset) {
        debug_assert!(offset <= Offset::MAX, "{offset} is beyond the last offset");
        self.var(offset.get());
    }

    /// Start and count.
    pub fn offsets(&mut self, offsets: OffsetRange) {
        debug_assert!(offsets.start <= offsets.end, "a range runs backwards");
        self.offset(offsets.start);
        self.var(offsets.count());
    }

    pub fn time(&mut self, time: TimestampMs) {
        self.signed(time.0);
    }
}

/// Exactly `N` bytes.
#[must_use]
pub fn fixed<const N: usize>(write: impl FnOnce(&mut Encoder)) -> [u8; N] {
    let mut out = Encoder::with_capacity(N);
    write(&mut out);
    let written = out.len();
    assert!(written == N, "{written} bytes were written where {N} are read");
    out.out.first_chunk().copied().unwrap_or([0; N])
}

/// Takes bytes apart, first to last. Every method fails with [`CodecError::Short`] where the bytes end, and with
/// [`CodecError::Field`] on a value that cannot be.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

#[allow(clippy::missing_errors_doc, reason = "said once, at the type")]
impl<'a> Decoder<'a> {
    /// `what` names the format in errors.
    #[must_use]
    pub const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    #[must_use]
    pub const fn what(&self) -> &'static str {
        self.what
    }

    /// Bytes read so far.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The error for a value that was read and cannot be.
    #[must_use]
    pub const fn bad(&self, field: &'static str) -> CodecError {
        CodecError::Field { what: self.what, field, at: self.at }
    }

    /// Fails with [`CodecError::Trailing`] unless everything was read.
    pub fn end(&self) -> Result<(), CodecError> {
        match self.left() {
            0 => Ok(()),
            left => Err(CodecError::Trailing { what: self.what, left }),
        }
    }

    /// `len` bytes.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let end = self.at.checked_add(len);
        let Some((end, slice)) = end.and_then(|end| Some((end, self.bytes.get(self.at..end)?))) else {
            return Err(CodecError::Short { what: self.what, at: self.bytes.len() });
        };
        self.at = end;
        Ok(slice)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.at = self.bytes.len();
        rest
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let short = CodecError::Short { what: self.what, at: self.bytes.len() };
        self.raw(N)?.first_chunk().copied().ok_or(short)
    }

    pub fn u8(&mut self) -> Result<u8, CodecError> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, CodecError> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, CodecError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A version byte from `oldest` to `newest`; a greater one is [`CodecError::Version`].
    pub fn version(&mut self, oldest: u8, newest: u8) -> Result<u8, CodecError> {
        match self.u8()? {
            found if found > newest => Err(CodecError::Version { what: self.what, found, known: newest }),
            found if found < oldest => Err(self.bad("version")),
            found => Ok(found),
        }
    }

    /// LEB128. Only the shortest form is accepted, so that equal content is equal bytes.
    pub fn var(&mut self) -> Result<u64, CodecError> {
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

    /// LEB128 that fits `u32`.
    pub fn var32(&mut self) -> Result<u32, CodecError> {
        u32::try_from(self.var()?).map_err(|_| self.bad("number"))
    }

    /// Zigzag LEB128.
    pub fn signed(&mut self) -> Result<i64, CodecError> {
        let raw = self.var()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// Zigzag LEB128 that fits `i32`.
    pub fn signed32(&mut self) -> Result<i32, CodecError> {
        i32::try_from(self.signed()?).map_err(|_| self.bad("number"))
    }

    /// A `var` count of items that take at least `item_bytes_min` bytes each; refused if they cannot all be there.
    pub fn count(&mut self, item_bytes_min: usize) -> Result<usize, CodecError> {
        let count = self.var()?;
        self.plausible(count, item_bytes_min)
    }

    /// A `u32` count, checked as [`Decoder::count`] does.
    pub fn count32(&mut self, item_bytes_min: usize) -> Result<usize, CodecError> {
        let count = self.u32()?;
        self.plausible(count.into(), item_bytes_min)
    }

    fn plausible(&self, count: u64, item_bytes_min: usize) -> Result<usize, CodecError> {
        debug_assert!(item_bytes_min > 0, "an item of no bytes bounds nothing");
        let count = usize::try_from(count).map_err(|_| self.bad("count"))?;
        if count > self.left() / item_bytes_min.max(1) { Err(self.bad("count")) } else { Ok(count) }
    }

    /// A `var` count of items of at least `item_bytes_min` bytes, each read by `item`.
    pub fn list<T>(
        &mut self,
        item_bytes_min: usize,
        item: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.count(item_bytes_min)?;
        self.items(count, item)
    }

    /// As [`Decoder::list`], with a `u32` count.
    pub fn list32<T>(
        &mut self,
        item_bytes_min: usize,
        item: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.count32(item_bytes_min)?;
        self.items(count, item)
    }

    fn items<T>(
        &mut self,
        count: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        // An item in memory may be much larger than its bytes: grow with what is really there.
        let mut out = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            out.push(item(self)?);
        }
        Ok(out)
    }

    /// A `var` length and that many bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.count(1)?;
        self.raw(len)
    }

    /// A `u32` length and that many bytes.
    pub fn blob(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u32()? as usize;
        self.raw(len)
    }

    /// A `var` length and UTF-8.
    pub fn text(&mut self) -> Result<String, CodecError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| self.bad("text"))
    }

    /// 0 or 1, nothing else.
    pub fn flag(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.bad("flag")),
        }
    }

    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    pub fn partition(&mut self) -> Result<PartitionId, CodecError> {
        let id = PartitionId::from_bytes(&self.array()?);
        if id.index.0 < 0 { Err(self.bad("partition index")) } else { Ok(id) }
    }

    pub fn lane(&mut self) -> Result<LaneId, CodecError> {
        self.var32().map(LaneId)
    }

    pub fn term(&mut self) -> Result<Term, CodecError> {
        self.var().map(Term)
    }

    pub fn index(&mut self) -> Result<LogIndex, CodecError> {
        self.var().map(LogIndex)
    }

    pub fn offset(&mut self) -> Result<Offset, CodecError> {
        let value = self.var()?;
        self.to_offset(value)
    }

    /// An offset as `u64`.
    pub fn offset64(&mut self) -> Result<Offset, CodecError> {
        let value = self.u64()?;
        self.to_offset(value)
    }

    fn to_offset(&self, value: u64) -> Result<Offset, CodecError> {
        if value > Offset::MAX.get() { Err(self.bad("offset")) } else { Ok(Offset::new(value)) }
    }

    /// Start and count.
    pub fn offsets(&mut self) -> Result<OffsetRange, CodecError> {
        let start = self.offset()?;
        let end = start.get().checked_add(self.var()?).filter(|end| *end <= Offset::MAX.get());
        Ok(OffsetRange::new(start, Offset::new(end.ok_or_else(|| self.bad("offset range"))?)))
    }

    pub fn time(&mut self) -> Result<TimestampMs, CodecError> {
        self.signed().map(TimestampMs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_big_endian_and_the_shortest_form_is_the_only_one() {
        let mut out = Encoder::new();
        out.u16(0x0102);
        out.u32(0x0304_0506);
        out.var(300);
        assert_eq!(out.as_slice(), [1, 2, 3, 4, 5, 6, 0xac, 2]);
        assert!(Decoder::new("test", &[0x80, 0]).var().is_err());
        assert!(Decoder::new("test", &[0xff; 10]).var().is_err());
    }

    #[test]
    fn a_count_of_more_than_can_be_there_is_refused() {
        let mut decoder = Decoder::new("test", &[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2]);
        assert!(matches!(decoder.count(1), Err(CodecError::Field { field: "count", .. })));
        assert!(Decoder::new("test", &[0, 0, 0, 3, 1, 2]).count32(1).is_err());
    }

    proptest! {
        #[test]
        fn fields_round_trip(a: u64, b: i64, c: u32, d: i32, text in ".{0,20}", blob in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut out = Encoder::new();
            out.var(a);
            out.signed(b);
            out.u32(c);
            out.i32(d);
            out.u64(a);
            out.i64(b);
            out.text(&text);
            out.blob(&blob);
            out.option(Some(c), |out, c| out.var(c.into()));
            out.list(blob.iter(), |out, byte| out.u8(*byte));
            let bytes = out.finish();
            let mut decoder = Decoder::new("test", &bytes);
            prop_assert_eq!((decoder.var(), decoder.signed(), decoder.u32(), decoder.i32()), (Ok(a), Ok(b), Ok(c), Ok(d)));
            prop_assert_eq!((decoder.u64(), decoder.i64()), (Ok(a), Ok(b)));
            prop_assert_eq!(decoder.text(), Ok(text));
            prop_assert_eq!(decoder.blob(), Ok(&blob[..]));
            prop_assert_eq!(decoder.option(Decoder::var32), Ok(Some(c)));
            prop_assert_eq!(decoder.list(1, Decoder::u8), Ok(blob.clone()));
            prop_assert_eq!(decoder.end(), Ok(()));
            for cut in 0..bytes.len() {
                let mut decoder = Decoder::new("test", &bytes[..cut]);
                let read = decoder.var().and_then(|_| decoder.signed()).and_then(|_| decoder.u32());
                let read = read.and_then(|_| decoder.i32()).and_then(|_| decoder.u64()).and_then(|_| decoder.i64());
                let read = read.and_then(|_| decoder.text()).and_then(|_| decoder.blob().map(|_| ()));
                let read = read.and_then(|()| decoder.option(Decoder::var32)).and_then(|_| decoder.list(1, Decoder::u8));
                prop_assert!(read.is_err());
            }
        }
    }
}
