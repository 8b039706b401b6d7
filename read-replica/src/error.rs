//! Why following makes no progress for now.

use tidewater_storage::disposition::Disposition;
use tidewater_tiering::fetch::indexes::IndexError;
use tidewater_tiering::follow::{FollowError, RootError};
use tidewater_tiering::format::FormatError;
use tidewater_tiering::keys::{ClusterName, ObjectKey, ObjectName};
use tidewater_tiering::manifest::PointerError;
use tidewater_tiering::store::StoreError;

/// An answer that does not help. What was followed so far is served still, and the same is asked again later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReplicaError {
    /// No root under the name.
    #[error(
        "the bucket holds no cluster named {name} (no object at {key}); check the bucket's URL and the cluster's name"
    )]
    NoCluster { name: ClusterName, key: ObjectKey },
    /// A root or catalogue that does not decode, or that a newer version wrote.
    #[error("object {key}: {reason}")]
    Pointer { key: ObjectKey, reason: PointerError },
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object that does not decode, or that a newer version wrote.
    #[error("object {object}: {error}")]
    Format { object: ObjectName, error: FormatError },
    /// A page that the lane manifest names is not there: a copy of the bucket shows manifests before their pages.
    #[error("object {object}, which the lane manifest names, is not in the bucket yet")]
    NoPage { object: ObjectName },
    #[error(transparent)]
    Follow(#[from] FollowError),
}

impl ReplicaError {
    /// [`Disposition::Retry`] ends by itself; [`Disposition::Refused`] only by an operator (access, an update of this
    /// version).
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::NoCluster { .. } => Disposition::Absent,
            Self::Pointer { reason: PointerError::Version { .. }, .. } => Disposition::Refused,
            Self::Pointer { .. } => Disposition::Corrupt,
            Self::Root(error) => error.disposition(),
            Self::Store(error) => error.disposition(),
            Self::Format { error, .. } => error.disposition(),
            Self::NoPage { .. } => Disposition::Retry,
            Self::Follow(error) => error.disposition(),
        }
    }

    pub(crate) fn of_index(object: ObjectName, error: IndexError) -> Self {
        match error {
            IndexError::Store(error) => Self::Store(error),
            IndexError::Format(error) => Self::Format { object, error },
        }
    }
}
