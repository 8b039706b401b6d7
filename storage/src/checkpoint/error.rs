//! Errors of a checkpoint.

use std::io;
use std::path::PathBuf;

use crate::codec::CodecError;
use crate::disposition::Disposition;
use crate::env::is_disk_full;

/// Why bytes are not a root or not a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Cut short, or a field that cannot be.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// They end too early or hold too much.
    #[error("wrong length")]
    Length,
    /// The bytes are something else.
    #[error("begins with {found:#010x}, expected {expected:#010x}")]
    Magic {
        /// What a root or page begins with.
        expected: u32,
        found: u32,
    },
    /// Written by a newer version.
    #[error("has version {0}; this version reads 1")]
    Version(u16),
    /// Damaged, or another page.
    #[error("checksum is {found:#010x}, expected {expected:#010x}")]
    Crc {
        /// As recorded.
        expected: u32,
        found: u32,
    },
    /// A field that makes no sense.
    #[error("field {0} makes no sense")]
    Field(&'static str),
    /// The disk does not return them.
    #[error("cannot be read ({0})")]
    Unreadable(io::ErrorKind),
}

/// Why a checkpoint cannot be opened or taken.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Neither slot holds a valid root.
    #[error(
        "{dir}: no valid checkpoint root (slot 0: {first}; slot 1: {second}); the shard's state is lost, \
         restore it from a replica or the bucket"
    )]
    NoRoot {
        dir: PathBuf,
        /// What is wrong with slot 0.
        first: FormatError,
        /// What is wrong with slot 1.
        second: FormatError,
    },
    /// A page that the root names is damaged or cannot be read.
    #[error(
        "{file}: page of bucket {bucket} at block {block}: {source}; restore the shard from a replica or the bucket"
    )]
    Page { file: PathBuf, bucket: u32, block: u64, source: FormatError },
    /// A call of the file system failed, other than the read of a page.
    #[error("{file}: {source}")]
    Io {
        file: PathBuf,
        source: io::Error,
        /// A failed sync is never retried: the process must end and recover.
        sync: bool,
    },
}

impl CheckpointError {
    /// Is an old page unreadable? A checkpoint of all records from memory does not need it.
    #[must_use]
    pub fn is_lost_page(&self) -> bool {
        matches!(self, Self::Page { .. })
    }

    /// [`Disposition::Retry`] only after a full disk.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::NoRoot { .. } | Self::Page { .. } => Disposition::Corrupt,
            Self::Io { source, sync: false, .. } if is_disk_full(source) => Disposition::Retry,
            Self::Io { .. } => Disposition::Fatal,
        }
    }
}
