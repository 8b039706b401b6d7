//! The structure of the requests of tools: settings, reassignments, log directories, ACLs and the like.

use super::Kind::{Fixed, List, Maybe, Struct, Text};
use super::{Shape, field};

const DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESOURCE: &Shape = &Shape {
    fields: &[
        field(1, 4, Fixed(1)),    // resource_type
        field(1, 4, Text),        // resource_name
        field(1, 4, List(&Text)), // configuration_keys
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_CONFIGS: &Shape = &Shape {
    fields: &[
        field(1, 4, List(&Struct(DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESOURCE))), // resources
        field(1, 4, Fixed(1)),                                                  // include_synonyms
        field(3, 4, Fixed(1)),                                                  // include_documentation
    ],
    tagged: &[],
};
const ALTER_CONFIGS_ALTERABLE_CONFIG: &Shape = &Shape {
    fields: &[
        field(0, 2, Text), // name
        field(0, 2, Text), // value
    ],
    tagged: &[],
};
const ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE: &Shape = &Shape {
    fields: &[
        field(0, 2, Fixed(1)),                                      // resource_type
        field(0, 2, Text),                                          // resource_name
        field(0, 2, List(&Struct(ALTER_CONFIGS_ALTERABLE_CONFIG))), // configs
    ],
    tagged: &[],
};
pub(super) const ALTER_CONFIGS: &Shape = &Shape {
    fields: &[
        field(0, 2, List(&Struct(ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE))), // resources
        field(0, 2, Fixed(1)),                                            // validate_only
    ],
    tagged: &[],
};
const DESCRIBE_LOG_DIRS_DESCRIBABLE_LOG_DIR_TOPIC: &Shape = &Shape {
    fields: &[
        field(1, 5, Text),            // topic
        field(1, 5, List(&Fixed(4))), // partitions
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_LOG_DIRS: &Shape = &Shape {
    fields: &[
        field(1, 5, List(&Struct(DESCRIBE_LOG_DIRS_DESCRIBABLE_LOG_DIR_TOPIC))), // topics
    ],
    tagged: &[],
};
const CREATE_PARTITIONS_CREATE_PARTITIONS_ASSIGNMENT: &Shape = &Shape {
    fields: &[
        field(0, 3, List(&Fixed(4))), // broker_ids
    ],
    tagged: &[],
};
const CREATE_PARTITIONS_CREATE_PARTITIONS_TOPIC: &Shape = &Shape {
    fields: &[
        field(0, 3, Text),                                                          // name
        field(0, 3, Fixed(4)),                                                      // count
        field(0, 3, List(&Struct(CREATE_PARTITIONS_CREATE_PARTITIONS_ASSIGNMENT))), // assignments
    ],
    tagged: &[],
};
pub(super) const CREATE_PARTITIONS: &Shape = &Shape {
    fields: &[
        field(0, 3, List(&Struct(CREATE_PARTITIONS_CREATE_PARTITIONS_TOPIC))), // topics
        field(0, 3, Fixed(4)),                                                 // timeout_ms
        field(0, 3, Fixed(1)),                                                 // validate_only
    ],
    tagged: &[],
};
pub(super) const DELETE_GROUPS: &Shape = &Shape {
    fields: &[
        field(0, 2, List(&Text)), // groups_names
    ],
    tagged: &[],
};
const INCREMENTAL_ALTER_CONFIGS_ALTERABLE_CONFIG: &Shape = &Shape {
    fields: &[
        field(0, 1, Text),     // name
        field(0, 1, Fixed(1)), // config_operation
        field(0, 1, Text),     // value
    ],
    tagged: &[],
};
const INCREMENTAL_ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE: &Shape = &Shape {
    fields: &[
        field(0, 1, Fixed(1)),                                                  // resource_type
        field(0, 1, Text),                                                      // resource_name
        field(0, 1, List(&Struct(INCREMENTAL_ALTER_CONFIGS_ALTERABLE_CONFIG))), // configs
    ],
    tagged: &[],
};
pub(super) const INCREMENTAL_ALTER_CONFIGS: &Shape = &Shape {
    fields: &[
        field(0, 1, List(&Struct(INCREMENTAL_ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE))), // resources
        field(0, 1, Fixed(1)),                                                        // validate_only
    ],
    tagged: &[],
};
const OFFSET_DELETE_OFFSET_DELETE_REQUEST_PARTITION: &Shape = &Shape {
    fields: &[
        field(0, 0, Fixed(4)), // partition_index
    ],
    tagged: &[],
};
const OFFSET_DELETE_OFFSET_DELETE_REQUEST_TOPIC: &Shape = &Shape {
    fields: &[
        field(0, 0, Text),                                                         // name
        field(0, 0, List(&Struct(OFFSET_DELETE_OFFSET_DELETE_REQUEST_PARTITION))), // partitions
    ],
    tagged: &[],
};
pub(super) const OFFSET_DELETE: &Shape = &Shape {
    fields: &[
        field(0, 0, Text),                                                     // group_id
        field(0, 0, List(&Struct(OFFSET_DELETE_OFFSET_DELETE_REQUEST_TOPIC))), // topics
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_CLUSTER: &Shape = &Shape {
    fields: &[
        field(0, 2, Fixed(1)), // include_cluster_authorized_operations
        field(1, 2, Fixed(1)), // endpoint_type
        field(2, 2, Fixed(1)), // include_fenced_brokers
    ],
    tagged: &[],
};
const DESCRIBE_PRODUCERS_TOPIC_REQUEST: &Shape = &Shape {
    fields: &[
        field(0, 0, Text),            // name
        field(0, 0, List(&Fixed(4))), // partition_indexes
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_PRODUCERS: &Shape = &Shape {
    fields: &[
        field(0, 0, List(&Struct(DESCRIBE_PRODUCERS_TOPIC_REQUEST))), // topics
    ],
    tagged: &[],
};
const DESCRIBE_QUORUM_PARTITION_DATA: &Shape = &Shape {
    fields: &[
        field(0, 2, Fixed(4)), // partition_index
    ],
    tagged: &[],
};
const DESCRIBE_QUORUM_TOPIC_DATA: &Shape = &Shape {
    fields: &[
        field(0, 2, Text),                                          // topic_name
        field(0, 2, List(&Struct(DESCRIBE_QUORUM_PARTITION_DATA))), // partitions
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_QUORUM: &Shape = &Shape {
    fields: &[
        field(0, 2, List(&Struct(DESCRIBE_QUORUM_TOPIC_DATA))), // topics
    ],
    tagged: &[],
};
const DESCRIBE_TOPIC_PARTITIONS_TOPIC_REQUEST: &Shape = &Shape {
    fields: &[
        field(0, 0, Text), // name
    ],
    tagged: &[],
};
const DESCRIBE_TOPIC_PARTITIONS_CURSOR: &Shape = &Shape {
    fields: &[
        field(0, 0, Text),     // topic_name
        field(0, 0, Fixed(4)), // partition_index
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_TOPIC_PARTITIONS: &Shape = &Shape {
    fields: &[
        field(0, 0, List(&Struct(DESCRIBE_TOPIC_PARTITIONS_TOPIC_REQUEST))), // topics
        field(0, 0, Fixed(4)),                                               // response_partition_limit
        field(0, 0, Maybe(DESCRIBE_TOPIC_PARTITIONS_CURSOR)),                // cursor
    ],
    tagged: &[],
};
const ELECT_LEADERS_TOPIC_PARTITIONS: &Shape = &Shape {
    fields: &[
        field(0, 2, Text),            // topic
        field(0, 2, List(&Fixed(4))), // partitions
    ],
    tagged: &[],
};
pub(super) const ELECT_LEADERS: &Shape = &Shape {
    fields: &[
        field(1, 2, Fixed(1)),                                      // election_type
        field(0, 2, List(&Struct(ELECT_LEADERS_TOPIC_PARTITIONS))), // topic_partitions
        field(0, 2, Fixed(4)),                                      // timeout_ms
    ],
    tagged: &[],
};
const ALTER_PARTITION_REASSIGNMENTS_PARTITION: &Shape = &Shape {
    fields: &[
        field(0, 1, Fixed(4)),        // partition_index
        field(0, 1, List(&Fixed(4))), // replicas
    ],
    tagged: &[],
};
const ALTER_PARTITION_REASSIGNMENTS_TOPIC: &Shape = &Shape {
    fields: &[
        field(0, 1, Text),                                                   // name
        field(0, 1, List(&Struct(ALTER_PARTITION_REASSIGNMENTS_PARTITION))), // partitions
    ],
    tagged: &[],
};
pub(super) const ALTER_PARTITION_REASSIGNMENTS: &Shape = &Shape {
    fields: &[
        field(0, 1, Fixed(4)),                                           // timeout_ms
        field(1, 1, Fixed(1)),                                           // allow_replication_factor_change
        field(0, 1, List(&Struct(ALTER_PARTITION_REASSIGNMENTS_TOPIC))), // topics
    ],
    tagged: &[],
};
const LIST_PARTITION_REASSIGNMENTS_TOPIC: &Shape = &Shape {
    fields: &[
        field(0, 0, Text),            // name
        field(0, 0, List(&Fixed(4))), // partition_indexes
    ],
    tagged: &[],
};
pub(super) const LIST_PARTITION_REASSIGNMENTS: &Shape = &Shape {
    fields: &[
        field(0, 0, Fixed(4)),                                          // timeout_ms
        field(0, 0, List(&Struct(LIST_PARTITION_REASSIGNMENTS_TOPIC))), // topics
    ],
    tagged: &[],
};
const DESCRIBE_CLIENT_QUOTAS_COMPONENT: &Shape = &Shape {
    fields: &[
        field(0, 1, Text),     // entity_type
        field(0, 1, Fixed(1)), // match_type
        field(0, 1, Text),     // match
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_CLIENT_QUOTAS: &Shape = &Shape {
    fields: &[
        field(0, 1, List(&Struct(DESCRIBE_CLIENT_QUOTAS_COMPONENT))), // components
        field(0, 1, Fixed(1)),                                        // strict
    ],
    tagged: &[],
};
const DESCRIBE_USER_SCRAM_CREDENTIALS_USER: &Shape = &Shape {
    fields: &[
        field(0, 0, Text), // name
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_USER_SCRAM_CREDENTIALS: &Shape = &Shape {
    fields: &[
        field(0, 0, List(&Struct(DESCRIBE_USER_SCRAM_CREDENTIALS_USER))), // users
    ],
    tagged: &[],
};
pub(super) const LIST_CONFIG_RESOURCES: &Shape = &Shape {
    fields: &[
        field(1, 1, List(&Fixed(1))), // resource_types
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_ACLS: &Shape = &Shape {
    fields: &[
        field(1, 3, Fixed(1)), // resource_type_filter
        field(1, 3, Text),     // resource_name_filter
        field(1, 3, Fixed(1)), // pattern_type_filter
        field(1, 3, Text),     // principal_filter
        field(1, 3, Text),     // host_filter
        field(1, 3, Fixed(1)), // operation
        field(1, 3, Fixed(1)), // permission_type
    ],
    tagged: &[],
};
/// An ACL of `CreateAcls` and a filter of `DeleteAcls` are laid out alike, and like `DescribeAcls`.
pub(super) const CREATE_ACLS: &Shape = &Shape {
    fields: &[
        field(1, 3, List(&Struct(DESCRIBE_ACLS))), // creations
    ],
    tagged: &[],
};
pub(super) const DELETE_ACLS: &Shape = &Shape {
    fields: &[
        field(1, 3, List(&Struct(DESCRIBE_ACLS))), // filters
    ],
    tagged: &[],
};
