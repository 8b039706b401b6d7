//! Samples of one metric as prometheus-client encodes them: rows of labels and values, taken at the scrape.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tidewater_storage::metrics::HistogramCounts;

/// Labels of a sample, in order.
pub(super) type Labels = Vec<(&'static str, Cow<'static, str>)>;

pub(super) fn label(name: &'static str, value: impl Into<Cow<'static, str>>) -> Labels {
    vec![(name, escaped(value.into()))]
}

/// `labels` and one more.
pub(super) fn and(mut labels: Labels, name: &'static str, value: impl Into<Cow<'static, str>>) -> Labels {
    labels.push((name, escaped(value.into())));
    labels
}

/// Escapes a label's value for OpenMetrics: prometheus-client does not, and a group's name may have any character.
fn escaped(value: Cow<'static, str>) -> Cow<'static, str> {
    if !value.contains(['\\', '"', '\n']) {
        return value;
    }
    Cow::Owned(value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// One metric: its kind and its samples.
#[derive(Debug)]
pub(super) enum Samples {
    /// Only grows; `_total` is appended to the name.
    Counter(Vec<(Labels, u64)>),
    /// Only grows, in fractions; `_total` is appended to the name.
    Amount(Vec<(Labels, f64)>),
    /// Goes up and down.
    Gauge(Vec<(Labels, f64)>),
    /// Durations, in seconds.
    Seconds(Vec<(Labels, HistogramCounts)>),
}

impl EncodeMetric for Samples {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Counter(rows) => rows.iter().try_for_each(|(labels, value)| match labels.is_empty() {
                true => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
                false => encoder.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None),
            }),
            Self::Amount(rows) => rows.iter().try_for_each(|(labels, value)| match labels.is_empty() {
                true => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
                false => encoder.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None),
            }),
            Self::Gauge(rows) => rows.iter().try_for_each(|(labels, value)| match labels.is_empty() {
                true => encoder.encode_gauge(value),
                false => encoder.encode_family(labels)?.encode_gauge(value),
            }),
            Self::Seconds(rows) => rows.iter().try_for_each(|(labels, counts)| {
                let buckets: Vec<(f64, u64)> = (0..counts.buckets.len())
                    .zip(counts.buckets)
                    .map(|(n, count)| (HistogramCounts::bound_seconds(n).unwrap_or(f64::MAX), count))
                    .collect();
                let (sum, count) = (counts.micros as f64 / 1e6, counts.count());
                match labels.is_empty() {
                    true => encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None),
                    false => encoder.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None),
                }
            }),
        }
    }

    fn metric_type(&self) -> MetricType {
        match self {
            Self::Counter(_) | Self::Amount(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
            Self::Seconds(_) => MetricType::Histogram,
        }
    }
}

/// Collects the metrics of a scrape.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    registry: Registry,
}

impl Sheet {
    /// A counter by labels.
    pub(super) fn counters(&mut self, name: &str, help: &str, rows: Vec<(Labels, u64)>) {
        self.registry.register(name, help, Samples::Counter(rows));
    }

    /// A counter of the whole node.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, vec![(Vec::new(), value)]);
    }

    /// A counter of the whole node, in fractions.
    pub(super) fn amount(&mut self, name: &str, help: &str, value: f64) {
        self.amounts(name, help, vec![(Vec::new(), value)]);
    }

    /// A counter by labels, in fractions.
    pub(super) fn amounts(&mut self, name: &str, help: &str, rows: Vec<(Labels, f64)>) {
        self.registry.register(name, help, Samples::Amount(rows));
    }

    /// A gauge by labels.
    pub(super) fn gauges(&mut self, name: &str, help: &str, rows: Vec<(Labels, f64)>) {
        self.registry.register(name, help, Samples::Gauge(rows));
    }

    /// A gauge of the whole node.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, vec![(Vec::new(), value)]);
    }

    /// A histogram of durations by labels.
    pub(super) fn seconds(&mut self, name: &str, help: &str, rows: Vec<(Labels, HistogramCounts)>) {
        self.registry.register(name, help, Samples::Seconds(rows));
    }

    /// As OpenMetrics text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidewater_storage::metrics::Histogram;

    use super::*;

    #[test]
    fn a_sheet_is_openmetrics() {
        let mut sheet = Sheet::default();
        let histogram = Histogram::default();
        histogram.note(Duration::from_micros(3));
        sheet.counters("a", "Counts", vec![(and(label("x", "1"), "y", "\"q\""), 7)]);
        sheet.gauge("b_bytes", "Bytes", 1.5);
        sheet.seconds("c_seconds", "Took", vec![(label("shard", "0"), histogram.counts())]);
        let text = sheet.text();
        for line in [
            "# HELP a Counts.",
            "# TYPE a counter",
            "a_total{x=\"1\",y=\"\\\"q\\\"\"} 7",
            "b_bytes 1.5",
            "c_seconds_count{shard=\"0\"} 1",
            "c_seconds_bucket{le=\"0.000002\",shard=\"0\"} 0",
            "c_seconds_bucket{le=\"0.000004\",shard=\"0\"} 1",
            "c_seconds_bucket{le=\"+Inf\",shard=\"0\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
        }
    }
}
