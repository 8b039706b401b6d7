//! What can be ordered to go wrong with a simulated disk.

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

/// An order to fail: the next operation of this kind on a path that contains `path`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub operation: Operation,
    /// On paths that contain this.
    pub path: String,
    /// How many matching operations succeed before.
    pub after: u32,
    /// The error's kind; `Other` is EIO.
    pub error: io::ErrorKind,
}

/// An order to write wrongly and say that all is well, or half of it.
#[derive(Clone, Debug)]
pub struct Twist {
    /// On paths that contain this.
    pub path: String,
    /// How many matching writes are right before.
    pub after: u32,
    pub kind: TwistKind,
}

/// See [`Twist`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwistKind {
    /// Only the first half (in blocks of 512 bytes) is written, and the count says so.
    Short,
    /// The bytes land this many bytes further on in the file, or before if that is beyond its end; the count says that
    /// all is well.
    Misdirected(usize),
}
