//! What may change the cluster's state: entries of the controller's lane, as JSON, readable in `inspect journal`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{LaneId, TopicId, TopicName};
use uuid::Uuid;

/// One change. The proposer decides everything random or timed and writes it into the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// The cluster is born; only the first one counts.
    Genesis {
        /// Its id, for ever.
        cluster: Uuid,
    },
    /// A topic is made.
    CreateTopic {
        name: TopicName,
        id: TopicId,
        /// The lane of each partition.
        lanes: Vec<LaneId>,
        /// Settings that were given.
        overrides: BTreeMap<String, String>,
    },
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
    }
}
