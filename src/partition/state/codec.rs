//! What the checkpoint blobs of lanes, the controller and partitions share: a version byte, then sections (`DESIGN.md`,
//! "Formats of this package"). Also the reader of what older versions wrote, little-endian and by position.

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder, Sections};
use tidewater_storage::model::PartitionId;

/// Version of the checkpoint blobs of lanes and of the controller.
const LANE_BLOB: u8 = 2;
/// Their first section: Raft's membership. The sections behind it are the lane's own.
pub const MEMBERSHIP: u64 = 1;

/// The checkpoint blob of a lane or of the controller; `sections` writes those behind the membership.
#[must_use]
pub fn lane_blob(membership: &[u8], sections: impl FnOnce(&mut Encoder)) -> Bytes {
    let mut out = Encoder::new();
    out.u8(LANE_BLOB);
    out.section(MEMBERSHIP, true, |out| out.raw(membership));
    sections(&mut out);
    out.finish()
}

/// A checkpoint blob of a lane or of the controller, by its version.
#[derive(Debug)]
pub enum LaneBlob<'a> {
    Sections(Sections<'a>),
    /// Version 1: the membership, then fields by position.
    Positional(Bytes, LittleEndian<'a>),
}

/// Opens a checkpoint blob; `what` names it in errors.
///
/// # Errors
/// It is malformed or of a newer version.
pub fn open_lane_blob<'a>(what: &'static str, blob: &'a [u8]) -> Result<LaneBlob<'a>, CodecError> {
    let mut from = Decoder::new(what, blob);
    if from.version(1, LANE_BLOB)? == LANE_BLOB {
        return Ok(LaneBlob::Sections(Sections::new(what, from.rest())));
    }
    let mut old = LittleEndian::new(from);
    let membership = Bytes::copy_from_slice(old.blob()?);
    Ok(LaneBlob::Positional(membership, old))
}

/// Reads what versions before sections wrote. Every method fails where the bytes end.
#[derive(Clone, Debug)]
pub struct LittleEndian<'a>(Decoder<'a>);

#[allow(clippy::missing_errors_doc, reason = "said once, at the type")]
impl<'a> LittleEndian<'a> {
    /// From where `from` stands.
    #[must_use]
    pub const fn new(from: Decoder<'a>) -> Self {
        Self(from)
    }

    #[must_use]
    pub const fn bad(&self, field: &'static str) -> CodecError {
        self.0.bad(field)
    }

    pub fn end(&self) -> Result<(), CodecError> {
        self.0.end()
    }

    pub fn u8(&mut self) -> Result<u8, CodecError> {
        self.0.u8()
    }

    pub fn i16(&mut self) -> Result<i16, CodecError> {
        self.0.array().map(i16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, CodecError> {
        self.0.array().map(u32::from_le_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, CodecError> {
        self.0.array().map(i32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, CodecError> {
        self.0.array().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, CodecError> {
        self.0.array().map(i64::from_le_bytes)
    }

    pub fn partition(&mut self) -> Result<PartitionId, CodecError> {
        self.0.partition()
    }

    /// A `u32` length and that many bytes.
    pub fn blob(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u32()? as usize;
        self.0.raw(len)
    }
}
