//! The bucket: requests and bytes, archivers, cold reads.

use tidewater_storage::model::LaneId;
use tidewater_tiering::archive::ArchiveStatus;
use tidewater_tiering::fetch::HydrateCounts;
use tidewater_tiering::store::{RequestKind, StoreStats};

use super::by_shard;
use super::samples::{Sheet, and, label};
use crate::admin::report::ShardReport;
use crate::archival::run::Tier;

pub(super) fn fill(sheet: &mut Sheet, tier: &Tier, shards: &[ShardReport]) {
    let stats = tier.stats();
    sheet.gauge(
        "tidewater_bucket_open",
        "1 when the bucket is open; 0 while it cannot be opened, is refused, or its root is gone: tidewater cluster info shows the reason",
        f64::from(u8::from(tier.is_there())),
    );
    sheet.gauge(
        "tidewater_bucket_root_gone",
        "1 when the bucket was emptied or is another one: nothing is archived, what is on the disks stays, and the bucket's objects are to be put back",
        f64::from(u8::from(tier.root.is_gone())),
    );
    sheet.gauge(
        "tidewater_superseded",
        "1 when the cluster was restored elsewhere: this broker stores nothing any more and is to be stopped",
        f64::from(u8::from(tier.superseded.by().is_some())),
    );
    let cuts = &tier.cuts;
    sheet.counter("tidewater_cuts_made", "Cuts that this broker made on its schedule", cuts.made());
    sheet.counter(
        "tidewater_cut_failures",
        "Cuts that were due and could not be made: the log says why",
        cuts.failed(),
    );
    sheet.gauge(
        "tidewater_cuts_kept",
        "Cuts that a restore can go back to; 0 on brokers that make none",
        cuts.kept() as f64,
    );
    sheet.gauge(
        "tidewater_cut_newest_timestamp_seconds",
        "When the newest cut was made, seconds since 1970; 0 on brokers that make none. In an idle cluster it stands still",
        cuts.newest_ms() as f64 / 1000.0,
    );
    let by_kind = |read: fn(&StoreStats, RequestKind) -> u64| {
        RequestKind::ALL.iter().map(|kind| (label("kind", kind.label()), read(stats, *kind))).collect()
    };
    sheet.counters(
        "tidewater_bucket_requests",
        "Requests to the bucket by kind, each attempt counted",
        by_kind(StoreStats::requests),
    );
    sheet.counters(
        "tidewater_bucket_failures",
        "Requests that the bucket did not answer, by kind",
        by_kind(StoreStats::failures),
    );
    sheet.seconds(
        "tidewater_bucket_request_seconds",
        "Duration of requests to the bucket by kind, each attempt counted",
        RequestKind::ALL.iter().map(|kind| (label("kind", kind.label()), stats.took(*kind))).collect(),
    );
    sheet.counter("tidewater_bucket_sent_bytes", "Body bytes sent to the bucket", stats.bytes_sent());
    sheet.counter("tidewater_bucket_received_bytes", "Body bytes received from the bucket", stats.bytes_received());
    archives(sheet, shards);
    cold_reads(sheet, shards);
}

/// Counters of archivers by lane. A new archiver, after a change of leadership, starts at 0.
const ARCHIVES: &[(&str, &str, fn(&ArchiveStatus) -> u64)] = &[
    ("tidewater_archive_bundles", "Bundles put or adopted", |s| s.bundles),
    (
        "tidewater_archive_adopted_bundles",
        "Bundles found at their key, after a lost answer or from the leader before",
        |s| s.adopted,
    ),
    ("tidewater_archive_adopted_parts", "Parts of bundles that took the place of segment objects", |s| s.parts_adopted),
    ("tidewater_archive_segment_objects", "Segment objects put", |s| s.segments),
    ("tidewater_archive_gathered_objects", "Gathered objects put", |s| s.gathered),
    ("tidewater_archive_published_manifests", "Lane manifests published", |s| s.published),
    ("tidewater_archive_deleted_objects", "Objects deleted after their grace", |s| s.deleted),
    ("tidewater_archive_swept_objects", "Objects removed because no manifest named them", |s| s.swept),
];

fn archives(sheet: &mut Sheet, shards: &[ShardReport]) {
    let lanes: Vec<&(LaneId, ArchiveStatus)> = shards.iter().flat_map(|report| &report.archives).collect();
    for (name, help, read) in ARCHIVES {
        let rows = lanes.iter().map(|(lane, status)| (label("lane", lane.0.to_string()), read(status)));
        sheet.counters(name, help, rows.collect());
    }
    let kinds: [(&str, fn(&ArchiveStatus) -> u64); 4] = [
        ("bundle", |s| s.bundle_bytes),
        ("part", |s| s.part_bytes),
        ("segment", |s| s.segment_bytes),
        ("gathered", |s| s.gathered_bytes),
    ];
    let bytes = lanes.iter().flat_map(|(lane, status)| {
        let labels = move |kind| and(label("lane", lane.0.to_string()), "kind", kind);
        kinds.iter().map(move |(kind, read)| (labels(*kind), read(status)))
    });
    sheet.counters(
        "tidewater_archive_bytes",
        "Bytes of objects with records put, by lane and kind of object; beside tidewater_topic_appended_bytes they show how often a byte is uploaded",
        bytes.collect(),
    );
    let stands = |status: &ArchiveStatus| f64::from(u8::from(status.stopped.is_some() || status.failing.is_some()));
    sheet.gauges(
        "tidewater_archive_failing",
        "1 while a lane's archiving fails or has stopped; tidewater lane list shows the reason",
        lanes.iter().map(|(lane, status)| (label("lane", lane.0.to_string()), stands(status))).collect(),
    );
    sheet.gauges(
        "tidewater_archive_stopped",
        "1 while a lane's archiving waits for an operator; tidewater lane list shows the reason",
        lanes
            .iter()
            .map(|(lane, s)| (label("lane", lane.0.to_string()), f64::from(u8::from(s.stopped.is_some()))))
            .collect(),
    );
    sheet.gauges(
        "tidewater_archive_unreadable_partitions",
        "Partitions that are not archived because their local log cannot be read; tidewater topic describe shows the reason",
        lanes.iter().map(|(lane, status)| (label("lane", lane.0.to_string()), status.unread.len() as f64)).collect(),
    );
}

fn cold_reads(sheet: &mut Sheet, shards: &[ShardReport]) {
    let of = |read: fn(&HydrateCounts) -> u64| shards.iter().map(|report| read(&report.cold_reads)).sum::<u64>();
    sheet.counters(
        "tidewater_cold_reads",
        "Chunks read for consumers below the local log, by source",
        vec![
            (label("from", "cache"), of(|counts| counts.hits)),
            (label("from", "request_under_way"), of(|counts| counts.joined)),
            (label("from", "bucket"), of(|counts| counts.misses)),
        ],
    );
    sheet.counter("tidewater_read_ahead_chunks", "Chunks fetched ahead of a reader", of(|counts| counts.ahead));
    sheet.gauges(
        "tidewater_chunk_cache_used_bytes",
        "Bytes of the chunk cache on disk",
        by_shard(shards, |report| report.cache.0 as f64),
    );
    sheet.gauges(
        "tidewater_chunk_cache_capacity_bytes",
        "Bytes that the chunk cache may take on disk",
        by_shard(shards, |report| report.cache.1 as f64),
    );
}
