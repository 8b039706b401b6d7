//! The shards: journal, segments, disk, queues.

use std::sync::Arc;

use tidewater_storage::budget::DiskUsage;
use tidewater_storage::metrics::HistogramCounts;

use super::by_shard;
use super::samples::{Sheet, and, label};
use crate::admin::report::ShardReport;
use crate::shard::mesh::Depths;

pub(super) fn fill(sheet: &mut Sheet, shards: &[ShardReport], queues: &[(&'static str, Arc<dyn Depths>)]) {
    journal(sheet, shards);
    segments(sheet, shards);
    engine(sheet, shards);
    if let Some(report) = shards.first() {
        disk(sheet, &report.disk);
    }
    waiting(sheet, shards, queues);
}

fn journal(sheet: &mut Sheet, shards: &[ShardReport]) {
    sheet.counters(
        "tidewater_journal_commits",
        "Group commits: one durable write each",
        by_shard(shards, |report| report.commits.write.count()),
    );
    sheet.counters(
        "tidewater_journal_written_bytes",
        "Bytes written by commits, padding included",
        by_shard(shards, |report| report.commits.written_bytes),
    );
    sheet.seconds(
        "tidewater_journal_write_seconds",
        "The durable write (O_DSYNC) of a commit",
        by_shard(shards, |report| report.commits.write),
    );
    for (name, help, read) in [
        (
            "tidewater_journal_used_bytes",
            "Bytes of the journal that a start would still read",
            (|report| report.journal.used_bytes) as fn(&ShardReport) -> u64,
        ),
        (
            "tidewater_journal_capacity_bytes",
            "Bytes of journal files that may be in use; at the limit, producers wait",
            |report| report.journal.capacity_bytes,
        ),
        ("tidewater_journal_disk_bytes", "Bytes of journal files, spare ones included", |report| {
            report.journal.disk_bytes
        }),
        ("tidewater_journal_memory_bytes", "Bytes of journal entries in memory", |report| report.journal.memory_bytes),
        ("tidewater_journal_waiting_bytes", "Bytes of entries queued for the next commit", |report| {
            report.journal.waiting_bytes
        }),
        ("tidewater_recent_batches_bytes", "Bytes of recent batches in memory for readers", |report| {
            report.recent_bytes
        }),
    ] {
        sheet.gauges(name, help, by_shard(shards, |report| read(report) as f64));
    }
}

/// Durations of segment files' writes, syncs and reads.
fn segments(sheet: &mut Sheet, shards: &[ShardReport]) {
    for (name, help, read) in [
        (
            "tidewater_segment_write_seconds",
            "One write-back to a segment file",
            (|report| report.disk_timings.write) as fn(&ShardReport) -> HistogramCounts,
        ),
        ("tidewater_segment_sync_seconds", "One sync (fdatasync) of a segment file", |r| r.disk_timings.sync),
        ("tidewater_segment_read_seconds", "One read of a segment file for a consumer or the archiver", |r| {
            r.disk_timings.read
        }),
    ] {
        sheet.seconds(name, help, by_shard(shards, read));
    }
}

/// The counters of the storage engine, under its own names.
fn engine(sheet: &mut Sheet, shards: &[ShardReport]) {
    let Some(first) = shards.first() else { return };
    for (n, (name, help, _)) in first.storage.table().into_iter().enumerate() {
        let read = |report: &ShardReport| report.storage.table().get(n).map_or(0, |(_, _, value)| *value);
        sheet.counters(&format!("tidewater_storage_{name}"), help, by_shard(shards, read));
    }
}

fn disk(sheet: &mut Sheet, usage: &DiskUsage) {
    let of = |name: &'static str, bytes: u64| (label("use", name), bytes as f64);
    sheet.gauges(
        "tidewater_disk_used_bytes",
        "Bytes used of the disk budget, by use; the cache counts with its full size",
        vec![
            of("journal", usage.journal),
            of("segments", usage.segments),
            of("checkpoint", usage.checkpoint),
            of("cache", usage.cache),
            of("bucket", usage.bucket),
            of("admitted", usage.admitted),
        ],
    );
    sheet.gauge("tidewater_disk_limit_bytes", "The disk budget (--disk-bytes)", usage.limit as f64);
    sheet.gauge(
        "tidewater_disk_reserve_bytes",
        "Part of the disk budget that producers may not use",
        usage.reserve as f64,
    );
    sheet.gauge("tidewater_disk_admissible_bytes", "Bytes that producers may still write", usage.admissible() as f64);
}

fn waiting(sheet: &mut Sheet, shards: &[ShardReport], queues: &[(&'static str, Arc<dyn Depths>)]) {
    sheet.gauges(
        "tidewater_proposer_waiting_batches",
        "Batches queued for their lane",
        by_shard(shards, |report| report.proposer_queue.0 as f64),
    );
    sheet.gauges(
        "tidewater_proposer_waiting_bytes",
        "Bytes of batches queued for their lane",
        by_shard(shards, |report| report.proposer_queue.1 as f64),
    );
    let of = |mesh: &'static str, shard: usize| and(label("mesh", mesh), "shard", shard.to_string());
    let rows = |mesh, counts: Vec<u64>| {
        counts.into_iter().enumerate().map(move |(shard, n)| (of(mesh, shard), n)).collect::<Vec<_>>()
    };
    let depths = |queue: &Arc<dyn Depths>| queue.depths().into_iter().map(|n| n as u64).collect();
    let inboxes = queues.iter().flat_map(|(mesh, queue)| rows(mesh, depths(queue)));
    let inboxes = inboxes.map(|(labels, n)| (labels, n as f64)).collect();
    sheet.gauges("tidewater_mesh_inbox_messages", "Messages in a shard's inbox", inboxes);
    let sent = queues.iter().flat_map(|(mesh, queue)| rows(mesh, queue.sent())).collect();
    sheet.counters("tidewater_mesh_messages", "Messages sent to a shard by other threads", sent);
}
