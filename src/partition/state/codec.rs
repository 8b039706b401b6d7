//! Little-endian words in and out of byte strings, for lane commands and checkpoint blobs. Never panics on any bytes.

use bytes::{BufMut, Bytes, BytesMut};
use tidewater_storage::model::PartitionId;

/// Appends words.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: BytesMut,
}

impl Writer {
    /// Makes room for so many bytes more at once.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.put_u8(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes.put_u16_le(value);
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes.put_u32_le(value);
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes.put_u64_le(value);
    }

    /// Eight bytes, signed.
    pub fn i64(&mut self, value: i64) {
        self.bytes.put_i64_le(value);
    }

    /// A partition's identity.
    pub fn partition(&mut self, id: PartitionId) {
        self.bytes.put_slice(&id.to_bytes());
    }

    /// A length (u32) and that many bytes.
    pub fn blob(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.bytes.put_slice(bytes);
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.bytes.freeze()
    }
}

/// The version of lanes' checkpoint blobs.
const LANE_BLOB: u8 = 1;

/// Begins a lane's checkpoint blob: version, Raft's membership. What the lane itself keeps follows.
#[must_use]
pub fn begin_lane_blob(membership: &[u8]) -> Writer {
    let mut out = Writer::default();
    out.u8(LANE_BLOB);
    out.blob(membership);
    out
}

/// The membership in a lane's checkpoint blob, and what follows it; `None` if it is none or of a newer version.
#[must_use]
pub fn open_lane_blob(blob: &Bytes) -> Option<(Bytes, Reader<'_>)> {
    let mut from = Reader::new(blob);
    from.u8().filter(|version| *version == LANE_BLOB)?;
    let membership = Bytes::copy_from_slice(from.blob()?);
    Some((membership, from))
}

/// Takes words; every method is `None` once the bytes run out.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[b]| b)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// Eight bytes, signed.
    pub fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    /// A partition's identity.
    pub fn partition(&mut self) -> Option<PartitionId> {
        self.take::<{ PartitionId::ENCODED_LEN }>().map(|b| PartitionId::from_bytes(&b))
    }

    /// A length and that many bytes.
    pub fn blob(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (blob, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(blob)
    }

    /// Is nothing left?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
