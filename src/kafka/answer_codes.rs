//! Which error codes an answer carries: one row per response, so that `/metrics` can count them.
//!
//! Produce and Fetch write their own bytes and are counted where they do.

use kafka_protocol::messages::{
    AlterConfigsResponse, AlterPartitionReassignmentsResponse, ApiVersionsResponse, CreateAclsResponse,
    CreatePartitionsResponse, CreateTopicsResponse, DeleteAclsResponse, DeleteGroupsResponse, DeleteRecordsResponse,
    DeleteTopicsResponse, DescribeAclsResponse, DescribeClientQuotasResponse, DescribeClusterResponse,
    DescribeConfigsResponse, DescribeGroupsResponse, DescribeProducersResponse, DescribeQuorumResponse,
    DescribeTopicPartitionsResponse, DescribeUserScramCredentialsResponse, ElectLeadersResponse,
    FindCoordinatorResponse, HeartbeatResponse, IncrementalAlterConfigsResponse, InitProducerIdResponse,
    JoinGroupResponse, LeaveGroupResponse, ListConfigResourcesResponse, ListGroupsResponse, ListOffsetsResponse,
    ListPartitionReassignmentsResponse, MetadataResponse, OffsetCommitResponse, OffsetDeleteResponse,
    OffsetFetchResponse, OffsetForLeaderEpochResponse, SyncGroupResponse,
};

use super::error_code::ErrorCode;

/// An answer that can tell its error codes. A response without a row below does not compile in `dispatch`.
pub(super) trait AnswerCodes {
    /// Calls `see` with every code in it, 0 included.
    fn codes(&self, see: &mut dyn FnMut(ErrorCode));
}

macro_rules! see {
    ($at:expr, $see:ident, own) => {
        $see(ErrorCode::of($at.error_code))
    };
    ($at:expr, $see:ident, each $list:ident) => {
        $at.$list.iter().for_each(|one| $see(ErrorCode::of(one.error_code)))
    };
    ($at:expr, $see:ident, each $list:ident . $inner:ident) => {
        $at.$list.iter().flat_map(|one| &one.$inner).for_each(|one| $see(ErrorCode::of(one.error_code)))
    };
    ($at:expr, $see:ident, each $list:ident . $inner:ident . $most:ident) => {
        $at.$list
            .iter()
            .flat_map(|one| &one.$inner)
            .flat_map(|one| &one.$most)
            .for_each(|one| $see(ErrorCode::of(one.error_code)))
    };
}

macro_rules! answers {
    ($($response:ident { $($how:ident $($list:ident $(. $inner:ident)*)?),* })*) => {
        $(impl AnswerCodes for $response {
            fn codes(&self, see: &mut dyn FnMut(ErrorCode)) {
                $(see!(self, see, $how $($list $(. $inner)*)?);)*
            }
        })*
    };
}

answers! {
    AlterConfigsResponse { each responses }
    AlterPartitionReassignmentsResponse { own, each responses.partitions }
    ApiVersionsResponse { own }
    CreateAclsResponse { each results }
    CreatePartitionsResponse { each results }
    CreateTopicsResponse { each topics }
    DeleteAclsResponse { each filter_results }
    DeleteGroupsResponse { each results }
    DeleteRecordsResponse { each topics.partitions }
    DeleteTopicsResponse { each responses }
    DescribeAclsResponse { own }
    DescribeClientQuotasResponse { own }
    DescribeClusterResponse { own }
    DescribeConfigsResponse { each results }
    DescribeGroupsResponse { each groups }
    DescribeProducersResponse { each topics.partitions }
    DescribeQuorumResponse { own, each topics.partitions }
    DescribeTopicPartitionsResponse { each topics, each topics.partitions }
    DescribeUserScramCredentialsResponse { own, each results }
    ElectLeadersResponse { own, each replica_election_results.partition_result }
    FindCoordinatorResponse { own, each coordinators }
    HeartbeatResponse { own }
    IncrementalAlterConfigsResponse { each responses }
    InitProducerIdResponse { own }
    JoinGroupResponse { own }
    LeaveGroupResponse { own, each members }
    ListConfigResourcesResponse { own }
    ListGroupsResponse { own }
    ListPartitionReassignmentsResponse { own }
    ListOffsetsResponse { each topics.partitions }
    MetadataResponse { own, each topics, each topics.partitions }
    OffsetCommitResponse { each topics.partitions }
    OffsetDeleteResponse { own, each topics.partitions }
    OffsetFetchResponse { own, each topics.partitions, each groups, each groups.topics.partitions }
    OffsetForLeaderEpochResponse { each topics.partitions }
    SyncGroupResponse { own }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
    };

    use super::*;

    #[test]
    fn nested_codes_are_seen() {
        let partition = OffsetFetchResponsePartitions::default().with_error_code(3);
        let topic = OffsetFetchResponseTopics::default().with_partitions(vec![partition]);
        let group = OffsetFetchResponseGroup::default().with_error_code(15).with_topics(vec![topic]);
        let response = OffsetFetchResponse::default().with_groups(vec![group]);
        let mut seen = Vec::new();
        response.codes(&mut |code| seen.push(code.number()));
        assert_eq!(seen, [0, 15, 3]);
    }
}
