//! The last 32 bytes of every binary object: where its index is, how long, its checksum, what it is.
//!
//! ```text
//!  0        8      12     16        18     20            24         32
//!  | index  | index | index | version | kind | crc of 0..20 | TIDEWATR |
//!  | offset | len   | crc   |         |      |              |          |
//! ```

use bytes::Bytes;
use tidewater_storage::codec::{Decoder, fixed};

use super::{FORMAT_VERSION, FormatError, INDEX_BYTES_MAX};

/// Bytes of the trailer.
pub const TRAILER_LEN: usize = 32;
const MAGIC: [u8; 8] = *b"TIDEWATR";
const CHECKED_LEN: usize = 20;
const _: () = assert!(CHECKED_LEN + 4 + MAGIC.len() == TRAILER_LEN);

/// Where an index lies in its object, and the crc32c of its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexRef {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
    /// crc32c of them.
    pub crc: u32,
}

/// What an object's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// A data object's index ([`super::DataIndex`]).
    Index,
    /// A lane manifest.
    LaneManifest,
    /// Partition manifests.
    Page,
    /// Rows of a partition manifest.
    Spill,
    /// A cut of the whole cluster.
    Cut,
}

/// A checked trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the body is.
    pub index: IndexRef,
    /// What it is.
    pub body: Body,
}

impl Body {
    fn code(self) -> u16 {
        match self {
            Self::Index => 1,
            Self::LaneManifest => 2,
            Self::Page => 3,
            Self::Spill => 4,
            Self::Cut => 5,
        }
    }

    fn from_code(code: u16) -> Option<Self> {
        [Self::Index, Self::LaneManifest, Self::Page, Self::Spill, Self::Cut]
            .into_iter()
            .find(|body| body.code() == code)
    }
}

impl IndexRef {
    /// Of a body that begins at `offset`.
    ///
    /// # Panics
    /// If no reader would take it: what goes into a body is bounded far below [`INDEX_BYTES_MAX`].
    #[must_use]
    pub(crate) fn of(offset: u64, body: &[u8]) -> Self {
        assert!(body.len() <= INDEX_BYTES_MAX as usize, "a body of {} bytes is more than readers take", body.len());
        Self { offset, len: body.len() as u32, crc: crc32c::crc32c(body) }
    }

    /// One after its last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len.into())
    }

    /// Are these its bytes?
    ///
    /// # Errors
    /// [`FormatError::Checksum`].
    pub fn verify(&self, bytes: &[u8]) -> Result<(), FormatError> {
        let found = crc32c::crc32c(bytes);
        if bytes.len() == self.len as usize && found == self.crc {
            return Ok(());
        }
        Err(FormatError::Checksum { what: "index", expected: self.crc, found })
    }
}

impl Trailer {
    /// The 32 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; TRAILER_LEN] {
        let checked: [u8; CHECKED_LEN] = fixed(|out| {
            out.u64(self.index.offset);
            out.u32(self.index.len);
            out.u32(self.index.crc);
            out.u16(FORMAT_VERSION);
            out.u16(self.body.code());
        });
        fixed(|out| {
            out.raw(&checked);
            out.u32(crc32c::crc32c(&checked));
            out.raw(&MAGIC);
        })
    }

    /// Reads the trailer of an object of `size` bytes, given its last bytes (at least 32 of them).
    ///
    /// # Errors
    /// [`FormatError::Trailer`], [`FormatError::Version`].
    pub fn parse(tail: &[u8], size: u64) -> Result<Self, FormatError> {
        let broken = |found| FormatError::Trailer { size, found };
        let start = tail.len().checked_sub(TRAILER_LEN).ok_or(broken("too short"))?;
        let bytes = tail.get(start..).ok_or(broken("too short"))?;
        let mut reader = Decoder::new("trailer", bytes);
        let index = IndexRef { offset: reader.u64()?, len: reader.u32()?, crc: reader.u32()? };
        let (version, body, crc) = (reader.u16()?, reader.u16()?, reader.u32()?);
        if reader.raw(MAGIC.len())? != MAGIC {
            return Err(broken("no magic"));
        }
        if bytes.get(..CHECKED_LEN).map(crc32c::crc32c) != Some(crc) {
            return Err(broken("checksum mismatch"));
        }
        if version != FORMAT_VERSION {
            return Err(FormatError::Version { found: version, known: FORMAT_VERSION });
        }
        let body = Body::from_code(body).ok_or(broken("unknown kind"))?;
        if index.len > INDEX_BYTES_MAX {
            return Err(broken("index too long"));
        }
        let end = index.offset.checked_add(index.len.into()).and_then(|end| end.checked_add(TRAILER_LEN as u64));
        if end != Some(size) {
            return Err(broken("index not before the trailer"));
        }
        Ok(Self { index, body })
    }

    /// Error unless the body is of that kind.
    ///
    /// # Errors
    /// [`FormatError::Kind`].
    pub fn expect(&self, body: Body) -> Result<(), FormatError> {
        if self.body == body {
            return Ok(());
        }
        Err(FormatError::Kind { expected: body.code(), found: self.body.code() })
    }
}

/// The body of an object that was read whole: trailer checked, kind checked, checksum checked.
///
/// # Errors
/// What is wrong with it.
pub fn read_whole(object: &Bytes, body: Body) -> Result<(Bytes, IndexRef), FormatError> {
    let trailer = Trailer::parse(object, object.len() as u64)?;
    trailer.expect(body)?;
    let broken = FormatError::Trailer { size: object.len() as u64, found: "index outside" };
    let start = usize::try_from(trailer.index.offset).map_err(|_| broken.clone())?;
    let end = start.checked_add(trailer.index.len as usize).filter(|end| *end <= object.len()).ok_or(broken)?;
    let bytes = object.slice(start..end);
    trailer.index.verify(&bytes)?;
    Ok((bytes, trailer.index))
}

/// An object that is only a body and its trailer (manifests, pages, spills).
#[must_use]
pub(crate) fn body_only(body: Body, bytes: &[u8]) -> (Bytes, IndexRef) {
    let index = IndexRef::of(0, bytes);
    let mut out = Vec::with_capacity(bytes.len() + TRAILER_LEN);
    out.extend_from_slice(bytes);
    out.extend_from_slice(&Trailer { index, body }.encode());
    (out.into(), index)
}
