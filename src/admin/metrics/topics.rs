//! Topics: sizes, archive lag, table lag. By topic up to a cap, never by partition.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::samples::{Labels, Sheet, and, label};
use crate::admin::state::Services;
use crate::admin::survey::Survey;
use crate::lakehouse::TableSums;
use crate::limits::METRIC_TOPICS_MAX;
use crate::partition::sums::TopicSums;

/// The label of the sum over topics beyond the cap. No topic can have this name.
const OTHER: &str = "(other)";

#[derive(Debug, Default)]
struct Row {
    log: TopicSums,
    table: Option<TableSums>,
}

/// One metric of a topic: name, help, how it is read from a topic's row; `None` leaves the topic out.
struct Metric {
    name: &'static str,
    help: &'static str,
    read: fn(&Row) -> Option<f64>,
}

const METRICS: &[Metric] = &[
    Metric { name: "tidewater_topic_partitions", help: "Partitions", read: |r| Some(r.log.partitions as f64) },
    Metric {
        name: "tidewater_topic_records",
        help: "Records from log start to high watermark",
        read: |r| Some(r.log.records as f64),
    },
    Metric {
        name: "tidewater_topic_high_watermark",
        help: "Sum of the partitions' high watermarks",
        read: |r| Some(r.log.high_watermarks as f64),
    },
    Metric {
        name: "tidewater_topic_local_bytes",
        help: "Bytes on local disk and in memory",
        read: |r| Some(r.log.local_bytes as f64),
    },
    Metric {
        name: "tidewater_topic_archived_bytes",
        help: "Bytes in the bucket",
        read: |r| Some(r.log.archived_bytes as f64),
    },
    Metric {
        name: "tidewater_topic_archive_lag_records",
        help: "Records not in the bucket yet",
        read: |r| Some(r.log.archive_lag_records as f64),
    },
    Metric {
        name: "tidewater_topic_archive_lag_bytes",
        help: "Bytes not in the bucket yet; an estimate after a restart",
        read: |r| Some(r.log.archive_lag_bytes as f64),
    },
    Metric {
        name: "tidewater_topic_archive_lag_seconds",
        help: "Age of the oldest record that is not in the bucket; such records would be lost with this machine",
        read: |r| Some(r.log.archive_lag_ms as f64 / 1e3),
    },
    Metric {
        name: "tidewater_topic_archive_stopped_partitions",
        help: "Partitions whose archiving has stopped; tidewater topic describe shows the reason",
        read: |r| Some(r.log.archive_stopped as f64),
    },
    Metric {
        name: "tidewater_topic_quarantined_ranges",
        help: "Ranges set aside after a failed checksum; tidewater topic describe shows the reason",
        read: |r| Some(r.log.quarantined as f64),
    },
    Metric {
        name: "tidewater_topic_table_lag_records",
        help: "Records in the bucket but not in the table",
        read: |r| r.table.as_ref().map(|table| table.lag_records as f64),
    },
    Metric {
        name: "tidewater_topic_table_skipped_ranges",
        help: "Ranges left out of the table because they could not be decoded",
        read: |r| r.table.as_ref().map(|table| table.skipped_ranges as f64),
    },
    Metric {
        name: "tidewater_topic_table_paused",
        help: "1 while the table is paused; tidewater topic describe shows the reason",
        read: |r| r.table.as_ref().map(|table| f64::from(u8::from(table.paused))),
    },
    Metric {
        name: "tidewater_topic_table_files",
        help: "Data files of the table, as last counted: once an hour",
        read: |r| r.table.as_ref().map(|table| table.files as f64),
    },
    Metric {
        name: "tidewater_topic_table_bytes",
        help: "Bytes of the table's data files, as last counted",
        read: |r| r.table.as_ref().map(|table| table.bytes as f64),
    },
    Metric {
        name: "tidewater_topic_table_small_files",
        help: "Data files below three quarters of the table's target size, as last counted",
        read: |r| r.table.as_ref().map(|table| table.small_files as f64),
    },
    Metric {
        name: "tidewater_topic_table_compacted_timestamp_seconds",
        help: "When compaction last replaced files of the table; 0 for not since the broker started",
        read: |r| r.table.as_ref().map(|table| table.compacted_at_ms as f64 / 1e3),
    },
];

/// Counters.
const COUNTERS: &[Metric] = &[
    Metric {
        name: "tidewater_topic_table_rows",
        help: "Rows committed to the table",
        read: |r| r.table.as_ref().map(|table| table.rows as f64),
    },
    Metric {
        name: "tidewater_topic_table_commits",
        help: "Commits to the table",
        read: |r| r.table.as_ref().map(|table| table.commits as f64),
    },
    Metric {
        name: "tidewater_topic_table_dead_letters",
        help: "Records that could not be decoded and were committed to the table of dead letters; tidewater topic describe shows the last reason",
        read: |r| Some(r.table.as_ref()?.dead_letters? as f64),
    },
    Metric {
        name: "tidewater_topic_table_compacted_files",
        help: "Data files of the table that compaction replaced",
        read: |r| r.table.as_ref().map(|table| table.compacted_files as f64),
    },
    Metric {
        name: "tidewater_topic_table_compacted_bytes",
        help: "Bytes of the data files that compaction replaced",
        read: |r| r.table.as_ref().map(|table| table.compacted_bytes as f64),
    },
];

/// One sample for each reason that holds up a topic's table, or one that says that there is none.
fn held_up(labels: &Labels, row: &Row) -> Vec<(Labels, f64)> {
    let with = |reason: &'static str| and(labels.clone(), "reason", reason);
    match &row.table {
        None => Vec::new(),
        Some(table) if table.held_by.is_empty() => vec![(with("none"), 0.0)],
        Some(table) => table.held_by.iter().map(|reason| (with(reason), 1.0)).collect(),
    }
}

pub(super) fn fill(sheet: &mut Sheet, services: &Services, survey: &Survey) {
    let image = &survey.image;
    let mut sums: BTreeMap<_, TopicSums> = BTreeMap::new();
    for (topic, more) in survey.shards.iter().flat_map(|report| &report.topics) {
        sums.entry(*topic).or_default().merge(more);
    }
    let mut rows: Vec<(Labels, Row)> = Vec::new();
    let mut other = Row::default();
    for (name, topic) in &image.topics {
        let log = sums.get(&topic.id).copied().unwrap_or_default();
        let table = services.tables.sums(topic);
        if rows.len() < METRIC_TOPICS_MAX {
            rows.push((label("topic", name.to_string()), Row { log, table }));
        } else {
            other.log.merge(&log);
            other.table = match table {
                Some(more) => Some(other.table.unwrap_or_default().plus(more)),
                None => other.table,
            };
        }
    }
    if image.topics.len() > METRIC_TOPICS_MAX {
        rows.push((label("topic", Cow::Borrowed(OTHER)), other));
    }
    let read = |metric: &Metric| {
        let of = |(labels, row): &(Labels, Row)| Some((labels.clone(), (metric.read)(row)?));
        rows.iter().filter_map(of).collect::<Vec<_>>()
    };
    METRICS.iter().for_each(|metric| sheet.gauges(metric.name, metric.help, read(metric)));
    COUNTERS.iter().for_each(|metric| sheet.amounts(metric.name, metric.help, read(metric)));
    sheet.gauges(
        "tidewater_topic_table_held_up",
        "1 for each reason why the table, or a partition of it, is not brought up to date: registry, bucket and log do not answer now; unfit, refused, foreign, ahead, fenced and conflict wait for an operator; 0 with the reason none",
        rows.iter().flat_map(|(labels, row)| held_up(labels, row)).collect(),
    );
    sheet.gauge("tidewater_topics", "Topics, internal ones included", image.topics.len() as f64);
    let partitions: u64 = sums.values().map(|sums| sums.partitions).sum();
    sheet.gauge("tidewater_partitions", "Partitions that serve", partitions as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_sample_for_each_reason_that_holds_it_up() {
        let labels = label("topic", "orders");
        let row = |held_by: &[&'static str]| {
            let table = TableSums { held_by: held_by.iter().copied().collect(), ..TableSums::default() };
            Row { table: Some(table), ..Row::default() }
        };
        let of = |row: &Row| held_up(&labels, row).into_iter().map(|(labels, n)| (labels[1].1.to_string(), n));
        assert_eq!(of(&Row::default()).count(), 0, "without a table");
        assert_eq!(of(&row(&[])).collect::<Vec<_>>(), [("none".to_owned(), 0.0)]);
        let two = ["bucket", "registry"];
        assert_eq!(of(&row(&two)).collect::<Vec<_>>(), two.map(|reason| (reason.to_owned(), 1.0)));
    }
}
