//! What may change the cluster's state: entries of the controller's lane, as JSON, readable in `inspect journal`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{LaneId, NodeId, ReplicaId, TimestampMs, TopicId, TopicName};
use uuid::Uuid;

use super::brokers::BrokerAddress;
use super::copies::TopicCopy;
use super::lane_table::LaneRecord;
use super::sources::{SourceId, SourceSpec};

/// One change. The proposer decides everything random or timed and writes it into the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// The cluster is born; only the first one counts.
    Genesis {
        /// Its id, for ever.
        cluster: Uuid,
        /// The brokers that form it, with the node ids they have. Empty in a cluster of before the lane table.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        founders: Vec<Founder>,
        /// The voters of the controller's lane, the one that shall lead first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        voters: Vec<ReplicaId>,
        /// The cluster level it begins with.
        #[serde(default, skip_serializing_if = "is_zero")]
        level: u16,
    },
    /// A topic is made.
    CreateTopic {
        name: TopicName,
        id: TopicId,
        /// The lane of each partition.
        lanes: Vec<LaneId>,
        /// Settings that were given.
        overrides: BTreeMap<String, String>,
        /// What its leader epochs are counted from at least.
        #[serde(default, skip_serializing_if = "is_zero_base")]
        epoch_base: i32,
        /// It is made as a copy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        copy: Option<Box<TopicCopy>>,
    },
    /// A partition of a copy is complete.
    Copied { id: TopicId, partition: i32, at: TimestampMs },
    DeleteTopic {
        name: TopicName,
        /// A later topic of the same name has another id and stays.
        id: TopicId,
    },
    /// A topic gets more partitions.
    AddPartitions {
        name: TopicName,
        /// How many it had when this was planned.
        from: u32,
        /// The lanes of the new ones.
        lanes: Vec<LaneId>,
    },
    /// A topic's settings change.
    Configure {
        name: TopicName,
        /// All overrides, as they shall be.
        overrides: BTreeMap<String, String>,
    },
    /// A block of producer ids is taken.
    TakeProducerIds { count: u32 },
    /// From here on the cluster uses what a level of a feature brings; never lowered.
    Finalize { feature: String, level: u16 },
    /// A broker registers, or is reached in another way from now on.
    Register {
        node: NodeId,
        birth: Uuid,
        address: BrokerAddress,
        /// It takes the place of the broker that had this node id: the replicas there are lost, and get another
        /// incarnation.
        replaces: bool,
    },
    /// The data lanes up to `count`, and the controller's, are on the one broker that there is.
    AdoptLanes { count: u32 },
    /// Lanes are made.
    AddLanes { lanes: BTreeMap<LaneId, LaneRecord> },
    /// A lane gets other replicas. A broker that has one of the lane keeps it.
    SetReplicas {
        lane: LaneId,
        /// The replicas it had when this was planned.
        before: Vec<ReplicaId>,
        /// The one that shall lead comes first.
        nodes: Vec<NodeId>,
    },
    /// Another cluster's bucket is followed, or other topics of one that is.
    Follow {
        /// Chosen by the broker that was asked.
        id: SourceId,
        spec: SourceSpec,
    },
    /// A source is no longer followed.
    Unfollow { id: SourceId },
    /// After a restore: retention deletes again.
    EndHold {},
}

/// A broker that forms the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Founder {
    pub node: NodeId,
    /// The birth id of its data directory.
    pub birth: Uuid,
    pub address: BrokerAddress,
}

fn is_zero(level: &u16) -> bool {
    *level == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
pub(super) fn is_zero_base(base: &i32) -> bool {
    *base == 0
}

/// An entry of the controller's lane that this version cannot read: a command that is not known, or an unknown field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a command that cannot be read: {0}")]
pub struct CommandError(String);

impl Command {
    /// As a log payload.
    #[must_use]
    pub fn encode(&self) -> Payload {
        let json = serde_json::to_vec(self).expect("maps, numbers and strings serialise into memory");
        Payload { meta: Bytes::from(json), blobs: Vec::new(), verified: false }
    }

    /// The inverse of [`Command::encode`].
    ///
    /// # Errors
    /// A newer version wrote the entry.
    pub fn decode(payload: &Payload) -> Result<Self, CommandError> {
        serde_json::from_slice(&payload.meta).map_err(|error| CommandError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_an_unknown_field_is_not_read() {
        let read = |json: &'static str| {
            Command::decode(&Payload { meta: Bytes::from_static(json.as_bytes()), ..Payload::default() })
        };
        assert_eq!(read(r#"{"take_producer_ids":{"count":5}}"#), Ok(Command::TakeProducerIds { count: 5 }));
        assert!(read(r#"{"take_producer_ids":{"count":5,"lineage":2}}"#).is_err());
        assert!(read(r#"{"create_user":{}}"#).is_err());
        let born = r#"{"genesis":{"cluster":"00000000-0000-0000-0000-000000000009"}}"#;
        let of_before = read(born).expect("is read");
        assert_eq!(of_before.encode().meta, born.as_bytes(), "a cluster of before is born as it was");
    }
}
