//! What can be wrong with bytes that should be one of the formats, and what follows from it.

use tidewater_storage::codec::CodecError;
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::LaneId;

use super::DataKind;
use crate::keys::Sequence;

/// What is wrong with bytes that should be one of our formats.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Cut short, a field that cannot be, or a section of a newer version.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Not one of ours, or cut off.
    #[error("object of {size} bytes does not end in a Tidewater trailer: {found}")]
    Trailer {
        /// Bytes of the object.
        size: u64,
        /// What is wrong with it.
        found: &'static str,
    },
    /// A newer or unknown version.
    #[error("object has format version {found}; this version reads up to {known}: update this one")]
    Version {
        /// Of the object.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// Checksum mismatch.
    #[error("checksum of {what} is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Of what.
        what: &'static str,
        /// Written.
        expected: u32,
        /// Of the bytes.
        found: u32,
    },
    /// Another kind of object than expected.
    #[error("object is of kind {found}, expected {expected}")]
    Kind {
        /// Asked for.
        expected: u16,
        /// There.
        found: u16,
    },
    /// A whole object, but not the one that was asked for.
    #[error("it is another object: {kind:?} {sequence} of lane {lane}")]
    Other {
        /// What it says it is.
        kind: DataKind,
        /// Of which lane.
        lane: LaneId,
        /// Its sequence; 0 where its kind has none.
        sequence: Sequence,
    },
}

impl FormatError {
    /// [`Disposition::Refused`]: a newer version wrote it; upgrade this broker.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Version { .. } => Disposition::Refused,
            Self::Codec(error) if error.is_newer() => Disposition::Refused,
            _ => Disposition::Corrupt,
        }
    }
}
