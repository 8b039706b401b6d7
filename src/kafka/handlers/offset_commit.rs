//! `OffsetCommit` (8): a group remembers how far it has read.

use std::sync::Arc;

use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use tidewater_storage::model::{LeaderEpoch, TopicId};

use crate::controller::image::ClusterImage;
use crate::group::message::{Commit, CommitAsk, CommittedOffset};
use crate::group::{GroupError, GroupId, InstanceId, MemberId};
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::wire::request::OFFSETS_BY_ID;

/// First version whose clients know GROUP_ID_NOT_FOUND (KIP-848).
const NOT_FOUND_FROM: i16 = 9;

/// Answers when the offsets are durable.
pub async fn handle(ctx: &RequestContext, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let group = GroupId::from(request.group_id.as_str());
    let (offsets, mut outcomes) = split(&ctx.image(), ctx.version, &request.topics);
    let ask = CommitAsk {
        member: (!request.member_id.is_empty()).then(|| MemberId::from(request.member_id.as_str())),
        instance: request.group_instance_id.as_deref().map(InstanceId::from),
        generation: request.generation_id_or_member_epoch,
        // -1 is "the broker's default"; the field ended with v4.
        retention_ms: Some(request.retention_time_ms).filter(|ms| ctx.version <= 4 && *ms >= 0),
        offsets,
    };
    let answers = ctx.broker.groups.commit(group, ask).await;
    fill(
        &mut outcomes,
        answers.map_err(|error| for_version(ctx.version, request.generation_id_or_member_epoch, error)),
    );
    answer(request.topics, &outcomes)
}

/// Older clients know a group that is not there by its generation.
fn for_version(version: i16, found: i32, error: GroupError) -> GroupError {
    match error {
        GroupError::NotFound if version < NOT_FOUND_FROM => GroupError::IllegalGeneration { current: -1, found },
        error => error,
    }
}

type Outcome = Option<ErrorCode>;
/// Topic, partition and what to commit there.
type Wanted = Vec<(Arc<str>, i32, Commit)>;

/// What to commit, and the outcomes known already: an id that no topic has is refused; the rest is open.
fn split(image: &ClusterImage, version: i16, topics: &[OffsetCommitRequestTopic]) -> (Wanted, Vec<Outcome>) {
    let (mut offsets, mut outcomes) = (Vec::new(), Vec::new());
    for topic in topics {
        let name: Option<Arc<str>> = if version >= OFFSETS_BY_ID {
            image.topic_by_id(TopicId(topic.topic_id)).map(|found| found.name.as_str().into())
        } else {
            Some(topic.name.as_str().into())
        };
        for partition in &topic.partitions {
            let Some(name) = &name else {
                outcomes.push(Some(ErrorCode::UNKNOWN_TOPIC_ID));
                continue;
            };
            let offset = CommittedOffset(partition.committed_offset);
            let epoch = Some(partition.committed_leader_epoch).filter(|epoch| *epoch != -1).map(LeaderEpoch);
            let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
            offsets.push((Arc::clone(name), partition.partition_index, Commit::new(offset, epoch, metadata)));
            outcomes.push(None);
        }
    }
    (offsets, outcomes)
}

/// Puts the coordinator's answers where they are open, as Kafka does; a refusal of the whole to all of them.
fn fill(outcomes: &mut [Outcome], answers: Result<Vec<Result<(), GroupError>>, GroupError>) {
    let code = |outcome: &Result<(), GroupError>| outcome.as_ref().map_or_else(ErrorCode::from, |()| ErrorCode::NONE);
    let open = outcomes.iter_mut().filter(|outcome| outcome.is_none());
    match answers {
        Err(error) => open.for_each(|outcome| *outcome = Some(ErrorCode::from(&error))),
        Ok(answers) => open.zip(&answers).for_each(|(outcome, answer)| *outcome = Some(code(answer))),
    }
}

fn answer(topics: Vec<OffsetCommitRequestTopic>, outcomes: &[Outcome]) -> OffsetCommitResponse {
    let mut outcomes = outcomes.iter();
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let code = outcomes.next().copied().flatten().unwrap_or(ErrorCode::COORDINATOR_NOT_AVAILABLE);
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code.number())
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default()
            .with_name(topic.name)
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;

    use kafka_protocol::messages::ApiKey;
    use uuid::Uuid;

    use super::*;
    use crate::kafka::handlers::fixture::image;
    use crate::kafka::wire::response;
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
        let (offsets, mut outcomes) = split(&image(&[]), 9, std::slice::from_ref(&topic));
        assert_eq!(offsets.iter().map(|(_, _, commit)| commit.offset.0).collect::<Vec<_>>(), [5, -7, 6]);
        fill(&mut outcomes, Ok(vec![Ok(()), Ok(()), Err(GroupError::UnknownPartition)]));
        let answer = answer(vec![topic], &outcomes);
        let codes = answer.topics[0].partitions.iter().map(|p| (p.partition_index, p.error_code)).collect::<Vec<_>>();
        let code = ErrorCode::number;
        assert_eq!(codes, [(0, 0), (1, 0), (2, code(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))]);
    }

    #[test]
    fn the_error_for_an_unknown_group_depends_on_the_version() {
        let illegal = GroupError::IllegalGeneration { current: -1, found: 3 };
        assert_eq!(for_version(8, 3, GroupError::NotFound), illegal);
        assert_eq!(for_version(9, 3, GroupError::NotFound), GroupError::NotFound);
        assert_eq!(for_version(8, 3, GroupError::UnknownMember), GroupError::UnknownMember);
    }

    #[test]
    fn from_v10_on_topics_have_ids() {
        let image = image(&[("a", 1)]);
        let part = || vec![OffsetCommitRequestPartition::default().with_committed_offset(5)];
        let topic = |id| OffsetCommitRequestTopic::default().with_topic_id(Uuid::from_u128(id)).with_partitions(part());
        let topics = vec![topic(1), topic(9)];
        let (offsets, mut outcomes) = split(&image, 10, &topics);
        assert_eq!(offsets.iter().map(|(name, ..)| &**name).collect::<Vec<_>>(), ["a"]);
        fill(&mut outcomes, Err(GroupError::Loading));
        let answer = answer(topics, &outcomes);
        let codes: Vec<_> = answer.topics.iter().map(|t| (t.topic_id.as_u128(), t.partitions[0].error_code)).collect();
        assert_eq!(codes, [(1, 14), (9, 100)]);
        response::encode(ApiKey::OffsetCommit, 10, 1, &answer).expect("writes");
    }
}
