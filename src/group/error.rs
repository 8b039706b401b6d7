//! Why a coordinator refuses. Each variant is one answer of Kafka's; `kafka/error_code.rs` has the numbers.

use super::ids::{InstanceId, MemberId};

/// A refusal of the group coordinator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// No group id was given, or one longer than [`GROUP_ID_BYTES_MAX`](crate::limits::GROUP_ID_BYTES_MAX).
    #[error("the group id is empty or longer than {} bytes", crate::limits::GROUP_ID_BYTES_MAX)]
    InvalidGroupId,
    /// The coordinator reads its partition of `__consumer_offsets`: retry.
    #[error("the coordinator is loading the group")]
    Loading,
    /// Not to be had now (no `__consumer_offsets`, its log failed, node stopping): retry.
    #[error("the coordinator is not available")]
    NotAvailable,
    /// Another broker or shard coordinates the group now: find it again.
    #[error("this broker does not coordinate the group")]
    NotCoordinator,
    /// Not a member, or no longer.
    #[error("the member is not known in the group")]
    UnknownMember,
    /// A new dynamic member gets its id first and joins again with it (KIP-394).
    #[error("join again as {0}")]
    MemberIdRequired(MemberId),
    /// Another process took over the static identity.
    #[error("instance {0} has been taken over by another member")]
    Fenced(InstanceId),
    /// A generation that is not the current one.
    #[error("generation {found} is not the group's {current}")]
    IllegalGeneration { current: i32, found: i32 },
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// No protocol in common with the other members.
    #[error("the member's protocols do not match the group's")]
    InconsistentProtocol,
    /// More protocol metadata than the group's record can hold.
    #[error("the member's protocols and names take {found} bytes, more than {max}: subscribe to fewer topics by name")]
    MemberTooLarge {
        /// Bytes of the member.
        found: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Session timeout outside the broker's bounds.
    #[error("session timeout {0} ms is outside the allowed range")]
    InvalidSessionTimeout(i32),
    /// As many members as the broker allows.
    #[error("the group is full ({0} members)")]
    Full(usize),
    #[error("the group does not exist")]
    NotFound,
    /// Only a group without members can be deleted.
    #[error("the group has members")]
    NotEmpty,
    /// A topic's offsets cannot be deleted while members subscribe to it.
    #[error("members of the group subscribe to the topic")]
    Subscribed,
    /// Metadata of a commit too long.
    #[error("offset metadata of {found} bytes is longer than {max}")]
    MetadataTooLarge {
        /// Bytes sent.
        found: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A commit too large for one append.
    #[error("the commit takes {found} bytes, more than the {max} of one append")]
    CommitTooLarge {
        /// Bytes it takes.
        found: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The topic or partition of a commit does not exist.
    #[error("the topic or partition does not exist")]
    UnknownPartition,
}
