//! Answers about the cluster, its topics and their settings. After Kafka's message schemas; [`super`] says what they
//! are for.

use crate::kafka::wire::schema::Kind::{Fixed, List, Struct, Text};
use crate::kafka::wire::schema::{Shape, field};

const API_VERSIONS_API_VERSION: &Shape = &Shape {
    fields: &[
        field(0, 0, Fixed(2)), // api_key
        field(0, 0, Fixed(2)), // min_version
        field(0, 0, Fixed(2)), // max_version
    ],
    tagged: &[],
};
pub(super) const API_VERSIONS: &Shape = &Shape {
    fields: &[
        field(0, 0, Fixed(2)),                                // error_code
        field(0, 0, List(&Struct(API_VERSIONS_API_VERSION))), // api_keys
    ],
    tagged: &[],
};
const METADATA_METADATA_RESPONSE_BROKER: &Shape = &Shape {
    fields: &[
        field(0, 13, Fixed(4)), // node_id
        field(0, 13, Text),     // host
        field(0, 13, Fixed(4)), // port
        field(1, 13, Text),     // rack
    ],
    tagged: &[],
};
const METADATA_METADATA_RESPONSE_PARTITION: &Shape = &Shape {
    fields: &[
        field(0, 13, Fixed(2)),        // error_code
        field(0, 13, Fixed(4)),        // partition_index
        field(0, 13, Fixed(4)),        // leader_id
        field(7, 13, Fixed(4)),        // leader_epoch
        field(0, 13, List(&Fixed(4))), // replica_nodes
        field(0, 13, List(&Fixed(4))), // isr_nodes
        field(5, 13, List(&Fixed(4))), // offline_replicas
    ],
    tagged: &[],
};
const METADATA_METADATA_RESPONSE_TOPIC: &Shape = &Shape {
    fields: &[
        field(0, 13, Fixed(2)),                                            // error_code
        field(0, 13, Text),                                                // name
        field(10, 13, Fixed(16)),                                          // topic_id
        field(1, 13, Fixed(1)),                                            // is_internal
        field(0, 13, List(&Struct(METADATA_METADATA_RESPONSE_PARTITION))), // partitions
        field(8, 13, Fixed(4)),                                            // topic_authorized_operations
    ],
    tagged: &[],
};
pub(super) const METADATA: &Shape = &Shape {
    fields: &[
        field(3, 13, Fixed(4)),                                         // throttle_time_ms
        field(0, 13, List(&Struct(METADATA_METADATA_RESPONSE_BROKER))), // brokers
        field(2, 13, Text),                                             // cluster_id
        field(1, 13, Fixed(4)),                                         // controller_id
        field(0, 13, List(&Struct(METADATA_METADATA_RESPONSE_TOPIC))),  // topics
        field(8, 10, Fixed(4)),                                         // cluster_authorized_operations
        field(13, 13, Fixed(2)),                                        // error_code
    ],
    tagged: &[],
};
const DESCRIBE_CLUSTER_DESCRIBE_CLUSTER_BROKER: &Shape = &Shape {
    fields: &[
        field(0, 2, Fixed(4)), // broker_id
        field(0, 2, Text),     // host
        field(0, 2, Fixed(4)), // port
        field(0, 2, Text),     // rack
        field(2, 2, Fixed(1)), // is_fenced
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_CLUSTER: &Shape = &Shape {
    fields: &[
        field(0, 2, Fixed(4)),                                                // throttle_time_ms
        field(0, 2, Fixed(2)),                                                // error_code
        field(0, 2, Text),                                                    // error_message
        field(1, 2, Fixed(1)),                                                // endpoint_type
        field(0, 2, Text),                                                    // cluster_id
        field(0, 2, Fixed(4)),                                                // controller_id
        field(0, 2, List(&Struct(DESCRIBE_CLUSTER_DESCRIBE_CLUSTER_BROKER))), // brokers
        field(0, 2, Fixed(4)),                                                // cluster_authorized_operations
    ],
    tagged: &[],
};
const CREATE_TOPICS_CREATABLE_TOPIC_CONFIGS: &Shape = &Shape {
    fields: &[
        field(5, 7, Text),     // name
        field(5, 7, Text),     // value
        field(5, 7, Fixed(1)), // read_only
        field(5, 7, Fixed(1)), // config_source
        field(5, 7, Fixed(1)), // is_sensitive
    ],
    tagged: &[],
};
const CREATE_TOPICS_CREATABLE_TOPIC_RESULT: &Shape = &Shape {
    fields: &[
        field(2, 7, Text),                                                 // name
        field(7, 7, Fixed(16)),                                            // topic_id
        field(2, 7, Fixed(2)),                                             // error_code
        field(2, 7, Text),                                                 // error_message
        field(5, 7, Fixed(4)),                                             // num_partitions
        field(5, 7, Fixed(2)),                                             // replication_factor
        field(5, 7, List(&Struct(CREATE_TOPICS_CREATABLE_TOPIC_CONFIGS))), // configs
    ],
    tagged: &[(0, field(5, 7, Fixed(2)))],
};
pub(super) const CREATE_TOPICS: &Shape = &Shape {
    fields: &[
        field(2, 7, Fixed(4)),                                            // throttle_time_ms
        field(2, 7, List(&Struct(CREATE_TOPICS_CREATABLE_TOPIC_RESULT))), // topics
    ],
    tagged: &[],
};
const CREATE_PARTITIONS_CREATE_PARTITIONS_TOPIC_RESULT: &Shape = &Shape {
    fields: &[
        field(0, 3, Text),     // name
        field(0, 3, Fixed(2)), // error_code
        field(0, 3, Text),     // error_message
    ],
    tagged: &[],
};
pub(super) const CREATE_PARTITIONS: &Shape = &Shape {
    fields: &[
        field(0, 3, Fixed(4)),                                                        // throttle_time_ms
        field(0, 3, List(&Struct(CREATE_PARTITIONS_CREATE_PARTITIONS_TOPIC_RESULT))), // results
    ],
    tagged: &[],
};
const DELETE_TOPICS_DELETABLE_TOPIC_RESULT: &Shape = &Shape {
    fields: &[
        field(1, 6, Text),      // name
        field(6, 6, Fixed(16)), // topic_id
        field(1, 6, Fixed(2)),  // error_code
        field(5, 6, Text),      // error_message
    ],
    tagged: &[],
};
pub(super) const DELETE_TOPICS: &Shape = &Shape {
    fields: &[
        field(1, 6, Fixed(4)),                                            // throttle_time_ms
        field(1, 6, List(&Struct(DELETE_TOPICS_DELETABLE_TOPIC_RESULT))), // responses
    ],
    tagged: &[],
};
const DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_SYNONYM: &Shape = &Shape {
    fields: &[
        field(1, 4, Text),     // name
        field(1, 4, Text),     // value
        field(1, 4, Fixed(1)), // source
    ],
    tagged: &[],
};
const DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESOURCE_RESULT: &Shape = &Shape {
    fields: &[
        field(1, 4, Text),                                                     // name
        field(1, 4, Text),                                                     // value
        field(1, 4, Fixed(1)),                                                 // read_only
        field(1, 4, Fixed(1)),                                                 // config_source
        field(1, 4, Fixed(1)),                                                 // is_sensitive
        field(1, 4, List(&Struct(DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_SYNONYM))), // synonyms
        field(3, 4, Fixed(1)),                                                 // config_type
        field(3, 4, Text),                                                     // documentation
    ],
    tagged: &[],
};
const DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESULT: &Shape = &Shape {
    fields: &[
        field(1, 4, Fixed(2)),                                                         // error_code
        field(1, 4, Text),                                                             // error_message
        field(1, 4, Fixed(1)),                                                         // resource_type
        field(1, 4, Text),                                                             // resource_name
        field(1, 4, List(&Struct(DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESOURCE_RESULT))), // configs
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_CONFIGS: &Shape = &Shape {
    fields: &[
        field(1, 4, Fixed(4)),                                                // throttle_time_ms
        field(1, 4, List(&Struct(DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESULT))), // results
    ],
    tagged: &[],
};
const INCREMENTAL_ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE_RESPONSE: &Shape = &Shape {
    fields: &[
        field(0, 1, Fixed(2)), // error_code
        field(0, 1, Text),     // error_message
        field(0, 1, Fixed(1)), // resource_type
        field(0, 1, Text),     // resource_name
    ],
    tagged: &[],
};
pub(super) const INCREMENTAL_ALTER_CONFIGS: &Shape = &Shape {
    fields: &[
        field(0, 1, Fixed(4)), // throttle_time_ms
        field(0, 1, List(&Struct(INCREMENTAL_ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE_RESPONSE))), // responses
    ],
    tagged: &[],
};
