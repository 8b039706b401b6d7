//! The root: a generation and where the page of every bucket lies. Layout: `FORMAT.md`, "Checkpoint".

use bytes::Bytes;

use super::error::FormatError;
use crate::codec::{Decoder, Encoder};
use crate::segment::{BLOCK, block_ceil};

/// First bytes of a root: "TWCR".
pub const MAGIC: u32 = 0x5457_4352;
/// Version written, and the only one read.
pub const VERSION: u16 = 1;
/// Bytes before the page references: magic, version, flags, generation, records' bytes, bucket count.
pub const HEADER_LEN: usize = 4 + 2 + 2 + 8 + 8 + 4;
/// Bytes of one page reference.
pub const PAGE_REF_LEN: usize = 16;
/// More buckets than this are damage.
pub const BUCKETS_MAX: usize = 1 << 20;
/// A page beyond this block is damage: its byte position would overflow.
const BLOCK_MAX: u64 = u64::MAX / BLOCK / 2;

/// Where a bucket's page lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRef {
    /// First block of 4 KiB in the page file.
    pub block: u64,
    /// Bytes; 0 for an empty bucket, which has no page.
    pub len: u32,
    /// crc32c of those bytes.
    pub crc: u32,
}

impl PageRef {
    /// Blocks it takes.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        block_ceil(u64::from(self.len)) / BLOCK
    }
}

/// Names the pages of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// One more with each commit.
    pub generation: u64,
    /// Bytes of all records together, by which the number of buckets is chosen.
    pub bytes: u64,
    /// One per bucket, a power of two of them.
    pub pages: Vec<PageRef>,
}

impl Root {
    /// Nothing in it.
    #[must_use]
    pub fn empty() -> Self {
        Self { generation: 0, bytes: 0, pages: vec![PageRef::default()] }
    }

    /// Bytes of [`Root::encode`].
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + self.pages.len() * PAGE_REF_LEN + 4
    }

    /// Its bytes, checksum at the end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.pages.len().is_power_of_two() && self.pages.len() <= BUCKETS_MAX, "{} buckets", self.pages.len());
        let mut out = Encoder::with_capacity(self.encoded_len());
        out.u32(MAGIC);
        out.u16(VERSION);
        out.u16(0);
        out.u64(self.generation);
        out.u64(self.bytes);
        out.len32(self.pages.len());
        for page in &self.pages {
            assert!(page.block <= BLOCK_MAX, "a page at block {}", page.block);
            out.u64(page.block);
            out.u32(page.len);
            out.u32(page.crc);
        }
        out.u32(crc32c::crc32c(out.as_slice()));
        assert_eq!(out.len(), self.encoded_len(), "a root is as long as was said");
        out.into_vec()
    }

    /// Reads a slot, which may hold anything after the root.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(slot: &Bytes) -> Result<Self, FormatError> {
        let mut fields = Decoder::new("checkpoint root", slot);
        let (magic, version) = (fields.u32()?, fields.u16()?);
        if magic != MAGIC {
            return Err(FormatError::Magic { expected: MAGIC, found: magic });
        }
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        fields.u16()?;
        let (generation, total, count) = (fields.u64()?, fields.u64()?, fields.u32()? as usize);
        if !count.is_power_of_two() || count > BUCKETS_MAX {
            return Err(FormatError::Field("bucket count"));
        }
        let mut pages = Decoder::new("checkpoint root", fields.raw(count * PAGE_REF_LEN)?);
        let covered = slot.get(..fields.position()).unwrap_or_default();
        let (expected, found) = (fields.u32()?, crc32c::crc32c(covered));
        if expected != found {
            return Err(FormatError::Crc { expected, found });
        }
        let mut read = Vec::with_capacity(count);
        for _ in 0..count {
            let page = PageRef { block: pages.u64()?, len: pages.u32()?, crc: pages.u32()? };
            if page.block > BLOCK_MAX {
                return Err(FormatError::Field("page block"));
            }
            read.push(page);
        }
        Ok(Self { generation, bytes: total, pages: read })
    }
}
