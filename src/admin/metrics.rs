//! `/metrics`: what Prometheus reads. Per topic, never per partition: a scrape of 100,000 partitions must stay small.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tidewater_tiering::store::RequestKind;

use super::routes::Services;
use crate::partition::message::PartitionStatus;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TopicLabel {
    topic: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

type ByTopic = Family<TopicLabel, Gauge<u64, AtomicU64>>;

/// One metric of a topic: name, help, how it is read off its partitions.
struct TopicMetric {
    name: &'static str,
    help: &'static str,
    read: fn(&[PartitionStatus]) -> u64,
}

fn sum(partitions: &[PartitionStatus], of: fn(&PartitionStatus) -> u64) -> u64 {
    partitions.iter().map(of).sum()
}

fn greatest(partitions: &[PartitionStatus], of: fn(&PartitionStatus) -> u64) -> u64 {
    partitions.iter().map(of).max().unwrap_or_default()
}

const TOPIC_METRICS: &[TopicMetric] = &[
    TopicMetric {
        name: "tidewater_topic_records",
        help: "Records readable, in the bucket and here",
        read: |p| sum(p, |p| p.high_watermark.saturating_sub(p.log_start_offset)),
    },
    TopicMetric {
        name: "tidewater_topic_high_watermark",
        help: "Sum of the partitions' high watermarks: records ever written",
        read: |p| sum(p, |p| p.high_watermark),
    },
    TopicMetric {
        name: "tidewater_topic_local_bytes",
        help: "Bytes on local disk and in memory",
        read: |p| sum(p, |p| p.local_bytes),
    },
    TopicMetric {
        name: "tidewater_topic_archived_bytes",
        help: "Bytes in the bucket",
        read: |p| sum(p, |p| p.archived_bytes),
    },
    TopicMetric {
        name: "tidewater_topic_archive_lag_records",
        help: "Records not in the bucket yet",
        read: |p| sum(p, |p| p.archive_lag_records),
    },
    TopicMetric {
        name: "tidewater_topic_archive_lag_milliseconds",
        help: "Age of the newest write to the partition whose archiving is furthest behind",
        read: |p| greatest(p, |p| p.archive_lag_ms),
    },
    TopicMetric {
        name: "tidewater_topic_archive_stopped_partitions",
        help: "Partitions whose archiving stands still; describe the topic for the reason",
        read: |p| sum(p, |p| u64::from(p.archive_stopped.is_some())),
    },
    TopicMetric {
        name: "tidewater_topic_quarantined_ranges",
        help: "Ranges set aside after a failed check",
        read: |p| sum(p, |p| p.quarantined.len() as u64),
    },
    TopicMetric {
        name: "tidewater_topic_table_lag_records",
        help: "Records in the bucket but not in the table",
        read: |p| sum(p, |p| p.table_lag_records.unwrap_or_default()),
    },
    TopicMetric {
        name: "tidewater_topic_table_skipped_ranges",
        help: "Ranges left out of the table because they could not be decoded",
        read: |p| sum(p, |p| p.table_skipped.len() as u64),
    },
    TopicMetric {
        name: "tidewater_topic_table_paused",
        help: "1 when the table stands still; describe the topic for the reason",
        read: |p| greatest(p, |p| u64::from(p.table_paused.is_some())),
    },
];

/// The text of a scrape.
pub(super) fn render(services: &Services, topics: &[(String, Vec<PartitionStatus>)]) -> String {
    let mut registry = Registry::default();
    for metric in TOPIC_METRICS {
        let family = ByTopic::default();
        for (topic, partitions) in topics {
            family.get_or_create(&TopicLabel { topic: topic.clone() }).set((metric.read)(partitions));
        }
        registry.register(metric.name, metric.help, family);
    }
    store_metrics(services, &mut registry);
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

fn store_metrics(services: &Services, registry: &mut Registry) {
    let stats = services.tier.stats();
    let (requests, failures) = (
        Family::<KindLabel, prometheus_client::metrics::counter::Counter>::default(),
        Family::<KindLabel, prometheus_client::metrics::counter::Counter>::default(),
    );
    for kind in RequestKind::ALL {
        let label = KindLabel { kind: kind.label() };
        requests.get_or_create(&label).inc_by(stats.requests(kind));
        failures.get_or_create(&label).inc_by(stats.failures(kind));
    }
    registry.register("tidewater_bucket_requests", "Requests to the bucket by kind", requests);
    registry.register("tidewater_bucket_failures", "Requests the bucket could not answer, by kind", failures);
    registry.register(
        "tidewater_bucket_sent_bytes",
        "Body bytes sent to the bucket",
        ConstCounter::new(stats.bytes_sent()),
    );
    registry.register(
        "tidewater_bucket_received_bytes",
        "Body bytes received from the bucket",
        ConstCounter::new(stats.bytes_received()),
    );
}
