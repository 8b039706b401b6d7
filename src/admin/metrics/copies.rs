//! Topics that are made as copies of archived topics.

use super::samples::Sheet;
use crate::admin::report::ShardReport;
use crate::copies::facts::CopyCounts;

pub(super) fn fill(sheet: &mut Sheet, shards: &[ShardReport]) {
    let mut counts = CopyCounts::default();
    shards.iter().for_each(|report| counts.add(report.copies));
    sheet.gauge(
        "tidewater_copy_partitions",
        "Partitions that this broker copies from the bucket now, for topic fork and restore --topic",
        counts.running as f64,
    );
    sheet.gauge(
        "tidewater_copy_failing",
        "Partitions whose copy makes no progress; GET /v1/copies and the log say why",
        counts.failing as f64,
    );
    sheet.counter("tidewater_copy_records", "Records copied, by their offsets", counts.records);
    sheet.counter("tidewater_copy_bytes", "Bytes of batches copied", counts.bytes);
}
