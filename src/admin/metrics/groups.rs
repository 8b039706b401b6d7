//! Consumer groups: members and lag.

use std::collections::BTreeMap;

use super::GroupLag;
use super::samples::{Labels, Sheet, and, label};
use crate::limits::METRIC_GROUP_PARTITIONS_MAX;

pub(super) fn fill(sheet: &mut Sheet, groups: &[GroupLag]) {
    let members = groups
        .iter()
        .map(|group| (and(label("group", group.group.clone()), "state", group.state), group.members as f64));
    sheet.gauges("tidewater_group_members", "Members of a group, with its state as a label", members.collect());
    let mut by_partition: Vec<(Labels, f64)> = Vec::new();
    let mut by_topic: Vec<(Labels, f64)> = Vec::new();
    let mut lost: Vec<(Labels, f64)> = Vec::new();
    for group in groups {
        let labels = |topic: &str| and(label("group", group.group.clone()), "topic", topic.to_owned());
        let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for row in &group.partitions {
            let (lag, gone) = sums.entry(&row.topic).or_default();
            *lag += row.lag.unwrap_or_default();
            *gone += row.lost.unwrap_or_default();
        }
        by_topic.extend(sums.iter().map(|(topic, (lag, _))| (labels(topic), *lag as f64)));
        lost.extend(sums.iter().map(|(topic, (_, gone))| (labels(topic), *gone as f64)));
        if by_partition.len() + group.partitions.len() <= METRIC_GROUP_PARTITIONS_MAX {
            by_partition.extend(group.partitions.iter().filter_map(|row| {
                let labels = and(labels(&row.topic), "partition", row.partition.to_string());
                Some((labels, row.lag? as f64))
            }));
        }
    }
    sheet.gauges(
        "tidewater_group_topic_lag_records",
        "Records that a group has not committed yet, by topic: high watermarks less committed offsets",
        by_topic,
    );
    sheet.gauges(
        "tidewater_group_topic_lost_records",
        "Records deleted (by retention or a trim) before a group committed them, by topic",
        lost,
    );
    sheet.gauges(
        "tidewater_group_lag_records",
        "Records that a group has not committed yet, by partition; groups beyond the cap only have the metric by topic",
        by_partition,
    );
}
