//! `DescribeLogDirs` (35): how much each partition takes, on disk and in the bucket.
//!
//! The bucket stands beside the data directory as a log directory of its own, so that `kafka-log-dirs` and the UIs tell
//! remote sizes too (Kafka's answer has no other place for them). What is on disk and in the bucket counts in both.

use std::collections::HashSet;

use bytes::BytesMut;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};

use crate::controller::image::{ClusterImage, PartitionImage};
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::connection::{CloseReason, Reply};
use crate::kafka::named_twice::by_topic;
use crate::kafka::wire::{log_dirs, request};
use crate::kafka::words::{text, topic_name};
use crate::partition::message::{PartitionAddress, PartitionStatus};

/// Decodes, asks the shards, answers.
pub async fn serve(ctx: &RequestContext, body: BytesMut) -> Reply {
    let malformed = |why| Reply::Close(CloseReason::Malformed { key: ctx.key as i16, version: ctx.version, why });
    let checked = match request::check(ctx.key, ctx.version, body) {
        Ok(checked) => checked,
        Err(why) => return malformed(why),
    };
    let _decoded = ctx.room(checked.decoding_bytes()).await;
    let request = match request::decode(checked) {
        Ok(request) => request,
        Err(why) => return malformed(why),
    };
    let answer = handle(ctx, request).await;
    match log_dirs::encode(ctx.version, ctx.correlation_id, &answer) {
        Ok(frame) => ctx.reply(frame),
        Err(error) => Reply::Close(CloseReason::Internal(error.to_string())),
    }
}

/// The data directory with the local bytes of what is asked for, then the bucket with the archived ones.
async fn handle(ctx: &RequestContext, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let asked = asked(&ctx.image(), request);
    let addresses = asked.iter().flat_map(|(_, addresses)| addresses);
    let mut statuses = at_once(addresses.map(|address| ctx.broker.router.describe(*address))).await.into_iter();
    let topics = asked.into_iter().map(|(name, addresses)| {
        let statuses = statuses.by_ref().take(addresses.len());
        (name, statuses.flatten().collect())
    });
    let topics: Vec<(String, Vec<PartitionStatus>)> = topics.collect();
    let config = &ctx.broker.config;
    let local = directory(&config.data_dir.display().to_string(), &topics, |status| Some(status.local_bytes));
    let bucket = directory(&config.bucket, &topics, |status| Some(status.archived_bytes).filter(|bytes| *bytes > 0));
    let usable = match ctx.version {
        4.. => ctx.broker.env.disk.free_bytes(&config.data_dir).await.ok(),
        _ => None,
    };
    let usable = usable.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1);
    let local = if usable >= 0 { local.with_usable_bytes(usable) } else { local };
    let archived = !bucket.topics.is_empty();
    DescribeLogDirsResponse::default().with_results(std::iter::once(local).chain(archived.then_some(bucket)).collect())
}

/// A directory and the bytes of each partition there; partitions without any are left out where `bytes` says so.
fn directory(
    dir: &str,
    topics: &[(String, Vec<PartitionStatus>)],
    bytes: impl Fn(&PartitionStatus) -> Option<u64>,
) -> DescribeLogDirsResult {
    let topics = topics.iter().map(|(name, statuses)| {
        let partitions = statuses.iter().filter_map(|status| Some(partition(status.partition, bytes(status)?)));
        DescribeLogDirsTopic::default().with_name(topic_name(name)).with_partitions(partitions.collect())
    });
    let topics = topics.filter(|topic| !topic.partitions.is_empty());
    DescribeLogDirsResult::default().with_log_dir(text(dir)).with_topics(topics.collect())
}

/// Null asks for all. What is named more than once is answered once. Topics of sources take no space here.
fn asked(image: &ClusterImage, request: DescribeLogDirsRequest) -> Vec<(String, Vec<PartitionAddress>)> {
    match request.topics {
        None => image
            .topics
            .values()
            .filter(|topic| image.source_of(topic.id).is_none())
            .map(|t| (t.name.as_str().to_owned(), t.partitions.iter().map(PartitionImage::address).collect()))
            .collect(),
        Some(topics) => by_topic(topics.into_iter().map(|asked| (asked.topic, asked.partitions)))
            .into_iter()
            .filter_map(|(name, partitions)| {
                let (topic, mut named) = (image.topic(name.as_str())?, HashSet::new());
                if image.source_of(topic.id).is_some() {
                    return None;
                }
                let once = partitions.into_iter().filter(|index| named.insert(*index));
                let addresses = once.filter_map(|index| topic.partition(index)).map(PartitionImage::address);
                Some((name.as_str().to_owned(), addresses.collect()))
            })
            .collect(),
    }
}

fn partition(index: i32, bytes: u64) -> DescribeLogDirsPartition {
    DescribeLogDirsPartition::default()
        .with_partition_index(index)
        .with_partition_size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;

    use super::*;

    #[test]
    fn all_and_some() {
        let image = crate::kafka::handlers::fixture::image(&[("a", 3), ("b", 2)]);
        assert_eq!(asked(&image, DescribeLogDirsRequest::default().with_topics(None)).len(), 2);
        let one = DescribableLogDirTopic::default().with_topic(topic_name("a")).with_partitions(vec![1, 9]);
        let some = asked(&image, DescribeLogDirsRequest::default().with_topics(Some(vec![one.clone(), one])));
        assert_eq!(some.iter().map(|(n, p)| (n.as_str(), p.len())).collect::<Vec<_>>(), [("a", 1)]);
    }
    #[test]
    fn local_and_remote_sizes() {
        let status = |partition, local_bytes, archived_bytes| PartitionStatus {
            partition,
            local_bytes,
            archived_bytes,
            ..PartitionStatus::default()
        };
        let topics =
            [("a".to_owned(), vec![status(0, 10, 70), status(1, 0, 0)]), ("b".to_owned(), vec![status(0, 1, 0)])];
        let sizes = |dir: &DescribeLogDirsResult| {
            let of = |t: &DescribeLogDirsTopic| t.partitions.iter().map(|p| p.partition_size).collect::<Vec<_>>();
            dir.topics.iter().map(of).collect::<Vec<_>>()
        };
        let local = directory("/data", &topics, |status| Some(status.local_bytes));
        assert_eq!(sizes(&local), [vec![10, 0], vec![1]]);
        let bucket = directory("s3://b", &topics, |status| Some(status.archived_bytes).filter(|bytes| *bytes > 0));
        assert_eq!(sizes(&bucket), [vec![70]]);
    }
}
