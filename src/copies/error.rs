//! Why a copy cannot be begun, or makes no progress.

use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{BatchError, Offset, OffsetRange, PartitionId, TopicName};
use tidewater_tiering::fetch::RemoteError;
use tidewater_tiering::restore::RestoreError;
use tidewater_tiering::store::OpenError;

use crate::controller::ask::TopicError;
use crate::partition::message::ProduceError;

/// See the header. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The name is in use.
    #[error("topic {name} exists already; choose another name with --as, or delete it first")]
    Taken { name: TopicName },
    #[error(
        "the copy {name} is under way: the same command without --plan waits for it, GET /v1/copies/{name} shows how far it is"
    )]
    UnderWay { name: TopicName },
    #[error("topic {name} is the broker's own: it is not copied")]
    Internal { name: TopicName },
    /// The topic belongs to a source.
    #[error(
        "topic {topic} is followed from the source {source_name}: copy it from its own bucket with \
         tidewater restore --from {url} --cluster-name {cluster_name} --topic {topic}"
    )]
    Followed { topic: TopicName, source_name: String, url: String, cluster_name: String },
    #[error("leader epochs of topic {name} leave no room above them; it cannot be copied")]
    NoEpochs { name: TopicName },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{place}: {error}")]
    Find { place: String, error: Box<RestoreError> },
    /// It was released when the copy began, by the origin's own cluster, or because a lane had no room for what it
    /// held.
    #[error(
        "{place}: cut {number} of epoch {epoch}, which topic {origin} is copied from, is not kept any more; delete the copy \
         and begin again: tidewater restore cuts lists the cuts that there are"
    )]
    CutReleased { place: String, number: u64, epoch: u32, origin: TopicName },
    #[error("{place}: {error}")]
    Read { place: String, error: Box<RemoteError> },
    /// The origin has forgotten what is still to be copied.
    #[error(
        "{partition}: the origin's records begin at offset {found} by now, and {wanted} was to be copied next; delete the \
         copy and begin again, from a cut if there is one"
    )]
    Gone { partition: PartitionId, wanted: Offset, found: Offset },
    /// The origin has other batches there.
    #[error(
        "{partition}: the origin has a batch of the offsets {found} where {wanted} was to be copied next; check its bucket \
         with tidewater verify"
    )]
    Gap { partition: PartitionId, wanted: Offset, found: OffsetRange },
    #[error("{partition}: {error}; check the origin's bucket with tidewater verify")]
    Batch { partition: PartitionId, error: BatchError },
    #[error(transparent)]
    Refused(#[from] TopicError),
    /// Not stored now.
    #[error("the copy is not stored now: {0}")]
    Store(#[from] ProduceError),
    #[error("the lane does not take the copy's log start now: {0}")]
    Trim(String),
}

impl CopyError {
    /// Does it pass by itself as leaders change and queues empty? Then it is no news for a log.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        match self {
            Self::Refused(error) => matches!(error, TopicError::Unavailable | TopicError::TimedOut),
            Self::Store(error) => !matches!(error, ProduceError::NoSpace(_) | ProduceError::Superseded(_)),
            Self::Trim(_) => true,
            _ => false,
        }
    }

    /// May the objects that the manifest named be gone by now?
    #[must_use]
    pub fn is_of_old_manifest(&self) -> bool {
        match self {
            Self::Read { error, .. } => matches!(
                **error,
                RemoteError::Missing { .. }
                    | RemoteError::BadIndex { .. }
                    | RemoteError::BelowStart { .. }
                    | RemoteError::AboveEnd { .. }
                    | RemoteError::Gap { .. }
            ),
            Self::Gone { .. } | Self::Gap { .. } => true,
            _ => false,
        }
    }

    /// Was it refused because of what the cluster is, not because of the bucket?
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Taken { .. } | Self::UnderWay { .. } | Self::Internal { .. } | Self::Refused(_))
    }

    /// [`Disposition::Retry`]: the same request may simply be made again.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Find { error, .. } => error.disposition(),
            Self::Read { error, .. } => error.disposition(),
            Self::Store(_) | Self::Trim(_) => Disposition::Retry,
            Self::Refused(TopicError::Unavailable | TopicError::TimedOut) => Disposition::Retry,
            Self::Gap { .. } | Self::Batch { .. } => Disposition::Corrupt,
            _ => Disposition::Refused,
        }
    }
}
