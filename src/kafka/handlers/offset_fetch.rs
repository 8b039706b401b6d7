//! `OffsetFetch` (9): how far groups have read; one group until v7, several from v8 on, all topics if none is named.

use futures::future::join_all;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};

use crate::group::message::{FetchAsk, FetchedOffset};
use crate::group::{GroupError, GroupId};
use crate::kafka::RequestContext;
use crate::kafka::error_code::code_of;
use crate::kafka::words::{text, topic_name};

/// Asks the coordinators of the groups.
pub async fn handle(ctx: &RequestContext, request: OffsetFetchRequest) -> OffsetFetchResponse {
    if ctx.version < 8 {
        let wanted = request.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name.to_string(), topic.partition_indexes)).collect::<Vec<_>>()
        });
        let found = ctx.broker.groups.fetch(GroupId::from(request.group_id.as_str()), wanted.clone()).await;
        return single(ctx.version, wanted, found);
    }
    let asked = request.groups.into_iter().map(|group| async move {
        let wanted = group
            .topics
            .map(|topics| topics.into_iter().map(|topic| (topic.name.to_string(), topic.partition_indexes)).collect());
        let found = ctx.broker.groups.fetch(GroupId::from(group.group_id.as_str()), wanted).await;
        let answer = OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_error_code(code_of(&found));
        answer.with_topics(by_topic(found.unwrap_or_default()).into_iter().map(topic_from_8).collect())
    });
    OffsetFetchResponse::default().with_groups(join_all(asked).await)
}

/// Until v7. Before v2 there is no place for an error but beside each partition.
fn single(version: i16, wanted: FetchAsk, found: Result<Vec<FetchedOffset>, GroupError>) -> OffsetFetchResponse {
    let code = code_of(&found);
    let offsets = found.unwrap_or_else(|_| {
        let nothing = |topic: &str, partition| FetchedOffset { topic: topic.into(), partition, commit: None };
        let wanted = wanted.unwrap_or_default();
        wanted.iter().flat_map(|(topic, partitions)| partitions.iter().map(|n| nothing(topic, *n))).collect()
    });
    let topics = by_topic(offsets).into_iter().map(|topic| topic_until_7(topic, code)).collect();
    let answer = OffsetFetchResponse::default().with_topics(topics);
    if version >= 2 { answer.with_error_code(code) } else { answer }
}

/// Offsets in order, split where the topic changes.
fn by_topic(offsets: Vec<FetchedOffset>) -> Vec<Vec<FetchedOffset>> {
    offsets.chunk_by(|a, b| a.topic == b.topic).map(<[_]>::to_vec).collect()
}

/// Offset, leader epoch and metadata on the wire; -1, -1 and nothing when there is no offset.
fn on_wire(found: &FetchedOffset) -> (i64, i32, &str) {
    found.commit.as_ref().map_or((-1, -1, ""), |commit| {
        (commit.offset.to_wire(), commit.leader_epoch.map_or(-1, |epoch| epoch.0), &commit.metadata)
    })
}

fn topic_until_7(offsets: Vec<FetchedOffset>, code: i16) -> OffsetFetchResponseTopic {
    let partitions = offsets.iter().map(|found| {
        let (offset, epoch, metadata) = on_wire(found);
        OffsetFetchResponsePartition::default()
            .with_partition_index(found.partition)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(text(metadata)))
            .with_error_code(code)
    });
    let name = offsets.first().map_or("", |first| &first.topic);
    OffsetFetchResponseTopic::default().with_name(topic_name(name)).with_partitions(partitions.collect())
}

fn topic_from_8(offsets: Vec<FetchedOffset>) -> OffsetFetchResponseTopics {
    let partitions = offsets.iter().map(|found| {
        let (offset, epoch, metadata) = on_wire(found);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(found.partition)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(epoch)
            .with_metadata(Some(text(metadata)))
    });
    let name = offsets.first().map_or("", |first| &first.topic);
    OffsetFetchResponseTopics::default().with_name(topic_name(name)).with_partitions(partitions.collect())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use tidewater_storage::model::{LeaderEpoch, Offset};

    use super::*;
    use crate::group::message::Commit;
    use crate::kafka::wire::response;

    #[test]
    fn answers_can_be_written_in_every_version() {
        let found = vec![
            FetchedOffset {
                topic: "a".into(),
                partition: 0,
                commit: Some(Commit::new(Offset::new(5), Some(LeaderEpoch(2)), "m")),
            },
            FetchedOffset { topic: "a".into(), partition: 1, commit: None },
            FetchedOffset { topic: "b".into(), partition: 0, commit: None },
        ];
        for version in 1..=7 {
            for outcome in [Ok(found.clone()), Err(GroupError::Loading)] {
                let answer = single(version, Some(vec![("a".into(), vec![0, 1])]), outcome);
                response::encode(ApiKey::OffsetFetch, version, 1, &answer).expect("writes");
            }
        }
        let topics = by_topic(found).into_iter().map(topic_from_8).collect::<Vec<_>>();
        assert_eq!(topics.iter().map(|t| t.partitions.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(topics[0].partitions[1].committed_offset, -1);
        let answer =
            OffsetFetchResponse::default().with_groups(vec![OffsetFetchResponseGroup::default().with_topics(topics)]);
        for version in 8..=9 {
            response::encode(ApiKey::OffsetFetch, version, 1, &answer).expect("writes");
        }
    }
}
