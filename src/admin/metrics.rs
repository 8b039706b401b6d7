//! `/metrics` for Prometheus, one file for each area.
//!
//! Cardinality is bounded. Labels are: shard, lane, broker, source, API, version, error code, request kind and use of
//! the disk, all of them closed sets; topic, for the first [`METRIC_TOPICS_MAX`](crate::limits::METRIC_TOPICS_MAX)
//! names, with one series `(other)` for the rest; group, topic and partition for
//! [`METRIC_GROUP_PARTITIONS_MAX`](crate::limits::METRIC_GROUP_PARTITIONS_MAX) rows, beyond which a group's lag has one
//! series a topic. No other metric has a label for the partition.

mod bucket;
mod catalog;
mod cluster;
mod copies;
mod groups;
mod kafka;
mod process;
mod replicas;
mod samples;
mod schemas;
mod storage;
mod threads;
mod topics;

use super::report::ShardReport;
use super::state::Services;
use super::survey::{GroupLag, Survey};
use samples::Sheet;

/// Of a scrape's answer.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The scrape of a broker that does not serve yet.
pub(super) fn render_starting() -> String {
    let mut sheet = Sheet::default();
    process::fill(&mut sheet);
    serving(&mut sheet, false);
    sheet.text()
}

fn serving(sheet: &mut Sheet, serves: bool) {
    let help = "0 while the broker starts (GET /health/ready says for what it waits), then 1";
    sheet.gauge("tidewater_serving", help, f64::from(u8::from(serves)));
}

/// A scrape as OpenMetrics text.
pub(super) fn render(services: &Services, survey: &Survey) -> String {
    let mut sheet = Sheet::default();
    process::fill(&mut sheet);
    serving(&mut sheet, true);
    threads::fill(&mut sheet);
    kafka::fill(&mut sheet, &survey.shards);
    storage::fill(&mut sheet, &survey.shards, &services.queues);
    topics::fill(&mut sheet, services, survey);
    groups::fill(&mut sheet, &survey.groups);
    bucket::fill(&mut sheet, &services.tier, &survey.shards);
    cluster::fill(&mut sheet, &survey.shards);
    replicas::fill(&mut sheet, &survey.image, &survey.shards);
    schemas::fill(&mut sheet, &services.registry);
    copies::fill(&mut sheet, &survey.shards);
    catalog::fill(&mut sheet, &services.signs);
    sheet.text()
}

/// A row per shard.
fn by_shard<T>(shards: &[ShardReport], read: impl Fn(&ShardReport) -> T) -> Vec<(samples::Labels, T)> {
    shards.iter().map(|report| (samples::label("shard", report.shard.0.to_string()), read(report))).collect()
}
