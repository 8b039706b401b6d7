//! What may change the cluster's state: entries of the controller's lane, as JSON, readable in `inspect journal`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{LaneId, TopicId, TopicName};
use uuid::Uuid;

/// One change. Everything random or timed is decided by the proposer and stands in the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// The cluster is born; only the first one counts.
    Genesis {
        /// Its id, for ever.
        cluster: Uuid,
    },
    /// A topic is made.
    CreateTopic {
        /// Its name.
        name: TopicName,
        /// Its id.
        id: TopicId,
        /// The lane of each partition.
        lanes: Vec<LaneId>,
        /// Settings that were given.
        overrides: BTreeMap<String, String>,
    },
    /// A topic goes.
    DeleteTopic {
        /// Its name.
        name: TopicName,
        /// Its id: a later topic of the same name is not meant.
        id: TopicId,
    },
    /// A topic gets more partitions.
    AddPartitions {
        /// Its name.
        name: TopicName,
        /// How many it had when this was planned.
        from: u32,
        /// The lanes of the new ones.
        lanes: Vec<LaneId>,
    },
    /// A topic's settings change.
    Configure {
        /// Its name.
        name: TopicName,
        /// All overrides, as they shall be.
        overrides: BTreeMap<String, String>,
    },
    /// A block of producer ids is taken.
    TakeProducerIds {
        /// How many.
        count: u32,
    },
}

impl Command {
    /// As a log payload.
    #[must_use]
    pub fn encode(&self) -> Payload {
        // Serialising plain maps and numbers into memory cannot fail.
        Payload { meta: Bytes::from(serde_json::to_vec(self).unwrap_or_default()), blobs: Vec::new(), verified: false }
    }

    /// The inverse of [`Command::encode`]; `None` for an entry of a newer version.
    #[must_use]
    pub fn decode(payload: &Payload) -> Option<Self> {
        serde_json::from_slice(&payload.meta).ok()
    }
}
