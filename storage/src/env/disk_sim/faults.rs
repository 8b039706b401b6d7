//! Faults that a test can order from a simulated disk.

use std::io;

/// Operations that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening a file.
    Open,
    /// Reading from a file.
    Read,
    /// Writing to a file.
    Write,
    /// Syncing a file.
    Sync,
    /// Syncing a directory.
    SyncDir,
}

/// Makes an operation of this kind fail, on a path that contains `path`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub operation: Operation,
    /// Part of the path.
    pub path: String,
    /// Matching operations that succeed first.
    pub after: u32,
    /// The error's kind; `Other` is EIO.
    pub error: io::ErrorKind,
}

/// Makes a write go wrong while it reports success, or success for half of it.
#[derive(Clone, Debug)]
pub struct Twist {
    /// Part of the path.
    pub path: String,
    /// Matching writes that are right first.
    pub after: u32,
    pub kind: TwistKind,
}

/// See [`Twist`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwistKind {
    /// Only the first half (in blocks of 512 bytes) is written, and the count returned is that half.
    Short,
    /// The bytes are written this many bytes further on, or before if that is beyond the file's end; the count returned
    /// is that of the whole write.
    Misdirected(usize),
}
