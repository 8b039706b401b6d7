//! Answers about consumer groups. After Kafka's message schemas; [`super`] says what they are for.

use crate::kafka::wire::schema::Kind::{Blob, Fixed, List, Struct, Text};
use crate::kafka::wire::schema::{Shape, field};

const FIND_COORDINATOR_COORDINATOR: &Shape = &Shape {
    fields: &[
        field(4, 6, Text),     // key
        field(4, 6, Fixed(4)), // node_id
        field(4, 6, Text),     // host
        field(4, 6, Fixed(4)), // port
        field(4, 6, Fixed(2)), // error_code
        field(4, 6, Text),     // error_message
    ],
    tagged: &[],
};
pub(super) const FIND_COORDINATOR: &Shape = &Shape {
    fields: &[
        field(1, 6, Fixed(4)),                                    // throttle_time_ms
        field(0, 3, Fixed(2)),                                    // error_code
        field(1, 3, Text),                                        // error_message
        field(0, 3, Fixed(4)),                                    // node_id
        field(0, 3, Text),                                        // host
        field(0, 3, Fixed(4)),                                    // port
        field(4, 6, List(&Struct(FIND_COORDINATOR_COORDINATOR))), // coordinators
    ],
    tagged: &[],
};
const OFFSET_COMMIT_OFFSET_COMMIT_RESPONSE_PARTITION: &Shape = &Shape {
    fields: &[
        field(2, 10, Fixed(4)), // partition_index
        field(2, 10, Fixed(2)), // error_code
    ],
    tagged: &[],
};
const OFFSET_COMMIT_OFFSET_COMMIT_RESPONSE_TOPIC: &Shape = &Shape {
    fields: &[
        field(2, 9, Text),                                                           // name
        field(10, 10, Fixed(16)),                                                    // topic_id
        field(2, 10, List(&Struct(OFFSET_COMMIT_OFFSET_COMMIT_RESPONSE_PARTITION))), // partitions
    ],
    tagged: &[],
};
pub(super) const OFFSET_COMMIT: &Shape = &Shape {
    fields: &[
        field(3, 10, Fixed(4)),                                                  // throttle_time_ms
        field(2, 10, List(&Struct(OFFSET_COMMIT_OFFSET_COMMIT_RESPONSE_TOPIC))), // topics
    ],
    tagged: &[],
};
const OFFSET_FETCH_OFFSET_FETCH_RESPONSE_PARTITION: &Shape = &Shape {
    fields: &[
        field(1, 7, Fixed(4)), // partition_index
        field(1, 7, Fixed(8)), // committed_offset
        field(5, 7, Fixed(4)), // committed_leader_epoch
        field(1, 7, Text),     // metadata
        field(1, 7, Fixed(2)), // error_code
    ],
    tagged: &[],
};
const OFFSET_FETCH_OFFSET_FETCH_RESPONSE_TOPIC: &Shape = &Shape {
    fields: &[
        field(1, 7, Text),                                                        // name
        field(1, 7, List(&Struct(OFFSET_FETCH_OFFSET_FETCH_RESPONSE_PARTITION))), // partitions
    ],
    tagged: &[],
};
const OFFSET_FETCH_OFFSET_FETCH_RESPONSE_PARTITIONS: &Shape = &Shape {
    fields: &[
        field(8, 10, Fixed(4)), // partition_index
        field(8, 10, Fixed(8)), // committed_offset
        field(8, 10, Fixed(4)), // committed_leader_epoch
        field(8, 10, Text),     // metadata
        field(8, 10, Fixed(2)), // error_code
    ],
    tagged: &[],
};
const OFFSET_FETCH_OFFSET_FETCH_RESPONSE_TOPICS: &Shape = &Shape {
    fields: &[
        field(8, 9, Text),                                                          // name
        field(10, 10, Fixed(16)),                                                   // topic_id
        field(8, 10, List(&Struct(OFFSET_FETCH_OFFSET_FETCH_RESPONSE_PARTITIONS))), // partitions
    ],
    tagged: &[],
};
const OFFSET_FETCH_OFFSET_FETCH_RESPONSE_GROUP: &Shape = &Shape {
    fields: &[
        field(8, 10, Text),                                                     // group_id
        field(8, 10, List(&Struct(OFFSET_FETCH_OFFSET_FETCH_RESPONSE_TOPICS))), // topics
        field(8, 10, Fixed(2)),                                                 // error_code
    ],
    tagged: &[],
};
pub(super) const OFFSET_FETCH: &Shape = &Shape {
    fields: &[
        field(3, 10, Fixed(4)),                                                // throttle_time_ms
        field(1, 7, List(&Struct(OFFSET_FETCH_OFFSET_FETCH_RESPONSE_TOPIC))),  // topics
        field(2, 7, Fixed(2)),                                                 // error_code
        field(8, 10, List(&Struct(OFFSET_FETCH_OFFSET_FETCH_RESPONSE_GROUP))), // groups
    ],
    tagged: &[],
};
const DESCRIBE_GROUPS_DESCRIBED_GROUP_MEMBER: &Shape = &Shape {
    fields: &[
        field(0, 6, Text), // member_id
        field(4, 6, Text), // group_instance_id
        field(0, 6, Text), // client_id
        field(0, 6, Text), // client_host
        field(0, 6, Blob), // member_metadata
        field(0, 6, Blob), // member_assignment
    ],
    tagged: &[],
};
const DESCRIBE_GROUPS_DESCRIBED_GROUP: &Shape = &Shape {
    fields: &[
        field(0, 6, Fixed(2)),                                              // error_code
        field(6, 6, Text),                                                  // error_message
        field(0, 6, Text),                                                  // group_id
        field(0, 6, Text),                                                  // group_state
        field(0, 6, Text),                                                  // protocol_type
        field(0, 6, Text),                                                  // protocol_data
        field(0, 6, List(&Struct(DESCRIBE_GROUPS_DESCRIBED_GROUP_MEMBER))), // members
        field(3, 6, Fixed(4)),                                              // authorized_operations
    ],
    tagged: &[],
};
pub(super) const DESCRIBE_GROUPS: &Shape = &Shape {
    fields: &[
        field(1, 6, Fixed(4)),                                       // throttle_time_ms
        field(0, 6, List(&Struct(DESCRIBE_GROUPS_DESCRIBED_GROUP))), // groups
    ],
    tagged: &[],
};
const LIST_GROUPS_LISTED_GROUP: &Shape = &Shape {
    fields: &[
        field(0, 5, Text), // group_id
        field(0, 5, Text), // protocol_type
        field(4, 5, Text), // group_state
        field(5, 5, Text), // group_type
    ],
    tagged: &[],
};
pub(super) const LIST_GROUPS: &Shape = &Shape {
    fields: &[
        field(1, 5, Fixed(4)),                                // throttle_time_ms
        field(0, 5, Fixed(2)),                                // error_code
        field(0, 5, List(&Struct(LIST_GROUPS_LISTED_GROUP))), // groups
    ],
    tagged: &[],
};
const DELETE_GROUPS_DELETABLE_GROUP_RESULT: &Shape = &Shape {
    fields: &[
        field(0, 2, Text),     // group_id
        field(0, 2, Fixed(2)), // error_code
    ],
    tagged: &[],
};
pub(super) const DELETE_GROUPS: &Shape = &Shape {
    fields: &[
        field(0, 2, Fixed(4)),                                            // throttle_time_ms
        field(0, 2, List(&Struct(DELETE_GROUPS_DELETABLE_GROUP_RESULT))), // results
    ],
    tagged: &[],
};
