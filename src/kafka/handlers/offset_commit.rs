//! `OffsetCommit` (8): a group remembers how far it has read.

use std::sync::Arc;

use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use tidewater_storage::model::{LeaderEpoch, Offset};

use crate::group::message::{Commit, CommitAsk};
use crate::group::{GroupError, GroupId, InstanceId, MemberId};
use crate::kafka::RequestContext;
use crate::kafka::error_code::code_of;

/// Answers when the offsets are durable.
pub async fn handle(ctx: &RequestContext, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let group = GroupId::from(request.group_id.as_str());
    let (offsets, mut outcomes) = split(&request.topics);
    let ask = CommitAsk {
        member: (!request.member_id.is_empty()).then(|| MemberId::from(request.member_id.as_str())),
        instance: request.group_instance_id.as_deref().map(InstanceId::from),
        generation: request.generation_id_or_member_epoch,
        // -1 is "the broker's default"; the field ended with v4.
        retention_ms: Some(request.retention_time_ms).filter(|ms| ctx.version <= 4 && *ms >= 0),
        offsets,
    };
    let answers = ctx.broker.groups.commit(group, ask).await;
    fill(&mut outcomes, answers);
    answer(request.topics, &outcomes)
}

type Outcome = Option<Result<(), GroupError>>;
/// Topic, partition and what to commit there.
type Wanted = Vec<(Arc<str>, i32, Commit)>;

/// What to commit, and the outcomes known already: a negative offset is refused, the rest is open.
fn split(topics: &[OffsetCommitRequestTopic]) -> (Wanted, Vec<Outcome>) {
    let (mut offsets, mut outcomes) = (Vec::new(), Vec::new());
    for topic in topics {
        let name: Arc<str> = topic.name.as_str().into();
        for partition in &topic.partitions {
            let Some(offset) = Offset::from_wire(partition.committed_offset) else {
                outcomes.push(Some(Err(GroupError::InvalidOffset(partition.committed_offset))));
                continue;
            };
            let epoch = Some(partition.committed_leader_epoch).filter(|epoch| *epoch >= 0).map(LeaderEpoch);
            let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
            offsets.push((Arc::clone(&name), partition.partition_index, Commit::new(offset, epoch, metadata)));
            outcomes.push(None);
        }
    }
    (offsets, outcomes)
}

/// Puts the coordinator's answers where they are open; a refusal of the whole goes everywhere.
fn fill(outcomes: &mut [Outcome], answers: Result<Vec<Result<(), GroupError>>, GroupError>) {
    match answers {
        Err(error) => outcomes.iter_mut().for_each(|outcome| *outcome = Some(Err(error.clone()))),
        Ok(answers) => {
            let mut answers = answers.into_iter();
            for open in outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
                *open = answers.next();
            }
        }
    }
}

fn answer(topics: Vec<OffsetCommitRequestTopic>, outcomes: &[Outcome]) -> OffsetCommitResponse {
    let mut outcomes = outcomes.iter();
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let outcome = outcomes.next().and_then(Option::as_ref);
            let code = outcome.map_or_else(|| code_of::<()>(&Err(GroupError::NotAvailable)), code_of);
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;

    use super::*;
    use crate::kafka::error_code::ErrorCode;
    use crate::kafka::words::topic_name;

    #[test]
    fn answers_stand_beside_their_partitions() {
        let part =
            |n, offset| OffsetCommitRequestPartition::default().with_partition_index(n).with_committed_offset(offset);
        let topic = OffsetCommitRequestTopic::default().with_name(topic_name("t")).with_partitions(vec![
            part(0, 5),
            part(1, -7),
            part(2, 6),
        ]);
        let (offsets, mut outcomes) = split(std::slice::from_ref(&topic));
        assert_eq!(offsets.len(), 2);
        fill(&mut outcomes, Ok(vec![Ok(()), Err(GroupError::UnknownPartition)]));
        let answer = answer(vec![topic], &outcomes);
        let codes = answer.topics[0].partitions.iter().map(|p| (p.partition_index, p.error_code)).collect::<Vec<_>>();
        let code = ErrorCode::number;
        assert_eq!(
            codes,
            [(0, 0), (1, code(ErrorCode::OFFSET_OUT_OF_RANGE)), (2, code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)),]
        );
    }
}
