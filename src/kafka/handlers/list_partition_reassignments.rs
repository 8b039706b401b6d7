//! `ListPartitionReassignments` (46, KIP-455): partitions are not moved by hand yet, so none is ever under way.

use kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};

use crate::kafka::RequestContext;

/// An empty list, as Kafka answers also for topics that do not exist.
pub async fn handle(_: &RequestContext, _: ListPartitionReassignmentsRequest) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default().with_error_message(None)
}
