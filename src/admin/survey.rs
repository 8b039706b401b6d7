//! Gathers the reports of all shards and group coordinators. On the side runtime.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;

use futures::future::join_all;
use serde::Serialize;
use tidewater_storage::model::{Offset, OffsetRange, PartitionId, ShardId};

use super::report::{ReportRequest, ShardReport};
use super::state::Services;
use crate::controller::image::ClusterImage;
use crate::group::message::{Ask, GroupProgress};
use crate::group::{GroupRequest, OFFSETS_TOPIC};
use crate::limits::SURVEY_PATIENCE;
use crate::partition::message::PartitionRequest;

/// The content of a scrape.
#[derive(Debug)]
pub(super) struct Survey {
    pub image: Arc<ClusterImage>,
    pub shards: Vec<ShardReport>,
    pub groups: Vec<GroupLag>,
}

/// Committed offsets and lag of a group.
#[derive(Clone, Debug, Serialize)]
pub(super) struct GroupLag {
    pub group: String,
    pub state: &'static str,
    pub members: usize,
    pub lag_records: u64,
    pub partitions: Vec<PartitionLag>,
}

/// Committed offset and lag of a group in a partition.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PartitionLag {
    pub topic: String,
    pub partition: i32,
    pub committed_offset: u64,
    /// `None` when the partition does not exist any more.
    pub high_watermark: Option<u64>,
    /// High watermark less committed offset.
    pub lag: Option<u64>,
    /// Offsets from the committed one to the log start, whose records are deleted; `None` if there are none.
    pub lost: Option<u64>,
}

/// Asks every shard and every group.
pub(super) async fn survey(services: &Services) -> Survey {
    let image = Arc::clone(&services.images.borrow());
    let view = services.view();
    let (shards, groups) = futures::join!(shards(services), groups(services, &view));
    Survey { image, shards, groups }
}

/// The reports of the shards that answer in time, in the order of shards.
pub(super) async fn shards(services: &Services) -> Vec<ShardReport> {
    let reports =
        (0..services.reports.shards()).map(|n| soon(services.reports.call(ShardId(n), ReportRequest::Report)));
    join_all(reports).await.into_iter().flatten().collect()
}

/// Every group with its lag, by name.
pub(super) async fn groups(services: &Services, image: &ClusterImage) -> Vec<GroupLag> {
    let Some(offsets) = image.topic(OFFSETS_TOPIC) else { return Vec::new() };
    let asked = offsets.partitions.iter().map(|partition| {
        let home = partition.address();
        soon(services.groups.call(home.shard, move |reply| GroupRequest { partition: home, ask: Ask::Progress(reply) }))
    });
    let answers = join_all(asked).await;
    let mut groups: Vec<GroupProgress> = answers.into_iter().flatten().filter_map(Result::ok).flatten().collect();
    groups.sort_by(|a, b| a.id.cmp(&b.id));
    let ends = ends(services, image, &groups).await;
    groups.iter().map(|group| lag_of(group, image, &ends)).collect()
}

/// Log start and high watermark of every partition that a group has an offset in, with one request to each shard.
async fn ends(
    services: &Services,
    image: &ClusterImage,
    groups: &[GroupProgress],
) -> HashMap<PartitionId, OffsetRange> {
    let mut wanted: BTreeMap<ShardId, Vec<PartitionId>> = BTreeMap::new();
    for (topic, partition, _) in groups.iter().flat_map(|group| &group.offsets) {
        if let Some(found) = image.topic(topic).and_then(|topic| topic.partition(*partition)) {
            wanted.entry(found.shard).or_default().push(found.id);
        }
    }
    let asked = wanted.into_iter().map(|(shard, mut ids)| {
        ids.sort_unstable();
        ids.dedup();
        async move {
            let asked = ids.clone();
            let answer = soon(services.partitions.call(shard, |reply| PartitionRequest::Ends(asked, reply))).await;
            if let Some(ranges) = &answer {
                assert_eq!(ranges.len(), ids.len(), "a shard answers each partition once");
            }
            ids.into_iter().zip(answer.unwrap_or_default()).filter_map(|(id, range)| Some((id, range?)))
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn lag_of(group: &GroupProgress, image: &ClusterImage, ends: &HashMap<PartitionId, OffsetRange>) -> GroupLag {
    let row = |(topic, partition, committed): &(Arc<str>, i32, Offset)| {
        let found = image.topic(topic).and_then(|topic| topic.partition(*partition));
        let range = found.and_then(|found| ends.get(&found.id));
        PartitionLag {
            topic: topic.to_string(),
            partition: *partition,
            committed_offset: committed.get(),
            high_watermark: range.map(|range| range.end.get()),
            lag: range.map(|range| range.end.since(*committed).unwrap_or_default()),
            lost: range.and_then(|range| range.start.since(*committed)).filter(|lost| *lost > 0),
        }
    };
    let partitions: Vec<PartitionLag> = group.offsets.iter().map(row).collect();
    GroupLag {
        group: group.id.to_string(),
        state: group.state.as_str(),
        members: group.members,
        lag_records: partitions.iter().filter_map(|row| row.lag).sum(),
        partitions,
    }
}

/// The answer; `None` if the shard has stopped or does not answer within [`SURVEY_PATIENCE`].
pub(super) async fn soon<T, E>(asked: impl Future<Output = Result<T, E>>) -> Option<T> {
    tokio::time::timeout(SURVEY_PATIENCE, asked).await.ok()?.ok()
}
