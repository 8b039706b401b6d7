//! Files: the façade over direct I/O and the simulated disk.
//!
//! Owns: the contract below and its checks. Does not own: formats, caching, retries. Affinity: shard-local.
//!
//! **Durability.** A completed [`File::write_at`] is visible to reads, and durable only after a [`File::sync`] that
//! began after it completed; of a file opened with [`OpenMode::ReadWriteDurable`] it is durable at once. A name is
//! durable only after [`Disk::sync_dir`] of its directory; [`Disk::create_dir_all`] and [`Disk::write_atomic`] do that
//! themselves. **Errors.** After a failed sync, what is on disk is unknown, and a second sync does not help: the owner
//! of the file stops using it, and the process ends if acknowledgements depend on it. **Cancellation.** A dropped
//! future's operation may or may not take place. **Ordering.** Concurrent operations on overlapping ranges have no
//! order; await one before starting the other.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::aligned::{ALIGNMENT, AlignedBuf};
use super::disk_dma::{DmaDisk, DmaHandle};
use super::disk_sim::{SimDisk, SimHandle};

/// One write of [`File::zero`]. Bytes.
const ZERO_STEP: u64 = 1 << 20;

/// Is the disk full, or this user's quota used up? Nothing is lost then, and space may become free.
#[must_use]
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// As [`OpenMode::ReadWrite`], and a completed write is durable (O_DSYNC): one operation and one wake-up instead of
    /// two for a write and a sync. After a failed write, as after a failed sync, what is on disk is unknown.
    ReadWriteDurable,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Last part of its path.
    pub name: String,
    /// Bytes; 0 for a directory.
    pub len: u64,
    /// Is it a directory?
    pub is_dir: bool,
}

/// The disk. Shard-local.
#[derive(Clone, Debug)]
pub struct Disk {
    kind: DiskKind,
}

#[derive(Clone, Debug)]
enum DiskKind {
    Dma(DmaDisk),
    Sim(SimDisk),
}

macro_rules! each {
    ($self:ident, $disk:ident => $call:expr) => {
        match &$self.kind {
            DiskKind::Dma($disk) => $call,
            DiskKind::Sim($disk) => $call,
        }
    };
}

impl Disk {
    pub(super) fn real() -> Self {
        Self { kind: DiskKind::Dma(DmaDisk) }
    }

    pub(super) fn sim(disk: SimDisk) -> Self {
        Self { kind: DiskKind::Sim(disk) }
    }

    /// Opens a file for direct I/O.
    ///
    /// # Errors The system's error: `NotFound`, `AlreadyExists` for [`OpenMode::CreateNew`], `InvalidInput` if the file
    /// system has no O_DIRECT.
    pub async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<File> {
        let kind = match &self.kind {
            DiskKind::Dma(disk) => FileKind::Dma(disk.open(path, mode).await?),
            DiskKind::Sim(disk) => FileKind::Sim(disk.open(path, mode).await?),
        };
        Ok(File { kind })
    }

    /// Creates a directory and its parents, unless they exist. Durable when it returns.
    ///
    /// # Errors
    /// The system's error.
    pub async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        each!(self, disk => disk.create_dir_all(path).await)
    }

    /// Removes a file's name. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// The system's error; `NotFound` if there is none.
    pub async fn remove_file(&self, path: &Path) -> io::Result<()> {
        each!(self, disk => disk.remove_file(path).await)
    }

    /// Removes a directory with its content.
    ///
    /// # Errors
    /// The system's error; `NotFound` if there is none.
    pub async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        each!(self, disk => disk.remove_dir_all(path).await)
    }

    /// Renames a file atomically, replacing a file with the new name. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// The system's error.
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        each!(self, disk => disk.rename(from, to).await)
    }

    /// The entries of a directory, sorted by name, without names that are not UTF-8.
    ///
    /// # Errors
    /// The system's error.
    pub async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        each!(self, disk => disk.list(dir).await)
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The system's error; see the header on failed syncs.
    pub async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        each!(self, disk => disk.sync_dir(dir).await)
    }

    /// Makes every completed write and every name below a directory durable with one operation, which syncs the whole
    /// file system (syncfs). Slow if other programs have left much to write.
    ///
    /// # Errors
    /// The system's error; see the header on failed syncs.
    pub async fn sync_below(&self, dir: &Path) -> io::Result<()> {
        each!(self, disk => disk.sync_below(dir).await)
    }

    /// Does a file or directory have this path?
    ///
    /// # Errors
    /// The system's error, other than absence.
    pub async fn exists(&self, path: &Path) -> io::Result<bool> {
        each!(self, disk => disk.exists(path).await)
    }

    /// Reads all of a small file.
    ///
    /// # Errors
    /// The system's error.
    pub async fn read_all(&self, path: &Path) -> io::Result<Bytes> {
        each!(self, disk => disk.read_all(path).await)
    }

    /// Replaces a small file: writes a temporary one beside it (`<name>.tmp`), syncs, renames, syncs the directory. A
    /// crash leaves the old content or the new. A temporary file that an earlier call left is removed, not written
    /// again: its sync may have failed.
    ///
    /// # Errors
    /// The system's error; the file then has the old content or the new.
    pub async fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        each!(self, disk => disk.write_atomic(path, bytes).await)
    }

    /// Bytes that this user may still write on the file system of `path`.
    ///
    /// # Errors
    /// The system's error.
    pub async fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        each!(self, disk => disk.free_bytes(path).await)
    }
}

/// An open file; clones share it. Shard-local.
#[derive(Clone, Debug)]
pub struct File {
    kind: FileKind,
}

#[derive(Clone, Debug)]
enum FileKind {
    Dma(DmaHandle),
    Sim(SimHandle),
}

impl File {
    /// A zeroed buffer of at least `len` bytes (rounded up to the alignment, never empty) for [`File::write_at`].
    #[must_use]
    pub fn alloc(&self, len: usize) -> AlignedBuf {
        let mut buffer = self.alloc_dirty(len);
        buffer.fill(0);
        buffer
    }

    /// As [`File::alloc`], but with arbitrary content: the caller overwrites every byte.
    #[must_use]
    pub fn alloc_dirty(&self, len: usize) -> AlignedBuf {
        let len = len.max(1).next_multiple_of(ALIGNMENT);
        match &self.kind {
            FileKind::Dma(file) => file.alloc(len),
            FileKind::Sim(_) => AlignedBuf::heap(len),
        }
    }

    /// Writes the whole buffer at an aligned position and returns its length.
    ///
    /// # Errors The system's; `InvalidInput` for an unaligned position; `StorageFull` if only a part was written. After
    /// an error, any part of the range may have been written.
    pub async fn write_at(&self, buffer: AlignedBuf, at: u64) -> io::Result<usize> {
        let len = buffer.len();
        if !at.is_multiple_of(ALIGNMENT as u64) || !len.is_multiple_of(ALIGNMENT) {
            let message = format!("write of {len} bytes at {at} is not aligned to {ALIGNMENT}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let written = match &self.kind {
            FileKind::Dma(file) => file.write_at(buffer, at).await?,
            FileKind::Sim(file) => file.write_at(&buffer, at).await?,
        };
        assert!(written <= len, "a write writes no more than its buffer");
        if written == len { Ok(written) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Reads `len` bytes at any position; fewer only at the end of the file.
    ///
    /// # Errors
    /// The system's error.
    pub async fn read_at(&self, at: u64, len: usize) -> io::Result<Bytes> {
        let bytes = match &self.kind {
            FileKind::Dma(file) => file.read_at(at, len).await?,
            FileKind::Sim(file) => file.read_at(at, len).await?,
        };
        assert!(bytes.len() <= len, "a read returns no more than was asked for");
        Ok(bytes)
    }

    /// Waits until no other handle has taken over this file, and takes it over: also from a process that was killed,
    /// whose direct writes the kernel goes on with after the process and the lock of its data directory are gone. Such
    /// a write may land over what the next process has written since. So every handle that writes to the same positions
    /// of a file again takes the file over before it reads or writes. Ends with [`File::hand_over`] or when the file is
    /// closed and no write is under way.
    ///
    /// # Errors
    /// The system's error; `TimedOut` after a minute.
    pub async fn take_over(&self) -> io::Result<()> {
        match &self.kind {
            FileKind::Dma(file) => file.take_over().await,
            // A simulated process that ends takes its writes with it.
            FileKind::Sim(_) => Ok(()),
        }
    }

    /// Leaves the file to the next handle that takes it over, in this process or another. The caller has no write under
    /// way and begins no other. A file that is to be opened again in this process needs it: tasks that have not ended
    /// keep their clones open, and an executor that has ended does not close them.
    ///
    /// # Errors
    /// The system's error.
    pub fn hand_over(&self) -> io::Result<()> {
        match &self.kind {
            FileKind::Dma(file) => file.hand_over(),
            FileKind::Sim(_) => Ok(()),
        }
    }

    /// Makes completed writes durable (fdatasync).
    ///
    /// # Errors
    /// The system's error; see the header: never retry.
    pub async fn sync(&self) -> io::Result<()> {
        match &self.kind {
            FileKind::Dma(file) => file.sync().await,
            FileKind::Sim(file) => file.sync().await,
        }
    }

    /// Sets the length; new bytes read as zero.
    ///
    /// # Errors
    /// The system's error.
    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        match &self.kind {
            FileKind::Dma(file) => file.set_len(len).await,
            FileKind::Sim(file) => file.set_len(len).await,
        }
    }

    /// Bytes in the file.
    ///
    /// # Errors
    /// The system's error.
    pub async fn len(&self) -> io::Result<u64> {
        match &self.kind {
            FileKind::Dma(file) => file.len().await,
            FileKind::Sim(file) => file.len().await,
        }
    }

    /// Writes zeroes over an aligned range, so that later writes there need no allocation: a sync then takes 23 µs
    /// instead of 0.5 to 1.6 ms under contention. Not durable before [`File::sync`].
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub async fn zero(&self, range: std::ops::Range<u64>) -> io::Result<()> {
        if let FileKind::Dma(file) = &self.kind {
            file.allocate(range.end).await?;
        }
        let mut at = range.start;
        while at < range.end {
            let step = ZERO_STEP.min(range.end - at);
            self.write_at(self.alloc(usize::try_from(step).unwrap_or(usize::MAX)), at).await?;
            at += step;
        }
        Ok(())
    }

    /// Closes this handle; the last clone closes the descriptor at once. Does not sync.
    ///
    /// # Errors
    /// The system's error.
    pub async fn close(self) -> io::Result<()> {
        match self.kind {
            FileKind::Dma(file) => file.close().await,
            FileKind::Sim(_) => Ok(()),
        }
    }
}
