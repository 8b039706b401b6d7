//! `DescribeLogDirs` (35): how much disk each partition takes.

use futures::future::join_all;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};

use crate::controller::image::{ClusterImage, PartitionImage};
use crate::kafka::RequestContext;
use crate::kafka::words::{text, topic_name};
use crate::partition::message::{PartitionStatus, Place};

/// The one data directory, with the local bytes of what is asked for.
pub async fn handle(ctx: &RequestContext, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let asked = asked(&ctx.image(), request);
    let topics = asked.into_iter().map(|(name, places)| async move {
        let statuses = join_all(places.into_iter().map(|place| ctx.broker.router.describe(place))).await;
        let partitions = statuses.into_iter().flatten().map(|status| partition(&status)).collect();
        DescribeLogDirsTopic::default().with_name(topic_name(&name)).with_partitions(partitions)
    });
    let topics = join_all(topics).await;
    let dir = ctx.broker.config.data_dir.display().to_string();
    let result = DescribeLogDirsResult::default().with_log_dir(text(&dir)).with_topics(topics);
    let usable = match ctx.version {
        4.. => ctx.broker.env.disk.free_bytes(&ctx.broker.config.data_dir).await.ok(),
        _ => None,
    };
    let usable = usable.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1);
    let result = if usable >= 0 { result.with_usable_bytes(usable) } else { result };
    DescribeLogDirsResponse::default().with_results(vec![result])
}

/// Null asks for all.
fn asked(image: &ClusterImage, request: DescribeLogDirsRequest) -> Vec<(String, Vec<Place>)> {
    match request.topics {
        None => image
            .topics
            .values()
            .map(|t| (t.name.as_str().to_owned(), t.partitions.iter().map(PartitionImage::place).collect()))
            .collect(),
        Some(topics) => topics
            .into_iter()
            .filter_map(|asked| {
                let topic = image.topic(asked.topic.as_str())?;
                let places =
                    asked.partitions.into_iter().filter_map(|index| topic.partition(index)).map(PartitionImage::place);
                Some((asked.topic.as_str().to_owned(), places.collect()))
            })
            .collect(),
    }
}

fn partition(status: &PartitionStatus) -> DescribeLogDirsPartition {
    DescribeLogDirsPartition::default()
        .with_partition_index(status.partition)
        .with_partition_size(i64::try_from(status.local_bytes).unwrap_or(i64::MAX))
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
        let some = asked(&image, DescribeLogDirsRequest::default().with_topics(Some(vec![one])));
        assert_eq!(some.iter().map(|(n, p)| (n.as_str(), p.len())).collect::<Vec<_>>(), [("a", 1)]);
    }
}
