//! `OffsetFetch` (9): how far groups have read; one group until v7, several from v8 on, all topics if none is named.

use std::collections::{HashMap, HashSet};

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};
use tidewater_storage::model::TopicId;

use crate::controller::image::ClusterImage;
use crate::group::message::{FetchAsk, FetchedOffset};
use crate::group::{GroupError, GroupId};
use crate::kafka::RequestContext;
use crate::kafka::answer_room::AnswerRoom;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::{ErrorCode, code_of};
use crate::kafka::wire::request::OFFSETS_BY_ID;
use crate::kafka::words::{text, topic_name};

/// The error for a group that does not fit into the answer.
const FULL: i16 = ErrorCode::INVALID_REQUEST.number();

/// Asks the coordinators of the groups. What is named twice is answered once (a partition in its group, a group of
/// which everything is asked), and what does not fit is refused: a partition of four bytes has 4 KiB of metadata.
pub async fn handle(ctx: &RequestContext, request: OffsetFetchRequest) -> OffsetFetchResponse {
    if ctx.version < 8 {
        let wanted = request.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name.to_string(), topic.partition_indexes)).collect::<Vec<_>>()
        });
        let wanted = wanted.map(once);
        let found = ctx.broker.groups.fetch(GroupId::from(request.group_id.as_str()), wanted.clone()).await;
        return single(ctx.version, wanted, found);
    }
    let (image, room, mut named) = (ctx.image(), AnswerRoom::new(&ctx.budget), HashSet::new());
    let (image, room) = (&image, &room);
    let groups = request.groups.into_iter();
    let groups = groups.filter(|group| group.topics.is_some() || named.insert(group.group_id.clone()));
    let asked = groups.map(|group| async move {
        let (wanted, unknown) = wanted(image, ctx.version, group.topics);
        let found = ctx.broker.groups.fetch(GroupId::from(group.group_id.as_str()), wanted.map(once)).await;
        let code = code_of(&found);
        let found = found.unwrap_or_default();
        let (found, code) = if fits(&found, room) { (found, code) } else { (Vec::new(), FULL) };
        OffsetFetchResponseGroup::default()
            .with_group_id(group.group_id)
            .with_error_code(code)
            .with_topics(topics_from_8(image, ctx.version, found, unknown))
    });
    OffsetFetchResponse::default().with_groups(at_once(asked).await)
}

/// Each partition once, in the order in which they were first named.
fn once(topics: Vec<(String, Vec<i32>)>) -> Vec<(String, Vec<i32>)> {
    let mut named: HashMap<String, HashSet<i32>> = HashMap::new();
    let topics = topics.into_iter().map(|(topic, mut partitions)| {
        let named = named.entry(topic.clone()).or_default();
        partitions.retain(|n| named.insert(*n));
        (topic, partitions)
    });
    topics.filter(|(_, partitions)| !partitions.is_empty()).collect()
}

/// Is there room for the answer of one group?
fn fits(found: &[FetchedOffset], room: &AnswerRoom) -> bool {
    let one = |found: &FetchedOffset| {
        size_of::<OffsetFetchResponsePartitions>() + found.commit.as_ref().map_or(0, |commit| commit.metadata.len())
    };
    room.takes(size_of::<OffsetFetchResponseGroup>() + found.iter().map(one).sum::<usize>())
}

/// What to ask the coordinator for, and the topics of v10 whose id is unknown.
fn wanted(
    image: &ClusterImage,
    version: i16,
    topics: Option<Vec<OffsetFetchRequestTopics>>,
) -> (FetchAsk, Vec<OffsetFetchRequestTopics>) {
    let Some(topics) = topics else { return (None, Vec::new()) };
    let (mut wanted, mut unknown) = (Vec::with_capacity(topics.len()), Vec::new());
    for topic in topics {
        if version < OFFSETS_BY_ID {
            wanted.push((topic.name.to_string(), topic.partition_indexes));
        } else if let Some(found) = image.topic_by_id(TopicId(topic.topic_id)) {
            wanted.push((found.name.as_str().to_owned(), topic.partition_indexes));
        } else {
            unknown.push(topic);
        }
    }
    (Some(wanted), unknown)
}

/// Topics of one group, by id from v10 on; offsets of a topic that has gone meanwhile have no id and are left out.
fn topics_from_8(
    image: &ClusterImage,
    version: i16,
    found: Vec<FetchedOffset>,
    unknown: Vec<OffsetFetchRequestTopics>,
) -> Vec<OffsetFetchResponseTopics> {
    let named = by_topic(found).into_iter().map(topic_from_8);
    if version < OFFSETS_BY_ID {
        return named.collect();
    }
    let known = named.filter_map(|topic| {
        let id = image.topic(topic.name.as_str())?.id;
        Some(topic.with_topic_id(id.0).with_name(topic_name("")))
    });
    let missing = |index| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(-1)
            .with_metadata(Some(text("")))
            .with_error_code(ErrorCode::UNKNOWN_TOPIC_ID.number())
    };
    let unknown = unknown.into_iter().map(|topic| {
        let partitions = topic.partition_indexes.into_iter().map(missing).collect();
        OffsetFetchResponseTopics::default().with_topic_id(topic.topic_id).with_partitions(partitions)
    });
    known.chain(unknown).collect()
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
        (commit.offset.0, commit.leader_epoch.map_or(-1, |epoch| epoch.0), &commit.metadata)
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
    use crate::kafka::budget::Budget;
    use crate::kafka::limits::ANSWER_BYTES_MAX;
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

    #[test]
    fn a_partition_named_often_is_asked_for_once() {
        let topic = |name: &str, partitions: &[i32]| (name.to_owned(), partitions.to_vec());
        let often = [topic("b", &[1, 0, 1]), topic("a", &[]), topic("a", &[5]), topic("b", &[0, 2])];
        let often = vec![often; 100].concat();
        assert_eq!(once(often), [topic("b", &[1, 0]), topic("a", &[5]), topic("b", &[2])]);
    }

    #[test]
    fn a_full_answer_takes_no_more() {
        let budget = Budget::new(1 << 30);
        let room = AnswerRoom::new(&budget);
        let metadata = "m".repeat(4096);
        let one = FetchedOffset {
            topic: "a".into(),
            partition: 0,
            commit: Some(Commit::new(Offset::new(5), None, &metadata)),
        };
        let group = vec![one; 1000];
        let fit = (0..100).filter(|_| fits(&group, &room)).count();
        assert!(fit < ANSWER_BYTES_MAX / (1000 * 4096) + 1 && fit > 10, "{fit} groups fit");
        assert!(!fits(&[], &room), "what is full stays so");
    }

    #[test]
    fn from_v10_on_topics_have_ids() {
        use uuid::Uuid;

        let image = crate::kafka::handlers::fixture::image(&[("a", 1)]);
        let ask =
            |id| OffsetFetchRequestTopics::default().with_topic_id(Uuid::from_u128(id)).with_partition_indexes(vec![0]);
        let (wanted, unknown) = wanted(&image, 10, Some(vec![ask(9), ask(1)]));
        assert_eq!(wanted, Some(vec![("a".to_owned(), vec![0])]));
        let of = |topic: &str| FetchedOffset {
            topic: topic.into(),
            partition: 0,
            commit: Some(Commit::new(Offset::new(5), None, "")),
        };
        let topics = topics_from_8(&image, 10, vec![of("a"), of("gone")], unknown);
        let found: Vec<_> = topics
            .iter()
            .map(|t| (t.topic_id.as_u128(), t.partitions[0].committed_offset, t.partitions[0].error_code))
            .collect();
        assert_eq!(found, [(1, 5, 0), (9, -1, 100)]);
        let group = OffsetFetchResponseGroup::default().with_topics(topics);
        response::encode(ApiKey::OffsetFetch, 10, 1, &OffsetFetchResponse::default().with_groups(vec![group]))
            .expect("writes");
    }
}
