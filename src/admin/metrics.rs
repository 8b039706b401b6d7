//! `/metrics`: what Prometheus reads, one file for each area.
//!
//! Cardinality is bounded: by shard, lane, API, version, error code, request kind and use of the disk, all of them closed
//! sets; by topic for the first [`METRIC_TOPICS_MAX`] names, the rest in one series `(other)`; by group, topic and
//! partition for [`METRIC_GROUP_PARTITIONS_MAX`], beyond which a group's lag stands as one series a topic. Nothing else
//! is ever told by partition.

mod bucket;
mod groups;
mod kafka;
mod process;
mod samples;
mod storage;
mod threads;
mod topics;

use super::report::ShardReport;
use super::state::Services;
use super::survey::{GroupLag, Survey};
use samples::Sheet;

/// The text of a scrape.
pub(super) fn render(services: &Services, survey: &Survey) -> String {
    let mut sheet = Sheet::default();
    process::fill(&mut sheet);
    threads::fill(&mut sheet);
    kafka::fill(&mut sheet, &survey.shards);
    storage::fill(&mut sheet, &survey.shards, &services.queues);
    topics::fill(&mut sheet, services, survey);
    groups::fill(&mut sheet, &survey.groups);
    bucket::fill(&mut sheet, &services.tier, &survey.shards);
    sheet.text()
}

/// A row per shard.
fn by_shard<T>(shards: &[ShardReport], read: impl Fn(&ShardReport) -> T) -> Vec<(samples::Labels, T)> {
    shards.iter().map(|report| (samples::label("shard", report.shard.0.to_string()), read(report))).collect()
}
