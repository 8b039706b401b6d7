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
            "Journal that is not released yet",
            (|report| report.journal.used_bytes) as fn(&ShardReport) -> u64,
        ),
        ("tidewater_journal_capacity_bytes", "The most of it", |report| report.journal.capacity_bytes),
        ("tidewater_journal_disk_bytes", "Journal files, spare ones included", |report| report.journal.disk_bytes),
        ("tidewater_journal_memory_bytes", "Entries kept in memory", |report| report.journal.memory_bytes),
        ("tidewater_journal_waiting_bytes", "Entries that wait for the next commit", |report| {
            report.journal.waiting_bytes
        }),
        ("tidewater_recent_batches_bytes", "Recent batches kept in memory for readers", |report| report.recent_bytes),
    ] {
        sheet.gauges(name, help, by_shard(shards, |report| read(report) as f64));
    }
}

/// How long the disk takes for segments.
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

/// What the storage engine counts, under its own names.
fn engine(sheet: &mut Sheet, shards: &[ShardReport]) {
    let Some(first) = shards.first() else { return };
    for (n, (name, _)) in first.storage.table().into_iter().enumerate() {
        let read = |report: &ShardReport| report.storage.table().get(n).map_or(0, |(_, value)| *value);
        let help = format!("Storage: {}", name.replace('_', " "));
        sheet.counters(&format!("tidewater_storage_{name}"), &help, by_shard(shards, read));
    }
}

fn disk(sheet: &mut Sheet, usage: &DiskUsage) {
    let of = |name: &'static str, bytes: u64| (label("use", name), bytes as f64);
    sheet.gauges(
        "tidewater_disk_used_bytes",
        "Disk used of the budget, by use; the cache counts with its full share",
        vec![
            of("journal", usage.journal),
            of("segments", usage.segments),
            of("checkpoint", usage.checkpoint),
            of("cache", usage.cache),
            of("bucket", usage.bucket),
            of("admitted", usage.admitted),
        ],
    );
    sheet.gauge("tidewater_disk_limit_bytes", "The budget (--disk-bytes)", usage.limit as f64);
    sheet.gauge("tidewater_disk_reserve_bytes", "Part of it that producers never get", usage.reserve as f64);
    sheet.gauge("tidewater_disk_admissible_bytes", "What producers may still write", usage.admissible() as f64);
}

fn waiting(sheet: &mut Sheet, shards: &[ShardReport], queues: &[(&'static str, Arc<dyn Depths>)]) {
    sheet.gauges(
        "tidewater_proposer_waiting_batches",
        "Batches that wait for their lane",
        by_shard(shards, |report| report.proposer_queue.0 as f64),
    );
    sheet.gauges(
        "tidewater_proposer_waiting_bytes",
        "Bytes of batches that wait for their lane",
        by_shard(shards, |report| report.proposer_queue.1 as f64),
    );
    let of = |mesh: &'static str, shard: usize| and(label("mesh", mesh), "shard", shard.to_string());
    let rows = |mesh, counts: Vec<u64>| {
        counts.into_iter().enumerate().map(move |(shard, n)| (of(mesh, shard), n)).collect::<Vec<_>>()
    };
    let depths = |queue: &Arc<dyn Depths>| queue.depths().into_iter().map(|n| n as u64).collect();
    let inboxes = queues.iter().flat_map(|(mesh, queue)| rows(mesh, depths(queue)));
    let inboxes = inboxes.map(|(labels, n)| (labels, n as f64)).collect();
    sheet.gauges("tidewater_mesh_inbox_messages", "Messages that wait in a shard's inbox", inboxes);
    let sent = queues.iter().flat_map(|(mesh, queue)| rows(mesh, queue.sent())).collect();
    sheet.counters("tidewater_mesh_messages", "Messages sent to a shard by other threads", sent);
}
