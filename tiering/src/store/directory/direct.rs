//! Writes of large objects past the page cache.
//!
//! An archive is written once and read later, if at all. Through the page cache each of its bytes evicts another one
//! and costs a page that has to be found and, on a virtual machine, backed by the host: there the copy alone took 2 s
//! of processor time a GB, four times what receiving and replicating the byte had cost.
//!
//! Owns: the aligned buffers and the writes. Does not own: when a file is synced and placed. Runs on blocking threads.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tidewater_storage::env::ALIGNMENT;

/// Smaller objects go through the page cache: one write more costs as much as their copy. Bytes.
const OBJECT_BYTES_MIN: usize = 1 << 20;
/// Bytes of a write, and of a buffer.
const WRITE_BYTES: usize = 1 << 20;
/// Buffers kept for the next put.
const KEPT_MAX: usize = 4;

/// Buffers for direct writes. *Node-wide*.
#[derive(Debug, Default)]
pub(super) struct DirectWrites {
    kept: Mutex<Vec<AlignedBuffer>>,
}

/// [`WRITE_BYTES`] at an aligned address inside a larger allocation.
#[derive(Debug)]
struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    fn new() -> Self {
        let bytes = vec![0; WRITE_BYTES + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        assert!(start < ALIGNMENT, "an allocation of bytes can be aligned by skipping some");
        Self { bytes, start }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + WRITE_BYTES]
    }
}

impl DirectWrites {
    /// Writes `pieces` back to back into the empty file at `path`. `false` if the file system takes no direct writes or
    /// the object is small: then the file is empty, and the caller writes it.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn write(&self, path: &Path, pieces: &[Bytes]) -> io::Result<bool> {
        let total: usize = pieces.iter().map(Bytes::len).sum();
        if total < OBJECT_BYTES_MIN {
            return Ok(false);
        }
        let file = match OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) => file,
            Err(error) if is_not_supported(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut buffer = self.take();
        let written = write_aligned(&file, buffer.room(), pieces);
        self.keep(buffer);
        match written {
            Ok(written) => {
                assert!(written >= total && written - total < ALIGNMENT, "the last block alone is padded");
                file.set_len(total as u64)?;
                Ok(true)
            }
            Err(error) if is_not_supported(&error) => {
                file.set_len(0)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn take(&self) -> AlignedBuffer {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(AlignedBuffer::new)
    }

    fn keep(&self, buffer: AlignedBuffer) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    }
}

/// tmpfs and some network file systems refuse O_DIRECT at the open, others at the write.
fn is_not_supported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// Writes `pieces` through `buffer`, the last block padded with zeroes; returns the bytes written with the padding.
fn write_aligned(file: &File, buffer: &mut [u8], pieces: &[Bytes]) -> io::Result<usize> {
    let (mut filled, mut at) = (0, 0u64);
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(buffer.len() - filled));
            buffer[filled..filled + now.len()].copy_from_slice(now);
            filled += now.len();
            rest = later;
            if filled == buffer.len() {
                file.write_all_at(buffer, at)?;
                at += buffer.len() as u64;
                filled = 0;
            }
        }
    }
    let padded = filled.next_multiple_of(ALIGNMENT);
    buffer[filled..padded].fill(0);
    file.write_all_at(&buffer[..padded], at)?;
    Ok(usize::try_from(at).unwrap_or(usize::MAX) + padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[Bytes]) -> (bool, Vec<u8>) {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory on a disk");
        let path = dir.path().join("object");
        File::create(&path).expect("creates");
        let direct = DirectWrites::default().write(&path, pieces).expect("writes");
        (direct, std::fs::read(&path).expect("reads"))
    }

    #[test]
    fn a_large_object_is_written_whole_whatever_its_pieces() {
        for sizes in [&[OBJECT_BYTES_MIN][..], &[1, WRITE_BYTES, 4095], &[3 * WRITE_BYTES + 1], &[777; 3000]] {
            let pieces: Vec<Bytes> =
                sizes.iter().enumerate().map(|(n, size)| Bytes::from(vec![n as u8 | 1; *size])).collect();
            let (direct, found) = written(&pieces);
            // A file system without direct writes leaves the file to the caller.
            assert!(if direct { found == pieces.concat() } else { found.is_empty() }, "{sizes:?}");
        }
    }

    #[test]
    fn a_small_object_is_left_to_the_page_cache() {
        assert_eq!(written(&[Bytes::from_static(b"small")]), (false, Vec::new()));
    }
}
