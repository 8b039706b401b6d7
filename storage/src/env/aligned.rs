//! Buffers that O_DIRECT accepts.
//!
//! Owns: the one alignment used everywhere, and the buffer type of [`super::File::write_at`]. glommio 0.9 reports an
//! alignment of 512 even where the physical block is 4096, and looks up the wrong device, so its answer is not used.
//! Affinity: shard-local (a real buffer may belong to its executor's registered memory).

use std::fmt;
use std::ops::{Deref, DerefMut};

use glommio::io::DmaBuffer;

/// Positions and lengths of file writes are multiples of this, on every disk. Bytes.
pub const ALIGNMENT: usize = 4096;

/// `n` rounded up to a multiple of [`ALIGNMENT`].
#[must_use]
pub const fn align_up(n: u64) -> u64 {
    n.next_multiple_of(ALIGNMENT as u64)
}

/// `n` rounded down to a multiple of [`ALIGNMENT`].
#[must_use]
pub const fn align_down(n: u64) -> u64 {
    n - n % ALIGNMENT as u64
}

/// A buffer for [`super::File::write_at`]. Its length is a multiple of [`ALIGNMENT`].
pub struct AlignedBuf {
    kind: BufferKind,
}

enum BufferKind {
    Dma(DmaBuffer),
    Heap(Box<[u8]>),
}

impl AlignedBuf {
    pub(super) fn dma(buffer: DmaBuffer) -> Self {
        Self { kind: BufferKind::Dma(buffer) }
    }

    /// For the simulated disk, which checks lengths and positions but not addresses.
    pub(crate) fn heap(len: usize) -> Self {
        Self { kind: BufferKind::Heap(vec![0; len].into_boxed_slice()) }
    }

    /// No bytes: a placeholder for a buffer that was taken.
    pub(crate) fn empty() -> Self {
        Self { kind: BufferKind::Heap(Box::default()) }
    }

    /// Keeps the first `len` bytes.
    ///
    /// # Panics
    /// If `len` is not a multiple of [`ALIGNMENT`] or is greater than the buffer.
    pub fn truncate(&mut self, len: usize) {
        assert!(len.is_multiple_of(ALIGNMENT) && len <= self.len(), "truncate an aligned buffer to an aligned length");
        match &mut self.kind {
            BufferKind::Dma(buffer) => buffer.trim_to_size(len),
            BufferKind::Heap(bytes) => {
                let mut longer = std::mem::take(bytes).into_vec();
                longer.truncate(len);
                *bytes = longer.into_boxed_slice();
            }
        }
    }

    pub(super) fn into_dma(self) -> Option<DmaBuffer> {
        match self.kind {
            BufferKind::Dma(buffer) => Some(buffer),
            BufferKind::Heap(_) => None,
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.kind {
            BufferKind::Dma(buffer) => buffer.as_bytes(),
            BufferKind::Heap(bytes) => bytes,
        }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.kind {
            BufferKind::Dma(buffer) => buffer.as_bytes_mut(),
            BufferKind::Heap(bytes) => bytes,
        }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuf").field("len", &self.len()).finish()
    }
}
