//! Why a restore did not get on. Each names what to do.

use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{LaneId, TimestampMs, TopicName};

use super::order::RestoreRefusal;
use crate::keys::{ClusterName, Home, ObjectKey, ObjectName};
use crate::store::{PreflightError, StoreError};

/// See the header. What was done so far stays valid: the same attempt goes on there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Refused(#[from] RestoreRefusal),
    /// No root of that name.
    #[error("the bucket holds no cluster named {name}{}; check --from and --cluster-name", listed(.others))]
    NoCluster {
        name: ClusterName,
        /// Clusters that the bucket holds, some of them.
        others: Vec<ClusterName>,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bucket does not keep the promises that a restore is built on.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error("object {key}: {reason}; put it back from a copy of the bucket")]
    Unreadable {
        key: ObjectKey,
        /// What the decoder said.
        reason: String,
    },
    #[error("{object} says that it is of lane {lane}, epoch {} of cluster {}: two clusters share a cluster id", home.epoch, home.cluster)]
    Foreign { object: ObjectName, home: Home, lane: LaneId },
    /// More would be lost than what was not archived.
    #[error(
        "the archive is damaged: {}; put the objects back from a copy of the bucket, or give --accept-damage to go on with what \
         lies before the damage", .0.join("; ")
    )]
    Damaged(Vec<String>),
    /// Nothing to go back to.
    #[error(
        "the bucket has no cut of epoch {} that --at could take{}; tidewater restore cuts lists those that it has",
        home.epoch,
        oldest.map_or_else(String::new, |oldest| format!(": the oldest is of {}", rfc3339(oldest)))
    )]
    NoCut {
        home: Home,
        /// When the oldest cut was made.
        oldest: Option<TimestampMs>,
    },
    /// No topic of that name, or one that was deleted.
    #[error(
        "the cluster has no topic {topic} there{}; if it was deleted, --at TIME goes back to before: tidewater restore cuts \
         lists the times", named(.others)
    )]
    NoTopic {
        topic: TopicName,
        /// Topics that there are, some of them.
        others: Vec<TopicName>,
    },
    #[error(
        "topic {topic} has no records in the bucket: it is not archived (remote.storage.enable=false), or nothing was \
         written to it yet"
    )]
    NotArchived { topic: TopicName },
    #[error("object {key} was written by others many times in a row; run the restore again")]
    Busy { key: ObjectKey },
}

impl RestoreError {
    /// [`Disposition::Retry`]: the same restore may simply be run again.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Store(error) | Self::Preflight(PreflightError::Store(error)) => error.disposition(),
            Self::Refused(_)
            | Self::NoCluster { .. }
            | Self::NoCut { .. }
            | Self::NoTopic { .. }
            | Self::NotArchived { .. } => Disposition::Refused,
            Self::Preflight(_) | Self::Foreign { .. } => Disposition::Fatal,
            Self::Unreadable { .. } | Self::Damaged(_) => Disposition::Corrupt,
            Self::Busy { .. } => Disposition::Retry,
        }
    }
}

fn listed(others: &[ClusterName]) -> String {
    if others.is_empty() {
        return " and none of another name".to_owned();
    }
    let names: Vec<&str> = others.iter().map(ClusterName::as_str).collect();
    format!("; it holds {}", names.join(", "))
}

fn named(others: &[TopicName]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = others.iter().map(TopicName::as_str).collect();
    format!("; it has {}", names.join(", "))
}

/// As `--at` takes it.
fn rfc3339(time: TimestampMs) -> String {
    jiff::Timestamp::from_millisecond(time.0).map_or_else(|_| format!("{time} ms since 1970"), |time| time.to_string())
}
