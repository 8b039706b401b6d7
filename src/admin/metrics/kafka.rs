//! The protocol: requests, errors, connections, bytes.

use tidewater_storage::metrics::HistogramCounts;

use super::by_shard;
use super::samples::{Labels, Sheet, and, label};
use crate::admin::report::ShardReport;
use crate::kafka::metrics::{ApiSnapshot, Snapshot};

pub(super) fn fill(sheet: &mut Sheet, shards: &[ShardReport]) {
    let mut node = Snapshot::default();
    shards.iter().for_each(|report| node.merge(&report.kafka));
    requests(sheet, &node.apis);
    stages(sheet, &node, shards);
    let by_reason = |name: &'static str, count: u64| (label("reason", name), count);
    sheet.gauge(
        "tidewater_kafka_requests_in_work",
        "Requests that are begun and not answered yet",
        node.in_work as f64,
    );
    sheet.gauges(
        "tidewater_kafka_connections",
        "Connections open",
        by_shard(shards, |report| report.kafka.connections_open as f64),
    );
    sheet.counter("tidewater_kafka_connections_opened", "Connections opened since the start", node.connections_opened);
    sheet.counters(
        "tidewater_kafka_connections_closed",
        "Connections closed, by reason",
        node.closed.iter().map(|(reason, count)| by_reason(reason, *count)).collect(),
    );
    sheet.counter("tidewater_kafka_received_bytes", "Bytes of requests received", node.bytes_received);
    sheet.counter("tidewater_kafka_sent_bytes", "Bytes of responses sent", node.bytes_sent);
    sheet.counter("tidewater_kafka_socket_writes", "Writes to sockets", node.writes);
    sheet.gauges(
        "tidewater_kafka_request_memory_bytes",
        "Bytes of memory in use for large requests and responses; at the limit, sockets are not read",
        by_shard(shards, |report| report.request_memory.0 as f64),
    );
    sheet.gauges(
        "tidewater_kafka_request_memory_limit_bytes",
        "Limit of tidewater_kafka_request_memory_bytes",
        by_shard(shards, |report| report.request_memory.1 as f64),
    );
}

/// Durations of a request's stages: on the shard of its connection, then on that of its lane. The journal's part of
/// `commit` has its own metric (`storage`).
fn stages(sheet: &mut Sheet, node: &Snapshot, shards: &[ShardReport]) {
    let (mut queue, mut commit) = (HistogramCounts::default(), HistogramCounts::default());
    for report in shards {
        queue.merge(&report.entries.queued);
        commit.merge(&report.entries.committed);
    }
    let mut rows: Vec<(Labels, HistogramCounts)> =
        node.stages.iter().map(|(stage, counts)| (label("stage", *stage), *counts)).collect();
    rows.extend([(label("stage", "queue"), queue), (label("stage", "commit"), commit)]);
    sheet.seconds(
        "tidewater_stage_seconds",
        "A request by stage: produce_decode, produce_append (of which queue: until a lane takes the batch; commit: \
         journal and application), fetch_read, fetch_wait (as the client asked), send (until the kernel has it)",
        rows,
    );
}

fn requests(sheet: &mut Sheet, apis: &[ApiSnapshot]) {
    let api = |snapshot: &ApiSnapshot| -> Labels { label("api", snapshot.name.clone()) };
    let used = || apis.iter().filter(|snapshot| snapshot.requests() > 0);
    let versions = used().flat_map(|snapshot| {
        snapshot.versions.iter().map(move |(version, n)| (and(api(snapshot), "version", version.to_string()), *n))
    });
    sheet.counters("tidewater_kafka_requests", "Requests answered, by API and version", versions.collect());
    let errors = apis.iter().flat_map(|snapshot| {
        snapshot.errors.iter().map(move |(code, n)| (and(api(snapshot), "error", code.name()), *n))
    });
    sheet.counters(
        "tidewater_kafka_errors",
        "Error codes in answers, by API and Kafka's name of the code; retriable ones included",
        errors.collect(),
    );
    sheet.seconds(
        "tidewater_kafka_request_seconds",
        "From the complete request to the ready response, including the waits of fetches for data and of groups for members",
        used().map(|snapshot| (api(snapshot), snapshot.latency)).collect(),
    );
}
