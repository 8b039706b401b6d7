//! Buffers for bodies, used again and again instead of fresh memory for each.
//!
//! Fresh megabytes cost more than reading them out of the page cache: the kernel clears every page at its first touch.
//! Owns: the free buffers, within a bound. Does not own: what is read into them. *Node-wide*: a body may be dropped on
//! any thread, its buffer comes back here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Smaller bodies get fresh memory: the allocator keeps that at hand.
const BYTES_MIN: usize = 256 << 10;
/// Buffers are made in steps of this, so that bodies of about one size fit in each other's.
const STEP: usize = 256 << 10;

/// Free buffers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Buffers {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    free: Mutex<Free>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    /// No read is under way: buffers that come back are freed.
    closed: bool,
}

impl Pool {
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory to read into. It returns to its [`Buffers`] when the last `Bytes` made of it is dropped. *Message*.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
}

impl Buffers {
    /// Keeps at most `bytes_max` bytes for later.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let free = Mutex::new(Free { buffers: Vec::new(), closed: true });
        Self { pool: Arc::new(Pool { free, bytes_max }) }
    }

    /// Memory of `len` bytes, of any content.
    #[must_use]
    pub fn take(&self, len: usize) -> Buffer {
        let found = {
            let mut free = self.pool.free();
            free.closed = false;
            // The last that came back: it may still lie in the processor's cache.
            let fits = |memory: &Vec<u8>| memory.len() >= len && memory.len() / 2 <= len;
            let at = if len < BYTES_MIN { None } else { free.buffers.iter().rposition(fits) };
            at.map(|at| free.buffers.remove(at))
        };
        let fresh = || vec![0; if len < BYTES_MIN { len } else { len.next_multiple_of(STEP) }];
        Buffer { memory: found.unwrap_or_else(fresh), len, pool: Arc::clone(&self.pool) }
    }

    /// Frees the buffers kept here, and those that come back before the next [`Buffers::take`].
    pub fn close(&self) {
        *self.pool.free() = Free { buffers: Vec::new(), closed: true };
    }
}

impl Buffer {
    /// To be filled.
    pub fn room(&mut self) -> &mut [u8] {
        self.memory.get_mut(..self.len).expect("a buffer is at least as long as what was asked for")
    }

    /// As it was filled.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.memory.get(..self.len).expect("a buffer is at least as long as what was asked for")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut free = self.pool.free();
        let kept: usize = free.buffers.iter().map(Vec::len).sum();
        if !free.closed && memory.len() >= BYTES_MIN && kept + memory.len() <= self.pool.bytes_max {
            free.buffers.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn memory_comes_home_within_the_bound_and_goes_when_nobody_reads() {
        let buffers = Buffers::new(3 * MIB);
        let free = || buffers.pool.free().buffers.len();
        let mut one = buffers.take(MIB - 10);
        assert_eq!(one.room().len(), MIB - 10);
        one.room().fill(7);
        let place = one.as_ref().as_ptr();
        let bytes = one.into_bytes();
        let slice = bytes.slice(5..9);
        drop(bytes);
        assert_eq!((&slice[..], free()), (&[7; 4][..], 0));
        drop(slice);
        assert_eq!(free(), 1);
        let again = buffers.take(MIB);
        assert_eq!((again.as_ref().as_ptr(), free()), (place, 0));
        assert!(buffers.take(MIB * 4).as_ref().len() == MIB * 4 && free() == 0, "too large to be kept");
        drop((again, buffers.take(MIB), buffers.take(MIB), buffers.take(MIB)));
        assert_eq!(free(), 3);
        drop(buffers.take(10));
        assert_eq!(free(), 3, "small ones are none");
        let late = buffers.take(MIB);
        buffers.close();
        drop(late);
        assert_eq!(free(), 0);
    }
}
