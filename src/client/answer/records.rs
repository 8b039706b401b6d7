//! Answers about records: what is written, read, looked up and deleted. After Kafka's message schemas; [`super`] says
//! what they are for.

use crate::kafka::wire::schema::Kind::{Blob, Fixed, List, Struct, Text};
use crate::kafka::wire::schema::{Shape, field};

const PRODUCE_BATCH_INDEX_AND_ERROR_MESSAGE: &Shape = &Shape {
    fields: &[
        field(8, 12, Fixed(4)), // batch_index
        field(8, 12, Text),     // batch_index_error_message
    ],
    tagged: &[],
};
const PRODUCE_LEADER_ID_AND_EPOCH: &Shape = &Shape {
    fields: &[
        field(10, 12, Fixed(4)), // leader_id
        field(10, 12, Fixed(4)), // leader_epoch
    ],
    tagged: &[],
};
const PRODUCE_PARTITION_PRODUCE_RESPONSE: &Shape = &Shape {
    fields: &[
        field(3, 12, Fixed(4)),                                             // index
        field(3, 12, Fixed(2)),                                             // error_code
        field(3, 12, Fixed(8)),                                             // base_offset
        field(3, 12, Fixed(8)),                                             // log_append_time_ms
        field(5, 12, Fixed(8)),                                             // log_start_offset
        field(8, 12, List(&Struct(PRODUCE_BATCH_INDEX_AND_ERROR_MESSAGE))), // record_errors
        field(8, 12, Text),                                                 // error_message
    ],
    tagged: &[(0, field(10, 12, Struct(PRODUCE_LEADER_ID_AND_EPOCH)))],
};
const PRODUCE_TOPIC_PRODUCE_RESPONSE: &Shape = &Shape {
    fields: &[
        field(3, 12, Text),                                              // name
        field(3, 12, List(&Struct(PRODUCE_PARTITION_PRODUCE_RESPONSE))), // partition_responses
    ],
    tagged: &[],
};
const PRODUCE_NODE_ENDPOINT: &Shape = &Shape {
    fields: &[
        field(10, 12, Fixed(4)), // node_id
        field(10, 12, Text),     // host
        field(10, 12, Fixed(4)), // port
        field(10, 12, Text),     // rack
    ],
    tagged: &[],
};
pub(super) const PRODUCE: &Shape = &Shape {
    fields: &[
        field(3, 12, List(&Struct(PRODUCE_TOPIC_PRODUCE_RESPONSE))), // responses
        field(3, 12, Fixed(4)),                                      // throttle_time_ms
    ],
    tagged: &[(0, field(10, 12, List(&Struct(PRODUCE_NODE_ENDPOINT))))],
};
const FETCH_EPOCH_END_OFFSET: &Shape = &Shape {
    fields: &[
        field(12, 12, Fixed(4)), // epoch
        field(12, 12, Fixed(8)), // end_offset
    ],
    tagged: &[],
};
const FETCH_LEADER_ID_AND_EPOCH: &Shape = &Shape {
    fields: &[
        field(12, 12, Fixed(4)), // leader_id
        field(12, 12, Fixed(4)), // leader_epoch
    ],
    tagged: &[],
};
const FETCH_SNAPSHOT_ID: &Shape = &Shape {
    fields: &[
        field(4, 12, Fixed(8)), // end_offset
        field(4, 12, Fixed(4)), // epoch
    ],
    tagged: &[],
};
const FETCH_ABORTED_TRANSACTION: &Shape = &Shape {
    fields: &[
        field(4, 12, Fixed(8)), // producer_id
        field(4, 12, Fixed(8)), // first_offset
    ],
    tagged: &[],
};
const FETCH_PARTITION_DATA: &Shape = &Shape {
    fields: &[
        field(4, 12, Fixed(4)),                                 // partition_index
        field(4, 12, Fixed(2)),                                 // error_code
        field(4, 12, Fixed(8)),                                 // high_watermark
        field(4, 12, Fixed(8)),                                 // last_stable_offset
        field(5, 12, Fixed(8)),                                 // log_start_offset
        field(4, 12, List(&Struct(FETCH_ABORTED_TRANSACTION))), // aborted_transactions
        field(11, 12, Fixed(4)),                                // preferred_read_replica
        field(4, 12, Blob),                                     // records
    ],
    tagged: &[
        (0, field(12, 12, Struct(FETCH_EPOCH_END_OFFSET))),
        (1, field(12, 12, Struct(FETCH_LEADER_ID_AND_EPOCH))),
        (2, field(12, 12, Struct(FETCH_SNAPSHOT_ID))),
    ],
};
const FETCH_FETCHABLE_TOPIC_RESPONSE: &Shape = &Shape {
    fields: &[
        field(4, 12, Text),                                // topic
        field(4, 12, List(&Struct(FETCH_PARTITION_DATA))), // partitions
    ],
    tagged: &[],
};
pub(super) const FETCH: &Shape = &Shape {
    fields: &[
        field(4, 12, Fixed(4)),                                      // throttle_time_ms
        field(7, 12, Fixed(2)),                                      // error_code
        field(7, 12, Fixed(4)),                                      // session_id
        field(4, 12, List(&Struct(FETCH_FETCHABLE_TOPIC_RESPONSE))), // responses
    ],
    tagged: &[],
};
const LIST_OFFSETS_LIST_OFFSETS_PARTITION_RESPONSE: &Shape = &Shape {
    fields: &[
        field(1, 10, Fixed(4)), // partition_index
        field(1, 10, Fixed(2)), // error_code
        field(1, 10, Fixed(8)), // timestamp
        field(1, 10, Fixed(8)), // offset
        field(4, 10, Fixed(4)), // leader_epoch
    ],
    tagged: &[],
};
const LIST_OFFSETS_LIST_OFFSETS_TOPIC_RESPONSE: &Shape = &Shape {
    fields: &[
        field(1, 10, Text),                                                        // name
        field(1, 10, List(&Struct(LIST_OFFSETS_LIST_OFFSETS_PARTITION_RESPONSE))), // partitions
    ],
    tagged: &[],
};
pub(super) const LIST_OFFSETS: &Shape = &Shape {
    fields: &[
        field(2, 10, Fixed(4)),                                                // throttle_time_ms
        field(1, 10, List(&Struct(LIST_OFFSETS_LIST_OFFSETS_TOPIC_RESPONSE))), // topics
    ],
    tagged: &[],
};
const DELETE_RECORDS_DELETE_RECORDS_PARTITION_RESULT: &Shape = &Shape {
    fields: &[
        field(0, 2, Fixed(4)), // partition_index
        field(0, 2, Fixed(8)), // low_watermark
        field(0, 2, Fixed(2)), // error_code
    ],
    tagged: &[],
};
const DELETE_RECORDS_DELETE_RECORDS_TOPIC_RESULT: &Shape = &Shape {
    fields: &[
        field(0, 2, Text),                                                          // name
        field(0, 2, List(&Struct(DELETE_RECORDS_DELETE_RECORDS_PARTITION_RESULT))), // partitions
    ],
    tagged: &[],
};
pub(super) const DELETE_RECORDS: &Shape = &Shape {
    fields: &[
        field(0, 2, Fixed(4)),                                                  // throttle_time_ms
        field(0, 2, List(&Struct(DELETE_RECORDS_DELETE_RECORDS_TOPIC_RESULT))), // topics
    ],
    tagged: &[],
};
pub(super) const INIT_PRODUCER_ID: &Shape = &Shape {
    fields: &[
        field(0, 6, Fixed(4)), // throttle_time_ms
        field(0, 6, Fixed(2)), // error_code
        field(0, 6, Fixed(8)), // producer_id
        field(0, 6, Fixed(2)), // producer_epoch
        field(6, 6, Fixed(8)), // ongoing_txn_producer_id
        field(6, 6, Fixed(2)), // ongoing_txn_producer_epoch
    ],
    tagged: &[],
};
