//! Which segments retention removes: a pure function of sizes, ages and the partition's archived end.
//!
//! Total retention (`retention.ms`, `retention.bytes`) moves the log start: no reader sees what lies below. Local
//! retention (`local.retention.*`) moves only the local start, and never past the archived end (Kafka, KIP-405). Both
//! move by whole segments; a segment's age is that of its greatest timestamp.

use crate::model::{Offset, TimestampMs};
use crate::segment::SegmentInfo;

/// The topic's limits; `None` is Kafka's -1: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionLimits {
    pub total_ms: Option<u64>,
    pub total_bytes: Option<u64>,
    pub local_ms: Option<u64>,
    pub local_bytes: Option<u64>,
}

/// What [`plan`] decides from.
#[derive(Clone, Copy, Debug)]
pub struct RetentionView<'a> {
    /// Local segments, in order; the last may be open.
    pub segments: &'a [SegmentInfo],
    /// First offset any reader may see.
    pub log_start: Offset,
    /// The last stable offset: nothing at or above it is removed.
    pub stable_end: Offset,
    /// First offset not yet in the bucket; `None` if the topic is not archived.
    pub archived_end: Option<Offset>,
    /// Bytes of the log below the local start, which only the bucket holds.
    pub remote_only_bytes: u64,
    pub now: TimestampMs,
}

/// Where the log and its local part should start now; neither moves back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPlan {
    /// New first offset of the log.
    pub log_start: Offset,
    /// New first offset on this disk.
    pub local_start: Offset,
}

/// Plans both starts. The age of what only the bucket holds is `tiering`'s to check; here it counts towards
/// `retention.bytes` only.
#[must_use]
pub fn plan(view: &RetentionView<'_>, limits: &RetentionLimits) -> RetentionPlan {
    let local_start = view.segments.first().map_or(view.stable_end, |first| first.offsets.start);
    let total = expire(view, limits.total_ms, limits.total_bytes, view.remote_only_bytes, view.stable_end);
    let log_start = total.map_or(view.log_start, |to| to.max(view.log_start));
    // Without a bucket both starts are the same, and local limits are ignored, as in Kafka.
    let local = view
        .archived_end
        .and_then(|archived| expire(view, limits.local_ms, limits.local_bytes, 0, archived.min(view.stable_end)));
    let local_start = local_start.max(local.unwrap_or(Offset::ZERO)).max(log_start.min(view.stable_end));
    RetentionPlan { log_start, local_start }
}

/// The end of the last segment to remove: from the front, segments that are too old or too much and end by `bound`.
fn expire(
    view: &RetentionView<'_>,
    ms: Option<u64>,
    bytes: Option<u64>,
    bytes_before: u64,
    bound: Offset,
) -> Option<Offset> {
    let mut kept = view.segments.iter().map(|segment| segment.bytes).sum::<u64>().saturating_add(bytes_before);
    let mut to = None;
    // Over the limit of bytes, what lies before the first local segment is removed first.
    if let Some(first) = view.segments.first().filter(|_| bytes_before > 0) {
        if bytes.is_some_and(|max| kept - bytes_before >= max) {
            to = Some(first.offsets.start);
        }
        kept -= bytes_before;
    }
    for segment in view.segments {
        let too_old = ms.is_some_and(|ms| too_old(segment, view.now, ms));
        // As in Kafka: a segment is removed only if the rest is still at least the limit.
        let too_much = segment.closed && bytes.is_some_and(|max| kept.saturating_sub(segment.bytes) >= max);
        if segment.offsets.end > bound || !(too_old || too_much) {
            break;
        }
        kept = kept.saturating_sub(segment.bytes);
        to = Some(segment.offsets.end);
    }
    to
}

fn too_old(segment: &SegmentInfo, now: TimestampMs, ms: u64) -> bool {
    // A batch without a timestamp (-1) has no age: only the limit of bytes removes such a segment.
    segment.max_timestamp.0 >= 0 && now.since_ms(segment.max_timestamp) > i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OffsetRange;

    fn segments(n: u64) -> Vec<SegmentInfo> {
        (0..n)
            .map(|i| SegmentInfo {
                offsets: OffsetRange::new(Offset::new(i * 10), Offset::new(i * 10 + 10)),
                bytes: 100,
                max_timestamp: TimestampMs(i as i64 * 1000),
                closed: i + 1 < n,
                created: TimestampMs(i as i64 * 1000),
            })
            .collect()
    }

    fn view(segments: &[SegmentInfo], archived: Option<u64>, now: i64) -> RetentionView<'_> {
        RetentionView {
            segments,
            log_start: Offset::ZERO,
            stable_end: Offset::new(segments.len() as u64 * 10),
            archived_end: archived.map(Offset::new),
            remote_only_bytes: 0,
            now: TimestampMs(now),
        }
    }

    fn run(view: &RetentionView<'_>, limits: RetentionLimits) -> (u64, u64) {
        let plan = plan(view, &limits);
        (plan.log_start.get(), plan.local_start.get())
    }

    #[test]
    fn nothing_goes_without_limits() {
        let segments = segments(5);
        assert_eq!(run(&view(&segments, Some(50), 1 << 40), RetentionLimits::default()), (0, 0));
    }

    #[test]
    fn age_takes_whole_segments_also_the_open_one() {
        let segments = segments(5);
        let limits = RetentionLimits { total_ms: Some(2500), ..Default::default() };
        assert_eq!(run(&view(&segments, None, 4000), limits), (20, 20));
        assert_eq!(run(&view(&segments, None, 1 << 40), limits), (50, 50));
    }

    #[test]
    fn bytes_leave_at_least_the_limit() {
        let segments = segments(5);
        let limits = RetentionLimits { total_bytes: Some(250), ..Default::default() };
        assert_eq!(run(&view(&segments, None, 0), limits), (20, 20));
    }

    #[test]
    fn local_limits_stop_at_what_the_bucket_holds() {
        let segments = segments(5);
        let limits = RetentionLimits { local_ms: Some(0), ..Default::default() };
        assert_eq!(run(&view(&segments, Some(25), 1 << 40), limits), (0, 20));
        assert_eq!(run(&view(&segments, None, 1 << 40), limits), (0, 0));
        let limits = RetentionLimits { local_bytes: Some(0), ..Default::default() };
        assert_eq!(run(&view(&segments, Some(50), 0), limits), (0, 40));
    }

    #[test]
    fn nothing_above_the_high_watermark_goes() {
        let segments = segments(3);
        let mut view = view(&segments, Some(30), 1 << 40);
        view.stable_end = Offset::new(15);
        let limits = RetentionLimits { total_ms: Some(1), local_ms: Some(1), ..Default::default() };
        assert_eq!(run(&view, limits), (10, 10));
    }

    #[test]
    fn what_only_the_bucket_holds_counts_and_goes_first() {
        let segments = segments(3);
        let mut view = view(&segments, Some(30), 0);
        view.remote_only_bytes = 1000;
        assert_eq!(run(&view, RetentionLimits { total_bytes: Some(1200), ..Default::default() }), (0, 0));
        assert_eq!(run(&view, RetentionLimits { total_bytes: Some(300), ..Default::default() }), (0, 0));
        view.segments = &segments[1..];
        assert_eq!(run(&view, RetentionLimits { total_bytes: Some(200), ..Default::default() }), (10, 10));
    }
}
