//! The structure of every request that a generated decoder reads: one table per API, after Kafka's message schemas.
//!
//! Only what a structural walk needs: how wide, from which version to which, nested how. Checked against the encoder of
//! the same requests by property tests, so a row that is wrong fails there. Produce is not here: its own codec checks
//! as it goes.

use Kind::{Blob, Fixed, List, Maybe, Struct, Text};
use kafka_protocol::messages::ApiKey;

mod admin;

use admin::{
    ALTER_CONFIGS, ALTER_PARTITION_REASSIGNMENTS, CREATE_ACLS, CREATE_PARTITIONS, DELETE_ACLS, DELETE_GROUPS,
    DESCRIBE_ACLS, DESCRIBE_CLIENT_QUOTAS, DESCRIBE_CLUSTER, DESCRIBE_CONFIGS, DESCRIBE_LOG_DIRS, DESCRIBE_PRODUCERS,
    DESCRIBE_QUORUM, DESCRIBE_TOPIC_PARTITIONS, DESCRIBE_USER_SCRAM_CREDENTIALS, ELECT_LEADERS,
    INCREMENTAL_ALTER_CONFIGS, LIST_CONFIG_RESOURCES, LIST_PARTITION_REASSIGNMENTS, OFFSET_DELETE,
};

/// Tagged fields of one struct at most; Kafka's own schemas never use more than a handful.
pub const TAGS_MAX: u32 = 16;

/// A request or an answer: its struct, and the first version with compact encodings and tagged fields.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// `None` when no version is flexible.
    pub flexible_from: Option<i16>,
    /// The top-level struct.
    pub top: &'static Shape,
}

#[derive(Debug)]
pub struct Shape {
    /// Its fields in order.
    pub fields: &'static [Field],
    /// Tagged fields the decoder knows; others are skipped.
    pub tagged: &'static [(u32, Field)],
}

/// A field and the versions that have it.
#[derive(Debug)]
pub struct Field {
    from: i16,
    to: i16,
    pub kind: Kind,
}

/// What a field is on the wire.
#[derive(Debug)]
pub enum Kind {
    Fixed(usize),
    /// A string or null.
    Text,
    /// Bytes or null.
    Blob,
    /// A nested struct.
    Struct(&'static Shape),
    /// A nested struct behind a presence byte.
    Maybe(&'static Shape),
    /// An array or null.
    List(&'static Kind),
}

/// A field of versions `from` to `to`.
pub(crate) const fn field(from: i16, to: i16, kind: Kind) -> Field {
    Field { from, to, kind }
}

impl Field {
    /// Does `version` have it?
    #[must_use]
    pub fn is_in(&self, version: i16) -> bool {
        (self.from..=self.to).contains(&version)
    }
}

impl Kind {
    /// The fewest bytes it can take.
    #[must_use]
    pub fn least_bytes(&self, version: i16, flexible: bool) -> usize {
        match self {
            Fixed(n) => *n,
            Text if !flexible => 2,
            Blob | List(_) if !flexible => 4,
            Text | Blob | List(_) | Maybe(_) => 1,
            Struct(shape) => {
                let fields = shape.fields.iter().filter(|f| f.is_in(version));
                fields.map(|f| f.kind.least_bytes(version, flexible)).sum::<usize>() + usize::from(flexible)
            }
        }
    }
}

/// The table of `key`; `None` for requests that are not read by a generated decoder.
#[must_use]
pub fn schema(key: ApiKey) -> Option<Schema> {
    let (flexible_from, top) = match key {
        ApiKey::Fetch => (Some(12), FETCH),
        ApiKey::ListOffsets => (Some(6), LIST_OFFSETS),
        ApiKey::Metadata => (Some(9), METADATA),
        ApiKey::OffsetCommit => (Some(8), OFFSET_COMMIT),
        ApiKey::OffsetFetch => (Some(6), OFFSET_FETCH),
        ApiKey::FindCoordinator => (Some(3), FIND_COORDINATOR),
        ApiKey::JoinGroup => (Some(6), JOIN_GROUP),
        ApiKey::Heartbeat => (Some(4), HEARTBEAT),
        ApiKey::LeaveGroup => (Some(4), LEAVE_GROUP),
        ApiKey::SyncGroup => (Some(4), SYNC_GROUP),
        ApiKey::DescribeGroups => (Some(5), DESCRIBE_GROUPS),
        ApiKey::ListGroups => (Some(3), LIST_GROUPS),
        ApiKey::ApiVersions => (Some(3), API_VERSIONS),
        ApiKey::CreateTopics => (Some(5), CREATE_TOPICS),
        ApiKey::DeleteTopics => (Some(4), DELETE_TOPICS),
        ApiKey::DeleteRecords => (Some(2), DELETE_RECORDS),
        ApiKey::InitProducerId => (Some(2), INIT_PRODUCER_ID),
        ApiKey::OffsetForLeaderEpoch => (Some(4), OFFSET_FOR_LEADER_EPOCH),
        ApiKey::DescribeConfigs => (Some(4), DESCRIBE_CONFIGS),
        ApiKey::AlterConfigs => (Some(2), ALTER_CONFIGS),
        ApiKey::DescribeLogDirs => (Some(2), DESCRIBE_LOG_DIRS),
        ApiKey::CreatePartitions => (Some(2), CREATE_PARTITIONS),
        ApiKey::DeleteGroups => (Some(2), DELETE_GROUPS),
        ApiKey::IncrementalAlterConfigs => (Some(1), INCREMENTAL_ALTER_CONFIGS),
        ApiKey::OffsetDelete => (None, OFFSET_DELETE),
        ApiKey::DescribeCluster => (Some(0), DESCRIBE_CLUSTER),
        ApiKey::DescribeProducers => (Some(0), DESCRIBE_PRODUCERS),
        ApiKey::DescribeQuorum => (Some(0), DESCRIBE_QUORUM),
        ApiKey::DescribeTopicPartitions => (Some(0), DESCRIBE_TOPIC_PARTITIONS),
        ApiKey::DescribeAcls => (Some(2), DESCRIBE_ACLS),
        ApiKey::CreateAcls => (Some(2), CREATE_ACLS),
        ApiKey::DeleteAcls => (Some(2), DELETE_ACLS),
        ApiKey::ElectLeaders => (Some(2), ELECT_LEADERS),
        ApiKey::AlterPartitionReassignments => (Some(0), ALTER_PARTITION_REASSIGNMENTS),
        ApiKey::ListPartitionReassignments => (Some(0), LIST_PARTITION_REASSIGNMENTS),
        ApiKey::DescribeClientQuotas => (Some(1), DESCRIBE_CLIENT_QUOTAS),
        ApiKey::DescribeUserScramCredentials => (Some(0), DESCRIBE_USER_SCRAM_CREDENTIALS),
        ApiKey::ListConfigResources => (Some(0), LIST_CONFIG_RESOURCES),
        _ => return None,
    };
    Some(Schema { flexible_from, top })
}

const FETCH_FETCH_PARTITION: &Shape = &Shape {
    fields: &[
        field(4, 18, Fixed(4)),  // partition
        field(9, 18, Fixed(4)),  // current_leader_epoch
        field(4, 18, Fixed(8)),  // fetch_offset
        field(12, 18, Fixed(4)), // last_fetched_epoch
        field(5, 18, Fixed(8)),  // log_start_offset
        field(4, 18, Fixed(4)),  // partition_max_bytes
    ],
    tagged: &[(0, field(17, 18, Fixed(16))), (1, field(18, 18, Fixed(8)))],
};
const FETCH_FETCH_TOPIC: &Shape = &Shape {
    fields: &[
        field(4, 12, Text),                                 // topic
        field(13, 18, Fixed(16)),                           // topic_id
        field(4, 18, List(&Struct(FETCH_FETCH_PARTITION))), // partitions
    ],
    tagged: &[],
};
const FETCH_FORGOTTEN_TOPIC: &Shape = &Shape {
    fields: &[
        field(7, 12, Text),            // topic
        field(13, 18, Fixed(16)),      // topic_id
        field(7, 18, List(&Fixed(4))), // partitions
    ],
    tagged: &[],
};
const FETCH_REPLICA_STATE: &Shape = &Shape {
    fields: &[
        field(15, 18, Fixed(4)), // replica_id
        field(15, 18, Fixed(8)), // replica_epoch
    ],
    tagged: &[],
};
const FETCH: &Shape = &Shape {
    fields: &[
        field(4, 14, Fixed(4)),                             // replica_id
        field(4, 18, Fixed(4)),                             // max_wait_ms
        field(4, 18, Fixed(4)),                             // min_bytes
        field(4, 18, Fixed(4)),                             // max_bytes
        field(4, 18, Fixed(1)),                             // isolation_level
        field(7, 18, Fixed(4)),                             // session_id
        field(7, 18, Fixed(4)),                             // session_epoch
        field(4, 18, List(&Struct(FETCH_FETCH_TOPIC))),     // topics
        field(7, 18, List(&Struct(FETCH_FORGOTTEN_TOPIC))), // forgotten_topics_data
        field(11, 18, Text),                                // rack_id
    ],
    tagged: &[(0, field(12, 18, Text)), (1, field(15, 18, Struct(FETCH_REPLICA_STATE)))],
};
const LIST_OFFSETS_LIST_OFFSETS_PARTITION: &Shape = &Shape {
    fields: &[
        field(1, 11, Fixed(4)), // partition_index
        field(4, 11, Fixed(4)), // current_leader_epoch
        field(1, 11, Fixed(8)), // timestamp
    ],
    tagged: &[],
};
const LIST_OFFSETS_LIST_OFFSETS_TOPIC: &Shape = &Shape {
    fields: &[
        field(1, 11, Text),                                               // name
        field(1, 11, List(&Struct(LIST_OFFSETS_LIST_OFFSETS_PARTITION))), // partitions
    ],
    tagged: &[],
};
const LIST_OFFSETS: &Shape = &Shape {
    fields: &[
        field(1, 11, Fixed(4)),                                       // replica_id
        field(2, 11, Fixed(1)),                                       // isolation_level
        field(1, 11, List(&Struct(LIST_OFFSETS_LIST_OFFSETS_TOPIC))), // topics
        field(10, 11, Fixed(4)),                                      // timeout_ms
    ],
    tagged: &[],
};
const METADATA_METADATA_REQUEST_TOPIC: &Shape = &Shape {
    fields: &[
        field(10, 13, Fixed(16)), // topic_id
        field(0, 13, Text),       // name
    ],
    tagged: &[],
};
const METADATA: &Shape = &Shape {
    fields: &[
        field(0, 13, List(&Struct(METADATA_METADATA_REQUEST_TOPIC))), // topics
        field(4, 13, Fixed(1)),                                       // allow_auto_topic_creation
        field(8, 10, Fixed(1)),                                       // include_cluster_authorized_operations
        field(8, 13, Fixed(1)),                                       // include_topic_authorized_operations
    ],
    tagged: &[],
};
const OFFSET_COMMIT_OFFSET_COMMIT_REQUEST_PARTITION: &Shape = &Shape {
    fields: &[
        field(2, 10, Fixed(4)), // partition_index
        field(2, 10, Fixed(8)), // committed_offset
        field(6, 10, Fixed(4)), // committed_leader_epoch
        field(2, 10, Text),     // committed_metadata
    ],
    tagged: &[],
};
const OFFSET_COMMIT_OFFSET_COMMIT_REQUEST_TOPIC: &Shape = &Shape {
    fields: &[
        field(2, 9, Text),                                                          // name
        field(10, 10, Fixed(16)),                                                   // topic_id
        field(2, 10, List(&Struct(OFFSET_COMMIT_OFFSET_COMMIT_REQUEST_PARTITION))), // partitions
    ],
    tagged: &[],
};
const OFFSET_COMMIT: &Shape = &Shape {
    fields: &[
        field(2, 10, Text),                                                     // group_id
        field(2, 10, Fixed(4)),                                                 // generation_id_or_member_epoch
        field(2, 10, Text),                                                     // member_id
        field(7, 10, Text),                                                     // group_instance_id
        field(2, 4, Fixed(8)),                                                  // retention_time_ms
        field(2, 10, List(&Struct(OFFSET_COMMIT_OFFSET_COMMIT_REQUEST_TOPIC))), // topics
    ],
    tagged: &[],
};
const OFFSET_FETCH_OFFSET_FETCH_REQUEST_TOPIC: &Shape = &Shape {
    fields: &[
        field(1, 7, Text),            // name
        field(1, 7, List(&Fixed(4))), // partition_indexes
    ],
    tagged: &[],
};
const OFFSET_FETCH_OFFSET_FETCH_REQUEST_TOPICS: &Shape = &Shape {
    fields: &[
        field(8, 9, Text),             // name
        field(10, 10, Fixed(16)),      // topic_id
        field(8, 10, List(&Fixed(4))), // partition_indexes
    ],
    tagged: &[],
};
const OFFSET_FETCH_OFFSET_FETCH_REQUEST_GROUP: &Shape = &Shape {
    fields: &[
        field(8, 10, Text),                                                    // group_id
        field(9, 10, Text),                                                    // member_id
        field(9, 10, Fixed(4)),                                                // member_epoch
        field(8, 10, List(&Struct(OFFSET_FETCH_OFFSET_FETCH_REQUEST_TOPICS))), // topics
    ],
    tagged: &[],
};
const OFFSET_FETCH: &Shape = &Shape {
    fields: &[
        field(1, 7, Text),                                                    // group_id
        field(1, 7, List(&Struct(OFFSET_FETCH_OFFSET_FETCH_REQUEST_TOPIC))),  // topics
        field(8, 10, List(&Struct(OFFSET_FETCH_OFFSET_FETCH_REQUEST_GROUP))), // groups
        field(7, 10, Fixed(1)),                                               // require_stable
    ],
    tagged: &[],
};
const FIND_COORDINATOR: &Shape = &Shape {
    fields: &[
        field(0, 3, Text),        // key
        field(1, 6, Fixed(1)),    // key_type
        field(4, 6, List(&Text)), // coordinator_keys
    ],
    tagged: &[],
};
const JOIN_GROUP_JOIN_GROUP_REQUEST_PROTOCOL: &Shape = &Shape {
    fields: &[
        field(0, 9, Text), // name
        field(0, 9, Blob), // metadata
    ],
    tagged: &[],
};
const JOIN_GROUP: &Shape = &Shape {
    fields: &[
        field(0, 9, Text),                                                  // group_id
        field(0, 9, Fixed(4)),                                              // session_timeout_ms
        field(1, 9, Fixed(4)),                                              // rebalance_timeout_ms
        field(0, 9, Text),                                                  // member_id
        field(5, 9, Text),                                                  // group_instance_id
        field(0, 9, Text),                                                  // protocol_type
        field(0, 9, List(&Struct(JOIN_GROUP_JOIN_GROUP_REQUEST_PROTOCOL))), // protocols
        field(8, 9, Text),                                                  // reason
    ],
    tagged: &[],
};
const HEARTBEAT: &Shape = &Shape {
    fields: &[
        field(0, 4, Text),     // group_id
        field(0, 4, Fixed(4)), // generation_id
        field(0, 4, Text),     // member_id
        field(3, 4, Text),     // group_instance_id
    ],
    tagged: &[],
};
const LEAVE_GROUP_MEMBER_IDENTITY: &Shape = &Shape {
    fields: &[
        field(3, 5, Text), // member_id
        field(3, 5, Text), // group_instance_id
        field(5, 5, Text), // reason
    ],
    tagged: &[],
};
const LEAVE_GROUP: &Shape = &Shape {
    fields: &[
        field(0, 5, Text),                                       // group_id
        field(0, 2, Text),                                       // member_id
        field(3, 5, List(&Struct(LEAVE_GROUP_MEMBER_IDENTITY))), // members
    ],
    tagged: &[],
};
const SYNC_GROUP_SYNC_GROUP_REQUEST_ASSIGNMENT: &Shape = &Shape {
    fields: &[
        field(0, 5, Text), // member_id
        field(0, 5, Blob), // assignment
    ],
    tagged: &[],
};
const SYNC_GROUP: &Shape = &Shape {
    fields: &[
        field(0, 5, Text),                                                    // group_id
        field(0, 5, Fixed(4)),                                                // generation_id
        field(0, 5, Text),                                                    // member_id
        field(3, 5, Text),                                                    // group_instance_id
        field(5, 5, Text),                                                    // protocol_type
        field(5, 5, Text),                                                    // protocol_name
        field(0, 5, List(&Struct(SYNC_GROUP_SYNC_GROUP_REQUEST_ASSIGNMENT))), // assignments
    ],
    tagged: &[],
};
const DESCRIBE_GROUPS: &Shape = &Shape {
    fields: &[
        field(0, 6, List(&Text)), // groups
        field(3, 6, Fixed(1)),    // include_authorized_operations
    ],
    tagged: &[],
};
const LIST_GROUPS: &Shape = &Shape {
    fields: &[
        field(4, 5, List(&Text)), // states_filter
        field(5, 5, List(&Text)), // types_filter
    ],
    tagged: &[],
};
const API_VERSIONS: &Shape = &Shape {
    fields: &[
        field(3, 4, Text), // client_software_name
        field(3, 4, Text), // client_software_version
    ],
    tagged: &[],
};
const CREATE_TOPICS_CREATABLE_REPLICA_ASSIGNMENT: &Shape = &Shape {
    fields: &[
        field(2, 7, Fixed(4)),        // partition_index
        field(2, 7, List(&Fixed(4))), // broker_ids
    ],
    tagged: &[],
};
const CREATE_TOPICS_CREATABLE_TOPIC_CONFIG: &Shape = &Shape {
    fields: &[
        field(2, 7, Text), // name
        field(2, 7, Text), // value
    ],
    tagged: &[],
};
const CREATE_TOPICS_CREATABLE_TOPIC: &Shape = &Shape {
    fields: &[
        field(2, 7, Text),                                                      // name
        field(2, 7, Fixed(4)),                                                  // num_partitions
        field(2, 7, Fixed(2)),                                                  // replication_factor
        field(2, 7, List(&Struct(CREATE_TOPICS_CREATABLE_REPLICA_ASSIGNMENT))), // assignments
        field(2, 7, List(&Struct(CREATE_TOPICS_CREATABLE_TOPIC_CONFIG))),       // configs
    ],
    tagged: &[],
};
const CREATE_TOPICS: &Shape = &Shape {
    fields: &[
        field(2, 7, List(&Struct(CREATE_TOPICS_CREATABLE_TOPIC))), // topics
        field(2, 7, Fixed(4)),                                     // timeout_ms
        field(2, 7, Fixed(1)),                                     // validate_only
    ],
    tagged: &[],
};
const DELETE_TOPICS_DELETE_TOPIC_STATE: &Shape = &Shape {
    fields: &[
        field(6, 6, Text),      // name
        field(6, 6, Fixed(16)), // topic_id
    ],
    tagged: &[],
};
const DELETE_TOPICS: &Shape = &Shape {
    fields: &[
        field(6, 6, List(&Struct(DELETE_TOPICS_DELETE_TOPIC_STATE))), // topics
        field(1, 5, List(&Text)),                                     // topic_names
        field(1, 6, Fixed(4)),                                        // timeout_ms
    ],
    tagged: &[],
};
const DELETE_RECORDS_DELETE_RECORDS_PARTITION: &Shape = &Shape {
    fields: &[
        field(0, 2, Fixed(4)), // partition_index
        field(0, 2, Fixed(8)), // offset
    ],
    tagged: &[],
};
const DELETE_RECORDS_DELETE_RECORDS_TOPIC: &Shape = &Shape {
    fields: &[
        field(0, 2, Text),                                                   // name
        field(0, 2, List(&Struct(DELETE_RECORDS_DELETE_RECORDS_PARTITION))), // partitions
    ],
    tagged: &[],
};
const DELETE_RECORDS: &Shape = &Shape {
    fields: &[
        field(0, 2, List(&Struct(DELETE_RECORDS_DELETE_RECORDS_TOPIC))), // topics
        field(0, 2, Fixed(4)),                                           // timeout_ms
    ],
    tagged: &[],
};
const INIT_PRODUCER_ID: &Shape = &Shape {
    fields: &[
        field(0, 5, Text),     // transactional_id
        field(0, 5, Fixed(4)), // transaction_timeout_ms
        field(3, 5, Fixed(8)), // producer_id
        field(3, 5, Fixed(2)), // producer_epoch
    ],
    tagged: &[],
};
const OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_PARTITION: &Shape = &Shape {
    fields: &[
        field(2, 4, Fixed(4)), // partition
        field(2, 4, Fixed(4)), // current_leader_epoch
        field(2, 4, Fixed(4)), // leader_epoch
    ],
    tagged: &[],
};
const OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_TOPIC: &Shape = &Shape {
    fields: &[
        field(2, 4, Text),                                                               // topic
        field(2, 4, List(&Struct(OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_PARTITION))), // partitions
    ],
    tagged: &[],
};
const OFFSET_FOR_LEADER_EPOCH: &Shape = &Shape {
    fields: &[
        field(3, 4, Fixed(4)),                                                       // replica_id
        field(2, 4, List(&Struct(OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_TOPIC))), // topics
    ],
    tagged: &[],
};
